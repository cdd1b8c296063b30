//go:build linux

package posix

import (
	"os"

	"golang.org/x/sys/unix"
)

func renameChecks() []Check {
	return []Check{
		{"rename-file", renameFile},
		{"rename-over-open-file", renameOverOpenFile},
		{"rename-directory", renameDirectory},
		{"rename-parent-of-open-file", renameParentOfOpenFile},
		{"replace-by-rename", replaceByRename},
	}
}

func renameFile(t *T) {
	a, b := t.Make("a", "A"), t.Make("b", "B")
	ino := t.Stat(a).Ino
	t.Must(os.Rename(a, b), "rename over a file")
	t.Content(b, "A")
	Equal(t, "inode after rename", t.Stat(b).Ino, ino)
	_, err := os.Lstat(a)
	t.Want(err, "lstat of the old name", unix.ENOENT)
	d := t.Mkdir("d")
	t.Must(os.Rename(b, t.Path("d", "c")), "rename into another directory")
	t.Content(t.Path("d", "c"), "A")
	t.Want(unix.Rename(t.Path("none"), t.Path("x")), "rename of nothing", unix.ENOENT)
	t.Want(unix.Rename(t.Path("d", "c"), d), "rename of a file over a directory", unix.EISDIR, unix.ENOTEMPTY, unix.EEXIST)
	f := t.Make("f", "F")
	t.Want(unix.Rename(d, f), "rename of a directory over a file", unix.ENOTDIR)
	// Both names of one file: POSIX wants nothing to happen.
	t.Must(os.Link(f, t.Path("g")), "link")
	t.Must(unix.Rename(f, t.Path("g")), "rename of a file over its own second name")
	t.Content(f, "F")
	t.Content(t.Path("g"), "F")
	t.Must(unix.Rename(f, f), "rename to itself")
	t.Content(f, "F")
	// RENAME_NOREPLACE is local to file systems; one that has it must not replace.
	if err := unix.Renameat2(unix.AT_FDCWD, f, unix.AT_FDCWD, t.Path("d", "c"), unix.RENAME_NOREPLACE); err == nil {
		t.Fatalf("RENAME_NOREPLACE replaced a file")
	}
}

func renameOverOpenFile(t *T) {
	a, b := t.Make("a", "AAAA"), t.Make("b", "BBBB")
	old, err := os.OpenFile(b, os.O_RDWR, 0)
	t.Must(err, "open")
	defer old.Close()
	t.Must(os.Rename(a, b), "rename over the open file")
	t.Forget()
	buf := make([]byte, 4)
	_, err = old.ReadAt(buf, 0)
	t.Must(err, "read of the replaced file")
	Equal(t, "content of the replaced file", string(buf), "BBBB")
	_, err = old.WriteAt([]byte("bb"), 2)
	t.Must(err, "write to the replaced file")
	t.Must(old.Sync(), "fsync of the replaced file")
	t.Content(b, "AAAA")
	// The file that was open while it was renamed itself.
	moved, err := os.OpenFile(b, os.O_RDWR, 0)
	t.Must(err, "open")
	defer moved.Close()
	t.Must(os.Rename(b, t.Path("c")), "rename of the open file")
	_, err = moved.WriteAt([]byte("cc"), 0)
	t.Must(err, "write to the renamed file")
	t.Must(moved.Sync(), "fsync of the renamed file")
	t.Forget()
	t.Content(t.Path("c"), "ccAA")
}

func renameDirectory(t *T) {
	a, b := t.Mkdir("a"), t.Mkdir("b")
	t.Make("a/f", "in a")
	t.Must(unix.Rename(a, b), "rename over an empty directory")
	t.Content(t.Path("b", "f"), "in a")
	t.Mkdir("c")
	t.Want(unix.Rename(t.Path("c"), b), "rename over a full directory", unix.ENOTEMPTY, unix.EEXIST)
	t.Want(unix.Rename(b, t.Path("b", "sub")), "rename into itself", unix.EINVAL)
	t.Mkdir("b/x")
	t.Mkdir("b/x/y")
	t.Want(unix.Rename(b, t.Path("b", "x", "y", "z")), "rename below itself", unix.EINVAL)
	t.Must(unix.Rename(t.Path("b", "x"), t.Path("c", "x")), "rename into another directory")
	t.Forget()
	var up, c unix.Stat_t
	t.Must(unix.Stat(t.Path("c", "x")+"/..", &up), "stat of ..")
	t.Must(unix.Stat(t.Path("c"), &c), "stat")
	Equal(t, ".. of the moved directory", up.Ino, c.Ino)
	t.Must(os.Remove(t.Path("c", "x", "y")), "rmdir")
	t.Must(os.Remove(t.Path("c", "x")), "rmdir")
	t.Must(os.Remove(t.Path("c")), "rmdir of the emptied directory")
}

func renameParentOfOpenFile(t *T) {
	t.Mkdir("p")
	f, err := os.OpenFile(t.Path("p", "f"), os.O_CREATE|os.O_RDWR, 0o644)
	t.Must(err, "create")
	defer f.Close()
	_, err = f.WriteString("one ")
	t.Must(err, "write")
	t.Must(os.Rename(t.Path("p"), t.Path("q")), "rename of the parent")
	_, err = f.WriteString("two")
	t.Must(err, "write after the rename")
	t.Must(f.Sync(), "fsync after the rename")
	t.Forget()
	t.Content(t.Path("q", "f"), "one two")
}

// replaceByRename is how editors and package managers write: a new file renamed over the old one, again and again. A
// reader sees one whole version.
func replaceByRename(t *T) {
	const rounds = 60
	p := t.Make("f", "version 0")
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			b, err := os.ReadFile(p)
			if err != nil {
				done <- err
				return
			}
			if len(b) != len("version 0") || string(b[:8]) != "version " {
				done <- &os.PathError{Op: "read of a torn version", Path: string(b), Err: unix.EIO}
				return
			}
		}
	}()
	for i := range rounds {
		f, err := os.CreateTemp(t.Dir, "new")
		t.Must(err, "create")
		_, err = f.WriteString("version " + string(rune('0'+i%10)))
		t.Must(err, "write")
		t.Must(f.Sync(), "fsync")
		t.Must(f.Close(), "close")
		t.Must(os.Rename(f.Name(), p), "rename")
	}
	close(stop)
	t.Must(<-done, "reader")
}
