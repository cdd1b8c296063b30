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

// optional is the file system's side of an optional interface; without an error the caller leaves f.
func optional[T any](f *leasedFS, op string) (x T, err error) {
	fs, err := f.enter(op)
	if err != nil {
		return x, err
	}
	x, ok := fs.(T)
	if !ok {
		f.leave()
		return x, vfs.KindNotSupported.Err(op)
	}
	return x, nil
}

// Allocate implements vfs.Allocator.
func (f *leasedFS) Allocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "allocate"
	x, err := optional[vfs.Allocator](f, op)
	if err != nil {
		return err
	}
	defer f.leave()
	return again(op, x.Allocate(ctx, c, ino, off, n))
}

// Deallocate implements vfs.Allocator.
func (f *leasedFS) Deallocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "deallocate"
	x, err := optional[vfs.Allocator](f, op)
	if err != nil {
		return err
	}
	defer f.leave()
	return again(op, x.Deallocate(ctx, c, ino, off, n))
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
	const op = "clone"
	x, err := optional[vfs.Cloner](f, op)
	if err != nil {
		return err
	}
	defer f.leave()
	return again(op, x.Clone(ctx, c, src, srcOff, dst, dstOff, n))
}
