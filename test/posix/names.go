//go:build linux

package posix

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func nameChecks() []Check {
	return []Check{
		{"create-exclusive", createExclusive},
		{"create-flags", createFlags},
		{"long-names", longNames},
		{"odd-names", oddNames},
		{"deep-path", deepPath},
		{"hard-links", hardLinks},
		{"symlinks", symlinks},
		{"unlink-open-file", unlinkOpenFile},
		{"remove-errors", removeErrors},
		{"special-files", specialFiles},
		{"statfs", statfs},
	}
}

func createExclusive(t *T) {
	const racers, rounds = 8, 10
	for round := range rounds {
		p := t.Path(fmt.Sprint("f", round))
		var wg sync.WaitGroup
		errs := make([]error, racers)
		for i := range racers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err == nil {
					err = f.Close()
				}
				errs[i] = err
			}()
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			t.Want(err, "O_EXCL on an existing file", unix.EEXIST)
		}
		Equal(t, "winners of O_CREAT|O_EXCL", won, 1)
		Equal(t, "mode", t.Stat(p).Mode, unix.S_IFREG|0o600)
	}
	t.Must(os.Symlink("nowhere", t.Path("dangling")), "symlink")
	_, err := os.OpenFile(t.Path("dangling"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	t.Want(err, "O_EXCL on a dangling symlink", unix.EEXIST)
}

func createFlags(t *T) {
	p := t.Make("f", "content")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o600)
	t.Must(err, "O_CREAT on an existing file")
	defer f.Close()
	t.Content(p, "content")
	Equal(t, "mode after O_CREAT on an existing file", t.Stat(p).Mode&0o7777, 0o644)
	g, err := os.OpenFile(p, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	t.Must(err, "O_TRUNC")
	t.Must(g.Close(), "close")
	Equal(t, "size after O_TRUNC", t.Stat(p).Size, 0)
	var st unix.Stat_t
	t.Must(unix.Fstat(int(f.Fd()), &st), "fstat")
	Equal(t, "size after O_TRUNC, through another descriptor", st.Size, 0)

	_, err = os.OpenFile(t.Path("missing"), os.O_RDWR, 0)
	t.Want(err, "open of a missing file", unix.ENOENT)
	_, err = os.OpenFile(p+"/x", os.O_RDWR, 0)
	t.Want(err, "open below a file", unix.ENOTDIR)
	_, err = os.OpenFile(t.Dir, os.O_WRONLY, 0)
	t.Want(err, "open of a directory for writing", unix.EISDIR)
	_, err = os.OpenFile(p, os.O_RDONLY|unix.O_DIRECTORY, 0)
	t.Want(err, "O_DIRECTORY on a file", unix.ENOTDIR)
	t.Must(os.Symlink("f", t.Path("link")), "symlink")
	_, err = os.OpenFile(t.Path("link"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	t.Want(err, "O_NOFOLLOW on a symlink", unix.ELOOP)
	r, err := os.Open(p)
	t.Must(err, "open")
	defer r.Close()
	_, err = r.Write([]byte("x"))
	t.Want(err, "write to a descriptor open for reading", unix.EBADF)
	// Mode 0400 forbids later opens for writing, not the descriptor that created the file.
	ro, err := os.OpenFile(t.Path("ro"), os.O_CREATE|os.O_RDWR, 0o400)
	t.Must(err, "create with mode 0400")
	defer ro.Close()
	_, err = ro.Write([]byte("x"))
	t.Must(err, "write to a new file of mode 0400")
	t.Must(ro.Sync(), "fsync")
}

func longNames(t *T) {
	ok, long := strings.Repeat("n", 255), strings.Repeat("n", 256)
	t.Make(ok, "x")
	t.Content(t.Path(ok), "x")
	t.Must(os.Rename(t.Path(ok), t.Path("m"+ok[1:])), "rename of a 255-byte name")
	_, err := os.Create(t.Path(long))
	t.Want(err, "create with 256 bytes", unix.ENAMETOOLONG)
	t.Want(os.Mkdir(t.Path(long), 0o755), "mkdir with 256 bytes", unix.ENAMETOOLONG)
	t.Want(os.Symlink("x", t.Path(long)), "symlink with 256 bytes", unix.ENAMETOOLONG)
	t.Want(os.Rename(t.Path("m"+ok[1:]), t.Path(long)), "rename to 256 bytes", unix.ENAMETOOLONG)
	var st unix.Stat_t
	t.Want(unix.Lstat(t.Path(long), &st), "lstat with 256 bytes", unix.ENAMETOOLONG)
	t.Mkdir("d" + ok[1:])
	entries, err := os.ReadDir(t.Dir)
	t.Must(err, "readdir")
	Equal(t, "entries", len(entries), 2)
	for _, e := range entries {
		Equal(t, "length of a listed name", len(e.Name()), 255)
	}
}

func oddNames(t *T) {
	names := []string{" ", "a b", "line\nbreak", "tab\t", "\"quoted\"", "*?[", "-rf", "...", ".hidden", "grün", "日本語", "e\u0301", "\u00e9", "🙂", "A", "a", "back\\slash", "c:d"}
	for _, n := range names {
		t.Make(n, n)
	}
	t.Forget()
	seen := map[string]bool{}
	entries, err := os.ReadDir(t.Dir)
	t.Must(err, "readdir")
	for _, e := range entries {
		seen[e.Name()] = true
	}
	Equal(t, "entries", len(seen), len(names))
	for _, n := range names {
		if !seen[n] {
			t.Fatalf("%q is not listed", n)
		}
		t.Content(t.Path(n), n)
	}
}

func deepPath(t *T) {
	const levels = 60
	p := t.Dir
	for i := range levels {
		p = fmt.Sprintf("%s/level-%02d", p, i)
		t.Must(os.Mkdir(p, 0o755), "mkdir")
	}
	t.Must(os.WriteFile(p+"/f", []byte("deep"), 0o644), "create")
	t.Forget()
	t.Content(p+"/f", "deep")
	t.Content(p+"/../level-59/f", "deep")
	t.Must(os.Chdir(p), "chdir")
	defer os.Chdir("/")
	t.Content("../level-59/f", "deep")
	wd, err := unix.Getwd()
	t.Must(err, "getcwd")
	Equal(t, "getcwd", wd, p)
}

func hardLinks(t *T) {
	a, b := t.Make("a", "one"), t.Path("b")
	t.Must(os.Link(a, b), "link")
	sa, sb := t.Stat(a), t.Stat(b)
	Equal(t, "inode numbers", sa.Ino, sb.Ino)
	Equal(t, "link count", sb.Nlink, 2)
	t.Must(os.WriteFile(b, []byte("two"), 0o644), "write through the second name")
	t.Content(a, "two")
	t.Want(os.Link(a, b), "link to an existing name", unix.EEXIST)
	t.Want(os.Link(t.Path("none"), t.Path("c")), "link to nothing", unix.ENOENT)
	d := t.Mkdir("d")
	t.Want(os.Link(d, t.Path("d2")), "link to a directory", unix.EPERM)
	t.Must(os.Link(a, t.Path("d", "c")), "link into another directory")
	Equal(t, "link count", t.Stat(a).Nlink, 3)
	t.Must(os.Remove(a), "unlink")
	t.Forget()
	Equal(t, "link count", t.Stat(b).Nlink, 2)
	t.Content(t.Path("d", "c"), "two")
	t.Must(os.Symlink("b", t.Path("s")), "symlink")
	t.Must(unix.Linkat(unix.AT_FDCWD, t.Path("s"), unix.AT_FDCWD, t.Path("s2"), 0), "link to a symlink itself")
	Equal(t, "type of the link to a symlink", t.Stat(t.Path("s2")).Mode&unix.S_IFMT, unix.S_IFLNK)
}

func symlinks(t *T) {
	t.Make("f", "content")
	t.Must(os.Symlink("f", t.Path("s")), "symlink")
	t.Content(t.Path("s"), "content")
	st := t.Stat(t.Path("s"))
	Equal(t, "type", st.Mode&unix.S_IFMT, unix.S_IFLNK)
	Equal(t, "size is the length of the target", st.Size, 1)
	t.Want(os.Symlink("x", t.Path("s")), "symlink over an existing name", unix.EEXIST)
	for _, target := range []string{"/etc/hostname", "../..//./f", "grün/日本", strings.Repeat("long/", 200), " ", "dangling"} {
		p := t.Path("t")
		t.Must(os.Symlink(target, p), "symlink")
		t.Forget()
		got, err := os.Readlink(p)
		t.Must(err, "readlink")
		Equal(t, "target", got, target)
		t.Must(os.Remove(p), "unlink of a symlink")
	}
	t.Must(os.Symlink("loop2", t.Path("loop1")), "symlink")
	t.Must(os.Symlink("loop1", t.Path("loop2")), "symlink")
	_, err := os.Open(t.Path("loop1"))
	t.Want(err, "open of a loop", unix.ELOOP)
	t.Must(os.Symlink("dir", t.Path("sd")), "symlink")
	t.Mkdir("dir")
	t.Must(os.WriteFile(t.Path("sd", "g"), []byte("through"), 0o644), "create through a symlink to a directory")
	t.Content(t.Path("dir", "g"), "through")
	_, err = os.Readlink(t.Path("f"))
	t.Want(err, "readlink of a file", unix.EINVAL)
	t.Must(os.Lchown(t.Path("s"), 1, 2), "lchown")
	Equal(t, "owner of the symlink", t.Stat(t.Path("s")).Uid, 1)
	Equal(t, "owner of its target", t.Stat(t.Path("f")).Uid, 0)
}

func unlinkOpenFile(t *T) {
	d := t.Mkdir("d")
	p := t.Path("d", "f")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o644)
	t.Must(err, "create")
	_, err = f.WriteString("before ")
	t.Must(err, "write")
	t.Must(os.Remove(p), "unlink of the open file")
	_, err = os.Lstat(p)
	t.Want(err, "lstat after unlink", unix.ENOENT)
	if t.opt.KeepsUnlinked {
		// The name is gone, not hidden: an NFS client renames nothing when the server promises to keep what is open.
		names, err := os.ReadDir(d)
		t.Must(err, "list the directory")
		Equal(t, "names left", len(names), 0)
		var st unix.Stat_t
		t.Must(unix.Fstat(int(f.Fd()), &st), "fstat after unlink")
		Equal(t, "links after unlink", st.Nlink, 0)
	}
	_, err = f.WriteString("after")
	t.Must(err, "write after unlink")
	t.Must(f.Sync(), "fsync after unlink")
	t.Forget()
	b := make([]byte, 20)
	n, err := f.ReadAt(b, 0)
	if n == 0 {
		t.Must(err, "read after unlink")
	}
	Equal(t, "content after unlink", string(b[:n]), "before after")
	// A new file of the same name is another file.
	t.Must(os.WriteFile(p, []byte("new"), 0o644), "create the name again")
	t.Content(p, "new")
	n, _ = f.ReadAt(b, 0)
	Equal(t, "content of the unlinked file", string(b[:n]), "before after")
	t.Must(os.Remove(p), "unlink the new file")
	t.Must(f.Close(), "close")
	// An NFS client may remove its placeholder in the background once the file is closed.
	t.Must(eventually(func() error { return os.Remove(d) }), "rmdir after the close")
}

// eventually retries what may lag behind, generously.
func eventually(f func() error) error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func removeErrors(t *T) {
	d, f := t.Mkdir("d"), t.Make("f", "")
	t.Must(os.WriteFile(t.Path("d", "x"), nil, 0o644), "create")
	t.Want(unix.Rmdir(d), "rmdir of a full directory", unix.ENOTEMPTY, unix.EEXIST)
	t.Want(unix.Unlink(d), "unlink of a directory", unix.EISDIR, unix.EPERM)
	t.Want(unix.Rmdir(f), "rmdir of a file", unix.ENOTDIR)
	t.Want(unix.Unlink(t.Path("none")), "unlink of nothing", unix.ENOENT)
	t.Want(unix.Rmdir(t.Path("none")), "rmdir of nothing", unix.ENOENT)
	t.Want(os.Mkdir(d, 0o755), "mkdir over a directory", unix.EEXIST)
	t.Want(os.Mkdir(f, 0o755), "mkdir over a file", unix.EEXIST)
	t.Want(os.Mkdir(t.Path("none", "x"), 0o755), "mkdir below nothing", unix.ENOENT)
	t.Want(os.Mkdir(t.Path("f", "x"), 0o755), "mkdir below a file", unix.ENOTDIR)
	t.Must(unix.Unlink(t.Path("d", "x")), "unlink")
	t.Must(unix.Rmdir(d), "rmdir")
	_, err := os.Lstat(d)
	t.Want(err, "lstat of a removed directory", unix.ENOENT)
}

func specialFiles(t *T) {
	fifo := t.Path("fifo")
	t.Must(unix.Mkfifo(fifo, 0o640), "mkfifo")
	Equal(t, "mode of the fifo", t.Stat(fifo).Mode, unix.S_IFIFO|0o640)
	go func() {
		if w, err := os.OpenFile(fifo, os.O_WRONLY, 0); err == nil {
			_, _ = w.WriteString("piped") // the reader sees what arrived
			w.Close()
		}
	}()
	t.Content(fifo, "piped")
	for _, dev := range []struct {
		name string
		mode uint32
		dev  uint64
	}{{"chr", unix.S_IFCHR | 0o600, unix.Mkdev(1, 3)}, {"blk", unix.S_IFBLK | 0o660, unix.Mkdev(7, 300)}} {
		p := t.Path(dev.name)
		t.Must(unix.Mknod(p, dev.mode, int(dev.dev)), "mknod "+dev.name)
		t.Forget()
		st := t.Stat(p)
		Equal(t, "mode of "+dev.name, st.Mode, dev.mode)
		Equal(t, "device numbers of "+dev.name, st.Rdev, dev.dev)
	}
	if err := os.WriteFile(t.Path("chr"), []byte("x"), 0); err != nil { // nodev mounts refuse it
		t.Want(err, "write to /dev/null's twin", unix.EACCES)
	}
	l, err := net.Listen("unix", t.Path("sock"))
	t.Must(err, "bind a socket")
	defer l.Close()
	Equal(t, "type of the socket", t.Stat(t.Path("sock")).Mode&unix.S_IFMT, unix.S_IFSOCK)
	t.Must(unix.Mknod(t.Path("reg"), unix.S_IFREG|0o600, 0), "mknod of a regular file")
	t.Must(os.Rename(fifo, t.Path("fifo2")), "rename of a fifo")
	t.Must(os.Remove(t.Path("fifo2")), "unlink of a fifo")
	if _, err := os.Lstat(fifo); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the renamed fifo is still there: %v", err)
	}
}

func statfs(t *T) {
	var st unix.Statfs_t
	t.Must(unix.Statfs(t.Dir, &st), "statfs")
	switch {
	case st.Bsize <= 0 || st.Blocks == 0:
		t.Fatalf("no size: %+v", st)
	case st.Bfree > st.Blocks || st.Bavail > st.Bfree:
		t.Fatalf("more free than there is: %d blocks, %d free, %d available", st.Blocks, st.Bfree, st.Bavail)
	case st.Ffree > st.Files:
		t.Fatalf("more free inodes than there are: %d of %d", st.Ffree, st.Files)
	case st.Namelen < 255:
		t.Fatalf("names are limited to %d bytes", st.Namelen)
	}
	t.detail = fmt.Sprintf("%d GiB, %d GiB available", st.Blocks*uint64(st.Bsize)>>30, st.Bavail*uint64(st.Bsize)>>30)
}
