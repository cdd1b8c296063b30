package upkeep

import (
	"context"
	"maps"
	"slices"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A group that this store has left, because its slot moved to another store, is emptied as soon as all slots of the group are filled: the next pass
// of the collector over everything may be an hour away, and until then a reserved rack would still have data that is not its group's. Which groups were
// left before the start is not known; that pass finds what they have.

// names reports whether a store has a slot of the group, or had one that is moved from it.
func (g *group) names(store uint32) bool {
	return g != nil && slices.ContainsFunc(g.pg.Slots, func(s *metapb.Slot) bool { return s.Store == store || s.Previous == store })
}

// sameSlot reports whether every slot that a store has in o, or had before a move, is still so in g.
func (g *group) sameSlot(o *group, store uint32) bool {
	if g == nil || len(g.pg.Slots) != len(o.pg.Slots) {
		return false
	}
	for i, was := range o.pg.Slots {
		if is := g.pg.Slots[i]; (was.Store == store || was.Previous == store) && is.Store != store && is.Previous != store {
			return false
		}
	}
	return true
}

// notice remembers the groups of which this store has left a slot from one map to the next. It may have another one in it, or get one. old is nil
// before the first.
func (k *Keeper) notice(old, m *clusterMap) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old == nil {
		return
	}
	for id, g := range old.groups {
		if g.names(k.o.ID) && !m.groups[id].sameSlot(g, k.o.ID) {
			k.left[id] = struct{}{}
		}
	}
}

// collectLeft empties the slots that this store has left in groups that are whole. What it cannot delete yet is tried again.
func (k *Keeper) collectLeft(ctx context.Context) (c Collected, err error) {
	k.mu.Lock()
	ids := slices.Sorted(maps.Keys(k.left))
	k.mu.Unlock()
	m := k.clusterMap()
	if len(ids) == 0 || k.own(m) != nil || k.writable() != nil {
		return c, nil
	}
	k.collecting.Lock()
	defer k.collecting.Unlock()
	for _, id := range ids {
		if g := m.groups[id]; g != nil {
			if slices.ContainsFunc(g.pg.Slots, func(s *metapb.Slot) bool { return s.Filling || s.Previous != 0 }) {
				continue // what is here may still be needed
			}
			// Nobody else has this store acknowledge the epoch: it is no member. A write or a rebuild of its own under an older one would come
			// behind what is listed now, and stay.
			err := k.o.Store.Fence(ctx, []segment.Epoch{{PG: id, Epoch: g.pg.Epoch}})
			if vfs.KindOf(err) == vfs.KindFenced {
				continue // the map is old
			}
			if err != nil {
				return c, err
			}
		}
		d, answered, err := k.collectGroup(ctx, id)
		c.add(d)
		if err != nil {
			return c, err
		}
		newest := k.clusterMap()
		rest, err := k.astray(ctx, newest, id)
		if err != nil {
			return c, err
		}
		if answered == nil && !rest {
			k.emptied(newest, id)
		}
	}
	return c, nil
}

// emptied forgets that the store left a slot of a group in which, by m, it has nothing any more that is of other slots. A newer map may say that it
// has left another one since.
func (k *Keeper) emptied(m *clusterMap, id uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clusterMap() == m { // else notice was called for the newer one already, perhaps
		delete(k.left, id)
	}
}

// astray reports whether the store has shards of a group that are not of a slot that it has, by m. They may still be needed: another slot is
// moved again since the group was whole, and they are deleted after that.
func (k *Keeper) astray(ctx context.Context, m *clusterMap, id uint32) (bool, error) {
	g := m.groups[id]
	for after := (*segment.Key)(nil); ; {
		entries, more, err := k.o.Store.List(ctx, id, after, collectPage)
		if err != nil || len(entries) == 0 {
			return false, err
		}
		for i := range entries {
			if s := int(entries[i].Key.Shard); g == nil || s >= len(g.pg.Slots) || g.pg.Slots[s].Store != k.o.ID {
				return true, nil
			}
		}
		if !more {
			return false, nil
		}
		last := entries[len(entries)-1].Key
		after = &last
	}
}
