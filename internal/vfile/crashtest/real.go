package crashtest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/rackfs/rackfs/internal/vfile"
)

// Real is a directory of the operating system, for programs that share it with a library which knows no other
// file system. What goes through Real is done there and on the disk of the test, which alone knows what is
// durable. The library's files are taken over from the directory before each power cut.
type Real struct {
	disk *vfile.Mem
	root string
	libs Library
}

var _ vfile.FS = (*Real)(nil)

// Library describes the files of a library that syncs their contents itself before it relies on them.
type Library struct {
	// Names are its files, in whatever directory.
	Names []string
	// SyncsName are those of them whose directory it syncs when it has made them.
	SyncsName []string
}

// On makes the directory root, which is empty, a part of d.
func (d *Disk[A]) On(root string, libs Library) (*Real, error) {
	r, err := NewReal(d.Files, root, libs)
	d.real = r
	return r, err
}

// NewReal makes the directory root, which is empty, a part of disk. Who cuts the power calls Refresh before.
func NewReal(disk *vfile.Mem, root string, libs Library) (*Real, error) {
	return &Real{disk: disk, root: root, libs: libs}, vfile.MkdirAllSync(disk.Unwatched(), root)
}

// Memory is a directory on a file system in memory, for what a library insists to sync, or "" if there is none.
func Memory() string {
	const dir = "/dev/shm"
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return ""
	}
	return dir
}

// Export writes what is below root on a disk to the existing directory to.
func Export(disk *vfile.Mem, root, to string) error {
	names, err := disk.List(root)
	if vfile.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		from, to := filepath.Join(root, name), filepath.Join(to, name)
		st, err := disk.Stat(from)
		if err != nil {
			return err
		}
		if st.IsDir() {
			if err := errors.Join(os.Mkdir(to, 0o700), Export(disk, from, to)); err != nil {
				return err
			}
			continue
		}
		if err := exportFile(disk, from, to, st); err != nil {
			return err
		}
	}
	return nil
}

// exportFile copies a file and leaves holes where it is zero.
func exportFile(disk *vfile.Mem, from, to string, st fs.FileInfo) error {
	in, err := disk.Open(from)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, st.Mode())
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	p, zero := make([]byte, vfile.PageSize), make([]byte, vfile.PageSize)
	for off := int64(0); off < st.Size(); off += int64(len(p)) {
		n, err := in.ReadAt(p, off)
		if err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(p[:n], zero[:n]) {
			if _, err := out.WriteAt(p[:n], off); err != nil {
				return err
			}
		}
	}
	return nil
}

// Refresh takes over what the library did.
func (r *Real) Refresh() {
	disk := r.disk.Unwatched()
	err := filepath.WalkDir(r.root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !slices.Contains(r.libs.Names, e.Name()) {
			return err
		}
		now, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		was, err := vfile.ReadFile(disk, name, 1<<30)
		if err == nil && bytes.Equal(was, now) {
			return nil
		}
		f, err := disk.Open(name)
		isNew := vfile.IsNotExist(err)
		if isNew {
			f, err = disk.Create(name)
		}
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(now, 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if isNew && slices.Contains(r.libs.SyncsName, e.Name()) {
			return disk.SyncDir(filepath.Dir(name))
		}
		return nil
	})
	// A directory may be renamed or removed by another goroutine meanwhile: the next one finds what is there then.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic(err) // the test's own bookkeeping
	}
}

func (r *Real) Create(name string) (vfile.File, error) {
	m, err := r.disk.Create(name)
	if err != nil {
		return nil, err
	}
	f, err := vfile.OS{}.Create(name)
	return realFile{f, m}, err
}

func (r *Real) Open(name string) (vfile.File, error) {
	f, err := vfile.OS{}.Open(name)
	if err != nil {
		return nil, err
	}
	m, err := r.disk.Open(name)
	return realFile{f, m}, err
}

func (r *Real) OpenRead(name string) (vfile.File, error) { return r.Open(name) }

func (r *Real) Stat(name string) (fs.FileInfo, error) { return vfile.OS{}.Stat(name) }
func (r *Real) List(dir string) ([]string, error)     { return vfile.OS{}.List(dir) }
func (r *Real) Lock(name string) (io.Closer, error)   { return vfile.OS{}.Lock(name) }
func (r *Real) LockRead(name string) (io.Closer, error) {
	return vfile.OS{}.LockRead(name)
}
func (r *Real) Device(dir string) (vfile.Device, error) { return vfile.OS{}.Device(dir) }

