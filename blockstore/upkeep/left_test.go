package upkeep

import (
	"testing"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

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
	spare := uint32(1)
	for g.slotOf(spare) >= 0 {
		spare++
	}
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
		if _, err := from.keeper.refresh(r.ctx); err != nil {
			t.Fatal(err)
		}
		c, err := from.keeper.collectLeft(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return c
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
	spare := uint32(1)
	for g.slotOf(spare) >= 0 {
		spare++
	}
	from := r.nodes[g.pg.Slots[0].Store-1]
	move := func(slot int, to uint32) {
		t.Helper()
		r.change(func(pg *metapb.PlacementGroup) bool {
			pg.Epoch++
			pg.Slots[slot] = &metapb.Slot{Store: to, Previous: pg.Slots[slot].Store, Filling: true}
			return true
		})
		if _, err := from.keeper.refresh(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.nodes[to-1].heal()
		if _, err := from.keeper.refresh(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	move(0, spare)
	move(1, from.id)
	c, err := from.keeper.collectLeft(r.ctx)
	if err != nil || c.Moved != uint64(len(all)) {
		t.Fatalf("collected %+v, %v; of %d blocks it has a shard that is elsewhere", c, err, len(all))
	}
	if c, err = from.keeper.collectLeft(r.ctx); err != nil || c.Listed != 0 {
		t.Fatalf("looked at %+v, %v: it is done", c, err)
	}
	for _, f := range all {
		r.whole(f)
	}
	r.readAll()
}
