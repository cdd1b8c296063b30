package upkeep

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// misplaced says what a file lacks that it must have at any moment: a shard in each slot that is settled, and in one that is being
// moved at the one or the other end.
func (r *rig) misplaced(f *file) error {
	r.t.Helper()
	g := newClusterMap(r.cluster()).groups[f.b.PG]
	shape, err := blockstore.ShapeOf(int(f.b.Len), g.k, g.m)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, s := range g.pg.Slots {
		if !shape.Stored(i) {
			continue
		}
		err := r.nodes[s.Store-1].has(f, i, shape.ShardLen)
		if err != nil && s.Previous != 0 {
			err = r.nodes[s.Previous-1].has(f, i, shape.ShardLen)
		}
		if err != nil {
			return fmt.Errorf("slot %d, %+v: %w", i, s, err)
		}
	}
	return nil
}

// Under any schedule of moves, repairs, collections, and writers that know the newest map or an older one, every
// acknowledged block has all its shards where the map of the moment says.
func TestMoveModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, rigOptions{stores: 5, k: 2, m: 1, pgs: 2, capacity: 64 << 20})
		defer func() {
			r.peers.close()
			for _, n := range r.nodes {
				n.close()
			}
		}()
		maps := []gatewayMap{r.gatewayMap()}
		var written []*file
		size := rapid.SampledFrom([]int{5000, 40 << 10, 100 << 10})
		some := func(rt *rapid.T) *node { return r.nodes[rapid.IntRange(0, 4).Draw(rt, "node")] }
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) { r.write(size.Draw(rt, "n")) },
			"write by an old map": func(rt *rapid.T) {
				m := rapid.SampledFrom(maps).Draw(rt, "map")
				if f, err := r.put(m, size.Draw(rt, "n")); err == nil {
					written = append(written, f)
				}
			},
			"commit": func(rt *rapid.T) {
				if len(written) == 0 {
					rt.Skip("nothing was written")
				}
				i := rapid.IntRange(0, len(written)-1).Draw(rt, "which")
				if err := r.commit(written[i]); err != nil {
					rt.Fatal(err)
				}
				written = append(written[:i], written[i+1:]...)
			},
			"remove": func(rt *rapid.T) {
				for _, f := range r.files {
					r.remove(f)
					return
				}
				rt.Skip("there is no file")
			},
			"reap": func(*rapid.T) { r.reap() },
			"move": func(rt *rapid.T) {
				id, slot, to := rapid.Uint32Range(1, 2).Draw(rt, "pg"), rapid.IntRange(0, 2).Draw(rt, "slot"), some(rt).id
				g := newClusterMap(r.cluster()).groups[id]
				if g.unfinished(slot) || g.slotOf(to) >= 0 {
					rt.Skip("not now")
				}
				for _, s := range g.pg.Slots {
					if s.Previous == to {
						rt.Skip("a store is not taken back before it is free")
					}
				}
				r.change(func(pg *metapb.PlacementGroup) bool {
					if pg.Id != id {
						return false
					}
					pg.Epoch++
					pg.Slots[slot] = &metapb.Slot{Store: to, Previous: pg.Slots[slot].Store, Filling: true}
					return true
				})
				maps = append(maps, r.gatewayMap())
			},
			"heal":   func(rt *rapid.T) { some(rt).heal() },
			"heal 2": func(rt *rapid.T) { some(rt).heal() },
			"collect": func(rt *rapid.T) {
				if _, err := some(rt).keeper.Collect(r.ctx); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				for _, f := range r.files {
					if err := r.misplaced(f); err != nil {
						rt.Fatalf("block %+v: %v", f.b, err)
					}
				}
			},
		})
		// When the last writers are done, everything is moved and nothing too much is left.
		for _, f := range written {
			if err := r.commit(f); err != nil {
				rt.Fatal(err)
			}
		}
		r.register() // what attempts left that were given up is dead then, and not pending any more
		for _, n := range r.nodes {
			n.heal()
		}
		want := 0
		r.reap()
		r.collect()
		for _, f := range r.files {
			r.whole(f)
			shape, err := blockstore.ShapeOf(int(f.b.Len), 2, 1)
			if err != nil {
				rt.Fatal(err)
			}
			want += shape.StoredShards()
		}
		for _, g := range newClusterMap(r.cluster()).groups {
			for i := range g.pg.Slots {
				if g.unfinished(i) {
					rt.Fatalf("group %+v is not settled", g.pg)
				}
			}
		}
		r.readAll()
		if c := r.collect(); c.Listed != uint64(want) {
			rt.Fatalf("%d shards belong to files; %+v", want, c)
		}
	})
}
