package fsm

import (
	"slices"

	"bytes"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func (x *call) createNamespace(c *metapb.CreateNamespace) (*metapb.Result, error) {
	const op = "namespace.create"
	if x.fs == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "file system 0")
	}
	if len(c.HashKey) != hashKeyLen {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a hash key has %d bytes, not %d", hashKeyLen, len(c.HashKey))
	}
	enc, err := (&metapb.NamespaceRecord{HashKey: c.HashKey, Created: c}).MarshalVT()
	if err != nil {
		return nil, fatal(err)
	}
	sp, err := x.space(x.fs)
	if err != nil {
		return nil, err
	}
	if sp != nil {
		if !bytes.Equal(sp.enc, enc) {
			return nil, vfs.Errorf(vfs.KindExists, op, "file system %d was made with other arguments", x.fs)
		}
		return &metapb.Result{}, nil
	}
	if x.level >= levelCluster {
		if _, gone, err := x.get(appendFS(nil, "D/", x.fs)); err != nil {
			return nil, err
		} else if gone {
			return nil, vfs.Errorf(vfs.KindExists, op, "file system %d was here and was deleted", x.fs)
		}
	}
	if sp, err = decodeSpace(enc); err != nil {
		return nil, err
	}
	x.spaces.set(x.entry, x.fs, sp)
	n := x.newInode(vfs.TypeDir)
	n.attr.Ino = vfs.RootIno
	n.attr.Mode, n.attr.UID, n.attr.GID = c.RootMode&vfs.ModeMask, c.RootUid, c.RootGid
	n.parent = uint64(vfs.RootIno)
	x.setInode(x.fs, n)
	x.setCount(counterKey{counterIno, x.fs}, uint64(vfs.RootIno)+1)
	return &metapb.Result{}, x.charge(x.fs, 0, 0, 1)
}

// newInode is an inode of type t born now, without a number.
func (x *call) newInode(t vfs.Type) *inode {
	n := &inode{attr: vfs.Attr{
		Type: t, Nlink: 1, Change: 1,
		Atime: x.now, Mtime: x.now, Ctime: x.now, Btime: x.now,
	}}
	if t == vfs.TypeDir {
		n.attr.Nlink = 2
	}
	return n
}

// must returns inode ino or says that it is stale.
func (x *call) must(ino uint64, op string) (*inode, error) {
	n, err := x.inode(x.fs, ino)
	if err == nil && n == nil {
		err = vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
	}
	return n, err
}

// dir returns a directory that the caller may search.
func (x *call) dir(ino uint64, op string) (*inode, error) {
	d, err := x.must(ino, op)
	if err != nil {
		return nil, err
	}
	if !d.isDir() {
		return nil, vfs.KindNotDir.Err(op)
	}
	if d.entries == 0 && len(x.inodes.undo) == 0 { // and that is not taken back
		x.names.empty(inoKey{x.fs, ino})
	}
	return d, d.attr.CheckAccess(&x.cred, vfs.AccessExec, op)
}

// child returns the inode of an entry.
func (x *call) child(at *spot) (*inode, error) {
	n, err := x.inode(x.fs, at.entry.ino)
	if err == nil && n == nil {
		err = corrupt("entry %d of directory %d names inode %d, which does not exist", at.cookie, at.dir, at.entry.ino)
	}
	return n, err
}

func dirChange(before, after *inode) *metapb.DirChange {
	return &metapb.DirChange{Before: before.attr.Change, After: after.attr.Change}
}

func (x *call) link(sp *space, c *metapb.Link) (*metapb.Result, error) {
	const op = "link"
	if err := vfs.CheckName(string(c.Name), op); err != nil {
		return nil, err
	}
	n, err := x.must(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, vfs.KindIsDir.Err(op)
	}
	d, err := x.dir(c.Parent, op)
	if err != nil {
		return nil, err
	}
	at, err := x.find(sp, c.Parent, c.Name)
	if err != nil {
		return nil, err
	}
	if at.entry != nil {
		return nil, vfs.KindExists.Err(op)
	}
	if err := d.attr.CheckAccess(&x.cred, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
		return nil, err
	}
	switch {
	case n.attr.Nlink == 0: // open but unlinked: no way back, as link(2) on Linux
		return nil, vfs.KindNotFound.Err(op)
	case n.attr.Nlink >= vfs.LinkMax:
		return nil, vfs.KindTooManyLinks.Err(op)
	case n.attr.Project != d.attr.Project:
		return nil, vfs.KindXDev.Err(op)
	}
	if err := x.notHeld(n, op); err != nil {
		return nil, err
	}
	if err := x.setName(&at, n); err != nil {
		return nil, err
	}
	n2, d2 := n.clone(), d.clone()
	n2.attr.Nlink++
	n2.changed(x.now)
	d2.entries++
	d2.modified(x.now)
	x.setInode(x.fs, n2)
	x.setInode(x.fs, d2)
	return &metapb.Result{Of: &metapb.Result_Link{Link: &metapb.LinkResult{Attr: toWire(&n2.attr), Dir: dirChange(d, d2)}}}, nil
}

