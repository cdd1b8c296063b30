package localssd_test

import (
	"bytes"
	"testing"

	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12 + i*7)
	}
	return b
}

func content(t *testing.T, fs *localssd.FS, ino vfs.Ino) []byte {
	t.Helper()
	a, err := fs.GetAttr(t.Context(), ino)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, a.Size)
	if n, _, err := fs.Read(t.Context(), ino, 0, p); err != nil || n != len(p) {
		t.Fatalf("%d of %d bytes, %v", n, len(p), err)
	}
	return p
}

// The kernel copies what a write would have written, with what a write changes besides.
func TestCopy(t *testing.T) { copies(t, volume(t, t.TempDir())) }

func copies(t *testing.T, fs *localssd.FS) {
	ctx := t.Context()
	data := pattern(3<<20 + 77)
	src := create(t, fs, vfs.RootIno, "src", string(data))
	dst := create(t, fs, vfs.RootIno, "dst", "")
	want := []byte(nil)
	for _, c := range []struct{ from, to, n, copied uint64 }{
		{0, 0, 4096, 4096},
		{0, 0, 1 << 40, 3<<20 + 77},     // more than there is
		{1<<20 + 5, 77, 10_000, 10_000}, // no pages
		{3<<20 + 70, 5 << 20, 100, 7},   // behind a hole
		{3<<20 + 77, 0, 10, 0},
		{1 << 40, 0, 10, 0},
	} {
		done := uint64(0)
		for done < c.n {
			k, _, err := fs.Copy(ctx, &vfs.Root, src, c.from+done, dst, c.to+done, c.n-done)
			if err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			if k == 0 {
				break
			}
			done += k
		}
		if done != c.copied {
			t.Errorf("%+v: %d bytes", c, done)
		}
		if end := int(c.to + done); done > 0 && end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		if done > 0 {
			copy(want[c.to:], data[c.from:c.from+done])
		}
		if !bytes.Equal(content(t, fs, dst), want) {
			t.Fatalf("%+v: the content is another", c)
		}
	}
	if _, err := fs.Commit(ctx, dst, 0, 0); err != nil {
		t.Fatal(err)
	}
	// Within one file.
	if k, _, err := fs.Copy(ctx, &vfs.Root, src, 0, src, 2<<20, 1<<20); err != nil || k == 0 {
		t.Errorf("within a file: %d, %v", k, err)
	}
	if _, _, err := fs.Copy(ctx, &vfs.Root, src, 0, src, 10, 1<<20); vfs.KindOf(err) != vfs.KindNotSupported {
		t.Errorf("onto itself: %v", err)
	}
	if _, _, err := fs.Copy(ctx, &vfs.Root, src, 0, dst, vfs.MaxSize, 10); vfs.KindOf(err) != vfs.KindTooBig {
		t.Errorf("beyond the largest file: %v", err)
	}
	if _, _, err := fs.Copy(ctx, &vfs.Root, src, 0, vfs.RootIno, 0, 10); vfs.KindOf(err) != vfs.KindIsDir {
		t.Errorf("into a directory: %v", err)
	}
	// Who is not root takes setuid away, and Change tells of it.
	m := uint32(0o6777)
	before, err := fs.SetAttr(ctx, &vfs.Root, dst, vfs.SetAttr{Mode: &m}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := fs.Copy(ctx, &vfs.Cred{UID: 1000, GID: 1000}, src, 0, dst, 0, 4096); err != nil {
		t.Fatal(err)
	}
	if a, err := fs.GetAttr(ctx, dst); err != nil || a.Mode != 0o777 || a.Change <= before.Change || a.Mtime.Before(before.Mtime) {
		t.Errorf("after a copy by a user: %+v, %v; before %+v", a, err, before)
	}
}
