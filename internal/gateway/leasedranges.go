package gateway

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

var (
	_ vfs.Allocator = (*leasedFS)(nil)
	_ vfs.Seeker    = (*leasedFS)(nil)
	_ vfs.Cloner    = (*leasedFS)(nil)
)

// changed is change for an optional interface.
func changed[T any](ctx context.Context, f *leasedFS, op string, do func(T) error) error {
	_, err := change(ctx, f, op, func(fs vfs.FS) (struct{}, error) {
		x, ok := fs.(T)
		if !ok {
			return struct{}{}, vfs.KindNotSupported.Err(op)
		}
		return struct{}{}, do(x)
	})
	return err
}

// pieces is changed for what is done in pieces. While some of them may be done, it is repeated as WRITE is: those that were done are told again.
func pieces[T any](ctx context.Context, f *leasedFS, op string, do func(T) error) error {
	call := vfs.CallOf(ctx)
	made := call.Made()
	for {
		err := changed(ctx, f, op, do)
		if k := vfs.KindOf(err); !k.Retryable() && k != vfs.KindFenced || !call.Doubtful() {
			return err
		}
		unknown := vfs.Errorf(vfs.KindUnknown, op, "a part of it may be done: %w", err)
		if call.Ended() { // nobody hears it
			return unknown
		}
		select {
		case <-ctx.Done():
			return unknown
		case <-time.After(repeatPause):
		}
		call.Rewind(made)
	}
}

// Allocate implements vfs.Allocator.
func (f *leasedFS) Allocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	return pieces(ctx, f, "allocate", func(x vfs.Allocator) error { return x.Allocate(ctx, c, ino, off, n) })
}

// Deallocate implements vfs.Allocator.
func (f *leasedFS) Deallocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	return pieces(ctx, f, "deallocate", func(x vfs.Allocator) error { return x.Deallocate(ctx, c, ino, off, n) })
}

// Seek implements vfs.Seeker.
func (f *leasedFS) Seek(ctx context.Context, ino vfs.Ino, off uint64, what vfs.SeekFor) (vfs.SeekResult, error) {
	const op = "seek"
	return read(f, op, func(fs vfs.FS) (vfs.SeekResult, error) {
		if x, ok := fs.(vfs.Seeker); ok {
			return x.Seek(ctx, ino, off, what)
		}
		return vfs.SeekResult{}, vfs.KindNotSupported.Err(op)
	})
}

// Clone implements vfs.Cloner.
func (f *leasedFS) Clone(ctx context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	return changed(ctx, f, "clone", func(x vfs.Cloner) error { return x.Clone(ctx, c, src, srcOff, dst, dstOff, n) })
}