func (x *call) remove(sp *space, c *metapb.Remove) (*metapb.Result, error) {
	const op = "remove"
	if err := vfs.CheckName(string(c.Name), op); err != nil {
		return nil, err
	}
	d, err := x.dir(c.Parent, op)
	if err != nil {
		return nil, err
	}
	at, err := x.find(sp, c.Parent, c.Name)
	if err != nil {
		return nil, err
	}
	if at.entry == nil {
		return nil, vfs.KindNotFound.Err(op)
	}
	n, err := x.child(&at)
	if err != nil {
		return nil, err
	}
	if err := x.mayDelete(d, n, op); err != nil {
		return nil, err
	}
	switch what := vfs.RemoveKind(c.What); {
	case c.What > uint32(vfs.RemoveDir):
		return nil, vfs.Errorf(vfs.KindInvalid, op, "kind %d", c.What)
	case what == vfs.RemoveDir && !n.isDir():
		return nil, vfs.KindNotDir.Err(op)
	case what == vfs.RemoveFile && n.isDir():
		return nil, vfs.KindIsDir.Err(op)
	case n.entries > 0:
		return nil, vfs.KindNotEmpty.Err(op)
	}
	if err := x.dropName(&at); err != nil {
		return nil, err
	}
	d2 := d.clone()
	d2.entries--
	d2.modified(x.now)
	keep := c.Keep || slices.Contains(c.KeepIno, uint64(n.attr.Ino))
	left, err := x.dropLink(d2, n, keep, c.KeepOpen)
	if err != nil {
		return nil, err
	}
	x.setInode(x.fs, d2)
	return &metapb.Result{Of: &metapb.Result_Remove{Remove: &metapb.RemoveResult{
		Dir: dirChange(d, d2), Ino: uint64(n.attr.Ino), Nlink: left.nlink, Orphan: left.orphan, Opened: left.opened,
	}}}, nil
}

// mayDelete is the permission to take n's name out of d.
func (x *call) mayDelete(d, n *inode, op string) error {
	if err := d.attr.CheckAccess(&x.cred, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
		return err
	}
	return vfs.CheckSticky(&x.cred, &d.attr, &n.attr, op)
}

// linksLeft says what is left of an inode after dropLink.
type linksLeft struct {
	nlink  uint32
	orphan bool // kept for the caller's origin
	opened bool // kept for clients that have it open
}

// dropLink takes one link from n, which has just lost a name in d, and changes
// d in place. A regular file without links stays if clients have it open or locked; those of opens do from now on.
// keep holds it for the caller's origin too; for other gateways it is held in any case (holdElsewhere).
func (x *call) dropLink(d, n *inode, keep bool, opens []*metapb.ClientOpen) (left linksLeft, err error) {
	if n.isDir() {
		d.attr.Nlink--
		return left, x.deleteInode(n)
	}
	if err := x.notHeld(n, "remove"); err != nil {
		return left, err
	}
	n = n.clone()
	n.attr.Nlink--
	n.changed(x.now)
	if left.nlink = n.attr.Nlink; left.nlink > 0 {
		x.setInode(x.fs, n)
		return left, nil
	}
	if err := x.keepOpens(n, opens, "remove"); err != nil {
		return left, err
	}
	left.orphan, left.opened = keep && n.isFile() && x.origin != 0, n.opened()
	if left.orphan {
		x.hold(x.fs, uint64(n.attr.Ino), x.origin)
	}
	elsewhere := false
	if n.isFile() {
		if elsewhere, err = x.holdElsewhere(uint64(n.attr.Ino)); err != nil {
			return left, err
		}
	}
	if left.orphan || left.opened || elsewhere {
		x.setInode(x.fs, n)
		return left, nil
	}
	return left, x.deleteInode(n)
}

