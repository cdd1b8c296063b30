package memfs

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Lookup implements vfs.FS.
func (fs *FS) Lookup(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	const op = "lookup"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Attr{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(c, dir, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	n := fs.child(d, name)
	if n == nil {
		return vfs.Attr{}, vfs.Errorf(vfs.KindNotFound, op, "%q", name)
	}
	return n.attr, nil
}

func (fs *FS) child(d *inode, name string) *inode {
	e, ok := d.entries[name]
	if !ok {
		return nil
	}
	return fs.inodes[e.ino]
}

// Parent implements vfs.FS.
func (fs *FS) Parent(_ context.Context, c *vfs.Cred, dir vfs.Ino) (vfs.Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(c, dir, "parent")
	if err != nil {
		return vfs.Attr{}, err
	}
	p, err := fs.get(d.parent, "parent")
	if err != nil {
		return vfs.Attr{}, err
	}
	return p.attr, nil
}

// ReadDir implements vfs.FS.
func (fs *FS) ReadDir(_ context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, maxEntries int, attrs bool) (vfs.DirPage, error) {
	const op = "readdir"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.get(dir, op)
	if err != nil {
		return vfs.DirPage{}, err
	}
	if !d.attr.IsDir() {
		return vfs.DirPage{}, vfs.KindNotDir.Err(op)
	}
	if err := d.attr.CheckAccess(c, vfs.AccessRead, op); err != nil {
		return vfs.DirPage{}, err
	}
	if maxEntries < 1 {
		return vfs.DirPage{}, vfs.Errorf(vfs.KindInvalid, op, "at most %d entries", maxEntries)
	}
	fs.wasRead(d)
	var all []vfs.Dirent
	for name, e := range d.entries {
		if e.cookie > cookie {
			all = append(all, vfs.Dirent{Cookie: e.cookie, Name: name, Ino: e.ino, Type: fs.inodes[e.ino].attr.Type})
		}
	}
	slices.SortFunc(all, func(a, b vfs.Dirent) int { return cmp.Compare(a.Cookie, b.Cookie) })
	page := vfs.DirPage{Entries: all, EOF: len(all) <= maxEntries, Dir: d.attr}
	if !page.EOF {
		page.Entries = all[:maxEntries]
	}
	if attrs {
		for i := range page.Entries {
			a := fs.inodes[page.Entries[i].Ino].attr
			page.Entries[i].Attr = &a
		}
	}
	return page, nil
}

// ReadLink implements vfs.FS.
func (fs *FS) ReadLink(_ context.Context, ino vfs.Ino) (string, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, "readlink")
	if err != nil {
		return "", err
	}
	if n.attr.Type != vfs.TypeSymlink {
		return "", vfs.KindNotSymlink.Err("readlink")
	}
	return n.target, nil
}

// Create implements vfs.FS.
func (fs *FS) Create(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	const op = "create"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Created{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(c, dir, op)
	if err != nil {
		return vfs.Created{}, err
	}
	if n := fs.child(d, name); n != nil {
		return fs.createExisting(c, d, n, &a)
	}
	n, created, err := fs.makeEntry(c, d, name, vfs.TypeFile, &a.Attr, op)
	if err != nil {
		return vfs.Created{}, err
	}
	if a.Exclusive == vfs.ByVerifier {
		v := a.Verifier
		n.createVerifier = &v
	}
	// Who made the file may use it as asked, whatever its mode.
	if a.Open != 0 {
		n.opens++
	}
	return created, nil
}

// createExisting is Create for a name that is there already.
func (fs *FS) createExisting(c *vfs.Cred, d, n *inode, a *vfs.CreateArgs) (vfs.Created, error) {
	const op = "create"
	same := vfs.DirChange{Before: d.attr.Change, After: d.attr.Change}
	switch a.Exclusive {
	case vfs.Unchecked:
	case vfs.ByVerifier:
		if n.createVerifier != nil && *n.createVerifier == a.Verifier {
			if a.Open != 0 {
				n.opens++
			}
			return vfs.Created{Attr: n.attr, Dir: same}, nil
		}
		fallthrough
	default:
		return vfs.Created{}, vfs.KindExists.Err(op)
	}
	switch n.attr.Type {
	case vfs.TypeFile:
	case vfs.TypeDir:
		return vfs.Created{}, vfs.KindIsDir.Err(op)
	default:
		return vfs.Created{}, vfs.KindWrongType.Err(op)
	}
	cut := a.Attr.Size != nil && *a.Attr.Size == 0
	want := openAccess(a.Open)
	if cut {
		want |= vfs.AccessWrite
	}
	if err := n.attr.CheckAccess(c, want, op); err != nil {
		return vfs.Created{}, err
	}
	if cut {
		now := fs.now()
		fs.makeDurable(n)
		fs.apply(c, n, &vfs.SetAttr{Size: a.Attr.Size}, now)
		n.changed(now)
	}
	if a.Open != 0 {
		n.opens++
	}
	return vfs.Created{Attr: n.attr, Dir: same}, nil
}

// MakeNode implements vfs.FS.
func (fs *FS) MakeNode(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.NodeArgs) (vfs.Created, error) {
	const op = "mknod"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Created{}, err
	}
	if err := checkNode(c, &a, op); err != nil {
		return vfs.Created{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(c, dir, op)
	if err != nil {
		return vfs.Created{}, err
	}
	if fs.child(d, name) != nil {
		return vfs.Created{}, vfs.KindExists.Err(op)
	}
	s := a.Attr
	if a.Type == vfs.TypeSymlink {
		mode := uint32(0o777)
		s.Mode = &mode
	}
	n, created, err := fs.makeEntry(c, d, name, a.Type, &s, op)
	if err != nil {
		return vfs.Created{}, err
	}
	switch a.Type {
	case vfs.TypeSymlink:
		n.target = a.Target
		n.attr.Size = uint64(len(a.Target))
	case vfs.TypeBlock, vfs.TypeChar:
		n.attr.Dev = a.Dev
	}
	created.Attr = n.attr
	return created, nil
}

// checkNode refuses what MakeNode cannot make, or not for c.
func checkNode(c *vfs.Cred, a *vfs.NodeArgs, op string) error {
	switch a.Type {
	case vfs.TypeDir, vfs.TypeFIFO, vfs.TypeSocket:
	case vfs.TypeSymlink:
		if a.Target == "" {
			return vfs.Errorf(vfs.KindInvalid, op, "empty target")
		}
		if len(a.Target) > vfs.SymlinkMax {
			return vfs.Errorf(vfs.KindNameTooLong, op, "target of %d bytes", len(a.Target))
		}
	case vfs.TypeBlock, vfs.TypeChar:
		if !c.IsRoot() {
			return vfs.KindPerm.Err(op)
		}
	default:
		return vfs.Errorf(vfs.KindWrongType, op, "type %d", a.Type)
	}
	return nil
}

// makeEntry adds an inode and its name, which is not there yet.
func (fs *FS) makeEntry(c *vfs.Cred, d *inode, name string, t vfs.Type, s *vfs.SetAttr, op string) (*inode, vfs.Created, error) {
	if err := d.attr.CheckAccess(c, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
		return nil, vfs.Created{}, err
	}
	mode := uint32(0)
	if s.Mode != nil {
		mode = *s.Mode
	}
	gid, mode := vfs.NewNode(c, &d.attr, t, mode)
	rest := *s
	rest.Mode = nil
	if t != vfs.TypeFile {
		rest.Size = nil
	}
	born := vfs.Attr{Type: t, Mode: mode, UID: c.UID, GID: gid}
	if err := vfs.CheckSetAttr(c, &born, &rest, true, op); err != nil {
		return nil, vfs.Created{}, err
	}
	if uint64(len(fs.inodes)) >= fs.capacityFiles {
		return nil, vfs.Created{}, vfs.KindNoSpace.Err(op)
	}
	now := fs.now()
	n := fs.newInode(t, now)
	n.attr.Mode, n.attr.UID, n.attr.GID, n.attr.Project = mode, c.UID, gid, d.attr.Project
	if !rest.Empty() {
		fs.apply(c, n, &rest, now)
		n.attr.Mode = mode // what chown and truncate take from a mode is not for one just given
	}
	before := d.attr.Change
	fs.addEntry(d, name, n)
	d.modified(now)
	return n, vfs.Created{Attr: n.attr, Dir: vfs.DirChange{Before: before, After: d.attr.Change}, New: true}, nil
}

// addEntry names n in d. A name that is there keeps its cookie.
func (fs *FS) addEntry(d *inode, name string, n *inode) {
	e, ok := d.entries[name]
	if !ok {
		d.lastCookie++
		e.cookie = d.lastCookie
	}
	e.ino = n.attr.Ino
	d.entries[name] = e
	if n.attr.IsDir() {
		n.parent = d.attr.Ino
		d.attr.Nlink++
	}
}

// dropLink takes one link from n, which has just lost a name in d.
func (fs *FS) dropLink(d, n *inode, now time.Time) {
	if n.attr.IsDir() {
		n.attr.Nlink = 0
		d.attr.Nlink--
	} else {
		n.attr.Nlink--
	}
	n.changed(now)
	fs.release(n)
}

// Link implements vfs.FS.
func (fs *FS) Link(_ context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	const op = "link"
	fail := func(err error) (vfs.Attr, vfs.DirChange, error) { return vfs.Attr{}, vfs.DirChange{}, err }
	if err := vfs.CheckName(name, op); err != nil {
		return fail(err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, op)
	if err != nil {
		return fail(err)
	}
	if n.attr.IsDir() {
		return fail(vfs.KindIsDir.Err(op))
	}
	d, err := fs.getDir(c, dir, op)
	if err != nil {
		return fail(err)
	}
	if fs.child(d, name) != nil {
		return fail(vfs.KindExists.Err(op))
	}
	if err := d.attr.CheckAccess(c, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
		return fail(err)
	}
	switch {
	case n.attr.Nlink == 0: // open but unlinked: no way back, as link(2) on Linux
		return fail(vfs.KindNotFound.Err(op))
	case n.attr.Nlink >= vfs.LinkMax:
		return fail(vfs.KindTooManyLinks.Err(op))
	case n.attr.Project != d.attr.Project:
		return fail(vfs.KindXDev.Err(op))
	}
	now := fs.now()
	before := d.attr.Change
	fs.addEntry(d, name, n)
	d.modified(now)
	n.attr.Nlink++
	n.changed(now)
	return n.attr, vfs.DirChange{Before: before, After: d.attr.Change}, nil
}

// Remove implements vfs.FS.
func (fs *FS) Remove(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	const op = "remove"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.DirChange{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(c, dir, op)
	if err != nil {
		return vfs.DirChange{}, err
	}
	n := fs.child(d, name)
	if n == nil {
		return vfs.DirChange{}, vfs.Errorf(vfs.KindNotFound, op, "%q", name)
	}
	if err := mayDelete(c, d, n, op); err != nil {
		return vfs.DirChange{}, err
	}
	switch {
	case what == vfs.RemoveDir && !n.attr.IsDir():
		return vfs.DirChange{}, vfs.KindNotDir.Err(op)
	case what == vfs.RemoveFile && n.attr.IsDir():
		return vfs.DirChange{}, vfs.KindIsDir.Err(op)
	case len(n.entries) > 0:
		return vfs.DirChange{}, vfs.KindNotEmpty.Err(op)
	}
	now := fs.now()
	before := d.attr.Change
	delete(d.entries, name)
	d.modified(now)
	fs.dropLink(d, n, now)
	return vfs.DirChange{Before: before, After: d.attr.Change}, nil
}

// mayDelete is the permission to take n's name out of d.
func mayDelete(c *vfs.Cred, d, n *inode, op string) error {
	if err := d.attr.CheckAccess(c, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
		return err
	}
	return vfs.CheckSticky(c, &d.attr, &n.attr, op)
}

// Rename implements vfs.FS. The order of its checks is that of Linux: both
// names, loops, the same inode, permissions, types.
func (fs *FS) Rename(_ context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	const op = "rename"
	fail := func(err error) (vfs.DirChange, vfs.DirChange, error) { return vfs.DirChange{}, vfs.DirChange{}, err }
	for _, name := range []string{from, to} {
		if err := vfs.CheckName(name, op); err != nil {
			return fail(err)
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fd, err := fs.getDir(c, fromDir, op)
	if err != nil {
		return fail(err)
	}
	td, err := fs.getDir(c, toDir, op)
	if err != nil {
		return fail(err)
	}
	n := fs.child(fd, from)
	if n == nil {
		return fail(vfs.Errorf(vfs.KindNotFound, op, "%q", from))
	}
	old := fs.child(td, to)
	fc := vfs.DirChange{Before: fd.attr.Change, After: fd.attr.Change}
	tc := vfs.DirChange{Before: td.attr.Change, After: td.attr.Change}
	if n.attr.IsDir() && fs.isWithin(td, n) {
		return fail(vfs.Errorf(vfs.KindInvalid, op, "%q into itself", from))
	}
	if old == n {
		return fc, tc, nil
	}
	if old != nil && old.attr.IsDir() && fs.isWithin(fd, old) {
		return fail(vfs.KindNotEmpty.Err(op))
	}
	if err := mayRename(c, fd, td, n, old); err != nil {
		return fail(err)
	}
	if fd.attr.Project != td.attr.Project { // of n too, unless it is a project's directory
		return fail(vfs.KindXDev.Err(op))
	}
	now := fs.now()
	delete(fd.entries, from)
	if n.attr.IsDir() {
		fd.attr.Nlink--
	}
	fs.addEntry(td, to, n)
	fd.modified(now)
	if td != fd {
		td.modified(now)
	}
	n.changed(now)
	if old != nil {
		fs.dropLink(td, old, now)
	}
	fc.After, tc.After = fd.attr.Change, td.attr.Change
	return fc, tc, nil
}

// mayRename is the permission to move n from fd to td, over old if not nil,
// and whether their types fit.
func mayRename(c *vfs.Cred, fd, td, n, old *inode) error {
	const op = "rename"
	if err := mayDelete(c, fd, n, op); err != nil {
		return err
	}
	if old == nil {
		if err := td.attr.CheckAccess(c, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
			return err
		}
	} else {
		if err := mayDelete(c, td, old, op); err != nil {
			return err
		}
		switch {
		case n.attr.IsDir() && !old.attr.IsDir():
			return vfs.KindNotDir.Err(op)
		case !n.attr.IsDir() && old.attr.IsDir():
			return vfs.KindIsDir.Err(op)
		}
	}
	// Moving a directory changes its "..".
	if n.attr.IsDir() && fd != td {
		if err := n.attr.CheckAccess(c, vfs.AccessWrite, op); err != nil {
			return err
		}
	}
	if old != nil && len(old.entries) > 0 {
		return vfs.KindNotEmpty.Err(op)
	}
	return nil
}

// isWithin reports whether d is anc or lies below it.
func (fs *FS) isWithin(d, anc *inode) bool {
	for d != anc {
		if d.attr.Ino == vfs.RootIno {
			return false
		}
		d = fs.inodes[d.parent]
	}
	return true
}
