package upkeep

import (
	"testing"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// spares are two stores without a slot of the group, if it has as many.
func (g *group) spares() (out [2]uint32) {
	n := 0
	for id := uint32(1); n < len(out); id++ {
		if g.slotOf(id) < 0 {
			out[n] = id
			n++
		}
	}
	return out
}

// refresh has the store look at the map.
func (n *node) refresh() {
	n.r.t.Helper()
	if _, err := n.keeper.refresh(n.r.ctx); err != nil {
		n.r.t.Fatal(err)
	}
}

func (n *node) collectLeft() Collected {
	n.r.t.Helper()
	c, err := n.keeper.collectLeft(n.r.ctx)
	if err != nil {
		n.r.t.Fatal(err)
	}
	return c
}

// putSlot makes a slot of group 1 another one, of a new epoch.
func (r *rig) putSlot(slot int, s *metapb.Slot) {
	r.t.Helper()
	r.change(func(pg *metapb.PlacementGroup) bool {
		pg.Epoch++
		pg.Slots[slot] = s
		return true
	})
}

// A store whose slot has moved is emptied without a pass over everything, but not before the group is whole without it, and not of a shard that
// the new store lacks. What it has of its other groups stays.
func TestLeftGroupIsEmptied(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 2})
	var all, moving []*file
	for range 12 {
		f := r.write(200 << 10)
		all = append(all, f)
		if f.b.PG == 1 {
			moving = append(moving, f)
		}
	}
	g := newClusterMap(r.cluster()).groups[1]
	spare := g.spares()[0]
	const slot = 0
	from, to := r.nodes[g.pg.Slots[slot].Store-1], r.nodes[spare-1]
	count := func(pg uint32) int {
		t.Helper()
		list, _, err := from.store.List(r.ctx, pg, nil, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	// empty has the store look at the map and empty what it has left.
	empty := func() Collected {
		t.Helper()
		from.refresh()
		return from.collectLeft()
	}
	had, others := count(1), count(2)
	if had != len(moving) || had < 2 || others == 0 {
		t.Fatalf("store %d has %d and %d shards: the test shows nothing", from.id, had, others)
	}
	empty()
	r.change(func(pg *metapb.PlacementGroup) bool {
		if pg.Id != 1 {
			return false
		}
		pg.Epoch++
		pg.Slots[slot] = &metapb.Slot{Store: to.id, Previous: from.id, Filling: true}
		return true
	})
	if c := empty(); c.Listed != 0 || count(1) != had {
		t.Fatalf("collected %+v while the slot is filling", c)
	}
	to.heal()
	lost := keyOf(1, moving[0].b.ID, slot)
	if _, err := to.store.Delete(r.ctx, []segment.Key{lost}); err != nil {
		t.Fatal(err)
	}
	if c := empty(); c.Moved != uint64(had-1) || count(1) != 1 {
		t.Fatalf("collected %+v of %d, one of which is the last copy", c, had)
	}
	to.heal()
	to.keeper.markAll()
	to.heal()
	if c := empty(); c.Moved != 1 || count(1) != 0 {
		t.Fatalf("collected %+v, the last one may go", c)
	}
	if c := empty(); c.Listed != 0 {
		t.Fatalf("looked at %+v: it is done", c)
	}
	if count(2) != others {
		t.Fatalf("%d shards of another group, there were %d", count(2), others)
	}
	for _, f := range all {
		r.whole(f)
	}
	r.readAll()
}

// A store that left a slot of a group and got another one in it is emptied of the first, and keeps the second.
func TestLeftSlotIsEmptied(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 1})
	var all []*file
	for range 5 {
		all = append(all, r.write(200<<10))
	}
	g := newClusterMap(r.cluster()).groups[1]
	spare := g.spares()[0]
	from := r.nodes[g.pg.Slots[0].Store-1]
	move := func(slot int, to uint32) {
		t.Helper()
		r.change(func(pg *metapb.PlacementGroup) bool {
			pg.Epoch++
			pg.Slots[slot] = &metapb.Slot{Store: to, Previous: pg.Slots[slot].Store, Filling: true}
			return true
		})
		from.refresh()
		r.nodes[to-1].heal()
		from.refresh()
	}
	move(0, spare)
	move(1, from.id)
	if c := from.collectLeft(); c.Moved != uint64(len(all)) {
		t.Fatalf("collected %+v; of %d blocks it has a shard that is elsewhere", c, len(all))
	}
	if c := from.collectLeft(); c.Listed != 0 {
		t.Fatalf("looked at %+v: it is done", c)
	}
	for _, f := range all {
		r.whole(f)
	}
	r.readAll()
}

// A store is emptied of a slot also if another one of the group began to move after the store saw the group whole.
func TestLeftGroupMovesAgain(t *testing.T) {
	r := newRig(t, rigOptions{stores: 8, k: 4, m: 2, pgs: 1})
	var all []*file
	for range 5 {
		all = append(all, r.write(200<<10))
	}
	g := newClusterMap(r.cluster()).groups[1]
	first, second := g.spares()[0], g.spares()[1]
	from := r.nodes[g.pg.Slots[0].Store-1]
	from.refresh()
	r.putSlot(0, &metapb.Slot{Store: first, Previous: from.id, Filling: true})
	from.refresh()
	r.nodes[first-1].heal()
	from.refresh()
	r.putSlot(1, &metapb.Slot{Store: second, Previous: g.pg.Slots[1].Store, Filling: true})
	if c := from.collectLeft(); c.Listed != uint64(len(all)) || c.Moved != 0 {
		t.Fatalf("collected %+v while another slot is filling", c)
	}
	from.refresh()
	r.nodes[second-1].heal()
	from.refresh()
	if c := from.collectLeft(); c.Moved != uint64(len(all)) {
		t.Fatalf("collected %+v of %d that are elsewhere", c, len(all))
	}
	r.readAll()
}

// A store that was to get a slot, and then was not, takes nothing of it any more once it is emptied: a rebuild, or a write, that began before may be
// under way still.
func TestLeftGroupIsFenced(t *testing.T) {
	r := newRig(t, rigOptions{stores: 8, k: 4, m: 2, pgs: 1})
	f := r.write(200 << 10)
	g := newClusterMap(r.cluster()).groups[1]
	first, second := g.spares()[0], g.spares()[1]
	at, to, was := r.nodes[first-1], r.nodes[second-1], g.pg.Slots[0].Store
	r.putSlot(0, &metapb.Slot{Store: first, Previous: was, Filling: true})
	at.refresh()
	old := at.keeper.clusterMap().groups[1]
	r.putSlot(0, &metapb.Slot{Store: second, Previous: was, Filling: true})
	at.refresh()
	to.heal()
	at.refresh()
	at.collectLeft()
	data := content(f.b.ID, 64<<10)
	err := at.store.Put(r.ctx, &store.Put{Key: keyOf(1, f.b.ID, 0), Epoch: old.pg.Epoch, K: 4, M: 2, BlockLen: 256 << 10, Data: data})
	if vfs.KindOf(err) != vfs.KindFenced {
		t.Fatalf("a late shard: %v, want that its epoch is over", err)
	}
}
