//go:build linux

package posix

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func xattrChecks() []Check {
	return []Check{
		{"xattr", xattrs},
		{"xattr-limits", xattrLimits},
		{"xattr-permissions", xattrPermissions},
	}
}

// oldNFS reports whether the mount is NFS before version 4.2, which has no extended attributes.
func (t *T) oldNFS() bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	t.Must(err, "read mountinfo")
	st := t.Stat(t.Dir)
	id := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(string(b)) {
		mount, source, _ := strings.Cut(line, " - ")
		if f := strings.Fields(mount); len(f) > 2 && f[2] == id && strings.HasPrefix(source, "nfs") {
			return !strings.Contains(source, "vers=4.2")
		}
	}
	return false
}

// needXattrs ends the check where there are no extended attributes: well on a mount that cannot have them, if it says so as
// it should, and skipped on a local file system.
func (t *T) needXattrs(p string) {
	err := unix.Setxattr(p, "user.probe", nil, 0)
	old := t.oldNFS()
	switch {
	case old:
		t.Want(err, "setxattr before NFSv4.2", unix.EOPNOTSUPP)
		_, err = unix.Getxattr(p, "user.probe", nil)
		t.Want(err, "getxattr before NFSv4.2", unix.EOPNOTSUPP)
		t.Want(unix.Removexattr(p, "user.probe"), "removexattr before NFSv4.2", unix.EOPNOTSUPP)
		Equal(t, "list before NFSv4.2", len(t.userXattrs(p)), 0)
		panic(outcome{pass: true, text: "refused with EOPNOTSUPP, as is right before NFSv4.2"})
	case errors.Is(err, unix.EOPNOTSUPP) && !t.onNFS():
		t.Skipf("this file system has no extended attributes")
	}
	t.Must(err, "setxattr")
	t.Must(unix.Removexattr(p, "user.probe"), "removexattr")
}

func (t *T) onNFS() bool {
	var st unix.Statfs_t
	t.Must(unix.Statfs(t.Dir, &st), "statfs")
	return st.Type == unix.NFS_SUPER_MAGIC
}

