package vfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MkdirAllSync makes dir and the parents that are missing, as os.MkdirAll does, and
// makes all of them and their names durable: a power cut after it returned leaves the directory.
//
// Each level is durable before the next one is made, so a process that dies
// in between leaves at most its last level unsynced; for that reason the name of the
// deepest level that exists is synced too.
func MkdirAllSync(dir string, perm fs.FileMode) error {
	return mkdirAllSync(dir, perm, OS{}.SyncDir)
}

func mkdirAllSync(dir string, perm fs.FileMode, syncDir func(string) error) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	st, err := os.Stat(dir)
	switch {
	case err == nil && !st.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case err == nil:
		err := syncDir(parent)
		// A parent that we may not read, or that is on a file system that is never
		// written, is not one that we made this directory in.
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS) {
			return nil
		}
		return err
	case !IsNotExist(err):
		return err
	}
	if err := mkdirAllSync(parent, perm, syncDir); err != nil {
		return err
	}
	// Another process may make it at the same time.
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if st, err := os.Stat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	}
	// The inode before the name: without a journal a name alone may point to
	// an inode that was never written.
	if err := syncDir(dir); err != nil {
		return err
	}
	return syncDir(parent)
}
