package localssd_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
)

func mode(m uint32) vfs.SetAttr { return vfs.SetAttr{Mode: &m} }

func create(t testing.TB, fs *localssd.FS, dir vfs.Ino, name, content string) vfs.Ino {
	t.Helper()
	r, err := fs.Create(t.Context(), &vfs.Root, dir, name, vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: mode(0o644)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := fs.Write(t.Context(), &vfs.Root, r.Attr.Ino, 0, []byte(content), vfs.FileSync); err != nil {
		t.Fatal(err)
	}
	return r.Attr.Ino
}

func mkdir(t testing.TB, fs *localssd.FS, dir vfs.Ino, name string) vfs.Ino {
	t.Helper()
	r, err := fs.MakeNode(t.Context(), &vfs.Root, dir, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: mode(0o755)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Attr.Ino
}

// refused checks that an inode number cannot be used for anything.
func refused(t *testing.T, fs *localssd.FS, what string, ino vfs.Ino) {
	t.Helper()
	ctx := t.Context()
	all := map[string]error{}
	_, all["getattr"] = fs.GetAttr(ctx, ino)
	n, _, err := fs.Read(ctx, ino, 0, make([]byte, 100))
	if all["read"] = err; n > 0 {
		t.Errorf("%s: %d bytes were read", what, n)
	}
	_, _, all["write"] = fs.Write(ctx, &vfs.Root, ino, 0, []byte("x"), vfs.FileSync)
	_, all["open"] = fs.Open(ctx, &vfs.Root, ino, vfs.OpenRead, true)
	_, all["lookup"] = fs.Lookup(ctx, &vfs.Root, ino, "f")
	_, all["readdir"] = fs.ReadDir(ctx, &vfs.Root, ino, 0, 10, true)
	_, all["parent"] = fs.Parent(ctx, &vfs.Root, ino)
	_, all["readlink"] = fs.ReadLink(ctx, ino)
	_, all["setattr"] = fs.SetAttr(ctx, &vfs.Root, ino, mode(0o777), true)
	_, _, all["link"] = fs.Link(ctx, &vfs.Root, ino, vfs.RootIno, "stolen")
	_, all["create"] = fs.Create(ctx, &vfs.Root, ino, "x", vfs.CreateArgs{})
	_, all["getxattr"] = fs.GetXattr(ctx, &vfs.Root, ino, "a")
	for op, err := range all {
		if vfs.KindOf(err) != vfs.KindStale {
			t.Errorf("%s: %s: %v, want stale", what, op, err)
		}
	}
}

// dirFD is a descriptor of a directory.
func dirFD(t testing.TB, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// Inode numbers that no reply ever gave, as a client would send them that knew the key of handles: nothing is found by them.
func TestForgedInodes(t *testing.T) { forged(t, t.TempDir()) }

func forged(t *testing.T, base string) {
	dir := filepath.Join(base, "volume")
	fs := volume(t, dir)
	other := volume(t, filepath.Join(base, "other"))
	mine := create(t, fs, vfs.RootIno, "f", "mine")
	if err := os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("secret", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	of := func(path string) vfs.Ino {
		ino, err := fs.InoOf(dirFD(t, filepath.Dir(path)), filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		return ino
	}
	for _, path := range []string{
		base, dir, filepath.Join(base, "secret"), filepath.Join(base, "link"), filepath.Join(dir, "VOLUME"), filepath.Join(dir, "lock"),
		filepath.Join(base, "other"), filepath.Join(base, "other", "data"), "/etc/passwd", "/etc",
	} {
		var st, here unix.Stat_t
		if unix.Stat(path, &st) != nil || unix.Stat(dir, &here) != nil || st.Dev != here.Dev {
			continue // of another file system there is no such number
		}
		refused(t, fs, path, of(path))
	}
	refused(t, fs, "a file of another volume on the same disk", create(t, other, vfs.RootIno, "f", "theirs"))

	alias, err := fs.RootAlias()
	if err != nil || alias == vfs.RootIno {
		t.Fatal(alias, err)
	}
	refused(t, fs, "the root by the number that it would have elsewhere", alias)
	refused(t, fs, "generation 0", mine&^0xffffffff)
	refused(t, fs, "another generation", mine^1)
	refused(t, fs, "zero", 0)
	refused(t, fs, "no inode number", 7)
	for range 2000 {
		ino := vfs.Ino(rand.Uint64())
		if rand.IntN(2) == 0 {
			ino = mine&^0xffffffff + vfs.Ino(rand.IntN(1<<20))<<32 + vfs.Ino(rand.Uint32())
		}
		if _, err := fs.GetAttr(t.Context(), ino); vfs.KindOf(err) != vfs.KindStale {
			t.Fatalf("inode %#x: %v", ino, err)
		}
	}

	gone := create(t, fs, vfs.RootIno, "gone", "x")
	if _, err := fs.Remove(t.Context(), &vfs.Root, vfs.RootIno, "gone", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	refused(t, fs, "a deleted file", gone)
	// Its place is taken by others soon.
	for _, name := range []string{"a", "b", "c", "d"} {
		if ino := create(t, fs, vfs.RootIno, name, name); ino == gone {
			t.Fatal("an inode number came twice")
		}
	}
	refused(t, fs, "a deleted file whose number may be used again", gone)
	page, err := fs.ReadDir(t.Context(), &vfs.Root, vfs.RootIno, 0, 100, false)
	if err != nil || slices.ContainsFunc(page.Entries, func(e vfs.Dirent) bool { return e.Name == "stolen" }) {
		t.Fatalf("%v, %v", page.Entries, err)
	}
}

// Names lead to what lies in the directory and nowhere else.
func TestNamesStayInside(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "volume")
	fs := volume(t, dir)
	if err := os.Mkdir(filepath.Join(base, "outside"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "outside", "f"), []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, target := range []string{filepath.Join(base, "outside"), "../../outside", "/", ".."} {
		r, err := fs.MakeNode(ctx, &vfs.Root, vfs.RootIno, "link", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: target})
		if err != nil {
			t.Fatal(err)
		}
		// The link is an object; nobody here follows it.
		if a, err := fs.Lookup(ctx, &vfs.Root, vfs.RootIno, "link"); err != nil || a.Type != vfs.TypeSymlink {
			t.Fatalf("%+v, %v", a, err)
		}
		if _, err := fs.Lookup(ctx, &vfs.Root, r.Attr.Ino, "f"); vfs.KindOf(err) != vfs.KindNotDir {
			t.Errorf("a name behind a link to %s: %v", target, err)
		}
		if _, err := fs.Create(ctx, &vfs.Root, r.Attr.Ino, "g", vfs.CreateArgs{}); vfs.KindOf(err) != vfs.KindNotDir {
			t.Errorf("create behind a link to %s: %v", target, err)
		}
		if _, err := fs.Create(ctx, &vfs.Root, vfs.RootIno, "link", vfs.CreateArgs{Open: vfs.OpenRead}); vfs.KindOf(err) != vfs.KindWrongType {
			t.Errorf("create of a link to %s: %v", target, err)
		}
		if _, err := fs.ReadDir(ctx, &vfs.Root, r.Attr.Ino, 0, 10, true); vfs.KindOf(err) != vfs.KindNotDir {
			t.Errorf("list of a link to %s: %v", target, err)
		}
		if _, err := fs.Remove(ctx, &vfs.Root, vfs.RootIno, "link", vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"..", ".", "../outside", "a/../../outside", "/etc", ""} {
		if _, err := fs.Lookup(ctx, &vfs.Root, vfs.RootIno, name); vfs.KindOf(err) != vfs.KindBadName {
			t.Errorf("%q: %v", name, err)
		}
	}
	if up, err := fs.Parent(ctx, &vfs.Root, vfs.RootIno); err != nil || up.Ino != vfs.RootIno {
		t.Errorf("the root's parent: %+v, %v", up, err)
	}
	// A directory that an administrator moves out is not followed, whether it was in use or not, and nor is what lies in it.
	sub := mkdir(t, fs, vfs.RootIno, "sub")
	deep := mkdir(t, fs, sub, "deep")
	if err := os.Rename(filepath.Join(dir, "data", "sub"), filepath.Join(base, "outside", "sub")); err != nil {
		t.Fatal(err)
	}
	if a, err := fs.Parent(ctx, &vfs.Root, sub); vfs.KindOf(err) != vfs.KindStale {
		t.Errorf("the parent of a directory that was moved out: %+v, %v", a, err)
	}
	if err := fs.Stop(); err != nil {
		t.Fatal(err)
	}
	again, err := localssd.Open(dir, localssd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	refused(t, again, "a directory that was moved out", sub)
	refused(t, again, "a directory below one that was moved out", deep)
}

// What is mounted inside belongs to somebody else.
func TestMountsInside(t *testing.T) {
	dir := t.TempDir()
	fs := volume(t, dir)
	mkdir(t, fs, vfs.RootIno, "m")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "data", "m")
	// A bind mount of the same file system: device and handles say nothing.
	if err := unix.Mount(outside, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind mount: %v", err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	ctx := context.Background()
	if a, err := fs.Lookup(ctx, &vfs.Root, vfs.RootIno, "m"); vfs.KindOf(err) != vfs.KindAccess {
		t.Errorf("lookup: %+v, %v", a, err)
	}
	page, err := fs.ReadDir(ctx, &vfs.Root, vfs.RootIno, 0, 10, true)
	if err != nil || len(page.Entries) != 0 {
		t.Errorf("listed %+v, %v", page.Entries, err)
	}
	ino, err := fs.InoOf(dirFD(t, at), "f")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, fs, "a file of the mounted directory", ino)
	if _, err := fs.Remove(ctx, &vfs.Root, vfs.RootIno, "m", vfs.RemoveAny); vfs.KindOf(err) != vfs.KindBusy {
		t.Errorf("removal of what is mounted: %v", err)
	}
	if _, _, err := fs.Rename(ctx, &vfs.Root, vfs.RootIno, "m", vfs.RootIno, "n"); vfs.KindOf(err) != vfs.KindBusy {
		t.Errorf("renaming of what is mounted: %v", err)
	}
}
