package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Filler = (*leasedFS)(nil)

// filled is read for vfs.Filler: nothing is repeated, who fills asks by Fence how far it came.
func filled[T any](f *leasedFS, op string, do func(vfs.Filler) (T, error)) (T, error) {
	var none T
	fs, err := f.enter(op)
	if err != nil {
		return none, err
	}
	defer f.leave()
	x, ok := fs.(vfs.Filler)
	if !ok {
		return none, vfs.KindNotSupported.Err(op)
	}
	t, err := do(x)
	return t, again(op, err)
}

// Fence implements vfs.Filler, as do Fill and EndCall.
func (f *leasedFS) Fence(ctx context.Context, ino vfs.Ino, call *vfs.Call, off uint64) (uint64, error) {
	return filled(f, "fence", func(x vfs.Filler) (uint64, error) { return x.Fence(ctx, ino, call, off) })
}

func (f *leasedFS) Fill(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, call *vfs.Call) (vfs.Filling, error) {
	return filled(f, "fill", func(x vfs.Filler) (vfs.Filling, error) {
		in, err := x.Fill(ctx, c, ino, off, call)
		if err != nil {
			return nil, err
		}
		return leasedFilling{in, f}, nil
	})
}

func (f *leasedFS) EndCall(ctx context.Context, call *vfs.Call) error {
	_, err := filled(f, "end call", func(x vfs.Filler) (struct{}, error) { return struct{}{}, x.EndCall(ctx, call) })
	return err
}

// leasedFilling is a Fill of a leasedFS.
type leasedFilling struct {
	vfs.Filling
	f *leasedFS
}

func (l leasedFilling) Put(ctx context.Context, p []byte) error {
	const op = "fill"
	if _, err := l.f.enter(op); err != nil {
		return err
	}
	defer l.f.leave()
	return again(op, l.Filling.Put(ctx, p))
}

func (l leasedFilling) End(ctx context.Context) (uint64, error) {
	done, err := l.Filling.End(ctx)
	return done, again("fill", err)
}
