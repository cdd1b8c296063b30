package volume_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

// bigFile is a file of n bytes that differ, durable, at a gateway that has
// nothing of it in memory.
func bigFile(t testing.TB, c *crashing, n int) (vfs.Ino, []byte) {
	f := create(t, c, "big")
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i>>16) ^ byte(i)
	}
	for off := 0; off < n; off += 1 << 20 {
		write(t, c, f, uint64(off), data[off:min(off+1<<20, n)], vfs.Unstable)
	}
	commit(t, c, f)
	c.Crash()
	return f, data
}

func TestRandomReadsTouchOnlyTheirBytes(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 32<<20)
	order := rand.New(rand.NewPCG(1, 2))
	total := 0
	for range 1000 {
		off := order.IntN(len(data)/4096) * 4096
		if !bytes.Equal(read(t, c, f, uint64(off), 4096), data[off:off+4096]) {
			t.Fatal("bytes differ")
		}
		total += 4096
	}
	// Many are near the one before; none is part of a stream, unless it touches it.
	if _, got := c.blocks.counts(); got > total+2<<20 {
		t.Fatalf("%d bytes were read for %d", got, total)
	}
}

// TestReadsOutOfOrderAreAStream: a client sends many reads of a stream at once, which arrive in any order.
func TestReadsOutOfOrderAreAStream(t *testing.T) {
	const size = 128 << 10
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 16<<20)
	order := rand.New(rand.NewPCG(3, 4))
	for first := 0; first < len(data)/2; first += 16 * size {
		for _, i := range order.Perm(16) {
			off := first + i*size
			if !bytes.Equal(read(t, c, f, uint64(off), size), data[off:off+size]) {
				t.Fatal("bytes differ")
			}
		}
	}
	eventually(t, "what comes next is read before it is asked for", func() bool {
		_, n := c.blocks.counts()
		return n >= len(data)/2+4<<20
	})
}

func TestStreamIsReadAheadOnce(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 24<<20)
	for off := 0; off < 3<<20; off += 256 << 10 {
		if !bytes.Equal(read(t, c, f, uint64(off), 256<<10), data[off:off+256<<10]) {
			t.Fatal("bytes differ")
		}
	}
	eventually(t, "what comes next is read before it is asked for", func() bool {
		_, n := c.blocks.counts()
		return n >= 4<<20
	})
	for off := 3 << 20; off < len(data); off += 256 << 10 {
		if !bytes.Equal(read(t, c, f, uint64(off), 256<<10), data[off:off+256<<10]) {
			t.Fatal("bytes differ")
		}
	}
	// The first read of a stream does not know yet that it is one.
	if _, n := c.blocks.counts(); n > len(data)+1<<20 {
		t.Fatalf("%d bytes were read of %d", n, len(data))
	}
}

func TestCacheIsBounded(t *testing.T) {
	const limit = 2 << 20
	c := newCrashing(t, volume.Config{CacheLimitBytes: limit})
	f, data := bigFile(t, c, 24<<20)
	for range 2 {
		for off := 0; off < len(data); off += 1 << 20 {
			if !bytes.Equal(read(t, c, f, uint64(off), 1<<20), data[off:off+1<<20]) {
				t.Fatal("bytes differ")
			}
		}
	}
	if _, n := c.blocks.counts(); n < 2*len(data)-limit {
		t.Fatalf("%d bytes were read: more than %d were kept", n, limit)
	}
}

// TestSameReadsAreOne: many readers of one small block at once ask for it once.
func TestSameReadsAreOne(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 100_000)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			off := i * 4096
			p := make([]byte, 4096)
			if _, _, err := c.Read(ctx, f, uint64(off), p); err != nil || !bytes.Equal(p, data[off:off+4096]) {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if _, n := c.blocks.counts(); n != len(data) {
		t.Fatalf("%d bytes were read of a block of %d", n, len(data))
	}
}

// TestBlockGone: a block that was collected means old extents, not an error.
func TestBlockGone(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 5<<20)
	var gone atomic.Int32
	c.blocks.setFailRead(func(id uint64) error {
		if gone.Add(1) == 1 {
			return vfs.KindNotFound.Err("blocks")
		}
		return nil
	})
	if !bytes.Equal(read(t, c, f, 0, 5<<20), data) {
		t.Fatal("bytes differ")
	}
	// If the metadata keeps naming it, it is one.
	c.Crash()
	c.blocks.setFailRead(func(id uint64) error { return vfs.KindNotFound.Err("blocks") })
	_, _, err := c.Read(ctx, f, 0, make([]byte, 10))
	want(t, vfs.KindIO, err)
	c.blocks.setFailRead(func(id uint64) error { return vfs.KindUnavailable.Err("blocks") })
	_, _, err = c.Read(ctx, f, 0, make([]byte, 10))
	want(t, vfs.KindUnavailable, err)
	c.blocks.setFailRead(nil)
	if !bytes.Equal(read(t, c, f, 0, 5<<20), data) {
		t.Fatal("a failed read stayed in the cache")
	}
}

