//go:build linux

package posix

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Identities of the permission checks. None needs to exist in any user database.
var (
	alice = User{UID: 12345, GID: 2000, Groups: []int{3000}}
	bob   = User{UID: 12346, GID: 2001}
)

func permissionChecks() []Check {
	return []Check{
		{"owner-of-new-files", ownerOfNewFiles},
		{"read-write-execute", readWriteExecute},
		{"directory-permissions", directoryPermissions},
		{"chmod-chown-rules", chmodChownRules},
		{"sticky-directory", stickyDirectory},
		{"setgid-directory", setgidDirectory},
		{"setuid-is-cleared", setuidIsCleared},
		{"utimes-rules", utimesRules},
		{"execute", execute},
	}
}

func readFile(p string) func() error {
	return func() error { _, err := os.ReadFile(p); return err }
}

func openWrite(p string) func() error {
	return func() error {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("w"), 0)
		return errors.Join(err, f.Close())
	}
}

func create(p string) func() error {
	return func() error { return os.WriteFile(p, []byte("new"), 0o644) }
}

// open makes the check's directory writable for everybody.
func (t *T) open() { t.Must(os.Chmod(t.Dir, 0o777), "chmod 0777") }

func ownerOfNewFiles(t *T) {
	t.open()
	t.Must(t.As(alice, func() error {
		return errors.Join(create(t.Path("f"))(), os.Mkdir(t.Path("d"), 0o755), os.Symlink("f", t.Path("s")), unix.Mkfifo(t.Path("p"), 0o600))
	}), "create as alice")
	t.Forget()
	for _, name := range []string{"f", "d", "s", "p"} {
		st := t.Stat(t.Path(name))
		Equal(t, "owner of "+name, st.Uid, uint32(alice.UID))
		Equal(t, "group of "+name, st.Gid, uint32(alice.GID))
	}
}

func readWriteExecute(t *T) {
	type tc struct {
		mode        uint32
		uid, gid    int
		who         User
		read, write bool
	}
	p := t.Make("f", "secret")
	for _, c := range []tc{
		{0o600, 0, 0, alice, false, false},
		{0o644, 0, 0, alice, true, false},
		{0o646, 0, 0, alice, true, true},
		{0o600, alice.UID, 0, alice, true, true},
		{0o400, alice.UID, 0, alice, true, false},
		{0o040, 0, alice.GID, alice, true, false},
		{0o060, 0, 3000, alice, true, true}, // by a supplementary group
		{0o060, 0, 3000, bob, false, false},
		{0o066, alice.UID, 0, alice, false, false}, // the owner's bits decide, even if others have more
		{0o606, 0, alice.GID, alice, false, false}, // the group's likewise
		{0o000, alice.UID, alice.GID, User{}, true, true},
	} {
		t.Must(os.Chown(p, c.uid, c.gid), "chown")
		t.Must(unix.Chmod(p, c.mode), "chmod")
		expect := func(what string, ok bool, err error) {
			if ok {
				t.Must(err, what)
			} else {
				t.Want(err, what, unix.EACCES)
			}
		}
		what := func(op string) string {
			return fmt.Sprintf("%s by %d of mode %04o, owner %d:%d", op, c.who.UID, c.mode, c.uid, c.gid)
		}
		expect(what("read"), c.read, t.As(c.who, readFile(p)))
		expect(what("write"), c.write, t.As(c.who, openWrite(p)))
		expect(what("access R"), c.read, t.As(c.who, func() error { return unix.Access(p, unix.R_OK) }))
		expect(what("access W"), c.write, t.As(c.who, func() error { return unix.Access(p, unix.W_OK) }))
		expect(what("truncate"), c.write, t.As(c.who, func() error { return os.Truncate(p, 6) }))
	}
	// Rights are checked at open: a descriptor keeps working after chmod.
	t.Must(os.Chown(p, alice.UID, alice.GID), "chown")
	t.Must(unix.Chmod(p, 0o600), "chmod")
	t.Must(t.As(alice, func() error {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := unix.Chmod(p, 0); err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("kept"), 0)
		return errors.Join(err, f.Sync(), f.Close())
	}), "write by the owner through a descriptor after chmod 0")
}

