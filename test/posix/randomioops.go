//go:build linux

package posix

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func (v *randomIO) write(f *randomIOFile) error {
	off, n := v.span(min(randomIOMaxSize, len(f.ref)+1<<20))
	v.note(f, "write %d at %d", n, off)
	b := v.content(n)
	if _, err := f.f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	f.wrote(off, b)
	return nil
}

func (v *randomIO) append(f *randomIOFile) error {
	_, n := v.span(randomIOMaxSize)
	if len(f.ref)+n > randomIOMaxSize {
		return nil
	}
	v.note(f, "append %d", n)
	a, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer a.Close()
	b := v.content(n)
	if _, err := a.Write(b); err != nil {
		return err
	}
	f.wrote(len(f.ref), b)
	return a.Close()
}

// direct opens the file past the page cache.
func (f *randomIOFile) direct() (*os.File, error) {
	d, err := os.OpenFile(f.path, os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		err = errUnsupported
	}
	return d, err
}

func (v *randomIO) directWrite(f *randomIOFile) error {
	off, n := v.span(min(randomIOMaxSize, len(f.ref)+1<<18))
	off -= off % randomIOPage
	n = min(max(n-n%randomIOPage, randomIOPage), 1<<20)
	if off+n > randomIOMaxSize {
		return nil
	}
	d, err := f.direct()
	if err != nil {
		return err
	}
	defer d.Close()
	b := aligned(n)
	// It is not expected that mapped pages of an NFS file are written back before it is read or written past the cache.
	if err := f.f.Sync(); err != nil {
		return err
	}
	copy(b, v.content(n))
	v.note(f, "fsync, direct write %d at %d", n, off)
	if _, err := d.WriteAt(b, int64(off)); err != nil {
		return err
	}
	f.wrote(off, b)
	return d.Close()
}

func (v *randomIO) read(f *randomIOFile) error {
	off, n := v.span(len(f.ref))
	v.note(f, "read %d at %d", n, off)
	return v.compare(f, off, n)
}

func (v *randomIO) directRead(f *randomIOFile) error {
	off, n := v.span(len(f.ref))
	off -= off % randomIOPage
	n = max(n-n%randomIOPage, randomIOPage)
	d, err := f.direct()
	if err != nil {
		return err
	}
	defer d.Close()
	b := aligned(n)
	if err := f.f.Sync(); err != nil { // as in directWrite
		return err
	}
	v.note(f, "fsync, direct read %d at %d", n, off)
	got, err := d.ReadAt(b, int64(off))
	if err != nil && err != io.EOF {
		return err
	}
	if off >= len(f.ref) {
		return nil
	}
	return differ(b[:got], f.ref[off:min(off+n, len(f.ref))], off)
}

// compare reads a range of the file and one byte behind its end.
func (v *randomIO) compare(f *randomIOFile, off, n int) error {
	b := v.buf[:n]
	if _, err := io.ReadFull(io.NewSectionReader(f.f, int64(off), int64(n)), b); err != nil && n > 0 {
		return fmt.Errorf("read of %d at %d of %d bytes: %w", n, off, len(f.ref), err)
	}
	var behind [1]byte
	if n, err := f.f.ReadAt(behind[:], int64(len(f.ref))); n != 0 || err != io.EOF {
		return fmt.Errorf("read behind the end, at %d: %d bytes, %v", len(f.ref), n, err)
	}
	return differ(b, f.ref[off:off+n], off)
}

