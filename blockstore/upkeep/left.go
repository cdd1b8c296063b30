package upkeep

import (
	"context"
	"maps"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// A group that this store has left, because its slot moved to another store, is emptied as soon as all slots of the group are filled: the next pass
// of the collector over everything may be an hour away, and until then a reserved rack would still have data that is not its group's. Which groups were
// left before the start is not known; that pass finds what they have.

// names reports whether a store has a slot of the group, or had one that is moved from it.
func (g *group) names(store uint32) bool {
	return g != nil && slices.ContainsFunc(g.pg.Slots, func(s *metapb.Slot) bool { return s.Store == store || s.Previous == store })
}

// notice remembers the groups that this store has left from one map to the next. old is nil before the first.
func (k *Keeper) notice(old, m *clusterMap) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old != nil {
		for id, g := range old.groups {
			if g.names(k.o.ID) {
				k.left[id] = struct{}{}
			}
		}
	}
	for id := range k.left {
		if m.groups[id].names(k.o.ID) {
			delete(k.left, id)
		}
	}
}

// collectLeft empties the groups that this store has left and that are whole without it. What it cannot delete yet is tried again.
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
		rest, _, err := k.o.Store.List(ctx, id, nil, 1)
		if err != nil {
			return c, err
		}
		if answered == nil && len(rest) == 0 {
			k.mu.Lock()
			delete(k.left, id)
			k.mu.Unlock()
		}
	}
	return c, nil
}
