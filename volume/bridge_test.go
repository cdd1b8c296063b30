package volume_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// scatter writes n bytes at every step from off on, to f and to data.
func scatter(t *testing.T, c *crashing, f vfs.Ino, data []byte, off, end, step, n int, b byte) (writes int) {
	t.Helper()
	p := bytes.Repeat([]byte{b}, n)
	for ; off+n <= end; off += step {
		write(t, c, f, uint64(off), p, vfs.Unstable)
		copy(data[off:], p)
		writes++
	}
	return writes
}

func used(t *testing.T, c *crashing, f vfs.Ino) uint64 {
	t.Helper()
	a, err := c.GetAttr(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	return a.Used
}

// holdsAfterCrash compares all of a file with what it should be, now and as another gateway has it.
func holdsAfterCrash(t *testing.T, c *crashing, f vfs.Ino, data []byte) {
	t.Helper()
	for _, when := range []string{"before", "after"} {
		got := read(t, c, f, 0, len(data)+1)
		if len(got) != len(data) {
			t.Fatalf("%s the crash there are %d bytes, not %d", when, len(got), len(data))
		}
		for i := range data {
			if got[i] != data[i] {
				t.Fatalf("%s the crash byte %d is %#x, not %#x", when, i, got[i], data[i])
			}
		}
		c.Crash()
	}
}

// TestScatteredWritesAreJoined: pages that were written all over a file become few blocks, and change nothing else.
func TestScatteredWritesAreJoined(t *testing.T) {
	c := newCrashing(t, volume.Config{FlushAge: time.Hour})
	f, data := bigFile(t, c, 12<<20) // its extents are not known here
	before := used(t, c, f)
	had, _ := c.blocks.counts()
	n := scatter(t, c, f, data, 100, len(data), 20<<10, 4<<10, 0xEE)
	commit(t, c, f)
	if made, _ := c.blocks.counts(); made-had > 3 {
		t.Errorf("%d writes made %d blocks", n, made-had)
	}
	if got := used(t, c, f); got != before {
		t.Errorf("%d bytes are used, %d were before anything was overwritten", got, before)
	}
	holdsAfterCrash(t, c, f, data)

	// Over blocks, pages in the metadata, and dirty bytes of all lengths.
	for i := range 40 {
		off := 1<<20 + i*16<<10
		write(t, c, f, uint64(off), []byte("inline"), vfs.FileSync)
		copy(data[off:], "inline")
	}
	had, _ = c.blocks.counts()
	scatter(t, c, f, data, 1<<20+1000, 2<<20, 9<<10, 2000, 0xDD)
	commit(t, c, f)
	if made, _ := c.blocks.counts(); made-had > 2 {
		t.Errorf("over inline pages %d blocks were made", made-had)
	}
	holdsAfterCrash(t, c, f, data)
}

// TestHolesStay: what is between pages in a sparse file takes no room afterwards either, and what is far apart is not read.
func TestHolesStay(t *testing.T) {
	c := newCrashing(t, volume.Config{FlushAge: time.Hour})
	f := create(t, c, "sparse")
	data := make([]byte, 8<<20)
	size := uint64(len(data))
	if _, err := c.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Size: &size}, true); err != nil {
		t.Fatal(err)
	}
	n := scatter(t, c, f, data, 0, len(data), 20<<10, 4<<10, 0xEE)
	commit(t, c, f)
	if got, want := used(t, c, f), uint64(n*4<<10); got != want {
		t.Errorf("%d pages use %d bytes, not %d", n, got, want)
	}
	holdsAfterCrash(t, c, f, data)

	f, data = bigFile(t, c, 12<<20)
	_, had := c.blocks.counts()
	scatter(t, c, f, data, 4<<20, 12<<20, 256<<10, 4<<10, 0xCC)
	commit(t, c, f)
	if _, n := c.blocks.counts(); n != had {
		t.Errorf("%d bytes were read to join pages that are far apart", n-had)
	}
	holdsAfterCrash(t, c, f, data)
}

// TestJoiningMayFail: if what is between cannot be read, what was written is stored all the same.
func TestJoiningMayFail(t *testing.T) {
	c := newCrashing(t, volume.Config{FlushAge: time.Hour})
	f, data := bigFile(t, c, 4<<20)
	c.blocks.setFailRead(func(uint64) error { return vfs.KindUnavailable.Err("blocks") })
	scatter(t, c, f, data, 0, len(data), 20<<10, 4<<10, 0xEE)
	commit(t, c, f)
	c.blocks.setFailRead(nil)
	holdsAfterCrash(t, c, f, data)
}

// TestJoiningBesideChanges overwrites, cuts, extends and punches a file at random while the flusher flushes it all the time.
func TestJoiningBesideChanges(t *testing.T) {
	c := newCrashing(t, volume.Config{FlushAge: time.Millisecond, DirtyLimitBytes: 2 << 20, CacheLimitBytes: 1 << 20})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	f, data := bigFile(t, c, 9<<20)
	for i := range 120 {
		switch r.IntN(8) {
		default:
			from := r.IntN(len(data))
			scatter(t, c, f, data, from, min(len(data), from+r.IntN(5<<20)), 1+r.IntN(40<<10)+5000, 1+r.IntN(5000), byte(i))
		case 5:
			commit(t, c, f)
		case 6:
			size := uint64(4<<20 + r.IntN(6<<20))
			if err := asked(func() error {
				_, err := c.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Size: &size}, true)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if n := int(size) - len(data); n > 0 {
				data = append(data, make([]byte, n)...)
			}
			data = data[:size]
		case 7:
			off := r.IntN(len(data) - 1)
			n := 1 + r.IntN(min(1<<20, len(data)-off))
			if err := asked(func() error { return c.volume().Deallocate(ctx, &vfs.Root, f, uint64(off), uint64(n)) }); err != nil {
				t.Fatal(err)
			}
			clear(data[off : off+n])
		}
		if i%20 == 19 {
			commit(t, c, f)
			holdsAfterCrash(t, c, f, data)
		}
	}
}
