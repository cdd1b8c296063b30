package upkeep

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// eventually waits for what must happen; how long it waits decides only when a hanging test ends.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// Noise over a large part of a store is found by the scrub and healed.
func TestScrubHeals(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6})
	fs := r.writeMany(30)
	n := r.nodes[2]
	n.keeper.o.Scrub, n.keeper.o.ScrubPeriod = ScrubOf(n.store), time.Second
	names, err := n.o.FS.List("/s/segments")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := n.o.FS.Open("/s/segments/" + name)
		if err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 512<<10)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
		if _, err := f.WriteAt(noise, 256<<10); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.keeper.refresh(r.ctx); err != nil {
		t.Fatal(err)
	}
	if next, done := n.keeper.scrub(r.ctx, nil); next != nil || !done {
		t.Fatalf("the scrub ended at %v", next)
	}
	if s := n.keeper.Status(); s.Scrub.Bad < 3 || s.Scrub.Shards < 20 || s.Scrub.Ended.IsZero() || s.Suspects != int(s.Scrub.Bad) {
		t.Fatalf("status %+v", s)
	}
	if err := n.keeper.Heal(r.ctx); err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		r.whole(f)
	}
	n.keeper.scrub(r.ctx, nil)
	if s := n.keeper.Status(); s.Scrub.Bad != 0 || s.Suspects != 0 || s.Damaged != 0 {
		t.Fatalf("status %+v after the repair", s)
	}
}

// What a reader finds bad or missing is told to the store that has it, and made good there by the work in the background.
func TestReadersReport(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
	f := r.write(300 << 10)
	g := newClusterMap(r.cluster()).groups[1]
	bad, missing := r.nodes[g.pg.Slots[0].Store-1], r.nodes[g.pg.Slots[3].Store-1]
	for _, n := range r.nodes {
		n.keeper.Start()
		eventually(t, "first survey", func() bool { return n.keeper.Status().Clean == 1 })
	}
	bad.corrupt(keyOf(1, f.b.ID, 0), 4096)
	if _, err := missing.store.Delete(r.ctx, []segment.Key{keyOf(1, f.b.ID, 3)}); err != nil {
		t.Fatal(err)
	}
	rep := stripe.NewReporter(r.gatewayMap(), quiet())
	defer rep.Close()
	r.gateway = stripe.New(stripe.Options{Logger: quiet(), OnBad: rep.Report})
	r.readAll()
	eventually(t, "repair", func() bool { return len(r.lost(f)) == 0 })
}

// The work that a started Keeper does by itself: a slot that begins to fill is filled, dead blocks go.
func TestKeeperByItself(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 4, keeper: func(o *Options) {
		o.MapInterval, o.Retry, o.CollectInterval = 10*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	}})
	fs := r.writeMany(12)
	for _, n := range r.nodes {
		n.keeper.Start()
	}
	gone := r.write(300 << 10)
	r.remove(gone)
	r.reap()
	r.change(func(pg *metapb.PlacementGroup) bool { // all slots 0 move at once
		g := &group{pg: pg}
		var to uint32 = 1
		for g.slotOf(to) >= 0 {
			to++
		}
		pg.Epoch++
		pg.Slots[0] = &metapb.Slot{Store: to, Previous: pg.Slots[0].Store, Filling: true}
		return true
	})
	eventually(t, "moved slots", func() bool {
		for _, g := range newClusterMap(r.cluster()).groups {
			if g.unfinished(0) {
				return false
			}
		}
		return true
	})
	eventually(t, "collection", func() bool {
		n := 0
		for _, f := range fs {
			shape, err := blockstore.ShapeOf(int(f.b.Len), 4, 2)
			if err != nil {
				t.Fatal(err)
			}
			n += r.shards(f.b.ID) - shape.StoredShards()
		}
		return n == 0 && r.shards(gone.b.ID) == 0
	})
	for _, f := range fs {
		r.whole(f)
	}
	r.readAll()
}
