package volume_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// TestQueriesStall: a caller that only asks is told to come again when the
// metadata does not answer, and one that gave up is told so.
func TestQueriesStall(t *testing.T) {
	c := newCrashing(t, volume.Config{StallTimeout: 20 * time.Millisecond})
	f := create(t, c, "f")
	c.Crash() // nothing is leased
	speak := c.meta.hush()
	for what, ask := range map[string]func(context.Context) error{
		"lookup":  func(ctx context.Context) error { _, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f"); return err },
		"getattr": func(ctx context.Context) error { _, err := c.GetAttr(ctx, f); return err },
		"readdir": func(ctx context.Context) error {
			_, err := c.ReadDir(ctx, &vfs.Root, vfs.RootIno, 0, 10, false)
			return err
		},
		"readlink": func(ctx context.Context) error { _, err := c.ReadLink(ctx, f); return err },
		"statfs":   func(ctx context.Context) error { _, err := c.StatFS(ctx, vfs.RootIno); return err },
		"read":     func(ctx context.Context) error { _, _, err := c.Read(ctx, f, 0, make([]byte, 1)); return err },
		"open": func(ctx context.Context) error {
			_, err := c.Open(ctx, &vfs.Root, f, vfs.OpenRead, false)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			want(t, vfs.KindUnavailable, ask(ctx))
			gone, cancel := context.WithCancel(ctx)
			cancel()
			want(t, vfs.KindCanceled, ask(gone))
		})
	}
	speak()
	if err := asked(func() error { _, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f"); return err }); err != nil {
		t.Fatal(err)
	}
}

// TestChangesWaitForQueries: an operation that changes something is not told to come
// again because what it has to ask takes long.
func TestChangesWaitForQueries(t *testing.T) {
	c := newCrashing(t, volume.Config{StallTimeout: 20 * time.Millisecond})
	f := create(t, c, "f")
	write(t, c, f, 0, fill(10, 1), vfs.Unstable)
	if _, _, err := c.Link(ctx, &vfs.Root, f, vfs.RootIno, "g"); err != nil {
		t.Fatal(err)
	}
	commit(t, c, f)
	if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "g", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	speak := c.meta.hush()
	set := make(chan error, 1)
	go func() {
		mode := uint32(0o600)
		_, err := c.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Mode: &mode}, false)
		set <- err
	}()
	eventually(t, "SetAttr asks", func() bool {
		c.meta.mu.Lock()
		defer c.meta.mu.Unlock()
		return c.meta.asked > 0
	})
	// Others that began to ask later give up before.
	for range 3 {
		_, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f")
		want(t, vfs.KindUnavailable, err)
	}
	select {
	case err := <-set:
		t.Fatalf("SetAttr ended: %v", err)
	default:
	}
	speak()
	if err := <-set; err != nil {
		t.Fatal(err)
	}
}

// counter is a log handler that counts warnings.
type counter struct {
	slog.Handler
	n *atomic.Int64
}

func (counter) Enabled(context.Context, slog.Level) bool { return true }

func (c counter) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		c.n.Add(1)
	}
	return nil
}

// TestOutageCostsNothing: while no block can be written, a piece keeps its block
// id, and the log tells it once, not for each of them.
func TestOutageCostsNothing(t *testing.T) {
	const blocks, tries = 8, 4
	warnings := counter{slog.DiscardHandler, new(atomic.Int64)}
	now := time.Now()
	c := newCrashing(t, volume.Config{Logger: slog.New(warnings), Now: func() time.Time { return now }})
	var mu sync.Mutex
	seen := map[uint64]int{}
	c.blocks.setFailWrite(func(id uint64, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		if seen[id]++; seen[id] <= tries {
			return vfs.KindUnavailable.Err("blocks")
		}
		return nil
	})
	f := create(t, c, "f")
	p := fill(blocks*4<<20, 1)
	write(t, c, f, 0, p, vfs.Unstable)
	commit(t, c, f)
	if got := read(t, c, f, 0, len(p)); !bytes.Equal(got, p) {
		t.Fatal("bytes differ")
	}
	if len(seen) != blocks {
		t.Errorf("%d block ids were used for %d blocks", len(seen), blocks)
	}
	for id, n := range seen {
		if n != tries+1 {
			t.Errorf("block %#x was written %d times, want %d", id, n, tries+1)
		}
	}
	if n := warnings.n.Load(); n != 1 {
		t.Errorf("%d warnings about one outage", n)
	}
}

// TestUselessBlockID: an id that the block servers refuse is given up, not the
// bytes.
func TestUselessBlockID(t *testing.T) {
	for _, k := range []vfs.Kind{vfs.KindExists, vfs.KindFenced, vfs.KindIO, vfs.KindCorrupt} {
		t.Run(k.String(), func(t *testing.T) {
			c := newCrashing(t, volume.Config{})
			var bad uint64
			c.blocks.setFailWrite(func(id uint64, _ int) error {
				if bad == 0 {
					bad = id
				}
				if id == bad {
					return k.Err("blocks")
				}
				return nil
			})
			f := create(t, c, "f")
			p := fill(50_000, 1)
			write(t, c, f, 0, p, vfs.Unstable)
			commit(t, c, f)
			if got := read(t, c, f, 0, len(p)); !bytes.Equal(got, p) {
				t.Fatal("bytes differ")
			}
		})
	}
}

// TestBlockRange: ranges of block ids are used up before another is leased.
func TestBlockRange(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	var first, ids, ranges uint64
	c.meta.applied = func(_ *metapb.Command, r *metapb.Result) {
		if b := r.GetBlocks(); b != nil {
			if ranges++; ranges == 2 && b.First != first+ids {
				t.Errorf("%d ids of [%#x...) are left out before %#x", b.First-first-ids, first, b.First)
			}
			first, ids = b.First, uint64(b.Count)
		}
	}
	f := create(t, c, "f")
	for n := uint64(0); n == 0 || n <= ids; n++ {
		write(t, c, f, 0, fill(5000, byte(n)), vfs.FileSync)
	}
	if ranges != 2 {
		t.Errorf("%d ranges for %d blocks", ranges, ids+1)
	}
}