func (r *Real) Free(dir string) (uint64, error) { return vfile.OS{}.Free(dir) }
func (r *Real) SyncDir(dir string) error        { return r.disk.SyncDir(dir) }
func (r *Real) Link(o, n string) error          { return r.both(func(f vfile.FS) error { return f.Link(o, n) }) }
func (r *Real) Rename(o, n string) error {
	return r.both(func(f vfile.FS) error { return f.Rename(o, n) })
}
func (r *Real) Remove(n string) error { return r.both(func(f vfile.FS) error { return f.Remove(n) }) }

// RemoveAll begins with the library's view: on the disk it is many operations, and Refresh would bring back in between what is still there.
func (r *Real) RemoveAll(n string) error {
	if err := (vfile.OS{}).RemoveAll(n); err != nil {
		return err
	}
	return r.disk.RemoveAll(n)
}
func (r *Real) Mkdir(d string) error { return r.both(func(f vfile.FS) error { return f.Mkdir(d) }) }
func (r *Real) MkdirAll(d string) error {
	return r.both(func(f vfile.FS) error { return f.MkdirAll(d) })
}
func (r *Real) both(change func(vfile.FS) error) error {
	if err := change(r.disk); err != nil {
		return err
	}
	return change(vfile.OS{})
}

// realFile reads from the operating system's file and changes both.
type realFile struct {
	vfile.File
	mem vfile.File
}

func (f realFile) WriteAt(p []byte, off int64) (int, error) {
	if _, err := f.mem.WriteAt(p, off); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f realFile) WriteVec(bufs [][]byte, off int64) error {
	return errors.Join(f.mem.WriteVec(bufs, off), f.File.WriteVec(bufs, off))
}

func (f realFile) Allocate(size int64) (bool, error) {
	_, err := f.mem.Allocate(size)
	reserved, realErr := f.File.Allocate(size)
	return reserved, errors.Join(err, realErr)
}

func (f realFile) Zero(off, n int64) error {
	return errors.Join(f.mem.Zero(off, n), f.File.Zero(off, n))
}

func (f realFile) Chmod(mode fs.FileMode) error {
	return errors.Join(f.mem.Chmod(mode), f.File.Chmod(mode))
}

func (f realFile) Sync() error     { return f.mem.Sync() }
func (f realFile) SyncData() error { return f.mem.SyncData() }

// What a process can be about to do when it dies.
const (
	OpSync    = vfile.SyncFile
	OpSyncDir = vfile.SyncNames
)

// Dying are the files of a process that dies before a sync: that one and all later ones fail, and the test goes on
// with what the process leaves to the next one, which is everything.
type Dying struct {
	vfile.FS
	kind    vfile.ChangeKind
	pattern string
	count   atomic.Int32
}

// DiesAt returns files for a process that dies at the sync number n, from 1, of files or directories whose name matches pattern (filepath.Match).
func DiesAt(files vfile.FS, kind vfile.ChangeKind, pattern string, n int) *Dying {
	d := &Dying{FS: files, kind: kind, pattern: pattern}
	d.count.Store(int32(n))
	return d
}

func (d *Dying) sync(kind vfile.ChangeKind, name string, sync func() error) error {
	if d.Died() || kind == d.kind && d.matches(name) && d.count.Add(-1) <= 0 {
		return &fs.PathError{Op: "fsync", Path: name, Err: syscall.EIO}
	}
	return sync()
}

func (d *Dying) matches(name string) bool {
	ok, err := filepath.Match(d.pattern, filepath.Base(name))
	return err == nil && ok
}

// SyncDir implements vfile.FS.
func (d *Dying) SyncDir(dir string) error {
	return d.sync(OpSyncDir, dir, func() error { return d.FS.SyncDir(dir) })
}

// Create implements vfile.FS.
func (d *Dying) Create(name string) (vfile.File, error) {
	f, err := d.FS.Create(name)
	return dyingFile{f, d, name}, err
}

// Open implements vfile.FS.
func (d *Dying) Open(name string) (vfile.File, error) {
	f, err := d.FS.Open(name)
	return dyingFile{f, d, name}, err
}

type dyingFile struct {
	vfile.File
	d    *Dying
	name string
}

func (f dyingFile) Sync() error     { return f.d.sync(OpSync, f.name, f.File.Sync) }
func (f dyingFile) SyncData() error { return f.d.sync(OpSync, f.name, f.File.SyncData) }

// Died reports whether that sync was reached.
func (d *Dying) Died() bool { return d.count.Load() <= 0 }
