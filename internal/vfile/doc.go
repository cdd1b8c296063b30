// Package vfile is the file system as the storage layers see it: preallocated
// files read and written at offsets, explicit syncs of files and directories,
// and a lock. Nothing else, so that a layer that drops, tears, delays or fails
// operations can be put under a store without the store knowing.
//
// OS is the real one. Mem keeps everything in memory and knows what a power
// cut may leave of it: Mem.CrashClone returns the file system as a machine
// could find it after losing power at that moment, and Mem.Crashes many such machines; Mem.Watch
// says when there is a moment to look at, and can lose a sync. Package crashtest joins these to tests of a
// whole sequence; package pebblefs lets Pebble run on an FS.
//
// # What survives a power cut
//
// The contract is the weakest one a POSIX file system may offer, so that a
// store that is right on Mem is right on every disk:
//
//   - File contents and size are certain only after Sync or SyncData returned.
//   - A name (Create, Rename, Remove) is certain only after SyncDir of its
//     directory returned; syncing a file does not make its name durable.
//   - The same holds for a directory's name. And until the new directory itself was synced once, its name may
//     lead nowhere, however often the parent was synced (ext2 without a journal).
//   - Unsynced bytes survive or not in units of a 512-byte sector, in any
//     order.
//
// An error of Sync or SyncData means the bytes may be lost for good even
// though reads still show them (the kernel marks the pages clean). A caller
// must not sync again and trust the result.
package vfile

import (
	"io"
	"io/fs"
)

// PageSize is the unit in which stores lay out data; offsets of Mem and of
// DropCache are best aligned to it.
const PageSize = 4096

// FS opens files. Names are paths with '/' separators.
type FS interface {
	// Create makes a new file, open for reading and writing. It fails if
	// the name exists.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// OpenRead opens an existing file for reading only, as one of a file system that is mounted
	// read-only has to be.
	OpenRead(name string) (File, error)
	// Stat follows symbolic links, as os.Stat does.
	Stat(name string) (fs.FileInfo, error)
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// RemoveAll removes name and what is below it, if it exists.
	RemoveAll(name string) error
	// Link makes newname, which must not exist, a second name of a file.
	Link(oldname, newname string) error
	// Rename replaces an existing newname atomically.
	Rename(oldname, newname string) error
	// List returns the names in dir, without path, in no particular order.
	List(dir string) ([]string, error)
	// Mkdir makes a directory of mode 0700; it fails if the name exists.
	Mkdir(dir string) error
	// MkdirAll makes dir and the parents that are missing. See MkdirAllSync.
	MkdirAll(dir string) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Lock takes the exclusive lock file name, creating it if needed, and
	// fails at once if another holder has it. Closing releases it.
	Lock(name string) (io.Closer, error)
	// LockRead is Lock of a file that exists, without writing anything.
	LockRead(name string) (io.Closer, error)
	// Free is the number of bytes that can still be allocated under dir.
	Free(dir string) (uint64, error)
	// Device says what the files below dir are on: directories with the same one share what is free.
	Device(dir string) (Device, error)
}

// Device names a file system of some machine. It is the same for all processes of a machine, for as long as that runs.
type Device [16]byte

// File is an open file. All methods may be called concurrently.
type File interface {
	// ReadAt reads as io.ReaderAt does.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes all of p or returns an error.
	WriteAt(p []byte, off int64) (int, error)
	// WriteVec writes the concatenation of bufs at off, or returns an error.
	// It does not modify or keep bufs.
	WriteVec(bufs [][]byte, off int64) error
	// Allocate extends the file to size, and reserves disk space for its first size bytes if the file system can.
	Allocate(size int64) (reserved bool, err error)
	// Zero writes zeros to n bytes at off, which are page-aligned, past the
	// page cache where that is possible: a segment in preparation would only push
	// out of it what readers want. Like all writes it needs a sync.
	Zero(off, n int64) error
	Size() (int64, error)
	// Chmod changes the permissions; those of a new file are 0600.
	Chmod(mode fs.FileMode) error
	// Sync makes contents and metadata durable.
	Sync() error
	// SyncData makes contents durable, and the size if it changed.
	SyncData() error
	// DropCache drops clean cached pages, so that the next read shows what
	// the device holds. It is best effort.
	DropCache() error
	// DropRange does the same for n bytes at off.
	DropRange(off, n int64) error
	Close() error
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.OpenRead(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		size = limit
	}
	p := make([]byte, size)
	n, err := f.ReadAt(p, 0)
	if err == io.EOF {
		err = nil
	}
	return p[:n], err
}

// WriteFileAtomic replaces dir/name with data, mode 0600: a temporary file is written and
// synced, renamed over name, and the directory is synced.
func WriteFileAtomic(fsys FS, dir, name string, data []byte) error {
	return writeFileAtomic(fsys, dir, name, data, 0o600)
}

// WriteFileModeAtomic is WriteFileAtomic with another mode.
func WriteFileModeAtomic(fsys FS, dir, name string, data []byte, mode fs.FileMode) error {
	return writeFileAtomic(fsys, dir, name, data, mode)
}

func writeFileAtomic(fsys FS, dir, name string, data []byte, mode fs.FileMode) error {
	tmp := dir + "/" + name + ".tmp"
	if err := fsys.Remove(tmp); err != nil && !IsNotExist(err) {
		return err
	}
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil && mode != 0o600 {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := fsys.Rename(tmp, dir+"/"+name); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}
