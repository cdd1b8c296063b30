package localssd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
)

func reopen(t *testing.T, fs *localssd.FS, dir string, o localssd.Options) *localssd.FS {
	t.Helper()
	if fs != nil {
		if err := fs.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := localssd.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func change(t *testing.T, fs *localssd.FS, ino vfs.Ino) uint64 {
	t.Helper()
	a, err := fs.GetAttr(t.Context(), ino)
	if err != nil {
		t.Fatal(err)
	}
	return a.Change
}

// Inode numbers mean the same after a restart, whatever the files are called by then, and Change never repeats.
func TestRestart(t *testing.T) { restarts(t, t.TempDir()) }

func restarts(t *testing.T, dir string) {
	needRoot(t)
	fs := reopen(t, nil, dir, localssd.Options{})
	ctx := t.Context()
	sub := mkdir(t, fs, vfs.RootIno, "sub")
	f := create(t, fs, sub, "f", "content")
	told := map[uint64]string{}
	last := uint64(0)
	for i := range 300 { // many within one step of the clock
		content := fmt.Sprintf("%07d", i)
		if _, _, err := fs.Write(ctx, &vfs.Root, f, 0, []byte(content), vfs.Unstable); err != nil {
			t.Fatal(err)
		}
		c := change(t, fs, f)
		if was, twice := told[c]; twice || c <= last {
			t.Fatalf("change %d of %q, after %d, told of %q before", c, content, last, was)
		}
		told[c], last = content, c
	}
	if _, _, err := fs.Rename(ctx, &vfs.Root, sub, "f", vfs.RootIno, "g"); err != nil {
		t.Fatal(err)
	}
	last = change(t, fs, f)
	fs = reopen(t, fs, dir, localssd.Options{})
	p := make([]byte, 100)
	if n, eof, err := fs.Read(ctx, f, 0, p); err != nil || !eof || string(p[:n]) != "0000299" {
		t.Fatalf("%q, %v, %v", p[:n], eof, err)
	}
	first := change(t, fs, f)
	if first < last {
		t.Fatalf("change went back from %d to %d", last, first)
	}
	fs = reopen(t, fs, dir, localssd.Options{})
	if c := change(t, fs, f); c != first {
		t.Fatalf("change went from %d to %d over a restart, and nothing happened", first, c)
	}
	if _, _, err := fs.Write(ctx, &vfs.Root, f, 0, []byte("x"), vfs.FileSync); err != nil {
		t.Fatal(err)
	}
	if c := change(t, fs, f); c <= first {
		t.Fatalf("change %d after %d", c, first)
	}
	if a, err := fs.Lookup(ctx, &vfs.Root, vfs.RootIno, "g"); err != nil || a.Ino != f {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := fs.Stop(); err != nil {
		t.Fatal(err)
	}
}

// An exclusive create is known again by its verifier.
func TestVerifierOutlivesRestart(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	fs := reopen(t, nil, dir, localssd.Options{})
	args := vfs.CreateArgs{Exclusive: vfs.ByVerifier, Verifier: [8]byte{1, 2, 3}}
	r, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, "f", args)
	if err != nil {
		t.Fatal(err)
	}
	fs = reopen(t, fs, dir, localssd.Options{})
	defer fs.Stop()
	again, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, "f", args)
	if err != nil || again.New || again.Attr.Ino != r.Attr.Ino {
		t.Fatalf("%+v, %v", again, err)
	}
	args.Verifier[0]++
	if _, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, "f", args); vfs.KindOf(err) != vfs.KindExists {
		t.Fatal(err)
	}
}