// rename follows the order of checks of Linux: both names, loops, the same
// inode, permissions, types.
func (x *call) rename(sp *space, c *metapb.Rename) (*metapb.Result, error) {
	const op = "rename"
	for _, name := range [...][]byte{c.FromName, c.ToName} {
		if err := vfs.CheckName(string(name), op); err != nil {
			return nil, err
		}
	}
	fd, err := x.dir(c.FromParent, op)
	if err != nil {
		return nil, err
	}
	td, err := x.dir(c.ToParent, op)
	if err != nil {
		return nil, err
	}
	from, err := x.find(sp, c.FromParent, c.FromName)
	if err != nil {
		return nil, err
	}
	if from.entry == nil {
		return nil, vfs.KindNotFound.Err(op)
	}
	n, err := x.child(&from)
	if err != nil {
		return nil, err
	}
	to, err := x.find(sp, c.ToParent, c.ToName)
	if err != nil {
		return nil, err
	}
	var old *inode
	if to.entry != nil {
		if old, err = x.child(&to); err != nil {
			return nil, err
		}
	}
	same := c.FromParent == c.ToParent
	if n.isDir() && !same {
		if in, err := x.within(td, n.attr.Ino); err != nil {
			return nil, err
		} else if in {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "a directory into itself")
		}
	}
	if old != nil && old.attr.Ino == n.attr.Ino {
		return renameResult(fd, fd, td, td, n, nil, linksLeft{}), nil
	}
	if old != nil && old.entries > 0 && !same {
		if in, err := x.within(fd, old.attr.Ino); err != nil {
			return nil, err
		} else if in {
			return nil, vfs.KindNotEmpty.Err(op)
		}
	}
	if err := x.mayRename(fd, td, n, old, same); err != nil {
		return nil, err
	}
	if fd.attr.Project != td.attr.Project { // of n too, unless it is a project's directory, which keeps its own
		return nil, vfs.KindXDev.Err(op)
	}
	if err := x.notHeld(n, op); err != nil {
		return nil, err
	}
	// First the new name, then the old one goes: its cookie is not given to
	// the new one, which a listing that is past it would then miss.
	if err := x.setName(&to, n); err != nil {
		return nil, err
	}
	if err := x.dropName(&from); err != nil {
		return nil, err
	}
	n2, fd2 := n.clone(), fd.clone()
	td2 := fd2
	if !same {
		td2 = td.clone()
	}
	fd2.entries--
	if old == nil {
		td2.entries++
	}
	if n.isDir() {
		fd2.attr.Nlink--
		td2.attr.Nlink++
		n2.parent = c.ToParent
	}
	fd2.modified(x.now)
	if !same {
		td2.modified(x.now)
	}
	n2.changed(x.now)
	x.setInode(x.fs, n2)
	var left linksLeft
	if old != nil {
		keep := c.Keep || slices.Contains(c.KeepIno, uint64(old.attr.Ino))
		if left, err = x.dropLink(td2, old, keep, c.KeepOpen); err != nil {
			return nil, err
		}
	}
	if td2.attr.Nlink > vfs.LinkMax {
		return nil, vfs.KindTooManyLinks.Err(op)
	}
	x.setInode(x.fs, fd2)
	if !same {
		x.setInode(x.fs, td2)
	}
	return renameResult(fd, fd2, td, td2, n2, old, left), nil
}

func renameResult(fd, fd2, td, td2, n, old *inode, left linksLeft) *metapb.Result {
	r := &metapb.RenameResult{
		From: dirChange(fd, fd2), To: dirChange(td, td2), Ino: uint64(n.attr.Ino),
		ReplacedNlink: left.nlink, Orphan: left.orphan, Opened: left.opened,
	}
	if old != nil {
		r.ReplacedIno = uint64(old.attr.Ino)
	}
	return &metapb.Result{Of: &metapb.Result_Rename{Rename: r}}
}

// mayRename is the permission to move n from fd to td, over old if not nil, and
// whether their types fit.
func (x *call) mayRename(fd, td, n, old *inode, same bool) error {
	const op = "rename"
	if err := x.mayDelete(fd, n, op); err != nil {
		return err
	}
	if old == nil {
		if err := td.attr.CheckAccess(&x.cred, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
			return err
		}
	} else {
		if err := x.mayDelete(td, old, op); err != nil {
			return err
		}
		switch {
		case n.isDir() && !old.isDir():
			return vfs.KindNotDir.Err(op)
		case !n.isDir() && old.isDir():
			return vfs.KindIsDir.Err(op)
		}
	}
	// Moving a directory changes its "..".
	if n.isDir() && !same {
		if err := n.attr.CheckAccess(&x.cred, vfs.AccessWrite, op); err != nil {
			return err
		}
	}
	if old != nil && old.entries > 0 {
		return vfs.KindNotEmpty.Err(op)
	}
	return nil
}

// within reports whether d is the directory anc or lies below it.
func (x *call) within(d *inode, anc vfs.Ino) (bool, error) {
	for range x.opts.limits.depth {
		if d.attr.Ino == anc {
			return true, nil
		}
		if d.attr.Ino == vfs.RootIno {
			return false, nil
		}
		p, err := x.inode(x.fs, d.parent)
		if err != nil {
			return false, err
		}
		if p == nil {
			return false, corrupt("the parent %d of directory %d does not exist", d.parent, d.attr.Ino)
		}
		d = p
	}
	return false, vfs.Errorf(vfs.KindTooMany, "rename", "more than %d directories above the target", x.opts.limits.depth)
}
