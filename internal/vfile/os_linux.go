package vfile

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned by Lock when another holder has the lock.
var ErrLocked = errors.New("locked by another process")

// IsNotExist reports whether err says that a name does not exist.
func IsNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// IsReadOnly reports whether err says that nothing may be written there: a file system that is mounted
// read-only, or a directory or file without permission.
func IsReadOnly(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// OS is the operating system's file system.
type OS struct{}

func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (OS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

// OpenRead implements FS. What writes to the file fails with EBADF.
func (OS) OpenRead(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }
func (OS) RemoveAll(name string) error           { return os.RemoveAll(name) }
func (OS) Link(oldname, newname string) error    { return os.Link(oldname, newname) }
func (OS) Mkdir(dir string) error                { return os.Mkdir(dir, 0o700) }
func (OS) Remove(name string) error              { return os.Remove(name) }
func (OS) Rename(oldname, newname string) error  { return os.Rename(oldname, newname) }
func (OS) MkdirAll(dir string) error             { return os.MkdirAll(dir, 0o700) }

func (OS) List(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (OS) Lock(name string) (io.Closer, error) {
	return lockFile(name, os.O_RDWR|os.O_CREATE)
}

// LockRead implements FS.
func (OS) LockRead(name string) (io.Closer, error) { return lockFile(name, os.O_RDONLY) }

func lockFile(name string, flag int) (io.Closer, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	// flock belongs to the open file, so a second Lock in the same process
	// is refused too, and the kernel releases it when the process dies.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

func (OS) Free(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// bootID is a file with an id of this run of the machine, which containers on it have too.
const bootID = "/proc/sys/kernel/random/boot_id"

// Device implements FS.
func (OS) Device(dir string) (d Device, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return d, fmt.Errorf("stat %s: %w", dir, err)
	}
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return d, fmt.Errorf("which machine %s is on: %w", dir, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %x", boot, st.Dev)
	return Device(h.Sum(nil)), nil
}

type osFile struct{ f *os.File }

func (o *osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o *osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o *osFile) Sync() error                              { return o.f.Sync() }
func (o *osFile) Chmod(mode fs.FileMode) error             { return o.f.Chmod(mode) }
func (o *osFile) Close() error                             { return o.f.Close() }

// maxIOV is the kernel's UIO_MAXIOV.
const maxIOV = 1024

func (o *osFile) WriteVec(bufs [][]byte, off int64) error {
	var small [8][]byte
	iov := append(small[:0], bufs...)
	for len(iov) > 0 {
		if len(iov[0]) == 0 {
			iov = iov[1:]
			continue
		}
		n, err := o.control(func(fd int) (int, error) {
			return unix.Pwritev(fd, iov[:min(len(iov), maxIOV)], off)
		})
		if err != nil {
			return &fs.PathError{Op: "pwritev", Path: o.f.Name(), Err: err}
		}
		if n == 0 {
			return &fs.PathError{Op: "pwritev", Path: o.f.Name(), Err: io.ErrShortWrite}
		}
		off += int64(n)
		for n > 0 {
			if n < len(iov[0]) {
				iov[0] = iov[0][n:]
				break
			}
			n -= len(iov[0])
			iov = iov[1:]
		}
	}
	return nil
}

func (o *osFile) SyncData() error {
	_, err := o.control(func(fd int) (int, error) { return 0, unix.Fdatasync(fd) })
	if err != nil {
		return &fs.PathError{Op: "fdatasync", Path: o.f.Name(), Err: err}
	}
	return nil
}

func (o *osFile) Allocate(size int64) (bool, error) {
	_, err := o.control(func(fd int) (int, error) { return 0, unix.Fallocate(fd, 0, 0, size) })
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		// A file system without fallocate: extend now, the caller's
		// zero-fill allocates.
		return false, o.f.Truncate(size)
	}
	return false, &fs.PathError{Op: "fallocate", Path: o.f.Name(), Err: err}
}

// zeroChunk is how much Zero writes at a time.
const zeroChunk = 1 << 20

func (o *osFile) Zero(off, n int64) error {
	// O_DIRECT needs page-aligned memory, which mmap gives.
	zeros, err := unix.Mmap(-1, 0, zeroChunk, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return &fs.PathError{Op: "mmap", Path: o.f.Name(), Err: err}
	}
	defer unix.Munmap(zeros)
	f, err := os.OpenFile(o.f.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
	direct := err == nil
	if !direct { // a file system without O_DIRECT
		f = o.f
	} else {
		defer f.Close()
	}
	for n > 0 {
		w, err := f.WriteAt(zeros[:min(n, zeroChunk)], off)
		off, n = off+int64(w), n-int64(w)
		if err != nil && direct && errors.Is(err, unix.EINVAL) {
			// Or one with other ideas of alignment.
			f, direct = o.f, false
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *osFile) DropCache() error { return o.DropRange(0, 0) }

// DropRange gives up n bytes at off, those to the end of the file if n is 0.
func (o *osFile) DropRange(off, n int64) error {
	_, err := o.control(func(fd int) (int, error) {
		return 0, unix.Fadvise(fd, off, n, unix.FADV_DONTNEED)
	})
	return err
}

func (o *osFile) Size() (int64, error) {
	st, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// control runs a system call on the descriptor and retries it on EINTR. It
// keeps the file open meanwhile: Fd alone would race with Close.
func (o *osFile) control(call func(fd int) (int, error)) (n int, err error) {
	raw, err := o.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		for {
			n, err = call(int(fd))
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}