// differ tells the first difference and how far it goes.
func differ(got, want []byte, off int) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d bytes at %d, want %d", len(got), off, len(want))
	}
	if bytes.Equal(got, want) {
		return nil
	}
	first, last := -1, 0
	for i := range got {
		if got[i] != want[i] {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	g, w := got[first:min(first+8, len(got))], want[first:min(first+8, len(want))]
	return fmt.Errorf("bytes %d to %d differ: first % x, want % x", off+first, off+last, g, w)
}

func (v *randomIO) truncate(f *randomIOFile) error {
	n := v.rng.IntN(randomIOMaxSize)
	switch v.rng.IntN(8) {
	case 0:
		n = 0
	case 1, 2:
		n -= n % randomIOPage
	case 3, 4:
		n = min(randomIOMaxSize, max(0, len(f.ref)-5000+v.rng.IntN(10_000)))
	}
	v.note(f, "truncate to %d", n)
	if err := f.f.Truncate(int64(n)); err != nil {
		return err
	}
	f.resize(n)
	return nil
}

// mapped calls fn with a mapping of the pages around a random range of the file, and the range within.
func (v *randomIO) mapped(f *randomIOFile, prot int, fn func(b []byte, off int, m []byte) error) error {
	off, n := v.span(len(f.ref))
	if n == 0 {
		return nil
	}
	start := off - off%randomIOPage
	m, err := unix.Mmap(int(f.f.Fd()), int64(start), off+n-start, prot, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	err = fn(m[off-start:], off, m)
	return errors.Join(err, unix.Munmap(m))
}

func (v *randomIO) mmapWrite(f *randomIOFile) error {
	return v.mapped(f, unix.PROT_READ|unix.PROT_WRITE, func(b []byte, off int, m []byte) error {
		sync := v.rng.IntN(2) == 0
		v.note(f, "mapped write %d at %d, msync %v", len(b), off, sync)
		copy(b, v.content(len(b)))
		f.wrote(off, b)
		if sync {
			return unix.Msync(m, unix.MS_SYNC)
		}
		return nil
	})
}

func (v *randomIO) mmapRead(f *randomIOFile) error {
	return v.mapped(f, unix.PROT_READ, func(b []byte, off int, _ []byte) error {
		v.note(f, "mapped read %d at %d", len(b), off)
		return differ(b, f.ref[off:off+len(b)], off)
	})
}

func (v *randomIO) punch(f *randomIOFile) error {
	off, n := v.span(len(f.ref) + 10_000)
	v.note(f, "punch %d at %d", n, off)
	if err := unix.Fallocate(int(f.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)); err != nil {
		return err
	}
	f.zeroed(off, n)
	return nil
}

func (v *randomIO) allocate(f *randomIOFile) error {
	off, n := v.span(randomIOMaxSize)
	v.note(f, "allocate %d at %d", n, off)
	if err := unix.Fallocate(int(f.f.Fd()), 0, int64(off), int64(n)); err != nil {
		return err
	}
	f.resize(max(len(f.ref), off+n))
	return nil
}

// seek walks data and holes; what it calls a hole must be zeros.
func (v *randomIO) seek(f *randomIOFile) error {
	v.note(f, "seek data and holes")
	for off := int64(0); off < int64(len(f.ref)); {
		data, err := unix.Seek(int(f.f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = int64(len(f.ref)), nil
		}
		if err != nil {
			return fmt.Errorf("SEEK_DATA from %d: %w", off, err)
		}
		if data < off || data > int64(len(f.ref)) {
			return fmt.Errorf("SEEK_DATA from %d answers %d, of %d bytes", off, data, len(f.ref))
		}
		for i, c := range f.ref[off:data] {
			if c != 0 {
				return fmt.Errorf("SEEK_DATA from %d answers %d, but %d is %#x", off, data, off+int64(i), c)
			}
		}
		if data == int64(len(f.ref)) {
			return nil
		}
		hole, err := unix.Seek(int(f.f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("SEEK_HOLE from %d: %w", data, err)
		}
		if hole <= data || hole > int64(len(f.ref)) {
			return fmt.Errorf("SEEK_HOLE from data at %d answers %d, of %d bytes", data, hole, len(f.ref))
		}
		off = hole
	}
	return nil
}

// pair is a range of another file, or of the same, that may be copied to f without overlap.
func (v *randomIO) pair(f *randomIOFile, align int) (from *randomIOFile, src, dst, n int, ok bool) {
	from = v.files[v.rng.IntN(len(v.files))]
	src, n = v.span(len(from.ref))
	dst, _ = v.span(randomIOMaxSize)
	src, dst = src-src%align, dst-dst%align
	if src+n < len(from.ref) {
		n -= n % align
	}
	n = min(n, randomIOMaxSize-dst)
	if align > 1 && src+n < len(from.ref) {
		n -= n % align
	}
	// A clone whose length is not whole blocks must end both files.
	if align > 1 && n%align != 0 && dst+n < len(f.ref) {
		n -= n % align
	}
	overlap := from == f && src < dst+n && dst < src+n
	return from, src, dst, n, n > 0 && !overlap
}

func (v *randomIO) cloneRange(f *randomIOFile) error {
	from, src, dst, n, ok := v.pair(f, randomIOPage)
	if !ok {
		return nil
	}
	v.note(f, "clone %d of %s at %d to %d", n, filepath.Base(from.path), src, dst)
	err := unix.IoctlFileCloneRange(int(f.f.Fd()), &unix.FileCloneRange{Src_fd: int64(from.f.Fd()), Src_offset: uint64(src), Src_length: uint64(n), Dest_offset: uint64(dst)})
	if err != nil {
		return err
	}
	f.wrote(dst, bytes.Clone(from.ref[src:src+n]))
	return nil
}

func (v *randomIO) clone(f *randomIOFile) error {
	from := v.files[v.rng.IntN(len(v.files))]
	if from == f {
		return nil
	}
	v.note(f, "clone of the whole of %s", filepath.Base(from.path))
	if err := f.f.Truncate(0); err != nil {
		return err
	}
	f.resize(0)
	if err := unix.IoctlFileClone(int(f.f.Fd()), int(from.f.Fd())); err != nil {
		return err
	}
	f.wrote(0, from.ref)
	return nil
}

func (v *randomIO) copyRange(f *randomIOFile) error {
	align := 1
	if v.rng.IntN(2) == 0 {
		align = randomIOPage
	}
	from, src, dst, n, ok := v.pair(f, align)
	if !ok {
		return nil
	}
	v.note(f, "copy %d of %s at %d to %d", n, filepath.Base(from.path), src, dst)
	want := bytes.Clone(from.ref[src : src+n])
	for n > 0 {
		in, out := int64(src), int64(dst)
		done, err := unix.CopyFileRange(int(from.f.Fd()), &in, int(f.f.Fd()), &out, n, 0)
		if err != nil {
			return err
		}
		if done <= 0 || done > n {
			return fmt.Errorf("copy_file_range of %d answers %d", n, done)
		}
		f.wrote(dst, want[:done])
		src, dst, n, want = src+done, dst+done, n-done, want[done:]
	}
	return nil
}

func (v *randomIO) fsync(f *randomIOFile) error {
	v.note(f, "fsync")
	return f.f.Sync()
}

func (v *randomIO) stat(f *randomIOFile) error {
	v.note(f, "stat")
	for _, where := range []func(*unix.Stat_t) error{
		func(st *unix.Stat_t) error { return unix.Fstat(int(f.f.Fd()), st) },
		func(st *unix.Stat_t) error { return unix.Lstat(f.path, st) },
	} {
		var st unix.Stat_t
		if err := where(&st); err != nil {
			return err
		}
		if st.Size != int64(len(f.ref)) {
			return fmt.Errorf("size %d, want %d", st.Size, len(f.ref))
		}
	}
	return nil
}

// reopen closes the file, which writes everything back, and compares it all.
func (v *randomIO) reopen(f *randomIOFile) error {
	v.note(f, "reopen and compare")
	if err := f.f.Close(); err != nil {
		return err
	}
	var err error
	if f.f, err = os.OpenFile(f.path, os.O_RDWR, 0); err != nil {
		return err
	}
	return v.compare(f, 0, len(f.ref))
}

func (v *randomIO) dropCaches(f *randomIOFile) error {
	if !v.DropCaches {
		return nil
	}
	v.note(f, "drop caches")
	if err := f.f.Sync(); err != nil { // dirty pages are not dropped
		return err
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)
}
