package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Xattrs = (*leasedFS)(nil)

// GetXattr implements vfs.Xattrs, as do the other methods.
func (f *leasedFS) GetXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string) ([]byte, error) {
	const op = "getxattr"
	return read(f, op, func(fs vfs.FS) ([]byte, error) {
		if x, ok := fs.(vfs.Xattrs); ok {
			return x.GetXattr(ctx, c, ino, name)
		}
		return nil, vfs.KindNotSupported.Err(op)
	})
}

func (f *leasedFS) ListXattrs(ctx context.Context, c *vfs.Cred, ino vfs.Ino, cookie uint64, maxBytes int) (vfs.XattrPage, error) {
	const op = "listxattrs"
	return read(f, op, func(fs vfs.FS) (vfs.XattrPage, error) {
		if x, ok := fs.(vfs.Xattrs); ok {
			return x.ListXattrs(ctx, c, ino, cookie, maxBytes)
		}
		return vfs.XattrPage{}, vfs.KindNotSupported.Err(op)
	})
}

func (f *leasedFS) SetXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string, value []byte, how vfs.XattrHow) (vfs.DirChange, error) {
	const op = "setxattr"
	return change(ctx, f, op, func(fs vfs.FS) (vfs.DirChange, error) {
		if x, ok := fs.(vfs.Xattrs); ok {
			return x.SetXattr(ctx, c, ino, name, value, how)
		}
		return vfs.DirChange{}, vfs.KindNotSupported.Err(op)
	})
}

func (f *leasedFS) RemoveXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string) (vfs.DirChange, error) {
	const op = "removexattr"
	return change(ctx, f, op, func(fs vfs.FS) (vfs.DirChange, error) {
		if x, ok := fs.(vfs.Xattrs); ok {
			return x.RemoveXattr(ctx, c, ino, name)
		}
		return vfs.DirChange{}, vfs.KindNotSupported.Err(op)
	})
}
