package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var (
	_ vfs.Allocator = (*leasedFS)(nil)
	_ vfs.Seeker    = (*leasedFS)(nil)
	_ vfs.Cloner    = (*leasedFS)(nil)
)

// optional is the file system's side of an optional interface.
func optional[T any](f *leasedFS, op string) (T, error) {
	x, ok := f.fs.(T)
	if !ok {
		return x, vfs.KindNotSupported.Err(op)
	}
	return x, f.check(op)
}

// Allocate implements vfs.Allocator.
func (f *leasedFS) Allocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "allocate"
	x, err := optional[vfs.Allocator](f, op)
	if err != nil {
		return err
	}
	return again(op, x.Allocate(ctx, c, ino, off, n))
}

// Deallocate implements vfs.Allocator.
func (f *leasedFS) Deallocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "deallocate"
	x, err := optional[vfs.Allocator](f, op)
	if err != nil {
		return err
	}
	return again(op, x.Deallocate(ctx, c, ino, off, n))
}

// Seek implements vfs.Seeker.
func (f *leasedFS) Seek(ctx context.Context, ino vfs.Ino, off uint64, what vfs.SeekFor) (vfs.SeekResult, error) {
	const op = "seek"
	x, err := optional[vfs.Seeker](f, op)
	if err != nil {
		return vfs.SeekResult{}, err
	}
	return read(f, op, func() (vfs.SeekResult, error) { return x.Seek(ctx, ino, off, what) })
}

// Clone implements vfs.Cloner.
func (f *leasedFS) Clone(ctx context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	const op = "clone"
	x, err := optional[vfs.Cloner](f, op)
	if err != nil {
		return err
	}
	return again(op, x.Clone(ctx, c, src, srcOff, dst, dstOff, n))
}
