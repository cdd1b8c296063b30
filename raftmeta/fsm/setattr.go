package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// attrSet is a metapb.AttrSet as a vfs.SetAttr; nil is an empty one.
func (x *call) attrSet(w *metapb.AttrSet, op string) (vfs.SetAttr, error) {
	if w == nil {
		return vfs.SetAttr{}, nil
	}
	if w.AtimeSet > uint32(vfs.TimeClient) || w.MtimeSet > uint32(vfs.TimeClient) {
		return vfs.SetAttr{}, vfs.Errorf(vfs.KindInvalid, op, "way to set a time")
	}
	s := vfs.SetAttr{
		Mode: w.Mode, UID: w.Uid, GID: w.Gid, Size: w.Size,
		AtimeSet: vfs.TimeSet(w.AtimeSet), MtimeSet: vfs.TimeSet(w.MtimeSet),
		Atime: timeOf(w.Atime), Mtime: timeOf(w.Mtime),
	}
	for _, t := range [...]*metapb.Time{w.Atime, w.Mtime, w.Btime} {
		if err := checkTime(t); err != nil {
			return s, err
		}
	}
	if w.Btime != nil {
		t := timeOf(w.Btime)
		s.Btime = &t
	}
	return s, nil
}

func (x *call) setAttr(c *metapb.SetAttr) (*metapb.Result, error) {
	const op = "setattr"
	n, err := x.must(c.Ino, op)
	if err != nil {
		return nil, err
	}
	s, err := x.attrSet(c.Set, op)
	if err != nil {
		return nil, err
	}
	if s.Empty() {
		return x.attrResult(n), nil
	}
	if err := vfs.CheckSetAttr(&x.cred, &n.attr, &s, c.Opened, op); err != nil {
		return nil, err
	}
	if s.Size != nil || c.LeaseEpoch != 0 {
		if err := x.checkEpoch(n, c.LeaseEpoch, op); err != nil {
			return nil, err
		}
	} else if err := x.notHeld(n, op); err != nil {
		return nil, err
	}
	n = n.clone()
	if err := x.apply(n, &s); err != nil {
		return nil, err
	}
	n.attr.Ctime = x.now
	if err := advance(n, c.LeaseEpoch, c.Change, op); err != nil {
		return nil, err
	}
	x.renew(n)
	x.setInode(x.fs, n)
	return x.attrResult(n), nil
}

// advance gives n, in place, its next change value, in a command that names an epoch.
func advance(n *inode, epoch, change uint64, op string) error {
	if epoch == 0 || n.lease.shared() {
		n.bump()
		return nil
	}
	// The holder named what it has shown, so the rest of its range stays.
	if err := shown(n, change, op); err != nil {
		return err
	}
	if n.attr.Change++; n.attr.Change > n.lease.limit {
		n.lease.limit = n.attr.Change
	}
	return nil
}

// attrResult carries the lease too if it is the caller's.
func (x *call) attrResult(n *inode) *metapb.Result {
	r := &metapb.AttrResult{Attr: toWire(&n.attr)}
	if x.holds(n) {
		r.Lease = leaseToWire(n.lease)
	}
	return &metapb.Result{Of: &metapb.Result_Attr{Attr: r}}
}

// apply sets the attributes of s that were allowed.
func (x *call) apply(n *inode, s *vfs.SetAttr) error {
	a := &n.attr
	n.verifier = ""
	if s.UID != nil || s.GID != nil {
		if s.UID != nil {
			a.UID = *s.UID
		}
		if s.GID != nil {
			a.GID = *s.GID
		}
		a.Mode = vfs.ModeAfterChown(a)
	}
	if s.Size != nil {
		if err := x.truncate(n, *s.Size); err != nil {
			return err
		}
		a.Mode = vfs.ModeAfterWrite(&x.cred, a)
		a.Mtime = x.now // also when the size stays, as ftruncate(2) on Linux
	}
	if s.Mode != nil {
		a.Mode = vfs.ModeAfterChmod(&x.cred, a, *s.Mode)
	}
	switch s.AtimeSet {
	case vfs.TimeServer:
		a.Atime = x.now
	case vfs.TimeClient:
		a.Atime = s.Atime
	}
	switch s.MtimeSet {
	case vfs.TimeServer:
		a.Mtime = x.now
	case vfs.TimeClient:
		a.Mtime = s.Mtime
	}
	if s.Btime != nil {
		a.Btime = *s.Btime
	}
	return nil
}
