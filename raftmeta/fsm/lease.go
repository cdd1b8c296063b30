package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// holds reports whether the caller's origin holds n's lease. Inodes come out of
// the overlay settled, so a lease that stands is of a living origin.
func (x *call) holds(n *inode) bool {
	return n.lease.epoch != 0 && n.lease.origin == x.origin
}

// checkEpoch lets through only who may change the bytes of n: the holder of the
// lease, who names its epoch, or anybody when nobody holds it.
func (x *call) checkEpoch(n *inode, epoch uint64, op string) error {
	switch {
	case n.lease.epoch != 0 && !x.holds(n):
		return vfs.Errorf(vfs.KindBusy, op, "origin %d holds the write lease", n.lease.origin)
	case n.lease.epoch != epoch:
		return vfs.Errorf(vfs.KindFenced, op, "write lease epoch %d, not %d", n.lease.epoch, epoch)
	}
	return nil
}

// grant gives the lease of n to the caller, or renews the range of the one it
// has. It changes n in place.
func (x *call) grant(n *inode, op string) error {
	if x.holds(n) {
		n.lease.limit = max(n.lease.limit, n.attr.Change+x.opts.limits.changeRange)
		return nil
	}
	if n.lease.epoch != 0 {
		return x.checkEpoch(n, 0, op)
	}
	n.lastEpoch++
	n.lease = lease{origin: x.origin, epoch: n.lastEpoch, limit: n.attr.Change + x.opts.limits.changeRange}
	return nil
}

// renew gives the holder a new range when its own commands used up half of the
// one it has. It changes n in place.
func (x *call) renew(n *inode) {
	half := x.opts.limits.changeRange / 2
	if x.holds(n) && n.lease.limit < n.attr.Change+half {
		n.lease.limit = n.attr.Change + x.opts.limits.changeRange
	}
}

// shown raises the change value of n, in place, to the newest that its holder
// has shown.
func shown(n *inode, change uint64, op string) error {
	if change > max(n.lease.limit, n.attr.Change) {
		return vfs.Errorf(vfs.KindInvalid, op, "change %d is above the lease's limit %d", change, n.lease.limit)
	}
	n.attr.Change = max(n.attr.Change, change)
	return nil
}

// file returns a regular file.
func (x *call) file(ino uint64, op string) (*inode, error) {
	n, err := x.must(ino, op)
	if err != nil {
		return nil, err
	}
	return n, checkFile(n, op)
}

func checkFile(n *inode, op string) error {
	switch n.attr.Type {
	case vfs.TypeFile:
		return nil
	case vfs.TypeDir:
		return vfs.KindIsDir.Err(op)
	}
	return vfs.KindWrongType.Err(op)
}

func (x *call) acquireLease(c *metapb.AcquireLease) (*metapb.Result, error) {
	const op = "lease.acquire"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkOpen(n, &x.cred, c.Flags, c.Override, op); err != nil {
		return nil, err
	}
	n = n.clone()
	if x.holds(n) {
		if err := shown(n, c.Change, op); err != nil {
			return nil, err
		}
	}
	if err := x.grant(n, op); err != nil {
		return nil, err
	}
	x.setInode(x.fs, n)
	return &metapb.Result{Of: &metapb.Result_Lease{Lease: &metapb.LeaseResult{Attr: toWire(&n.attr), Lease: leaseToWire(n.lease)}}}, nil
}

// checkOpen is the permission to open a file with the given vfs.OpenFlags.
func checkOpen(n *inode, c *vfs.Cred, flags uint32, override bool, op string) error {
	if flags > uint32(vfs.OpenRead|vfs.OpenWrite) {
		return vfs.Errorf(vfs.KindInvalid, op, "open flags %#x", flags)
	}
	if override && c.UID == n.attr.UID {
		return nil
	}
	return n.attr.CheckAccess(c, openAccess(vfs.OpenFlags(flags)), op)
}

func (x *call) releaseLease(c *metapb.ReleaseLease) (*metapb.Result, error) {
	const op = "lease.release"
	n, err := x.must(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if !x.holds(n) || n.lease.epoch != c.Epoch {
		return nil, vfs.Errorf(vfs.KindFenced, op, "write lease epoch %d, not %d", n.lease.epoch, c.Epoch)
	}
	n = n.clone()
	if err := shown(n, c.Change, op); err != nil {
		return nil, err
	}
	n.lease = lease{}
	x.setInode(x.fs, n)
	return x.attrResult(n), nil
}
