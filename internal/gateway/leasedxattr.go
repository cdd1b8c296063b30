package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Xattrs = (*leasedFS)(nil)

// xattrs is the file system's side of vfs.Xattrs.
func (f *leasedFS) xattrs(op string) (vfs.Xattrs, error) {
	x, ok := f.fs.(vfs.Xattrs)
	if !ok {
		return nil, vfs.KindNotSupported.Err(op)
	}
	return x, f.check(op)
}

// GetXattr implements vfs.Xattrs, as do the other methods.
func (f *leasedFS) GetXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string) ([]byte, error) {
	const op = "getxattr"
	x, err := f.xattrs(op)
	if err != nil {
		return nil, err
	}
	return read(f, op, func() ([]byte, error) { return x.GetXattr(ctx, c, ino, name) })
}

func (f *leasedFS) ListXattrs(ctx context.Context, c *vfs.Cred, ino vfs.Ino, cookie uint64, maxBytes int) (vfs.XattrPage, error) {
	const op = "listxattrs"
	x, err := f.xattrs(op)
	if err != nil {
		return vfs.XattrPage{}, err
	}
	return read(f, op, func() (vfs.XattrPage, error) { return x.ListXattrs(ctx, c, ino, cookie, maxBytes) })
}

func (f *leasedFS) SetXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string, value []byte, how vfs.XattrHow) (vfs.DirChange, error) {
	const op = "setxattr"
	x, err := f.xattrs(op)
	if err != nil {
		return vfs.DirChange{}, err
	}
	d, err := x.SetXattr(ctx, c, ino, name, value, how)
	return d, again(op, err)
}

func (f *leasedFS) RemoveXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string) (vfs.DirChange, error) {
	const op = "removexattr"
	x, err := f.xattrs(op)
	if err != nil {
		return vfs.DirChange{}, err
	}
	d, err := x.RemoveXattr(ctx, c, ino, name)
	return d, again(op, err)
}