// userXattrs lists the attributes of the name space "user", sorted.
func (t *T) userXattrs(p string) []string {
	size, err := unix.Llistxattr(p, nil)
	t.Must(err, "size of the list")
	buf := make([]byte, size+1)
	n, err := unix.Llistxattr(p, buf)
	t.Must(err, "list")
	var names []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if rest, ok := strings.CutPrefix(name, "user."); ok {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names
}

// xattrIs compares a value, as its size is told, in a buffer that fits, and in one that does not.
func (t *T) xattrIs(p, name, want string) {
	size, err := unix.Getxattr(p, name, nil)
	t.Must(err, "size of "+name)
	Equal(t, "size of "+name, size, len(want))
	buf := make([]byte, len(want)+1)
	n, err := unix.Getxattr(p, name, buf)
	t.Must(err, "get "+name)
	if string(buf[:n]) != want {
		t.Fatalf("%s: %s, want %s", name, abbreviate(string(buf[:n])), abbreviate(want))
	}
	if len(want) > 1 {
		_, err = unix.Getxattr(p, name, make([]byte, len(want)-1))
		t.Want(err, "get into a small buffer", unix.ERANGE)
	}
}

func (t *T) noXattr(p, name string) {
	_, err := unix.Getxattr(p, name, make([]byte, 10))
	t.Want(err, "get "+name, unix.ENODATA)
}

func xattrs(t *T) {
	t.needXattrs(t.Make("probe", ""))
	for _, what := range []string{"file", "directory"} {
		p := t.Path(what)
		if what == "directory" {
			t.Mkdir(what)
		} else {
			t.Make(what, "content")
		}
		t.noXattr(p, "user.a")
		t.Want(unix.Removexattr(p, "user.a"), "remove what is not there", unix.ENODATA)
		t.Want(unix.Setxattr(p, "user.a", []byte("1"), unix.XATTR_REPLACE), "replace what is not there", unix.ENODATA)
		t.Must(unix.Setxattr(p, "user.a", []byte("1"), unix.XATTR_CREATE), "create")
		t.Want(unix.Setxattr(p, "user.a", []byte("2"), unix.XATTR_CREATE), "create again", unix.EEXIST)
		t.xattrIs(p, "user.a", "1")
		before := t.Stat(p)
		tick()
		t.Must(unix.Setxattr(p, "user.a", []byte("two\x00\xff"), unix.XATTR_REPLACE), "replace")
		t.Forget()
		after := t.Stat(p)
		t.after("ctime", after.Ctim, before.Ctim)
		Equal(t, "mtime", after.Mtim, before.Mtim)
		t.xattrIs(p, "user.a", "two\x00\xff")
		large := string(pattern(make([]byte, 1000), 0, 9))
		want := []string{"a", "empty", "large", "ü/β", strings.Repeat("n", 250)}
		slices.Sort(want)
		for _, name := range want {
			value := map[string]string{"a": "3", "large": large}[name]
			t.Must(unix.Setxattr(p, "user."+name, []byte(value), 0), "set "+name)
		}
		for range 2 { // from the client's cache, and from the server
			for _, name := range want {
				t.xattrIs(p, "user."+name, map[string]string{"a": "3", "large": large}[name])
			}
			if got := t.userXattrs(p); !slices.Equal(got, want) {
				t.Fatalf("%s: attributes %q, want %q", what, got, want)
			}
			t.Forget()
		}
		_, err := unix.Listxattr(p, make([]byte, 3))
		t.Want(err, "list into a small buffer", unix.ERANGE)
		t.Must(unix.Removexattr(p, "user.empty"), "remove")
		t.noXattr(p, "user.empty")
		// They belong to the inode.
		q := p + "-moved"
		t.Must(os.Rename(p, q), "rename")
		t.Forget()
		t.xattrIs(q, "user.large", large)
		Equal(t, "attributes after the rename", len(t.userXattrs(q)), 4)
		t.Must(os.RemoveAll(q), "remove")
		if what == "directory" {
			t.Mkdir(what)
		} else {
			t.Make(what, "new")
		}
		Equal(t, "attributes of a new one", len(t.userXattrs(p)), 0)
	}
	// By descriptor and through another name; with dirty pages, which stay.
	f, err := os.Create(t.Path("open"))
	t.Must(err, "create")
	defer f.Close()
	_, err = f.WriteString("dirty")
	t.Must(err, "write")
	t.Must(unix.Fsetxattr(int(f.Fd()), "user.fd", []byte("fd"), 0), "fsetxattr")
	_, err = f.WriteString(" pages")
	t.Must(err, "write")
	t.Must(os.Link(t.Path("open"), t.Path("link")), "link")
	t.xattrIs(t.Path("link"), "user.fd", "fd")
	t.Must(f.Sync(), "fsync")
	t.Forget()
	t.Content(t.Path("link"), "dirty pages")
	t.Must(unix.Fremovexattr(int(f.Fd()), "user.fd"), "fremovexattr")
	t.noXattr(t.Path("link"), "user.fd")
}

func xattrLimits(t *T) {
	p := t.Make("f", "x")
	t.needXattrs(p)
	if !t.onNFS() || t.opt.LocalLimits {
		t.Skipf("local file systems have other limits")
	}
	largest := pattern(make([]byte, 64<<10), 0, 5)
	t.Must(unix.Setxattr(p, "user.largest", largest, 0), "set 64 KiB")
	t.Forget()
	t.xattrIs(p, "user.largest", string(largest))
	t.Want(unix.Setxattr(p, "user.larger", make([]byte, 64<<10+1), 0), "set more than 64 KiB", unix.E2BIG)
	t.Want(unix.Setxattr(p, "user."+strings.Repeat("n", 251), nil, 0), "set under a long name", unix.ERANGE)
	t.Want(unix.Setxattr(p, "user.", nil, 0), "set under no name", unix.EINVAL)
	// Until it is full, and on when something went.
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = unix.Setxattr(p, fmt.Sprintf("user.fill%d", n), largest, 0)
	}
	t.Want(err, "fill a file", unix.ENOSPC)
	t.Must(unix.Removexattr(p, "user.largest"), "remove")
	t.Must(unix.Setxattr(p, "user.again", largest, 0), "set in the place of another one")
	// Many names.
	d := t.Mkdir("d")
	var want []string
	for i := range 1000 {
		name := fmt.Sprintf("name-%04d-%s", i, strings.Repeat("x", i%40))
		want = append(want, name)
		t.Must(unix.Setxattr(d, "user."+name, []byte(name), unix.XATTR_CREATE), "set "+name)
	}
	t.Forget()
	if got := t.userXattrs(d); !slices.Equal(got, want) {
		t.Fatalf("%d names, want %d", len(got), len(want))
	}
	for i := 0; i < len(want); i += 100 {
		t.xattrIs(d, "user."+want[i], want[i])
	}
	// As many as can be listed, and no more.
	long := t.Make("long", "")
	err = nil
	for i := 0; err == nil && i < 1000; i++ {
		err = unix.Setxattr(long, fmt.Sprintf("user.%0250d", i), nil, 0)
	}
	t.Want(err, "fill the list", unix.ENOSPC)
	t.Forget()
	Equal(t, "names that fill a list", len(t.userXattrs(long)), 64<<10/256)
}

