//go:build linux

package posix

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func timeChecks() []Check {
	return []Check{
		{"utimes", utimes},
		{"times-of-changes", timesOfChanges},
		{"times-of-directories", timesOfDirectories},
		{"chmod-bits", chmodBits},
	}
}

func utimes(t *T) {
	p := t.Make("f", "x")
	for _, c := range []struct{ a, m unix.Timespec }{
		{unix.Timespec{Sec: 1000, Nsec: 1}, unix.Timespec{Sec: 2000, Nsec: 999_999_999}},
		{unix.Timespec{Sec: 4_102_444_800, Nsec: 123_456_789}, unix.Timespec{Sec: 0, Nsec: 7}}, // 2100, 1970
		{unix.Timespec{Sec: 1_700_000_000, Nsec: 500_000_001}, unix.Timespec{Sec: 1_700_000_001}},
	} {
		t.Must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{c.a, c.m}, 0), "utimensat")
		t.Forget()
		st := t.Stat(p)
		Equal(t, "atime", st.Atim, c.a)
		Equal(t, "mtime", st.Mtim, c.m)
	}
	before := t.Stat(p)
	t.Must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 5, Nsec: 5}}, 0), "utimensat with UTIME_OMIT")
	st := t.Stat(p)
	Equal(t, "omitted atime", st.Atim, before.Atim)
	Equal(t, "mtime", st.Mtim, unix.Timespec{Sec: 5, Nsec: 5})
	t.Must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}, 0), "utimensat with UTIME_NOW")
	st = t.Stat(p)
	if age := time.Since(time.Unix(st.Mtim.Unix())); age < -time.Hour || age > time.Hour {
		t.Fatalf("UTIME_NOW is %v ago", age)
	}
	t.Must(os.Symlink("f", t.Path("s")), "symlink")
	t.Must(unix.UtimesNanoAt(unix.AT_FDCWD, t.Path("s"), []unix.Timespec{{Sec: 9}, {Sec: 9}}, unix.AT_SYMLINK_NOFOLLOW), "utimensat of a symlink")
	Equal(t, "mtime of the symlink", t.Stat(t.Path("s")).Mtim.Sec, 9)
	if t.Stat(p).Mtim.Sec == 9 {
		t.Fatalf("the symlink's target was touched")
	}
}

// after fails unless a time moved forward.
func (t *T) after(what string, got, before unix.Timespec) {
	if got.Nano() <= before.Nano() {
		t.Fatalf("%s did not move: %v, before %v", what, got, before)
	}
}

// tick lets the server's clock move on; file systems stamp with a clock of a few milliseconds' resolution.
func tick() { time.Sleep(20 * time.Millisecond) }

func timesOfChanges(t *T) {
	p := t.Make("f", "content")
	step := func(what string, mtime bool, change func() error) {
		before := t.Stat(p)
		tick()
		t.Must(change(), what)
		t.Forget()
		st := t.Stat(p)
		t.after("ctime after "+what, st.Ctim, before.Ctim)
		if mtime {
			t.after("mtime after "+what, st.Mtim, before.Mtim)
		} else {
			Equal(t, "mtime after "+what, st.Mtim, before.Mtim)
		}
	}
	step("write", true, func() error {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("changed")
		return errors.Join(err, f.Sync(), f.Close())
	})
	step("truncate", true, func() error { return os.Truncate(p, 3) })
	step("growing truncate", true, func() error { return os.Truncate(p, 30_000) })
	step("chmod", false, func() error { return os.Chmod(p, 0o600) })
	step("chown", false, func() error { return os.Chown(p, 3, 4) })
	step("link", false, func() error { return os.Link(p, t.Path("g")) })
	step("unlink of another name", false, func() error { return os.Remove(t.Path("g")) })
	before := t.Stat(p)
	t.Forget()
	_, err := os.ReadFile(p)
	t.Must(err, "read")
	st := t.Stat(p)
	Equal(t, "mtime after read", st.Mtim, before.Mtim)
	Equal(t, "ctime after read", st.Ctim, before.Ctim)
}

func timesOfDirectories(t *T) {
	d := t.Mkdir("d")
	other := t.Mkdir("other")
	step := func(what string, moves bool, change func() error) {
		before := t.Stat(d)
		tick()
		t.Must(change(), what)
		t.Forget()
		st := t.Stat(d)
		if moves {
			t.after("mtime of the directory after "+what, st.Mtim, before.Mtim)
			t.after("ctime of the directory after "+what, st.Ctim, before.Ctim)
		} else {
			Equal(t, "mtime of the directory after "+what, st.Mtim, before.Mtim)
		}
	}
	f := d + "/f"
	step("create", true, func() error { return os.WriteFile(f, nil, 0o644) })
	step("write to a file in it", false, func() error { return os.WriteFile(f, []byte("x"), 0o644) })
	step("mkdir", true, func() error { return os.Mkdir(d+"/sub", 0o755) })
	step("symlink", true, func() error { return os.Symlink("x", d+"/s") })
	step("mkfifo", true, func() error { return unix.Mkfifo(d+"/p", 0o644) })
	step("link", true, func() error { return os.Link(f, d+"/g") })
	step("rename inside", true, func() error { return os.Rename(d+"/g", d+"/h") })
	step("rename out", true, func() error { return os.Rename(d+"/h", other+"/h") })
	step("rename in", true, func() error { return os.Rename(other+"/h", d+"/i") })
	step("unlink", true, func() error { return os.Remove(f) })
	step("rmdir", true, func() error { return os.Remove(d + "/sub") })
	step("create in another directory", false, func() error { return os.WriteFile(other+"/x", nil, 0o644) })
}

func chmodBits(t *T) {
	p := t.Make("f", "")
	for _, mode := range []uint32{0, 0o777, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777, 0o644} {
		t.Must(unix.Chmod(p, mode), "chmod")
		t.Forget()
		Equal(t, "mode of the file", t.Stat(p).Mode, unix.S_IFREG|mode)
	}
	d := t.Mkdir("d")
	for _, mode := range []uint32{0o1777, 0o2775, 0o7777, 0o700, 0o755} {
		t.Must(unix.Chmod(d, mode), "chmod")
		t.Forget()
		Equal(t, "mode of the directory", t.Stat(d).Mode, unix.S_IFDIR|mode)
	}
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	f, err := os.OpenFile(t.Path("masked"), os.O_CREATE|os.O_WRONLY, 0o666)
	t.Must(err, "create")
	t.Must(f.Close(), "close")
	Equal(t, "mode of a file under umask 027", t.Stat(t.Path("masked")).Mode&0o7777, 0o640)
	t.Must(os.Mkdir(t.Path("masked-d"), 0o777), "mkdir")
	Equal(t, "mode of a directory under umask 027", t.Stat(t.Path("masked-d")).Mode&0o7777, 0o750)
}