// TestCrashes writes, commits and crashes at random. After a crash every byte
// is what was last made durable, or something written later.
func TestCrashes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := volume.Config{}
		if rapid.Bool().Draw(rt, "little memory") {
			cfg = volume.Config{DirtyLimitBytes: 64 << 10, FlushAge: 1e6, InodeLimit: 1}
		}
		c := newCrashing(t, cfg)
		defer func() { c.volume().Abandon() }()
		const space = 5<<20 + 10_000
		type pending struct {
			off, n int
			val    byte
		}
		f := create(rt, c, "f")
		now := make([]byte, space)    // what a reader sees
		stable := make([]byte, space) // what is durable at least
		var since []pending           // written since
		val := byte(0)
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				off := rapid.SampledFrom([]int{0, 10, 4000, 4096, 100_000, 4<<20 - 3000, 4 << 20}).Draw(rt, "off")
				n := rapid.SampledFrom([]int{1, 500, 4096, 9000, 40_000}).Draw(rt, "n")
				val = val%250 + 1
				s := rapid.SampledFrom([]vfs.Stable{vfs.Unstable, vfs.Unstable, vfs.FileSync}).Draw(rt, "stable")
				write(rt, c, f, uint64(off), fill(n, val), s)
				copy(now[off:], fill(n, val))
				if s == vfs.FileSync {
					copy(stable[off:], fill(n, val))
					// Older bytes there can no longer come back.
					var rest []pending
					for _, w := range since {
						if lo := min(off, w.off+w.n); w.off < lo {
							rest = append(rest, pending{w.off, lo - w.off, w.val})
						}
						if hi := max(off+n, w.off); hi < w.off+w.n {
							rest = append(rest, pending{hi, w.off + w.n - hi, w.val})
						}
					}
					since = rest
				} else {
					since = append(since, pending{off, n, val})
				}
			},
			"commit": func(rt *rapid.T) {
				commit(rt, c, f)
				copy(stable, now)
				since = nil
			},
			"crash": func(rt *rapid.T) {
				c.Crash()
				got := make([]byte, space)
				copy(got, read(rt, c, f, 0, space))
				for page := 0; page < space; page += 4096 {
					end := min(page+4096, space)
					if bytes.Equal(got[page:end], stable[page:end]) {
						continue
					}
					for i := page; i < end; i++ {
						ok := got[i] == stable[i]
						for _, w := range since {
							ok = ok || i >= w.off && i < w.off+w.n && got[i] == w.val
						}
						if !ok {
							rt.Fatalf("byte %d is %d, durable was %d", i, got[i], stable[i])
						}
					}
				}
				copy(now, got)
				copy(stable, got)
				since = nil
			},
			"": func(rt *rapid.T) {
				off := rapid.IntRange(0, space-50_000).Draw(rt, "read")
				got := make([]byte, 50_000)
				copy(got, read(rt, c, f, uint64(off), 50_000))
				if !bytes.Equal(got, now[off:off+50_000]) {
					rt.Fatal("a read differs from what was written")
				}
			},
		})
	})
}

// mover is a rewrite.Source that moves every extent of a file to a new block.
type mover struct {
	c *crashing
	t *testing.T
	f vfs.Ino
}

func (m mover) Pending() string { return "" }

func (m mover) Pass(ctx context.Context, to *rewrite.Mover) error {
	list, _ := m.c.meta.extents(m.t, m.f)
	for _, e := range list {
		if _, err := to.Move(ctx, rewrite.File{Shard: testShard, FS: testFS, Ino: uint64(m.f), Blocks: m.c.blocks}, []*metapb.Extent{e}); err != nil {
			return err
		}
	}
	return nil
}

// TestOldExtentsOfDeadStores: a file's blocks were rewritten and the old ones collected, but of the stores that had them one is dead, so nobody
// says that they are gone. Who has the old extents asks for new ones, with and without the write lease.
func TestOldExtentsOfDeadStores(t *testing.T) {
	for _, leased := range []bool{false, true} {
		c := newCrashing(t, volume.Config{})
		f, data := bigFile(t, c, 5<<20)
		if leased {
			if _, err := c.Open(ctx, &vfs.Root, f, vfs.OpenRead|vfs.OpenWrite, false); err != nil {
				t.Fatal(err)
			}
		}
		for off := 0; off < len(data); off += 1 << 20 { // its extents are cached
			read(t, c, f, uint64(off), 10)
		}
		old := map[uint64]bool{}
		list, _ := c.meta.extents(t, f)
		for _, e := range list {
			old[e.Block] = true
		}
		pass(t, rewrite.New(rewrite.Config{
			Name: "test", Meta: c.gw, BytesPerSecond: math.MaxInt64, Interval: time.Hour, IdleMax: time.Hour, Logger: slog.New(slog.DiscardHandler), Source: mover{c, t, f},
		}))
		if list, _ = c.meta.extents(t, f); len(list) == 0 || old[list[0].Block] {
			t.Fatalf("nothing was moved: %v", list)
		}
		asked := 0
		c.blocks.setFailRead(func(id uint64) error {
			if old[id] {
				asked++
				return vfs.KindUnavailable.Err("blocks")
			}
			return nil
		})
		p := make([]byte, len(data))
		n, _, err := c.Read(ctx, f, 0, p)
		if err != nil || !bytes.Equal(p[:n], data) {
			t.Fatalf("leased %v: %d bytes, %v", leased, n, err)
		}
		if asked == 0 {
			t.Fatalf("leased %v: no old extent was cached: the test shows nothing", leased)
		}
	}
}
