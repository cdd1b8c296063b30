package localssd

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// Read implements vfs.FS, as do the methods that follow.
func (fs *FS) Read(_ context.Context, ino vfs.Ino, off uint64, p []byte) (n int, eof bool, err error) {
	const op = "read"
	f, err := fs.getFile(ino, op)
	if err != nil {
		return 0, false, err
	}
	defer fs.put(f)
	fd, err := f.reader()
	if err != nil {
		return 0, false, fail(op, err)
	}
	if off >= vfs.MaxSize {
		return 0, true, nil
	}
	if max := uint64(vfs.MaxSize) - off; uint64(len(p)) > max {
		p = p[:max]
	}
	for n < len(p) {
		k, err := unix.Pread(fd, p[n:], int64(off)+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, false, fail(op, err)
		}
		if k == 0 {
			return n, true, nil
		}
		n += k
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, false, fail(op, err)
	}
	return n, off+uint64(n) >= uint64(st.Size), nil
}

func (fs *FS) Write(_ context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	const op = "write"
	f, err := fs.getFile(ino, op)
	if err != nil {
		return 0, vfs.Verifier{}, err
	}
	defer fs.put(f)
	if err := vfs.CheckEnd(off, uint64(len(p)), op); err != nil {
		return 0, vfs.Verifier{}, err
	}
	v := fs.verifier()
	if len(p) == 0 {
		return s, v, nil
	}
	fd, err := f.writer()
	if err != nil {
		return 0, vfs.Verifier{}, fail(op, err)
	}
	flags := 0
	switch s {
	case vfs.DataSync:
		flags = unix.RWF_DSYNC
	case vfs.FileSync:
		flags = unix.RWF_SYNC
	default:
		defer f.dirtied() // afterwards, so that no sync that runs beside it takes these bytes for its own
	}
	n := 0
	// As c, for the kernel takes setuid and setgid bits from what others than root write, and knows whose quota may be exceeded.
	err = fs.identity.as(c, 0, func() error {
		for n < len(p) {
			k, err := unix.Pwritev2(fd, [][]byte{p[n:]}, int64(off)+int64(n), flags)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			n += max(k, 0)
		}
		return nil
	})
	f.pending.Add(1)
	if mayLose(err, flags != 0, f.isDirty) {
		fs.lost(err)
	}
	werr := fail(op, err)
	if vfs.KindOf(werr) == vfs.KindNoAttr { // ENODATA is a medium error here
		werr = vfs.Errorf(vfs.KindIO, op, "the disk did not take it: %w", err)
	}
	if err != nil && n > 0 {
		return s, v, &vfs.ShortWrite{N: n, Err: werr}
	}
	return s, v, werr
}

// mayLose reports whether a write that failed may have been told of bytes that were written before and cannot be put on the disk: a sync tells that once, to whoever
// syncs first, with what the device said, which may be an error of a medium or of a thin pool. Those that a write makes for itself before it writes are none; that
// there is no room may be either.
func mayLose(err error, synced bool, dirty func() bool) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, unix.EIO):
		return true
	case !synced:
		return false
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return dirty()
	}
	for _, own := range []error{unix.EFBIG, unix.EINVAL, unix.EBADF, unix.EPERM, unix.EACCES, unix.ETXTBSY, unix.EFAULT, unix.ENOMEM, unix.EAGAIN} {
		if errors.Is(err, own) {
			return false
		}
	}
	return true
}

func (fs *FS) Commit(_ context.Context, ino vfs.Ino, _, _ uint64) (vfs.Verifier, error) {
	const op = "commit"
	f, err := fs.getFile(ino, op)
	if err != nil {
		return vfs.Verifier{}, err
	}
	defer fs.put(f)
	if err := fs.sync(f, op); err != nil {
		return vfs.Verifier{}, err
	}
	return fs.verifier(), nil
}
