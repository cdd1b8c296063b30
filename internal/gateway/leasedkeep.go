package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// What leasedFS passes on to a vfs.Keeper. Locks and opens are in the metadata and belong to clients, so that a gateway without
// leases could take none away from anybody; but what it says of them may be old.

var _ vfs.Keeper = (*leasedFS)(nil)

// keeper is the side of fs; only used if that keeps anything.
func keeper(fs vfs.FS) vfs.Keeper { return fs.(vfs.Keeper) }

// Keeps implements vfs.Keeper, as do the other methods.
func (f *leasedFS) Keeps() bool { return f.keeps }

func (f *leasedFS) OpenShared(ctx context.Context, c *vfs.Cred, ino vfs.Ino, fl vfs.OpenFlags, override bool, s vfs.Share) (vfs.Attr, error) {
	return change(ctx, f, "open", func(fs vfs.FS) (vfs.Attr, error) { return keeper(fs).OpenShared(ctx, c, ino, fl, override, s) })
}

func (f *leasedFS) Share(ctx context.Context, ino vfs.Ino, s vfs.Share) error {
	_, err := change(ctx, f, "share", func(fs vfs.FS) (struct{}, error) { return struct{}{}, keeper(fs).Share(ctx, ino, s) })
	return err
}

// Unshare always passes: it ends what a client had. What a file system that is not served keeps ends with the client.
func (f *leasedFS) Unshare(ctx context.Context, ino vfs.Ino, c vfs.Closing) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fs == nil {
		return nil
	}
	return again("unshare", keeper(f.fs).Unshare(ctx, ino, c))
}

func (f *leasedFS) Lock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, s vfs.LockState, r byterange.Range) (*vfs.LockConflict, error) {
	const op = "lock"
	conflict, err := change(ctx, f, op, func(fs vfs.FS) (*vfs.LockConflict, error) { return keeper(fs).Lock(ctx, ino, o, s, r) })
	if err == nil {
		err = f.check(op)
	}
	if err != nil {
		return nil, again(op, err)
	}
	return conflict, nil
}

func (f *leasedFS) TestLock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, r byterange.Range) (*vfs.LockConflict, error) {
	return read(f, "test lock", func(fs vfs.FS) (*vfs.LockConflict, error) { return keeper(fs).TestLock(ctx, ino, o, r) })
}

func (f *leasedFS) Unlock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, first, last uint64) error {
	_, err := change(ctx, f, "unlock", func(fs vfs.FS) (struct{}, error) { return struct{}{}, keeper(fs).Unlock(ctx, ino, o, first, last) })
	return err
}

// Resume answers without a check afterwards: what it opened is to be closed.
func (f *leasedFS) Resume(ctx context.Context, client uint64) ([]vfs.HeldOpen, []vfs.HeldLocks, error) {
	const op = "resume"
	fs, err := f.enter(op)
	if err != nil {
		return nil, nil, err
	}
	defer f.leave()
	opens, locks, err := keeper(fs).Resume(ctx, client)
	return opens, locks, again(op, err)
}

func (f *leasedFS) Settle(ctx context.Context) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fs == nil { // it did when it was closed
		return nil
	}
	return again("settle", keeper(f.fs).Settle(ctx))
}

func (f *leasedFS) Slots(ctx context.Context, session [16]byte) ([]vfs.SlotSeq, error) {
	return read(f, "session slots", func(fs vfs.FS) ([]vfs.SlotSeq, error) { return keeper(fs).Slots(ctx, session) })
}
