package vfile

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// syncDirFS has another SyncDir.
type syncDirFS struct {
	FS
	syncDir func(dir string) error
}

func (s syncDirFS) SyncDir(dir string) error { return s.syncDir(dir) }

func TestMkdirAllSync(t *testing.T) {
	root := t.TempDir()
	type step struct {
		dir   string
		holds int // names in it when it is synced
	}
	var synced []step
	record := syncDirFS{OS{}, func(dir string) error {
		names, err := OS{}.List(dir)
		if err != nil {
			return err
		}
		synced = append(synced, step{dir, len(names)})
		return OS{}.SyncDir(dir)
	}}
	must(t, os.Mkdir(root+"/a", 0o700))
	must(t, MkdirAllSync(record, root+"/a/b//c/d/"))
	// Each new directory is synced itself, then the one that holds its name, before
	// anything is made below it. root: a exists, but who knows whether it was synced.
	a := root + "/a"
	want := []step{{root, 1}, {a + "/b", 0}, {a, 1}, {a + "/b/c", 0}, {a + "/b", 1}, {a + "/b/c/d", 0}, {a + "/b/c", 1}}
	if !slices.Equal(synced, want) {
		t.Fatalf("synced %v, want %v", synced, want)
	}
	st, err := os.Stat(root + "/a/b/c/d")
	must(t, err)
	if st.Mode().Perm() != 0o700 {
		t.Fatalf("mode %v, want 0700", st.Mode())
	}

	synced = nil
	must(t, MkdirAllSync(record, root+"/a/b/c/d"))
	if want := []step{{a + "/b/c", 1}}; !slices.Equal(synced, want) {
		t.Fatalf("for a directory that exists: synced %v, want %v", synced, want)
	}
	must(t, MkdirAllSync(OS{}, root+"/x/y"))
	if _, err := os.Stat(root + "/x/y"); err != nil {
		t.Fatal(err)
	}
}

func TestMkdirAllSyncErrors(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(root+"/file", nil, 0o600))
	for _, dir := range []string{root + "/file", root + "/file/below"} {
		if err := MkdirAllSync(OS{}, dir); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v, want ENOTDIR", dir, err)
		}
	}
	// A sync that fails: a level that was made counts, whatever the reason; one
	// that existed counts unless this process could not have made it.
	for _, c := range []struct {
		err      error
		existing bool // the error is one for a directory that existed
	}{{unix.EIO, true}, {fs.ErrPermission, false}, {unix.EROFS, false}, {unix.EINVAL, false}} {
		fail := func(string) error { return &fs.PathError{Op: "fsync", Path: "x", Err: c.err} }
		if err := MkdirAllSync(syncDirFS{OS{}, fail}, root); (err != nil) != c.existing {
			t.Errorf("existing directory, sync fails with %v: %v", c.err, err)
		}
		only := func(dir string) error {
			if dir == root {
				return fail(dir)
			}
			return nil
		}
		if err := MkdirAllSync(syncDirFS{OS{}, only}, root+"/new"); !errors.Is(err, c.err) {
			t.Errorf("new directory, sync fails with %v: %v", c.err, err)
		}
		must(t, os.Remove(root+"/new"))
	}
}
