// Package pebblefs is file systems for Pebble. New is one on a vfile.FS, so that tests cut the power under Pebble and
// what shares directories with it at once; a real Pebble uses Pebble's own. Guard keeps a disk that fails from ending the
// process, Scratch lets Pebble open a store on a disk that cannot be written.
package pebblefs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/internal/vfile"
)

// New returns Pebble's view of files.
func New(files vfile.FS) pvfs.FS { return pebbleFS{files} }

type pebbleFS struct{ files vfile.FS }

var _ pvfs.FS = pebbleFS{}

// Create implements pvfs.FS: an older file of that name goes, and whoever has it open keeps it.
func (p pebbleFS) Create(name string, _ pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := p.files.Remove(name); err != nil && !vfile.IsNotExist(err) {
		return nil, err
	}
	f, err := p.files.Create(name)
	if err != nil {
		return nil, err
	}
	return &file{File: f, fs: p.files, name: name}, nil
}

func (p pebbleFS) Link(oldname, newname string) error { return p.files.Link(oldname, newname) }

func (p pebbleFS) Open(name string, opts ...pvfs.OpenOption) (pvfs.File, error) {
	st, err := p.files.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return &file{fs: p.files, name: name}, nil
	}
	f, err := p.files.Open(name)
	if err != nil {
		return nil, err
	}
	o := &file{File: f, fs: p.files, name: name}
	for _, opt := range opts {
		opt.Apply(o)
	}
	return o, nil
}

func (p pebbleFS) OpenReadWrite(name string, c pvfs.DiskWriteCategory, opts ...pvfs.OpenOption) (pvfs.File, error) {
	f, err := p.Open(name, opts...)
	if vfile.IsNotExist(err) {
		return p.Create(name, c)
	}
	return f, err
}

func (p pebbleFS) OpenDir(name string) (pvfs.File, error) { return p.Open(name) }
func (p pebbleFS) Remove(name string) error               { return p.files.Remove(name) }
func (p pebbleFS) RemoveAll(name string) error            { return p.files.RemoveAll(name) }
func (p pebbleFS) Rename(oldname, newname string) error   { return p.files.Rename(oldname, newname) }

func (p pebbleFS) ReuseForWrite(oldname, newname string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := p.files.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return p.OpenReadWrite(newname, c)
}

func (p pebbleFS) MkdirAll(dir string, _ os.FileMode) error { return p.files.MkdirAll(dir) }
func (p pebbleFS) Lock(name string) (io.Closer, error)      { return p.files.Lock(name) }
func (p pebbleFS) List(dir string) ([]string, error)        { return p.files.List(dir) }
func (p pebbleFS) PathBase(name string) string              { return path.Base(name) }
func (p pebbleFS) PathJoin(elem ...string) string           { return path.Join(elem...) }
func (p pebbleFS) PathDir(name string) string               { return path.Dir(name) }
func (p pebbleFS) Unwrap() pvfs.FS                          { return nil }

func (p pebbleFS) Stat(name string) (pvfs.FileInfo, error) {
	st, err := p.files.Stat(name)
	if err != nil {
		return nil, err
	}
	return info{st}, nil
}

func (p pebbleFS) GetDiskUsage(dir string) (pvfs.DiskUsage, error) {
	free, err := p.files.Free(dir)
	return pvfs.DiskUsage{AvailBytes: free, TotalBytes: free}, err
}

type info struct{ fs.FileInfo }

func (info) DeviceID() pvfs.DeviceID { return pvfs.DeviceID{} }

var errDirectory = errors.New("is a directory")

// file is an open file, or an open directory if File is nil.
type file struct {
	vfile.File
	fs   vfile.FS
	name string

	mu  sync.Mutex
	pos int64 // of Read and Write
}

func (f *file) Read(p []byte) (int, error) {
	if f.File == nil {
		return 0, errDirectory
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.File.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) Write(p []byte) (int, error) {
	if f.File == nil {
		return 0, errDirectory
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.File.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) Preallocate(int64, int64) error { return nil }
func (f *file) Prefetch(int64, int64) error    { return nil }
func (f *file) Fd() uintptr                    { return pvfs.InvalidFd }

// SyncTo promises nothing, as Pebble's contract allows.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

func (f *file) Stat() (pvfs.FileInfo, error) {
	if f.File == nil {
		st, err := f.fs.Stat(f.name)
		return info{st}, err
	}
	size, err := f.File.Size() // the name may lead elsewhere by now
	return info{fileInfo{path.Base(f.name), size}}, err
}

func (f *file) Sync() error {
	if f.File == nil {
		return f.fs.SyncDir(f.name)
	}
	return f.File.Sync()
}

func (f *file) SyncData() error { return f.Sync() }

func (f *file) Close() error {
	if f.File == nil {
		return nil
	}
	return f.File.Close()
}

// fileInfo describes an open file.
type fileInfo struct {
	name string
	size int64
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return 0o600 }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }
