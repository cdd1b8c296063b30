package upkeep

import (
	"context"
	"maps"
	"slices"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/raftmeta/metapb"
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
		if g := m.groups[id]; g != nil && slices.ContainsFunc(g.pg.Slots, func(s *metapb.Slot) bool { return s.Filling || s.Previous != 0 }) {
			continue // what is here may still be needed
		}
		d, answered, err := k.collectGroup(ctx, id)
		c.add(d)
		if err != nil {
			return c, err
		}
		rest, err := k.astray(ctx, id)
		if err != nil {
			return c, err
		}
		if answered == nil && !rest {
			k.mu.Lock()
			delete(k.left, id)
			k.mu.Unlock()
		}
	}
	return c, nil
}

// astray reports whether the store still has shards of a group that do not belong here, by the newest map.
func (k *Keeper) astray(ctx context.Context, id uint32) (bool, error) {
	m := k.clusterMap()
	for after := (*segment.Key)(nil); ; {
		entries, more, err := k.o.Store.List(ctx, id, after, collectPage)
		if err != nil || len(entries) == 0 {
			return false, err
		}
		for i := range entries {
			if needed, strange := m.belongs(entries[i].Key, k.o.ID); !needed || strange {
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
