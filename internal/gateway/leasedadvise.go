package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Advisor = (*leasedFS)(nil)

// Advise implements vfs.Advisor.
func (f *leasedFS) Advise(ctx context.Context, ino vfs.Ino, off, n uint64, a vfs.Advice) (bool, error) {
	x, ok := f.fs.(vfs.Advisor)
	if !ok {
		return false, nil
	}
	return read(f, "advise", func() (bool, error) { return x.Advise(ctx, ino, off, n, a) })
}