// TestExclusiveCreateOfADirectory beside renames out of that directory: neither waits for the other for ever, whatever order the two directories have.
func TestExclusiveCreateOfADirectory(t *testing.T) {
	fs := volume(t, t.TempDir())
	mode := uint32(0o755)
	mkdir := func(dir vfs.Ino, name string) vfs.Ino {
		r, err := fs.MakeNode(t.Context(), &vfs.Root, dir, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Attr.Ino
	}
	parent := mkdir(vfs.RootIno, "p")
	low, high, name := mkdir(parent, "a"), mkdir(parent, "b"), "a"
	if low > high {
		low, high, name = high, low, "b"
	}
	if _, _, err := fs.Rename(t.Context(), &vfs.Root, parent, name, high, "sub"); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	const times = 20000
	both.Go(func() {
		for range times {
			if _, err := fs.Create(t.Context(), &vfs.Root, high, "sub", vfs.CreateArgs{Exclusive: vfs.ByVerifier, Verifier: [8]byte{1}}); vfs.KindOf(err) != vfs.KindExists {
				t.Errorf("create: %v", err)
				return
			}
		}
	})
	both.Go(func() {
		for range times {
			if _, _, err := fs.Rename(t.Context(), &vfs.Root, low, "none", high, "y"); vfs.KindOf(err) != vfs.KindNotFound {
				t.Errorf("rename: %v", err)
				return
			}
		}
	})
	done := make(chan struct{})
	go func() { both.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatal("they wait for one another")
	}
}

// A bound on descriptors is no bound on files.
func TestDescriptors(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	const bound, files = 8, 100
	fs := reopen(t, nil, dir, localssd.Options{Descriptors: bound})
	defer fs.Stop()
	ctx := t.Context()
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, d := range fds {
			if target, err := os.Readlink(filepath.Join("/proc/self/fd", d.Name())); err == nil && strings.HasPrefix(target, dir) {
				n++
			}
		}
		return n
	}
	var inos []vfs.Ino
	for i := range files {
		ino := create(t, fs, vfs.RootIno, fmt.Sprint(i), fmt.Sprint("content ", i))
		if _, err := fs.Open(ctx, &vfs.Root, ino, vfs.OpenRead|vfs.OpenWrite, false); err != nil {
			t.Fatal(err)
		}
		inos = append(inos, ino)
	}
	if n := open(); n > 3*bound+8 {
		t.Errorf("%d descriptors for %d files, the bound is %d inodes", n, files, bound)
	}
	// Those that are open and lose their names stay, with a descriptor.
	for i, ino := range inos {
		if i%2 == 0 {
			if _, err := fs.Remove(ctx, &vfs.Root, vfs.RootIno, fmt.Sprint(i), vfs.RemoveAny); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := fs.Write(ctx, &vfs.Root, ino, 0, []byte("C"), vfs.Unstable); err != nil {
			t.Fatal(err)
		}
	}
	for i, ino := range inos {
		p := make([]byte, 100)
		n, _, err := fs.Read(ctx, ino, 0, p)
		if want := fmt.Sprint("Content ", i); err != nil || string(p[:n]) != want {
			t.Fatalf("file %d: %q, %v", i, p[:n], err)
		}
		if err := fs.Close(ctx, ino, vfs.OpenRead|vfs.OpenWrite); err != nil {
			t.Fatal(err)
		}
		if _, err := fs.GetAttr(ctx, ino); (vfs.KindOf(err) == vfs.KindStale) != (i%2 == 0) {
			t.Fatalf("file %d after its last close: %v", i, err)
		}
	}
	if n := open(); n > 3*bound+8 {
		t.Errorf("%d descriptors are left", n)
	}
}

// Only one process serves a volume, and only a volume is served.
func TestOpenRefuses(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	fs := reopen(t, nil, dir, localssd.Options{})
	if _, err := localssd.Open(dir, localssd.Options{}); vfs.KindOf(err) != vfs.KindBusy {
		t.Errorf("a second one: %v", err)
	}
	if err := fs.Stop(); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]vfs.Kind{
		"": vfs.KindCorrupt, "{}": vfs.KindCorrupt, `{"magic":"rackfs-local-volume","format":1,"id":"AAAA"}`: vfs.KindCorrupt,
		`{"magic":"rackfs-local-volume","format":2}`: vfs.KindIncompatible,
	} {
		if err := os.WriteFile(filepath.Join(dir, "VOLUME"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := localssd.Open(dir, localssd.Options{}); vfs.KindOf(err) != want {
			t.Errorf("%q: %v, want %v", content, err, want)
		}
	}
}

// Changes of names are synced before they return, unless they need not be; what is written is in any case.
func TestLazyNames(t *testing.T) {
	needRoot(t)
	for _, lazy := range []bool{false, true} {
		fs := reopen(t, nil, t.TempDir(), localssd.Options{LazyNames: lazy})
		ctx := t.Context()
		synced := func(what string, want bool, do func() error) {
			t.Helper()
			before := fs.Syncs()
			if err := do(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := fs.Syncs() > before; got != want {
				t.Errorf("%s, lazy %v: synced %v", what, lazy, got)
			}
		}
		var f vfs.Ino
		synced("create", !lazy, func() error {
			r, err := fs.Create(ctx, &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: mode(0o644)})
			f = r.Attr.Ino
			return err
		})
		synced("mkdir", !lazy, func() error {
			_, err := fs.MakeNode(ctx, &vfs.Root, vfs.RootIno, "d", vfs.NodeArgs{Type: vfs.TypeDir, Attr: mode(0o755)})
			return err
		})
		synced("symlink", !lazy, func() error {
			_, err := fs.MakeNode(ctx, &vfs.Root, vfs.RootIno, "l", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: "f"})
			return err
		})
		synced("link", !lazy, func() error { _, _, err := fs.Link(ctx, &vfs.Root, f, vfs.RootIno, "g"); return err })
		synced("rename", !lazy, func() error {
			_, _, err := fs.Rename(ctx, &vfs.Root, vfs.RootIno, "g", vfs.RootIno, "h")
			return err
		})
		synced("remove", !lazy, func() error { _, err := fs.Remove(ctx, &vfs.Root, vfs.RootIno, "h", vfs.RemoveAny); return err })
		synced("setattr", !lazy, func() error { _, err := fs.SetAttr(ctx, &vfs.Root, f, mode(0o600), false); return err })
		synced("allocate", true, func() error { return fs.Allocate(ctx, &vfs.Root, f, 0, 4096) })
		synced("commit", true, func() error { _, err := fs.Commit(ctx, f, 0, 0); return err })
		if err := fs.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
