package devcluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// restartStore closes a store of a running cluster, lets damage be done to its directory, and starts it again.
func (c *Cluster) restartStore(t *testing.T, i int, damage func(dir string) error) {
	t.Helper()
	old := c.stores[i]
	old.endUpkeep()
	if err := old.close(); err != nil {
		t.Logf("%s closes: %v", old.name, err)
	}
	dir := c.dir.sub(old.name)
	if err := damage(dir); err != nil {
		t.Fatal(err)
	}
	c.reg = prometheus.NewRegistry() // a store's collectors can be registered once
	n := &blockNode{name: old.name, first: old.first}
	var err error
	if n.lost, err = node.EmptyDisk(dir); err != nil {
		t.Fatal(err)
	}
	if !n.lost {
		if n.store, err = c.openStore(t.Context(), n, false, raftmeta.FirstIncarnation); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.admitStore(t.Context(), c.meta, n); err != nil {
		t.Fatal(err)
	}
	if err := c.startKeeper(n); err != nil {
		t.Fatal(err)
	}
	c.stores[i] = n
}

// ruin truncates some segments of a store and overwrites others with noise.
func ruin(rng *rand.Rand, dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "segments", "*.seg"))
	if err != nil || len(names) == 0 {
		return errors.Join(err, fmt.Errorf("%d segments in %s", len(names), dir))
	}
	for i, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if (i+rng.IntN(2))%2 == 0 {
			err = f.Truncate(rng.Int64N(segmentBytes))
		} else {
			noise := make([]byte, 8<<20)
			for j := range noise {
				noise[j] = byte(rng.Uint32())
			}
			for range 4 {
				_, werr := f.WriteAt(noise, rng.Int64N(segmentBytes-int64(len(noise))))
				err = errors.Join(err, werr)
			}
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// busyWriter writes, overwrites and removes files of its own until it is
// stopped, and knows what was acknowledged.
type busyWriter struct {
	name  string
	fs    vfs.FS
	files map[string][]byte
	acked int
}

// step does one thing. What is not acknowledged because the cluster takes nothing now is tried again, as an NFS client does.
func (w *busyWriter) step(ctx context.Context, rng *rand.Rand) error {
	name := fmt.Sprintf("%s-%d", w.name, rng.IntN(12))
	if data := w.files[name]; data != nil && rng.IntN(5) == 0 {
		if err := again(ctx, func() error {
			_, err := w.fs.Remove(ctx, &vfs.Root, vfs.RootIno, name, vfs.RemoveFile)
			if vfs.KindOf(err) == vfs.KindNotFound {
				err = nil // an earlier try
			}
			return err
		}); err != nil {
			return err
		}
		delete(w.files, name)
		return nil
	}
	mode := uint32(0o644)
	var ino vfs.Ino
	if err := again(ctx, func() error {
		r, err := w.fs.Create(ctx, &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
		ino = r.Attr.Ino
		return err
	}); err != nil {
		return err
	}
	n := []int{3000, 20 << 10, 300 << 10, 2 << 20}[rng.IntN(4)]
	off := rng.IntN(len(w.files[name]) + 1)
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	for at := 0; at < n; at += 1 << 20 {
		part := p[at:min(at+1<<20, n)]
		if err := again(ctx, func() error {
			_, _, err := w.fs.Write(ctx, &vfs.Root, ino, uint64(off+at), part, vfs.FileSync)
			return err
		}); err != nil {
			return err
		}
	}
	data := w.files[name]
	if end := off + n; end > len(data) {
		data = append(data, make([]byte, end-len(data))...)
	}
	copy(data[off:], p)
	w.files[name] = data
	w.acked++
	return w.fs.Close(ctx, ino, vfs.OpenWrite)
}

func again(ctx context.Context, f func() error) error {
	for {
		err := f()
		if vfs.KindOf(err) != vfs.KindUnavailable || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// shardPlace is where a shard is.
type shardPlace struct {
	store uint32
	key   segment.Key
}

// unfinished says which stores have repairs to do.
func (c *Cluster) unfinished() (s string) {
	for i, k := range c.keepers() {
		if k.Clean != k.Groups || k.Filling > 0 {
			s += fmt.Sprintf("store %d: %d of %d groups clean, %d filling, %d missing, %d pending, %d damaged, %s; ",
				i+1, k.Clean, k.Groups, k.Filling, k.Missing, k.Pending, k.Damaged, k.Error)
		}
	}
	return s
}

// astray compares the lists of all stores with what the metadata says: "" if every live block has all its shards and there is
// no other shard. With read they are also read, and none may be bad.
func (c *Cluster) astray(t *testing.T, read bool) string {
	t.Helper()
	ctx := t.Context()
	m := c.cmap(t)
	want := map[shardPlace]blockstore.Shape{}
	var pgs []uint32
	groups := map[uint32]*metapb.PlacementGroup{}
	ks := map[uint32]placement.Profile{}
	for _, p := range m.Pools {
		for _, g := range p.Pgs {
			k := g.K
			if k == 0 {
				k = p.K
			}
			groups[g.Id], ks[g.Id] = g, placement.Profile{K: int(k), M: int(p.M)}
			pgs = append(pgs, g.Id)
			for _, s := range g.Slots {
				if s.Filling {
					return fmt.Sprintf("group %d is being filled; %s", g.Id, c.unfinished())
				}
			}
		}
	}
	for after := uint64(0); ; {
		r, err := c.meta.Query(ctx, namespaceShard, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: &metapb.BlocksQ{After: after, Pgs: pgs}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range r.GetBlocks().GetBlocks() {
			p := ks[b.Pg]
			shape, err := blockstore.ShapeOf(int(b.Length), p.K, p.M)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range groups[b.Pg].Slots {
				if shape.Stored(i) {
					want[shardPlace{s.Store, segment.Key{PG: b.Pg, Block: b.Id, Shard: uint8(i)}}] = shape
				}
			}
		}
		if after = r.GetBlocks().GetNext(); after == 0 {
			break
		}
	}
	have := 0
	for _, n := range c.stores {
		for _, g := range pgs {
			var after *segment.Key
			for more := true; more; {
				entries, m, err := n.store.List(ctx, g, after, 1000)
				if err != nil {
					t.Fatal(err)
				}
				more = m
				for _, e := range entries {
					last := e.Key
					after = &last
					shape, ok := want[shardPlace{n.ID, e.Key}]
					if !ok {
						return fmt.Sprintf("store %d has shard %+v, of no live block there", n.ID, e.Key)
					}
					have++
					if !read {
						continue
					}
					data, err := n.store.Get(ctx, e.Key, 0, shape.ShardLen)
					if vfs.KindOf(err) == vfs.KindCorrupt {
						t.Fatalf("store %d: shard %+v: %v", n.ID, e.Key, err)
					}
					if err != nil { // it was re-encoded and collected meanwhile
						return fmt.Sprintf("store %d: shard %+v: %v", n.ID, e.Key, err)
					}
					data.Release()
				}
			}
		}
	}
	if have != len(want) {
		return fmt.Sprintf("%d shards of %d are there", have, len(want))
	}
	return ""
}

// awaitScrub waits until every store has checked all its shards and found none bad, in a pass that began after now.
func (c *Cluster) awaitScrub(t *testing.T) {
	t.Helper()
	type seen struct {
		began time.Time
		clean int // passes in a row
	}
	// The first pass of a keeper begins anywhere, and the present one began before now.
	const passes = 3
	stores := make([]seen, len(c.stores))
	await(t, func() string {
		left := ""
		for i, s := range c.keepers() {
			p, x := s.Scrub, &stores[i]
			if !p.Ended.IsZero() && p.Began.After(x.began) {
				x.began = p.Began
				if x.clean++; p.Bad > 0 || p.Error != "" {
					x.clean = 0
				}
			}
			if x.clean < passes {
				left = fmt.Sprintf("store %d was not checked: %+v", i+1, p)
			}
		}
		return left
	})
}

// TestStoresAreDamagedDuringWrites: again and again two of six stores at 4+2 are damaged at once while files are
// written, overwritten and removed: one's segments are truncated and overwritten with noise, the other's directory is removed. Every
// acknowledged byte reads back at any time, new blocks have two parity shards, and when the writers rest, full redundancy comes
// back by itself: every shard of every live block is there and intact, and no other.
func TestStoresAreDamagedDuringWrites(t *testing.T) {
	t.Parallel()
	rounds := 2
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		rounds = 12
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	cfg := quick(t)
	cfg.scrubPeriod = time.Second
	c := startQuick(t, cfg)
	defer c.mustStop(t)
	writers := make([]*busyWriter, 3)
	for i := range writers {
		writers[i] = &busyWriter{name: fmt.Sprintf("w%d", i), fs: c.fs(), files: map[string][]byte{}}
	}
	check := func() {
		t.Helper()
		for _, w := range writers {
			for name, data := range w.files {
				checkFile(t, c.fs(), name, data)
				c.extentsOf(t, name) // all have m=2
			}
		}
	}
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		for i, w := range writers {
			wrng := rand.New(rand.NewPCG(seed, uint64(1+round*len(writers)+i)))
			busy.Go(func() {
				for ctx.Err() == nil {
					// A step is not cut short: its outcome would be unknown.
					if err := w.step(context.WithoutCancel(ctx), wrng); err != nil {
						t.Errorf("%s: %v", w.name, err)
						return
					}
				}
			})
		}
		acked := func() (n int) {
			for _, w := range writers {
				n += w.acked
			}
			return n
		}
		time.Sleep(500 * time.Millisecond) // let there be something to damage; decides nothing
		sick, gone := rng.IntN(6), rng.IntN(5)
		if gone >= sick {
			gone++
		}
		c.restartStore(t, sick, func(dir string) error { return ruin(rng, dir) })
		c.restartStore(t, gone, os.RemoveAll)
		time.Sleep(500 * time.Millisecond)
		cancel()
		busy.Wait()
		t.Logf("round %d: store %d ruined, %d removed; %d writes acknowledged", round, sick+1, gone+1, acked())
		if t.Failed() {
			return
		}
		check()
		began := time.Now()
		c.awaitScrub(t)
		await(t, func() string { return c.astray(t, false) })
		await(t, func() string { return c.astray(t, true) }) // again, for blocks may still be re-encoded
		t.Logf("round %d: everything is where it belongs after %.1f s", round, time.Since(began).Seconds())
		check()
	}
}
