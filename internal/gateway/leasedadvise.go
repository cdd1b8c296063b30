package gateway

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Advisor = (*leasedFS)(nil)

// Advise implements vfs.Advisor.
func (f *leasedFS) Advise(ctx context.Context, ino vfs.Ino, off, n uint64, a vfs.Advice) (bool, error) {
	return read(f, "advise", func(fs vfs.FS) (bool, error) {
		if x, ok := fs.(vfs.Advisor); ok {
			return x.Advise(ctx, ino, off, n, a)
		}
		return false, nil
	})
}
