package localssd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// statusOf reads lines of a thread's status.
func statusOf(path string, keys ...string) (out []string) {
	raw, _ := os.ReadFile(path)
	for line := range strings.Lines(string(raw)) {
		for _, k := range keys {
			if v, ok := strings.CutPrefix(line, k+":"); ok {
				out = append(out, strings.Join(strings.Fields(v), " "))
			}
		}
	}
	return out
}

// What a user does is done with the user's ids, groups and without privileges, and no thread keeps any of it.
func TestIdentity(t *testing.T) {
	fs := volume(t, t.TempDir())
	before := statusOf("/proc/thread-self/status", "Uid", "Gid", "Groups", "CapEff")
	users := []*vfs.Cred{{UID: 1000, GID: 1001, Groups: []uint32{7, 2000}}, {UID: 1001, GID: 5}, {UID: 0, GID: 9}}
	want := [][]string{
		{"0 0 0 1000", "0 0 0 1001", "7 2000", "0000000000000000"},
		{"0 0 0 1001", "0 0 0 5", "", "0000000000000000"},
		{"0 0 0 0", "0 0 0 9", "", before[3]},
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 50 {
				k := (w + i) % len(users)
				err := fs.As(users[k], func() error {
					if got := statusOf("/proc/thread-self/status", "Uid", "Gid", "Groups", "CapEff"); fmt.Sprint(got) != fmt.Sprint(want[k]) {
						return fmt.Errorf("%q, want %q", got, want[k])
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal("no threads: ", err)
	}
	for _, path := range threads {
		if got := statusOf(path, "Uid", "Gid", "Groups", "CapEff"); len(got) > 0 && fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("thread %s: %q, want %q", path, got, before)
		}
	}
	if err := fs.As(users[0], func() error { return unix.EIO }); err != unix.EIO {
		t.Error(err)
	}
	// The kernel takes this id for "leave it as it is", which is root.
	for _, c := range []vfs.Cred{{UID: ^uint32(0), GID: 5}, {UID: 5, GID: ^uint32(0)}} {
		if err := fs.As(&c, func() error { t.Errorf("%+v acts", c); return nil }); vfs.KindOf(err) != vfs.KindPerm {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// Not after a panic either, which a server may survive.
	runtime.LockOSThread() // the status is that of the thread which did it
	defer runtime.UnlockOSThread()
	func() {
		defer func() {
			if p := recover(); p != "bug" {
				t.Errorf("panic %v", p)
			}
		}()
		_ = fs.As(users[0], func() error { panic("bug") })
	}()
	if got := statusOf("/proc/thread-self/status", "Uid", "Gid", "Groups", "CapEff"); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("after a panic %q, want %q", got, before)
	}
}

// The kernel decides: what a user owns, what an access list allows and what an immutable file refuses.
func TestKernelDecides(t *testing.T) {
	dir := t.TempDir()
	fs := volume(t, dir)
	ctx := t.Context()
	alice, bob := &vfs.Cred{UID: 1000, GID: 1000}, &vfs.Cred{UID: 1001, GID: 1001}
	r, err := fs.Create(ctx, alice, vfs.RootIno, "f", vfs.CreateArgs{Attr: mode(0o600)})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "data", "f")
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != 1000 || st.Gid != 1000 || st.Mode&0o7777 != 0o600 {
		t.Fatalf("uid %d, gid %d, mode %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
	if _, err := fs.Open(ctx, bob, r.Attr.Ino, vfs.OpenRead, false); vfs.KindOf(err) != vfs.KindAccess {
		t.Errorf("bob reads what is alice's: %v", err)
	}
	// A POSIX access list lets bob in, which no permission bit tells.
	acl := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 4, 1001}, {4, 0, ^uint32(0)}, {0x10, 4, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		acl = append(acl, byte(e.tag), 0, byte(e.perm), 0, byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err == unix.EOPNOTSUPP {
		t.Log("this file system has no access lists")
	} else if err != nil {
		t.Fatal(err)
	} else {
		if _, err := fs.Open(ctx, bob, r.Attr.Ino, vfs.OpenRead, false); err != nil {
			t.Errorf("bob, who is on the list: %v", err)
		} else if err := fs.Close(ctx, r.Attr.Ino, vfs.OpenRead); err != nil {
			t.Error(err)
		}
		if _, err := fs.Open(ctx, bob, r.Attr.Ino, vfs.OpenWrite, false); vfs.KindOf(err) != vfs.KindAccess {
			t.Errorf("bob, who may read, writes: %v", err)
		}
	}
}

// A process of the machine that has a lease of a file is asked to give it back, and nobody waits for that in here.
func TestLease(t *testing.T) {
	dir := t.TempDir()
	fs := volume(t, dir)
	ctx := t.Context()
	ino := create(t, fs, vfs.RootIno, "f", "content")
	if err := fs.Stop(); err != nil { // for whose own descriptors there can be no lease
		t.Fatal(err)
	}
	fs = volume(t, dir)
	local, err := os.OpenFile(filepath.Join(dir, "data", "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	lease := func(what int) error { _, err := unix.FcntlInt(local.Fd(), unix.F_SETLEASE, what); return err }
	if err := lease(unix.F_WRLCK); err != nil {
		t.Fatalf("lease: %v", err)
	}
	p := make([]byte, 10)
	for range 2 {
		if _, _, err := fs.Read(ctx, ino, 0, p); vfs.KindOf(err) != vfs.KindUnavailable {
			t.Fatalf("read: %v", err)
		}
	}
	if _, err := fs.Open(ctx, &vfs.Root, ino, vfs.OpenWrite, false); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("open: %v", err)
	}
	if _, err := fs.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: new(uint64)}, false); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("truncate: %v", err)
	}
	if to, err := unix.FcntlInt(local.Fd(), unix.F_GETLEASE, 0); err != nil || to == unix.F_WRLCK {
		t.Errorf("the process was not asked: lease %d, %v", to, err)
	}
	if err := lease(unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if n, _, err := fs.Read(ctx, ino, 0, p); err != nil || string(p[:n]) != "content" {
		t.Errorf("%q, %v", p[:n], err)
	}
}