func directoryPermissions(t *T) {
	d := t.Mkdir("d")
	t.Make("d/f", "x")
	t.Must(unix.Chmod(d, 0o700), "chmod")
	t.Want(t.As(alice, readFile(d+"/f")), "read below a closed directory", unix.EACCES)
	t.Must(unix.Chmod(d, 0o711), "chmod")
	t.Must(t.As(alice, readFile(d+"/f")), "read below a directory with only x")
	t.Want(t.As(alice, func() error { _, err := os.ReadDir(d); return err }), "list of a directory with only x", unix.EACCES)
	t.Must(unix.Chmod(d, 0o744), "chmod")
	t.Want(t.As(alice, readFile(d+"/f")), "read below a directory without x", unix.EACCES)
	t.Must(unix.Chmod(d, 0o755), "chmod")
	for what, f := range map[string]func() error{
		"create":  create(d + "/n"),
		"mkdir":   func() error { return os.Mkdir(d+"/n", 0o755) },
		"symlink": func() error { return os.Symlink("x", d+"/n") },
		"mkfifo":  func() error { return unix.Mkfifo(d+"/n", 0o644) },
		"unlink":  func() error { return unix.Unlink(d + "/f") },
		"rename":  func() error { return os.Rename(d+"/f", d+"/g") },
	} {
		t.Want(t.As(alice, f), what+" in a directory without w", unix.EACCES)
	}
	t.Must(unix.Chmod(d, 0o777), "chmod")
	t.Must(t.As(alice, func() error { return unix.Unlink(d + "/f") }), "unlink of root's file in an open directory")
}

func chmodChownRules(t *T) {
	p := t.Make("f", "x")
	t.Want(t.As(alice, func() error { return unix.Chmod(p, 0o777) }), "chmod by another", unix.EPERM)
	t.Want(t.As(alice, func() error { return os.Chown(p, alice.UID, -1) }), "chown by another", unix.EPERM)
	t.Must(os.Chown(p, alice.UID, alice.GID), "chown by root")
	t.Must(t.As(alice, func() error { return unix.Chmod(p, 0o640) }), "chmod by the owner")
	t.Want(t.As(alice, func() error { return os.Chown(p, bob.UID, -1) }), "giving a file away", unix.EPERM)
	t.Must(t.As(alice, func() error { return os.Chown(p, -1, 3000) }), "chgrp to a group of the owner's")
	t.Want(t.As(alice, func() error { return os.Chown(p, -1, bob.GID) }), "chgrp to a foreign group", unix.EPERM)
	// setgid of a foreign group is dropped silently.
	t.Must(os.Chown(p, alice.UID, bob.GID), "chown by root")
	t.Must(t.As(alice, func() error { return unix.Chmod(p, 0o2755) }), "chmod 2755 by the owner")
	Equal(t, "mode after setgid of a foreign group", t.Stat(p).Mode&0o7777, 0o755)
	t.Forget()
	st := t.Stat(p)
	Equal(t, "owner", st.Uid, uint32(alice.UID))
	Equal(t, "group", st.Gid, uint32(bob.GID))
}

func stickyDirectory(t *T) {
	d := t.Mkdir("tmp")
	t.Must(unix.Chmod(d, 0o1777), "chmod 1777")
	t.Must(t.As(alice, create(d+"/a")), "create")
	t.Must(t.As(alice, func() error { return os.Mkdir(d+"/dir", 0o777) }), "mkdir")
	t.Must(t.As(bob, create(d+"/b")), "create")
	for what, f := range map[string]func() error{
		"unlink":                func() error { return unix.Unlink(d + "/a") },
		"rmdir":                 func() error { return unix.Rmdir(d + "/dir") },
		"rename":                func() error { return unix.Rename(d+"/a", d+"/mine") },
		"rename over":           func() error { return unix.Rename(d+"/b", d+"/a") },
		"rename of a directory": func() error { return unix.Rename(d+"/dir", d+"/mine") },
	} {
		t.Want(t.As(bob, f), what+" of another's file in a sticky directory", unix.EPERM, unix.EACCES)
	}
	t.Must(t.As(alice, func() error { return unix.Rename(d+"/a", d+"/a2") }), "rename of an own file")
	t.Must(t.As(alice, func() error { return unix.Unlink(d + "/a2") }), "unlink of an own file")
	t.Must(os.Chown(d, bob.UID, bob.GID), "chown")
	t.Must(t.As(bob, func() error { return unix.Rmdir(d + "/dir") }), "rmdir by the owner of the sticky directory")
}

