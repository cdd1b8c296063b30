package vfile

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Adopt makes durable which names are in dir, before somebody relies on what it found there: the
// process that made them may have been killed between that and its own sync. A directory that we may not read, or
// that is on a file system that is never written, is not one that we made names in.
func Adopt(fsys FS, dir string) error {
	err := fsys.SyncDir(dir)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// MkdirAllSync makes dir and the parents that are missing, as FS.MkdirAll does, and
// makes all of them and their names durable: a power cut after it returned leaves the directory.
//
// Each level is durable before the next one is made, so a process that dies
// in between leaves at most its last level unsynced; for that reason the name of the
// deepest level that exists is synced too.
func MkdirAllSync(fsys FS, dir string) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	st, err := fsys.Stat(dir)
	switch {
	case err == nil && !st.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case err == nil:
		return Adopt(fsys, parent)
	case !IsNotExist(err):
		return err
	}
	if err := MkdirAllSync(fsys, parent); err != nil {
		return err
	}
	// Another process may make it at the same time.
	if err := fsys.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if st, err := fsys.Stat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	}
	// The inode before the name: without a journal a name alone may point to
	// an inode that was never written.
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}
