package devcluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// still is a cluster that puts nothing right by itself: its stores neither delete nor repair (the first survey of a group begins when
// it likes, and would rebuild what a test deletes), its gateway does not rewrite.
func still(t *testing.T) Config {
	cfg := quick(t)
	cfg.noUpkeep, cfg.GCGrace, cfg.reencodeInterval = true, time.Hour, time.Hour
	return cfg
}

// check is what `rackfs cluster check` gets.
func (c *Cluster) check(t *testing.T) *api.Report {
	t.Helper()
	client := api.Dial(c.dir.sub(api.SocketName))
	defer client.Close()
	steps := 0
	r, err := client.Check(t.Context(), func(clustercheck.Progress) { steps++ })
	if err != nil {
		t.Fatal(err)
	}
	if steps < 3 {
		t.Fatalf("%d steps of progress", steps)
	}
	return r
}

// errorsOf are the kinds of errors of a report.
func errorsOf(r *api.Report) []string {
	var kinds []string
	for _, f := range r.Findings {
		if f.Severity == clustercheck.Error {
			kinds = append(kinds, f.Kind)
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

func told(r *api.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n%s %s: %s", f.Severity, f.Kind, f.Text)
	}
	return b.String()
}

// TestClusterCheck plants faults, one after the other, and looks whether the check finds each of them and nothing else.
func TestClusterCheck(t *testing.T) {
	t.Parallel()
	c := startQuick(t, still(t))
	defer c.mustStop(t)
	for i := range 20 {
		writeFile(t, c.fs(), fmt.Sprintf("f%d", i), make([]byte, 200<<10))
	}
	r := c.check(t)
	if r.Errors != 0 || r.Blocks < 20 || r.Shards < c.shards(t) || r.Inodes != 21 || r.Deletion != "on" {
		t.Fatalf("of a healthy cluster: %+v%s", r, told(r))
	}
	expect := func(what string, kinds ...string) *api.Report {
		t.Helper()
		r := c.check(t)
		if got := errorsOf(r); !slices.Equal(got, kinds) {
			t.Fatalf("%s: found %v, want %v%s", what, got, kinds, told(r))
		}
		return r
	}

	// A shard that is deleted on a store.
	block, pg := c.anyBlock(t)
	victim := func(slot int) (*store.Store, segment.Key) {
		t.Helper()
		for _, p := range c.cmap(t).Pools {
			for _, g := range p.Pgs {
				if g.Id == pg {
					return c.stores[g.Slots[slot].Store-1].store, segment.Key{PG: pg, Block: block, Shard: uint8(slot)}
				}
			}
		}
		t.Fatalf("no group %d", pg)
		return nil, segment.Key{}
	}
	remove := func(slots ...int) (undo func()) {
		t.Helper()
		var puts []func()
		for _, slot := range slots {
			s, key := victim(slot)
			e, owner, err := s.Stat(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			data, err := s.Get(t.Context(), key, 0, int(e.Length))
			if err != nil {
				t.Fatal(err)
			}
			put := &store.Put{Key: key, Epoch: e.Epoch, K: e.K, M: e.M, BlockLen: e.BlockLen, Owner: owner, Data: slices.Clone(data.Bytes)}
			data.Release()
			if n, err := s.Delete(t.Context(), []segment.Key{key}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			puts = append(puts, func() {
				if err := s.Put(t.Context(), put); err != nil {
					t.Fatal(err)
				}
			})
		}
		return func() {
			for _, p := range puts {
				p()
			}
		}
	}
	undo := remove(1)
	if r := expect("one shard deleted", clustercheck.KindMissing); !strings.Contains(told(r), fmt.Sprintf("%#x", block)) {
		t.Fatalf("the block is not named:%s", told(r))
	}
	undo()
	undo = remove(0, 2, 4)
	expect("three shards of 4+2 deleted", clustercheck.KindLost)
	undo()
	expect("put back")

	// Shards of blocks that no file has.
	s := c.stores[2].store
	stray := func(block uint64, group uint32) segment.Key {
		t.Helper()
		key := segment.Key{PG: group, Block: block, Shard: 1}
		if err := s.Put(t.Context(), &store.Put{Key: key, Epoch: 1 << 30, K: 4, M: 2, BlockLen: 200 << 10, Owner: segment.Owner{FS: 1, Ino: 77}, Data: make([]byte, 52<<10)}); err != nil {
			t.Fatal(err)
		}
		return key
	}
	gone := func(key segment.Key) {
		t.Helper()
		if n, err := s.Delete(t.Context(), []segment.Key{key}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	dead := stray(1<<48|1, 900) // below all that were ever leased, in a group that does not exist
	if r := expect("a dead block's shard"); r.Orphans.Shards != 1 || r.Orphans.Blocks != 1 || r.Counts[clustercheck.KindOrphan] != 1 || !strings.Contains(told(r), "inode 77") {
		t.Fatalf("orphans %+v%s", r.Orphans, told(r))
	}
	gone(dead)
	for what, block := range map[string]uint64{"of an id that was not given out": 1<<48 | 1<<40, "of a shard that does not exist": 9<<48 | 5, "of shard 0": 5} {
		unknown := stray(block, 901)
		expect("a shard of a block "+what, clustercheck.KindUnknown)
		gone(unknown)
	}

	// A store that does not answer: what it has is not known, and said.
	if err := c.stores[3].unserve(); err != nil {
		t.Fatal(err)
	}
	expect("a store that does not serve", clustercheck.KindStore)
	if err := c.serve(c.stores[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.meta.Apply(t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: c.record(c.stores[3])}}}); err != nil {
		t.Fatal(err)
	}
	expect("it serves again")
}

// liveBlocks are the ids of all live blocks.
func (c *Cluster) liveBlocks(t *testing.T) (ids []uint64) {
	t.Helper()
	for after := uint64(0); ; {
		r, err := c.meta.Query(t.Context(), namespaceShard, &metapb.Query{Q: &metapb.Query_LiveBlocks{LiveBlocks: &metapb.LiveBlocksQ{After: after}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range r.GetBlocks().Blocks {
			ids = append(ids, b.Id)
		}
		if after = r.GetBlocks().Next; after == 0 {
			return ids
		}
	}
}

// live are the live blocks.
func (c *Cluster) live(t *testing.T) []*metapb.BlockInfo {
	t.Helper()
	r, err := c.meta.Query(t.Context(), namespaceShard, &metapb.Query{Q: &metapb.Query_LiveBlocks{LiveBlocks: &metapb.LiveBlocksQ{}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetBlocks().Blocks
}

// shards are how many shards live blocks of 200 KiB have: as many as their groups have slots, which are fewer where a store was slow.
func (c *Cluster) shards(t *testing.T) (n uint64) {
	t.Helper()
	widths := map[uint32]int{}
	for _, p := range c.cmap(t).Pools {
		for _, g := range p.Pgs {
			widths[g.Id] = len(g.Slots)
		}
	}
	for _, b := range c.live(t) {
		n += uint64(widths[b.Pg])
	}
	return n
}

// anyBlock is a block of 4 data shards and its group.
func (c *Cluster) anyBlock(t *testing.T) (block uint64, pg uint32) {
	t.Helper()
	for n := 0; ; n++ {
		whole := map[uint32]bool{}
		for _, p := range c.cmap(t).Pools {
			for _, g := range p.Pgs {
				whole[g.Id] = len(g.Slots) == 6
			}
		}
		for _, b := range c.live(t) {
			if b.Length == 200<<10 && whole[b.Pg] {
				return b.Id, b.Pg
			}
		}
		writeFile(t, c.fs(), fmt.Sprintf("another%d", n), make([]byte, 200<<10))
	}
}
