package fsm

import (
	"errors"
	"fmt"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// holds reports whether the caller's origin holds n's lease. Inodes come out of
// the overlay settled, so a lease that stands is of a living origin.
func (x *call) holds(n *inode) bool {
	return n.lease.origin != 0 && n.lease.origin == x.origin
}

// heldError is the error of a command that is in the way of another origin's lease, from level 6 on.
type heldError struct {
	op    string
	ino   uint64
	lease lease
}

func (e *heldError) Error() string {
	return fmt.Sprintf("%s: origin %d holds the write lease of inode %d", e.op, e.lease.origin, e.ino)
}

// heldResult is the result of a command that failed with err if that is a heldError, else nil.
func heldResult(err error) *metapb.Result {
	var h *heldError
	if !errors.As(err, &h) {
		return nil
	}
	return &metapb.Result{Of: &metapb.Result_Held{Held: &metapb.Held{Ino: h.ino, Origin: h.lease.origin, Epoch: h.lease.epoch}}}
}

// elsewhere reports whether n is another origin's alone.
func (x *call) elsewhere(n *inode) bool { return n.lease.origin != 0 && !x.holds(n) }

// notHeld fails if another origin has n to itself. From level 6 on that keeps everybody else from changing anything of n that
// users see, as the holder answers from what it knows.
func (x *call) notHeld(n *inode, op string) error {
	if x.level < levelGateways || !x.elsewhere(n) {
		return nil
	}
	return &heldError{op: op, ino: uint64(n.attr.Ino), lease: n.lease}
}

// checkEpoch lets through only who may change the bytes of n: the holder of the
// lease, who names its epoch, anybody who names the epoch of a shared one, or anybody when there is none.
func (x *call) checkEpoch(n *inode, epoch uint64, op string) error {
	switch {
	case x.elsewhere(n):
		if err := x.notHeld(n, op); err != nil {
			return err
		}
		return vfs.Errorf(vfs.KindBusy, op, "origin %d holds the write lease", n.lease.origin)
	case n.lease.epoch != epoch:
		return vfs.Errorf(vfs.KindFenced, op, "write lease epoch %d, not %d", n.lease.epoch, epoch)
	}
	return nil
}

// grant gives the lease of n to the caller, or renews the range of the one it
// has. One that is shared stays so while anybody else has n open: others is how many records of opens there are, besides what the
// command itself brings. It changes n in place.
func (x *call) grant(n *inode, others uint32, op string) error {
	if x.holds(n) {
		n.lease.limit = max(n.lease.limit, n.attr.Change+x.opts.limits.changeRange)
		return nil
	}
	if x.elsewhere(n) {
		return x.checkEpoch(n, 0, op)
	}
	if n.lease.shared() && others > 0 {
		return nil
	}
	return x.give(n)
}

// give gives n to the caller alone, in place; from level 7 on, among several gateways, shared if there are opens that deny something: who has it alone opens it without asking.
func (x *call) give(n *inode) error {
	if x.level >= levelHandover && n.deniers > 0 {
		if ids, err := x.several(); err != nil {
			return err
		} else if len(ids) > 0 {
			if !n.lease.shared() {
				n.lastEpoch++
				n.lease = lease{epoch: n.lastEpoch}
			}
			return nil
		}
	}
	n.lastEpoch++
	n.lease = lease{origin: x.origin, epoch: n.lastEpoch, limit: n.attr.Change + x.opts.limits.changeRange}
	return nil
}

// grantOpen is grant for an open, which from level 6 on needs no lease: the first write asks for it.
func (x *call) grantOpen(n *inode, others uint32, op string) error {
	if x.level >= levelGateways && x.elsewhere(n) {
		return nil
	}
	return x.grant(n, others, op)
}

// usable is the lease of n as the caller may use it, nil for none.
func (x *call) usable(n *inode) *metapb.Lease {
	if x.elsewhere(n) {
		return nil
	}
	return leaseToWire(n.lease)
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
	if n.lease.shared() && c.Alone == n.lease.epoch {
		if err := x.give(n); err != nil {
			return nil, err
		}
	} else if err := x.grant(n, n.opens, op); err != nil {
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

// shareLease makes the caller's lease a shared one.
func (x *call) shareLease(c *metapb.ShareLease) (*metapb.Result, error) {
	const op = "lease.share"
	n, err := x.leaseOf(c.Ino, c.Epoch, c.Change, op)
	if err != nil {
		return nil, err
	}
	n.lastEpoch++
	n.lease = lease{epoch: n.lastEpoch}
	x.setInode(x.fs, n)
	return &metapb.Result{Of: &metapb.Result_Lease{Lease: &metapb.LeaseResult{Attr: toWire(&n.attr), Lease: leaseToWire(n.lease)}}}, nil
}

// leaseOf is a copy of an inode that the caller has the lease of, with what it has shown.
func (x *call) leaseOf(ino, epoch, change uint64, op string) (*inode, error) {
	n, err := x.must(ino, op)
	if err != nil {
		return nil, err
	}
	if !x.holds(n) || n.lease.epoch != epoch {
		return nil, vfs.Errorf(vfs.KindFenced, op, "write lease epoch %d, not %d", n.lease.epoch, epoch)
	}
	n = n.clone()
	return n, shown(n, change, op)
}

func (x *call) releaseLease(c *metapb.ReleaseLease) (*metapb.Result, error) {
	const op = "lease.release"
	n, err := x.leaseOf(c.Ino, c.Epoch, c.Change, op)
	if err != nil {
		return nil, err
	}
	n.lease = lease{}
	x.setInode(x.fs, n)
	return x.attrResult(n), nil
}