func xattrPermissions(t *T) {
	t.needXattrs(t.Make("probe", ""))
	t.open()
	t.Must(t.As(alice, create(t.Path("f"))), "create") // 0644
	set := func(p string) func() error {
		return func() error { return unix.Lsetxattr(p, "user.a", []byte("1"), 0) }
	}
	get := func(p string) func() error {
		return func() error { _, err := unix.Lgetxattr(p, "user.a", make([]byte, 10)); return err }
	}
	remove := func(p string) func() error {
		return func() error { return unix.Lremovexattr(p, "user.a") }
	}
	f := t.Path("f")
	t.Must(t.As(alice, set(f)), "set by the owner")
	t.Must(t.As(bob, get(f)), "get by who may read")
	t.Want(t.As(bob, set(f)), "set by who may only read", unix.EACCES)
	t.Want(t.As(bob, remove(f)), "remove by who may only read", unix.EACCES)
	t.Must(os.Chmod(f, 0o600), "chmod")
	t.Forget()
	t.Want(t.As(bob, get(f)), "get by who may not read", unix.EACCES)
	t.Must(os.Chmod(f, 0o606), "chmod")
	t.Must(t.As(bob, set(f)), "set by who may write")
	t.Must(t.As(bob, remove(f)), "remove by who may write")
	sticky := t.Mkdir("sticky")
	t.Must(unix.Chmod(sticky, 0o1777), "chmod")
	t.Must(set(sticky)(), "set on a sticky directory by root")
	t.Want(t.As(bob, set(sticky)), "set on another's sticky directory", unix.EPERM)
	t.Must(t.As(bob, get(sticky)), "get of a sticky directory")
	t.Must(os.Symlink("f", t.Path("s")), "symlink")
	t.Must(unix.Mkfifo(t.Path("p"), 0o666), "mkfifo")
	for _, name := range []string{"s", "p"} {
		t.Want(set(t.Path(name))(), "set on "+name, unix.EPERM)
		t.Want(get(t.Path(name))(), "get of "+name, unix.ENODATA)
		Equal(t, "attributes of "+name, len(t.userXattrs(t.Path(name))), 0)
	}
}

// mainXattr sets an attribute, or compares one with a value.
func mainXattr(args []string) error {
	f := flag.NewFlagSet("xattr", flag.ContinueOnError)
	file := f.String("file", "", "file or directory")
	name := f.String("name", "", "name with its name space")
	value := f.String("value", "", "value")
	set := f.Bool("set", false, "set it; else compare")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *set {
		return unix.Setxattr(*file, *name, []byte(*value), 0)
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Getxattr(*file, *name, buf)
	if err == nil && string(buf[:n]) != *value {
		err = fmt.Errorf("%s is %q, want %q", *name, buf[:n], *value)
	}
	return err
}
