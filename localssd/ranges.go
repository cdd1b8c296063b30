package localssd

import (
	"context"
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

var (
	_ vfs.Allocator = (*FS)(nil)
	_ vfs.Seeker    = (*FS)(nil)
	_ vfs.Cloner    = (*FS)(nil)
	_ vfs.Copier    = (*FS)(nil)
)

// Allocate implements vfs.Allocator.
func (fs *FS) Allocate(_ context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "allocate"
	f, err := fs.getRange(ino, off, n, op)
	if err != nil {
		return err
	}
	defer fs.put(f)
	// File systems take what there is before they say that it is not enough.
	a, err := fs.attr(f, op)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fs.rootFD, &st); err != nil {
		return fail(op, err)
	}
	if free := st.Bavail * uint64(st.Bsize); n > free+a.Used {
		return vfs.Errorf(vfs.KindNoSpace, op, "%d bytes, %d are free", n, free)
	}
	return fs.change(c, f, op, func(fd int) error { return unix.Fallocate(fd, 0, int64(off), int64(n)) })
}

// Deallocate implements vfs.Allocator.
func (fs *FS) Deallocate(_ context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "deallocate"
	f, err := fs.getRange(ino, off, n, op)
	if err != nil {
		return err
	}
	defer fs.put(f)
	return fs.change(c, f, op, func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		// Ends beyond the largest file of this file system are refused, though there is nothing to free.
		if n := min(off+n, uint64(st.Size)); n > off {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n-off))
		}
		return nil
	})
}

// getRange is getFile for n bytes at off, if a file can have those.
func (fs *FS) getRange(ino vfs.Ino, off, n uint64, op string) (*node, error) {
	if n == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no bytes")
	}
	if err := vfs.CheckEnd(off, n, op); err != nil {
		return nil, err
	}
	return fs.getFile(ino, op)
}

// change does something to the content of a file as c, and makes it durable. What a write would change of the attributes changes, also where the
// kernel sees no reason.
func (fs *FS) change(c *vfs.Cred, f *node, op string, do func(fd int) error) error {
	fd, err := f.writer()
	if err != nil {
		return fail(op, err)
	}
	f.names.Lock()
	defer f.names.Unlock()
	if err := fs.identity.as(c, 0, func() error { return do(fd) }); err != nil {
		return fail(op, err)
	}
	defer f.pending.Add(1)
	st, err := statxOf(f.fd, "")
	if err != nil {
		return fail(op, err)
	}
	a := attrOf(f.ino, &st, 0)
	if mode := vfs.ModeAfterWrite(c, &a); mode != a.Mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fail(op, err)
		}
	}
	if err := fs.setTimes(f.fd, &vfs.SetAttr{MtimeSet: vfs.TimeServer}); err != nil {
		return fail(op, err)
	}
	return fs.sync(f, op)
}

// Seek implements vfs.Seeker.
func (fs *FS) Seek(_ context.Context, ino vfs.Ino, off uint64, what vfs.SeekFor) (vfs.SeekResult, error) {
	const op = "seek"
	f, err := fs.getFile(ino, op)
	if err != nil {
		return vfs.SeekResult{}, err
	}
	defer fs.put(f)
	fd, err := f.reader()
	if err != nil {
		return vfs.SeekResult{}, fail(op, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return vfs.SeekResult{}, fail(op, err)
	}
	res := vfs.SeekResult{Offset: uint64(st.Size), Size: uint64(st.Size)}
	if off >= res.Size {
		return res, nil
	}
	whence := unix.SEEK_DATA
	if what == vfs.SeekHole {
		whence = unix.SEEK_HOLE
	}
	// The descriptor's position, which others move too, is of no use to anybody.
	at, err := unix.Seek(fd, int64(off), whence)
	if errors.Is(err, unix.ENXIO) {
		return res, nil
	}
	if err != nil {
		return vfs.SeekResult{}, fail(op, err)
	}
	res.Offset = min(uint64(at), res.Size)
	return res, nil
}

// Clone implements vfs.Cloner: the file system shares the range if it can (btrfs, xfs), else KindNotSupported.
func (fs *FS) Clone(_ context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	const op = "clone"
	s, err := fs.getFile(src, op)
	if err != nil {
		return err
	}
	defer fs.put(s)
	d, err := fs.getFile(dst, op)
	if err != nil {
		return err
	}
	defer fs.put(d)
	a, err := fs.attr(s, op)
	if err != nil {
		return err
	}
	n, err = vfs.CheckClone(src, srcOff, a.Size, dst, dstOff, n, op)
	if err != nil || n == 0 {
		return err
	}
	from, err := s.reader()
	if err != nil {
		return fail(op, err)
	}
	return fs.change(c, d, op, func(fd int) error {
		return unix.IoctlFileCloneRange(fd, &unix.FileCloneRange{Src_fd: int64(from), Src_offset: srcOff, Src_length: n, Dest_offset: dstOff})
	})
}

// Copy implements vfs.Copier: the kernel moves the bytes, or shares them where it can.
func (fs *FS) Copy(_ context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) (uint64, vfs.Verifier, error) {
	const op = "copy"
	v := fs.verifier()
	if srcOff > vfs.MaxSize {
		return 0, v, nil
	}
	if err := vfs.CheckEnd(dstOff, n, op); err != nil {
		return 0, v, err
	}
	s, err := fs.getFile(src, op)
	if err != nil {
		return 0, v, err
	}
	defer fs.put(s)
	d, err := fs.getFile(dst, op)
	if err != nil {
		return 0, v, err
	}
	defer fs.put(d)
	from, err := s.reader()
	if err != nil {
		return 0, v, fail(op, err)
	}
	to, err := d.writer()
	if err != nil {
		return 0, v, fail(op, err)
	}
	defer d.dirtied() // see Write
	k := 0
	err = fs.identity.as(c, 0, func() (err error) {
		for {
			in, out := int64(srcOff), int64(dstOff)
			k, err = unix.CopyFileRange(from, &in, to, &out, int(min(n, math.MaxInt32)), 0)
			if !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return 0, v, vfs.Errorf(vfs.KindNotSupported, op, "the kernel does not copy between these files: %w", err)
	}
	if err != nil {
		return 0, v, fail(op, err)
	}
	d.pending.Add(1)
	return uint64(k), v, nil
}
