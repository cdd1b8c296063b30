package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const verifierLen = 8

// createAnswer is the result of a Create in one piece of memory: it is the
// most frequent one.
type createAnswer struct {
	result metapb.Result
	of     metapb.Result_Create
	create metapb.CreateResult
	attr   wireAttr
	dir    metapb.DirChange
}

func createResult(n, d, d2 *inode, created bool, l *metapb.Lease, share *openRow) *metapb.Result {
	a := new(createAnswer)
	a.dir.Before, a.dir.After = d.attr.Change, d2.attr.Change
	a.create.Attr, a.create.Dir, a.create.Created, a.create.Lease = a.attr.set(&n.attr), &a.dir, created, l
	if share != nil {
		a.create.Stateid = share.stateid[:]
	}
	a.of.Create = &a.create
	a.result.Of = &a.of
	return &a.result
}

func (x *call) create(sp *space, c *metapb.Create) (*metapb.Result, error) {
	const op = "create"
	if err := vfs.CheckName(string(c.Name), op); err != nil {
		return nil, err
	}
	if err := x.checkNode(c); err != nil {
		return nil, err
	}
	d, err := x.dir(c.Parent, op)
	if err != nil {
		return nil, err
	}
	share, err := x.share(c.Share, op)
	if err != nil {
		return nil, err
	}
	at, err := x.find(sp, c.Parent, c.Name)
	if err != nil {
		return nil, err
	}
	if at.entry != nil {
		return x.openExisting(c, d, &at, share)
	}
	if err := d.attr.CheckAccess(&x.cred, vfs.AccessWrite|vfs.AccessExec, op); err != nil {
		return nil, err
	}
	n, err := x.born(c, d)
	if err != nil {
		return nil, err
	}
	if vfs.OpenFlags(c.Open)&vfs.OpenWrite != 0 {
		if err := x.grant(n, 0, op); err != nil { // who made a file may use it as asked, whatever its mode
			return nil, err
		}
	}
	if share != nil {
		if err := x.putOpen(n, share, op); err != nil {
			return nil, err
		}
	}
	if err := x.setName(&at, n); err != nil {
		return nil, err
	}
	d2 := d.clone()
	d2.entries++
	if n.isDir() {
		if d2.attr.Nlink >= vfs.LinkMax {
			return nil, vfs.KindTooManyLinks.Err(op)
		}
		n.parent = c.Parent
		d2.attr.Nlink++
	}
	d2.modified(x.now)
	x.setInode(x.fs, n)
	x.setInode(x.fs, d2)
	if err := x.charge(x.fs, n.attr.Project, 0, 1); err != nil {
		return nil, err
	}
	return createResult(n, d, d2, true, leaseToWire(n.lease), share), nil
}

// checkNode refuses what cannot be made, or not for the caller.
func (x *call) checkNode(c *metapb.Create) error {
	const op = "create"
	if c.Type > uint32(vfs.TypeSocket) {
		return vfs.Errorf(vfs.KindWrongType, op, "type %d", c.Type)
	}
	switch vfs.Type(c.Type) {
	case vfs.TypeFile:
		if c.Exclusive > uint32(vfs.ByVerifier) {
			return vfs.Errorf(vfs.KindInvalid, op, "exclusive %d", c.Exclusive)
		}
		if c.Exclusive == uint32(vfs.ByVerifier) && len(c.Verifier) != verifierLen {
			return vfs.Errorf(vfs.KindInvalid, op, "a verifier has %d bytes, not %d", verifierLen, len(c.Verifier))
		}
		if c.Open > uint32(vfs.OpenRead|vfs.OpenWrite) {
			return vfs.Errorf(vfs.KindInvalid, op, "open flags %#x", c.Open)
		}
		return nil
	case vfs.TypeDir, vfs.TypeFIFO, vfs.TypeSocket:
	case vfs.TypeSymlink:
		if len(c.Target) == 0 {
			return vfs.Errorf(vfs.KindInvalid, op, "empty target")
		}
		if len(c.Target) > vfs.SymlinkMax {
			return vfs.Errorf(vfs.KindNameTooLong, op, "target of %d bytes", len(c.Target))
		}
	case vfs.TypeBlock, vfs.TypeChar:
		if !x.cred.IsRoot() {
			return vfs.KindPerm.Err(op)
		}
	default:
		return vfs.Errorf(vfs.KindWrongType, op, "type %d", c.Type)
	}
	if c.Open != 0 || c.Share != nil && x.level >= levelPOSIX {
		return vfs.Errorf(vfs.KindInvalid, op, "only a regular file can be opened")
	}
	return nil
}

