package pebblefs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"sync/atomic"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/vfs"
)

// Scratch is the file system of a Pebble on a disk that cannot be written: what Pebble writes stays in memory, over
// what is on the disk. More than limit bytes at a time are refused.
type Scratch struct {
	pvfs.FS
	mem   *pvfs.MemFS
	limit int64
	used  atomic.Int64

	mu   sync.Mutex      // guards the following
	gone map[string]bool // names of the disk that were removed, with all below
}

// NewScratch returns a view of disk that keeps changes in memory.
func NewScratch(disk pvfs.FS, limit int64) *Scratch {
	return &Scratch{FS: disk, mem: pvfs.NewMem(), limit: limit, gone: make(map[string]bool)}
}

// hidden reports whether the disk's name was removed.
func (f *Scratch) hidden(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name = path.Clean(name); ; name = path.Dir(name) {
		if f.gone[name] {
			return true
		}
		if name == "/" || name == "." {
			return false
		}
	}
}

func (f *Scratch) hide(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone[path.Clean(name)] = true
}

func readOnlyError(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: errors.ErrUnsupported}
}

// Create implements pvfs.FS.
func (f *Scratch) Create(name string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := f.mem.MkdirAll(path.Dir(name), 0o700); err != nil {
		return nil, err
	}
	m, err := f.mem.Create(name, c)
	if err != nil {
		return nil, err
	}
	return &scratchFile{m, f}, nil
}

// Open implements pvfs.FS.
func (f *Scratch) Open(name string, opts ...pvfs.OpenOption) (pvfs.File, error) {
	m, err := f.mem.Open(name, opts...)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || f.hidden(name) {
		return m, err
	}
	return f.FS.Open(name, opts...)
}

// OpenDir implements pvfs.FS.
func (f *Scratch) OpenDir(name string) (pvfs.File, error) {
	if err := f.mem.MkdirAll(name, 0o700); err != nil {
		return nil, err
	}
	return f.mem.OpenDir(name)
}

// Remove implements pvfs.FS.
func (f *Scratch) Remove(name string) error {
	if info, err := f.mem.Stat(name); err == nil {
		defer f.used.Add(-info.Size())
	}
	err := f.mem.Remove(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, serr := f.FS.Stat(name); serr == nil && !f.hidden(name) {
		f.hide(name)
		return nil
	}
	return err
}

// RemoveAll implements pvfs.FS.
func (f *Scratch) RemoveAll(name string) error {
	f.hide(name)
	if err := f.mem.RemoveAll(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Rename implements pvfs.FS.
func (f *Scratch) Rename(oldname, newname string) error {
	if _, err := f.mem.Stat(oldname); err != nil {
		return readOnlyError("rename", oldname)
	}
	return f.mem.Rename(oldname, newname)
}

// Link implements pvfs.FS.
func (f *Scratch) Link(oldname, _ string) error { return readOnlyError("link", oldname) }

// OpenReadWrite implements pvfs.FS.
func (f *Scratch) OpenReadWrite(name string, _ pvfs.DiskWriteCategory, _ ...pvfs.OpenOption) (pvfs.File, error) {
	return nil, readOnlyError("open", name)
}

// ReuseForWrite implements pvfs.FS.
func (f *Scratch) ReuseForWrite(oldname, _ string, _ pvfs.DiskWriteCategory) (pvfs.File, error) {
	return nil, readOnlyError("reuse", oldname)
}

// MkdirAll implements pvfs.FS.
func (f *Scratch) MkdirAll(dir string, perm os.FileMode) error { return f.mem.MkdirAll(dir, perm) }

// Lock implements pvfs.FS.
func (f *Scratch) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Unwrap implements pvfs.FS.
func (f *Scratch) Unwrap() pvfs.FS { return f.FS }

// List implements pvfs.FS.
func (f *Scratch) List(dir string) ([]string, error) {
	names, err := f.mem.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f.hidden(dir) {
		return names, err
	}
	disk, derr := f.FS.List(dir)
	if derr != nil {
		return names, err
	}
	has := make(map[string]bool, len(names))
	for _, n := range names {
		has[n] = true
	}
	for _, n := range disk {
		if !has[n] && !f.hidden(path.Join(dir, n)) {
			names = append(names, n)
		}
	}
	return names, nil
}

// Stat implements pvfs.FS.
func (f *Scratch) Stat(name string) (pvfs.FileInfo, error) {
	info, err := f.mem.Stat(name)
	if err == nil || f.hidden(name) {
		return info, err
	}
	return f.FS.Stat(name)
}

// GetDiskUsage implements pvfs.FS: what there is room for.
func (f *Scratch) GetDiskUsage(string) (pvfs.DiskUsage, error) {
	used := uint64(min(max(f.used.Load(), 0), f.limit))
	return pvfs.DiskUsage{AvailBytes: uint64(f.limit) - used, TotalBytes: uint64(f.limit), UsedBytes: used}, nil
}

// scratchFile is a file in memory.
type scratchFile struct {
	pvfs.File
	fs *Scratch
}

func (f *scratchFile) Write(p []byte) (int, error) {
	if f.fs.used.Add(int64(len(p))) > f.fs.limit {
		return 0, vfs.Errorf(vfs.KindNoSpace, "pebblefs.write", "what a read-only file system cannot take does not fit the %d bytes of memory that there are for it; make it writable", f.fs.limit)
	}
	return f.File.Write(p)
}
