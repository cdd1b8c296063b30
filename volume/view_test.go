package volume_test

import (
	"bytes"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// lent asks for n bytes that must be lent, and returns them as they lie in the cache.
func lent(t *testing.T, c *crashing, f vfs.Ino, off uint64, n int) vfs.View {
	t.Helper()
	p := make([]byte, n)
	w, err := c.volume().View(ctx, f, off, p)
	if err != nil {
		t.Fatal(err)
	}
	if w.Lent == nil || w.N != n {
		t.Fatalf("%d bytes at %d of a cached stream: %d are read, lent %v", n, off, w.N, w.Lent != nil)
	}
	if !bytes.Equal(p, make([]byte, n)) {
		t.Fatal("bytes are lent and copied too")
	}
	return w
}

func joined(parts [][]byte) []byte { return bytes.Join(parts, nil) }

// TestLoansStay: what is lent does not change until it is given back, though its file is overwritten and removed and the cache is filled with other
// bytes many times over; and it is not kept for longer.
func TestLoansStay(t *testing.T) {
	const limit = 4 << 20
	c := newCrashing(t, volume.Config{CacheLimitBytes: limit})
	f, data := bigFile(t, c, 24<<20)
	for off := 0; off < 3<<20; off += 256 << 10 {
		read(t, c, f, uint64(off), 256<<10)
	}
	at := []int{0, 1<<20 - 64<<10, 2 << 20} // within a unit, of two units, after them
	var views []vfs.View
	for _, off := range at {
		views = append(views, lent(t, c, f, uint64(off), 128<<10))
	}
	other := bytes.Repeat([]byte{0xAB}, 1<<20)
	for range 2 {
		for off := 0; off < len(data); off += 1 << 20 { // buffers go round
			write(t, c, f, uint64(off), other, vfs.Unstable)
		}
		commit(t, c, f)
		for off := 0; off < len(data); off += 256 << 10 {
			if !bytes.Equal(read(t, c, f, uint64(off), 256<<10), other[:256<<10]) {
				t.Fatal("bytes differ")
			}
		}
	}
	for i, off := range at {
		if !bytes.Equal(joined(views[i].Lent), data[off:off+128<<10]) {
			t.Errorf("what was lent of %d has changed", off)
		}
		views[i].End()
		views[i].End() // as if nothing was lent
	}
	for off := 0; off < len(data); off += 256 << 10 {
		read(t, c, f, uint64(off), 256<<10)
	}
	eventually(t, "no more is cached than is allowed", func() bool { return c.volume().Cached() <= limit })
}

// TestOnlyWhatIsStoredIsLent: bytes that are not yet durable, holes and short reads are copied.
func TestOnlyWhatIsStoredIsLent(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 8<<20)
	for off := 0; off < 4<<20; off += 256 << 10 {
		read(t, c, f, uint64(off), 256<<10)
	}
	views := func(off uint64, n int, want []byte) {
		t.Helper()
		p := make([]byte, n)
		w, err := c.volume().View(ctx, f, off, p)
		if err != nil {
			t.Fatal(err)
		}
		if w.Lent != nil {
			t.Errorf("%d bytes at %d are lent", n, off)
		}
		if !bytes.Equal(p[:w.N], want) {
			t.Errorf("%d bytes at %d differ", n, off)
		}
		w.End()
	}
	w := lent(t, c, f, 1<<20, 64<<10)
	w.End()
	views(1<<20, 4<<10, data[1<<20:][:4<<10])
	write(t, c, f, 1<<20+100, []byte("dirty"), vfs.Unstable)
	copy(data[1<<20+100:], "dirty")
	views(1<<20, 64<<10, data[1<<20:][:64<<10])
	w = lent(t, c, f, 2<<20, 64<<10)
	w.End()
	size := uint64(len(data)) + 1<<20 // ends with a hole
	if _, err := c.SetAttr(ctx, &vfs.Cred{}, f, vfs.SetAttr{Size: &size}, true); err != nil {
		t.Fatal(err)
	}
	views(uint64(len(data))-64<<10, 128<<10, append(bytes.Clone(data[len(data)-64<<10:]), make([]byte, 64<<10)...))
	views(size, 64<<10, nil)
}