// born makes the inode of a new entry of d.
func (x *call) born(c *metapb.Create, d *inode) (*inode, error) {
	const op = "create"
	t := vfs.Type(c.Type)
	s, err := x.attrSet(c.Attr, op)
	if err != nil {
		return nil, err
	}
	mode := uint32(0)
	if s.Mode != nil {
		mode = *s.Mode
	}
	if t == vfs.TypeSymlink {
		mode = 0o777
	}
	s.Mode = nil
	if t != vfs.TypeFile {
		s.Size = nil
	}
	gid, mode := vfs.NewNode(&x.cred, &d.attr, t, mode)
	n := x.newInode(t)
	n.attr.Mode, n.attr.UID, n.attr.GID, n.attr.Project = mode, x.cred.UID, gid, d.attr.Project
	if !s.Empty() {
		if err := vfs.CheckSetAttr(&x.cred, &n.attr, &s, true, op); err != nil {
			return nil, err
		}
		if err := x.apply(n, &s); err != nil {
			return nil, err
		}
		n.attr.Mode = mode // what chown and truncate take from a mode is not for one just given
	}
	switch t {
	case vfs.TypeFile:
		if c.Exclusive == uint32(vfs.ByVerifier) {
			n.verifier = string(c.Verifier)
		}
	case vfs.TypeSymlink:
		n.target = string(c.Target)
		n.attr.Size = uint64(len(c.Target))
	case vfs.TypeBlock, vfs.TypeChar:
		n.attr.Dev = vfs.Dev{Major: c.DevMajor, Minor: c.DevMinor}
	}
	ino, err := x.next(counterKey{counterIno, x.fs})
	if err != nil {
		return nil, err
	}
	n.attr.Ino = vfs.Ino(ino)
	return n, nil
}

// openExisting is create for a name that is there already.
func (x *call) openExisting(c *metapb.Create, d *inode, at *spot, share *openRow) (*metapb.Result, error) {
	const op = "create"
	if vfs.Type(c.Type) != vfs.TypeFile {
		return nil, vfs.KindExists.Err(op)
	}
	n, err := x.child(at)
	if err != nil {
		return nil, err
	}
	switch vfs.Exclusive(c.Exclusive) {
	case vfs.Unchecked:
		return x.openUnchecked(c, d, n, share)
	case vfs.ByVerifier:
		if n.verifier == "" || n.verifier != string(c.Verifier) {
			return nil, vfs.KindExists.Err(op)
		}
		if denied, err := x.shareDenied(n, share); err != nil || denied != nil {
			return denied, err
		}
		return x.opened(c, d, n, n, share)
	}
	return nil, vfs.KindExists.Err(op)
}

func (x *call) openUnchecked(c *metapb.Create, d, n *inode, share *openRow) (*metapb.Result, error) {
	const op = "create"
	switch n.attr.Type {
	case vfs.TypeFile:
	case vfs.TypeDir:
		return nil, vfs.KindIsDir.Err(op)
	default:
		return nil, vfs.KindWrongType.Err(op)
	}
	truncate := c.Attr != nil && c.Attr.Size != nil && *c.Attr.Size == 0
	want := openAccess(vfs.OpenFlags(c.Open))
	if truncate {
		want |= vfs.AccessWrite
	}
	if err := n.attr.CheckAccess(&x.cred, want, op); err != nil {
		return nil, err
	}
	if denied, err := x.shareDenied(n, share); err != nil || denied != nil {
		return denied, err
	}
	n2 := n
	if truncate {
		if err := x.checkEpoch(n, c.LeaseEpoch, op); err != nil {
			return nil, err
		}
		n2 = n.clone()
		if err := x.apply(n2, &vfs.SetAttr{Size: new(uint64)}); err != nil {
			return nil, err
		}
		n2.changed(x.now)
	}
	return x.opened(c, d, n, n2, share)
}

// shareDenied is the answer to a create if an open of n is in the way of share.
func (x *call) shareDenied(n *inode, share *openRow) (*metapb.Result, error) {
	if share == nil {
		return nil, nil
	}
	if err := x.mayDeny(n, share, "create"); err != nil {
		return nil, err
	}
	d, err := x.denied(n, share)
	if err != nil || d == nil {
		return nil, err
	}
	return &metapb.Result{Of: &metapb.Result_Create{Create: &metapb.CreateResult{Denied: d}}}, nil
}

// opened ends a create that found n, which is now n2.
func (x *call) opened(c *metapb.Create, d, n, n2 *inode, share *openRow) (*metapb.Result, error) {
	if share != nil {
		if n2 == n {
			n2 = n.clone()
		}
		if err := x.putOpen(n2, share, "create"); err != nil {
			return nil, err
		}
	}
	if vfs.OpenFlags(c.Open)&vfs.OpenWrite != 0 {
		if n2 == n {
			n2 = n.clone()
		}
		if err := x.grantOpen(n2, n.opens, "create"); err != nil {
			return nil, err
		}
		x.setInode(x.fs, n2)
		return createResult(n2, d, d, false, x.usable(n2), share), nil
	}
	if n2 != n {
		x.renew(n2)
		x.setInode(x.fs, n2)
	}
	return createResult(n2, d, d, false, nil, share), nil
}

func openAccess(f vfs.OpenFlags) (want vfs.Access) {
	if f&vfs.OpenRead != 0 {
		want |= vfs.AccessRead
	}
	if f&vfs.OpenWrite != 0 {
		want |= vfs.AccessWrite
	}
	return want
}
