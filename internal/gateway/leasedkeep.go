package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// What leasedFS passes on to a vfs.Keeper. Locks and opens are in the metadata and belong to clients, so that a gateway without
// leases could take none away from anybody; but what it says of them may be old.

var _ vfs.Keeper = (*leasedFS)(nil)

// keeper is the file system's; only used if that keeps anything.
func (f *leasedFS) keeper() vfs.Keeper { return f.fs.(vfs.Keeper) }

// Keeps implements vfs.Keeper, as do the other methods.
func (f *leasedFS) Keeps() bool { return vfs.KeeperOf(f.fs) != nil }

func (f *leasedFS) OpenShared(ctx context.Context, c *vfs.Cred, ino vfs.Ino, fl vfs.OpenFlags, override bool, s vfs.Share) (vfs.Attr, error) {
	const op = "open"
	if err := f.check(op); err != nil {
		return vfs.Attr{}, err
	}
	a, err := f.keeper().OpenShared(ctx, c, ino, fl, override, s)
	return a, again(op, err)
}

func (f *leasedFS) Share(ctx context.Context, ino vfs.Ino, s vfs.Share) error {
	const op = "share"
	if err := f.check(op); err != nil {
		return err
	}
	return again(op, f.keeper().Share(ctx, ino, s))
}

// Unshare always passes: it ends what a client had.
func (f *leasedFS) Unshare(ctx context.Context, ino vfs.Ino, c vfs.Closing) error {
	return again("unshare", f.keeper().Unshare(ctx, ino, c))
}

func (f *leasedFS) Lock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, s vfs.LockState, r byterange.Range) (*vfs.LockConflict, error) {
	return read(f, "lock", func() (*vfs.LockConflict, error) { return f.keeper().Lock(ctx, ino, o, s, r) })
}

func (f *leasedFS) TestLock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, r byterange.Range) (*vfs.LockConflict, error) {
	return read(f, "test lock", func() (*vfs.LockConflict, error) { return f.keeper().TestLock(ctx, ino, o, r) })
}

func (f *leasedFS) Unlock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, first, last uint64) error {
	const op = "unlock"
	if err := f.check(op); err != nil {
		return err
	}
	return again(op, f.keeper().Unlock(ctx, ino, o, first, last))
}

// Resume answers without a check afterwards: what it opened is to be closed.
func (f *leasedFS) Resume(ctx context.Context, client uint64) ([]vfs.HeldOpen, []vfs.HeldLocks, error) {
	const op = "resume"
	if err := f.check(op); err != nil {
		return nil, nil, err
	}
	opens, locks, err := f.keeper().Resume(ctx, client)
	return opens, locks, again(op, err)
}

func (f *leasedFS) Slots(ctx context.Context, session [16]byte) ([]vfs.SlotSeq, error) {
	return read(f, "session slots", func() ([]vfs.SlotSeq, error) { return f.keeper().Slots(ctx, session) })
}