func setgidDirectory(t *T) {
	d := t.Mkdir("shared")
	t.Must(os.Chown(d, 0, 3000), "chown")
	t.Must(unix.Chmod(d, 0o2777), "chmod 2777")
	t.Must(t.As(alice, func() error { return errors.Join(create(d+"/f")(), os.Mkdir(d+"/sub", 0o755)) }), "create")
	t.Forget()
	Equal(t, "group of a new file", t.Stat(d+"/f").Gid, 3000)
	sub := t.Stat(d + "/sub")
	Equal(t, "group of a new directory", sub.Gid, 3000)
	Equal(t, "setgid of a new directory", sub.Mode&unix.S_ISGID, unix.S_ISGID)
}

func setuidIsCleared(t *T) {
	p := t.Make("f", "program")
	t.Must(os.Chown(p, alice.UID, alice.GID), "chown")
	t.Must(unix.Chmod(p, 0o6777), "chmod 6777")
	t.Must(t.As(bob, openWrite(p)), "write by another user")
	t.Forget()
	Equal(t, "mode after a write by another user", t.Stat(p).Mode&0o7777, 0o777)
	t.Must(unix.Chmod(p, 0o4755), "chmod 4755")
	t.Must(os.Chown(p, bob.UID, -1), "chown")
	t.Forget()
	Equal(t, "mode after chown", t.Stat(p).Mode&0o7777, 0o755)
	t.Must(unix.Chmod(p, 0o4777), "chmod 4777")
	t.Must(t.As(alice, func() error { return os.Truncate(p, 1) }), "truncate by another user")
	t.Forget()
	Equal(t, "mode after a truncate by another user", t.Stat(p).Mode&0o7777, 0o777)
}

func utimesRules(t *T) {
	p := t.Make("f", "x")
	touch := func(ts []unix.Timespec) func() error {
		return func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, 0) }
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	past := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	t.Must(unix.Chmod(p, 0o644), "chmod")
	t.Want(t.As(alice, touch(now)), "touch without write permission", unix.EACCES)
	t.Want(t.As(alice, touch(past)), "setting times of another's file", unix.EPERM)
	t.Must(unix.Chmod(p, 0o666), "chmod")
	t.Must(t.As(alice, touch(now)), "touch with write permission")
	t.Want(t.As(alice, touch(past)), "setting times of another's writable file", unix.EPERM)
	t.Must(os.Chown(p, alice.UID, -1), "chown")
	t.Must(t.As(alice, touch(past)), "setting times of an own file")
}

func execute(t *T) {
	p := t.Make("script", "#!/bin/sh\nexit 7\n")
	run := func() error { return exec.Command(p).Run() }
	t.Want(run(), "execution of mode 0644", unix.EACCES)
	t.Must(unix.Chmod(p, 0o755), "chmod")
	err := run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("script: %v, want exit status 7", err)
	}
	t.Must(unix.Chmod(p, 0o700), "chmod")
	c := exec.Command(p)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(alice.UID), Gid: uint32(alice.GID)}}
	t.Want(c.Run(), "execution of another's file", unix.EACCES)
	// Execute permission without read permission is enough to run a program; /bin/true needs no script interpreter.
	b, err := os.ReadFile("/bin/true")
	t.Must(err, "read /bin/true")
	bin := t.Path("true")
	t.Must(os.WriteFile(bin, b, 0o755), "copy a program")
	t.Must(unix.Chmod(bin, 0o711), "chmod")
	c = exec.Command(bin)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(alice.UID), Gid: uint32(alice.GID)}}
	t.Must(c.Run(), "execution of a program without read permission")
}
