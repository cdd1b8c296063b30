package localssd_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
)

// disk mounts a new file system of a kind, in a file, and returns where. It has size bytes.
func disk(t *testing.T, kind string, size int64, mkfs ...string) string {
	t.Helper()
	needRoot(t)
	missing := func(why string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(known), "\t"+kind+"\n") && exec.Command("modprobe", kind).Run() != nil {
		t.Skipf("this kernel has no %s", kind)
	}
	make, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		missing("no mkfs." + kind + ": run scripts/setup-test.sh")
	}
	dir := t.TempDir()
	// In memory: what is durable is the other tests' affair, and syncs of the disk of this machine would take their time.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(make, append(mkfs, image)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", make, err, out)
	}
	if out, err := exec.Command("mount", "-t", kind, "-o", "loop", image, at).CombinedOutput(); err != nil {
		missing("mount of a file (needs /dev/loop-control): " + string(out))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return at
}

// Each file system that is known, by itself: what it lacks is what its bounds say.
func TestDisks(t *testing.T) {
	both := vfstest.Bounds{XattrName: 250, NoBtime: true, LinuxLinks: true, DirSize: true, SharedSpace: true, ClonePages: true, ReadIsData: true, TornReads: true}
	xfs, btrfs := both, both
	xfs.Symlink, xfs.DevMinor, xfs.Ahead = 1023, 1<<18-1, true
	btrfs.XattrValue, btrfs.OneLink = 8000, true
	for kind, b := range map[string]vfstest.Bounds{"xfs": xfs, "btrfs": btrfs} {
		t.Run(kind, func(t *testing.T) {
			at := disk(t, kind, 1<<30)
			fs := bounded{volume(t, filepath.Join(at, "volume")), b}
			t.Run("conformance", func(t *testing.T) { vfstest.Run(t, func(*testing.T) vfs.FS { return fs }) })
			if os.Getenv("RACKFS_TEST_LONG") == "1" {
				t.Run("model", func(t *testing.T) { vfstest.Model(t, fs) })
			}
			t.Run("copy", func(t *testing.T) { copies(t, fs.FS) })
			t.Run("shared", func(t *testing.T) { shares(t, fs.FS) })
			t.Run("forged", func(t *testing.T) {
				base := filepath.Join(at, "forged")
				if err := os.Mkdir(base, 0o755); err != nil {
					t.Fatal(err)
				}
				forged(t, base)
			})
			t.Run("restart", func(t *testing.T) { restarts(t, filepath.Join(at, "restart")) })
		})
	}
}

// shares checks that a clone takes no space.
func shares(t *testing.T, fs *localssd.FS) {
	const size = 16 << 20
	ctx := t.Context()
	src, dst := create(t, fs, vfs.RootIno, "original", string(pattern(size))), create(t, fs, vfs.RootIno, "clone", "")
	free := func() uint64 {
		if _, err := fs.Commit(ctx, dst, 0, 0); err != nil {
			t.Fatal(err)
		}
		st, err := fs.StatFS(ctx, vfs.RootIno)
		if err != nil {
			t.Fatal(err)
		}
		return st.FreeBytes
	}
	before := free()
	if err := fs.Clone(ctx, &vfs.Cred{UID: 1000, GID: 1000}, src, 0, dst, 0, 0); err != nil {
		t.Fatal(err)
	}
	if after := free(); after+size/2 < before {
		t.Errorf("a clone of %d bytes took %d", size, before-after)
	}
	if !bytes.Equal(content(t, fs, dst), content(t, fs, src)) {
		t.Error("the clone differs")
	}
}

// A limit of the disk's is told as what it is: there is space, but not for this.
func TestQuotaOfTheDisk(t *testing.T) {
	at := disk(t, "btrfs", 1<<30)
	for _, args := range [][]string{{"subvolume", "create", at + "/s"}, {"quota", "enable", at}, {"qgroup", "limit", "16M", at + "/s"}} {
		if out, err := exec.Command("btrfs", args...).CombinedOutput(); err != nil {
			t.Fatalf("btrfs %q: %v\n%s", args, err, out)
		}
	}
	fs := volume(t, at+"/s/volume")
	ctx := t.Context()
	st, err := fs.StatFS(ctx, vfs.RootIno)
	if err != nil || st.AvailBytes < 100<<20 {
		t.Fatalf("%+v, %v", st, err)
	}
	overflow(t, fs, vfs.KindQuota)
}

// A disk that is full says so, and goes on when there is space again.
func TestFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	fs := volume(t, filepath.Join(dir, "volume"))
	for range 2 {
		overflow(t, fs, vfs.KindNoSpace)
		if _, err := fs.Remove(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
			t.Fatalf("a removal while it is full: %v", err)
		}
	}
}

// overflow writes as a user until there is no more room, of which there are about 16 MiB.
func overflow(t *testing.T, fs *localssd.FS, want vfs.Kind) {
	ctx, alice := t.Context(), &vfs.Cred{UID: 1000, GID: 1000}
	r, err := fs.Create(ctx, alice, vfs.RootIno, "f", vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: mode(0o644)})
	if err != nil {
		t.Fatal(err)
	}
	piece, f := pattern(1<<20), r.Attr.Ino
	wrote := uint64(0)
	for err = nil; err == nil && wrote < 64<<20; {
		_, _, err = fs.Write(ctx, alice, f, wrote, piece, vfs.FileSync)
		var short *vfs.ShortWrite
		switch {
		case errors.As(err, &short):
			wrote += uint64(short.N)
		case err == nil:
			wrote += uint64(len(piece))
		}
	}
	if vfs.KindOf(err) != want || wrote < 8<<20 {
		t.Fatalf("after %d bytes: %v, want %v", wrote, err, want)
	}
	if err := fs.Allocate(ctx, alice, f, wrote, 32<<20); vfs.KindOf(err) != want {
		t.Errorf("allocate: %v, want %v", err, want)
	}
	if got := content(t, fs, f); uint64(len(got)) < wrote || !bytes.Equal(got[:1<<20], piece) {
		t.Errorf("%d bytes are there of %d", len(got), wrote)
	}
}
