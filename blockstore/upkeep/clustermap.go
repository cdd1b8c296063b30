package upkeep

import (
	"context"
	"slices"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// clusterShard is the shard of the cluster map.
const clusterShard = 0

// clusterMap is one version of the stores and placement groups. It is not modified.
type clusterMap struct {
	version uint64
	stores  map[uint32]*metapb.Store
	nodes   map[string]string // addresses
	groups  map[uint32]*group
	last    uint32 // the highest id that a group has had
}

// group is a placement group as the map has it.
type group struct {
	pool uint32
	k, m int
	pg   *metapb.PlacementGroup
}

func newClusterMap(r *metapb.ClusterMapR) *clusterMap {
	m := &clusterMap{version: r.Version, stores: map[uint32]*metapb.Store{}, nodes: map[string]string{}, groups: map[uint32]*group{}}
	last := map[string]uint32{}
	for _, s := range r.Stores {
		m.stores[s.Id] = s
		// The record of a lost store keeps the address that its node had then. Of several others the newest tells.
		if s.State != metapb.StoreState_STORE_LOST && s.Address != "" && s.Id >= last[s.Node] {
			m.nodes[s.Node], last[s.Node] = s.Address, s.Id
		}
	}
	for _, p := range r.Pools {
		m.last = max(m.last, p.LastPg)
		for _, pg := range p.Pgs {
			k := p.K
			if pg.K != 0 {
				k = pg.K
			}
			if len(pg.Slots) != int(k+p.M) {
				continue // the state machine refuses such a group
			}
			m.groups[pg.Id] = &group{pool: p.Id, k: int(k), m: int(p.M), pg: pg}
			m.last = max(m.last, pg.Id)
		}
	}
	return m
}

// slotOf is the slot of a store, -1 if it has none.
func (g *group) slotOf(store uint32) int {
	return slices.IndexFunc(g.pg.Slots, func(s *metapb.Slot) bool { return s.Store == store })
}

// unfinished reports whether slot i is being filled or moved.
func (g *group) unfinished(i int) bool { return g.pg.Slots[i].Filling || g.pg.Slots[i].Previous != 0 }

// spare is how many more members the group may lose by what the map says, if every slot that is being filled has nothing yet.
func (g *group) spare() int32 {
	n := int32(g.m)
	for _, s := range g.pg.Slots {
		if s.Filling && s.Previous == 0 {
			n--
		}
	}
	return n
}

// equal reports whether two versions of a group need no new survey by the store in slot i.
func (g *group) equal(o *group) bool {
	return o != nil && g.k == o.k && g.m == o.m && g.pg.Epoch == o.pg.Epoch &&
		slices.EqualFunc(g.pg.Slots, o.pg.Slots, func(a, b *metapb.Slot) bool {
			return a.Store == b.Store && a.Filling == b.Filling && a.Previous == b.Previous
		})
}

// target is how a store is called. A store that the map does not have has no node, and nobody answers for it.
func (m *clusterMap) target(store uint32) placement.Target {
	return placement.Target{Node: m.stores[store].GetNode(), Disk: store}
}

// known reports whether a target is a store of the map that was not replaced.
func (m *clusterMap) known(t placement.Target) bool {
	s := m.stores[t.Disk]
	return s != nil && s.Node == t.Node && s.State != metapb.StoreState_STORE_LOST
}

// placementGroup is what the stripe client reads.
func (m *clusterMap) placementGroup(g *group) *placement.PG {
	pg := &placement.PG{ID: g.pg.Id, Epoch: g.pg.Epoch, K: g.k, M: g.m}
	for _, s := range g.pg.Slots {
		slot := placement.Slot{Target: m.target(s.Store)}
		if s.Previous != 0 {
			prev := m.target(s.Previous)
			slot.Previous = &prev
		}
		pg.Slots = append(pg.Slots, slot)
	}
	return pg
}

// member reports whether a node has a store that has, or had before a move, a slot of the group.
func (m *clusterMap) member(g *group, node string) bool {
	of := func(store uint32) bool { return store != 0 && m.stores[store].GetNode() == node }
	return node != "" && slices.ContainsFunc(g.pg.Slots, func(s *metapb.Slot) bool { return of(s.Store) || of(s.Previous) })
}

// clusterMap is the newest map known, nil before the first.
func (k *Keeper) clusterMap() *clusterMap { return k.cmap.Load() }

// refresh reads the map by a linearizable query and has groups surveyed that changed.
func (k *Keeper) refresh(ctx context.Context) (*clusterMap, error) {
	k.refreshing.Lock() // so that versions are stored in order
	defer k.refreshing.Unlock()
	old := k.clusterMap()
	q := &metapb.ClusterMapQ{}
	if old != nil {
		q.KnownVersion = old.version
	}
	r, err := k.query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: q}})
	if err != nil {
		return nil, vfs.Wrap("upkeep.map", err)
	}
	answer := r.GetClusterMap()
	if answer == nil {
		return nil, vfs.Errorf(vfs.KindInternal, "upkeep.map", "the metadata answered a query for the map with %T", r.R)
	}
	k.mu.Lock()
	k.heard = time.Now()
	k.mu.Unlock()
	if answer.Unchanged && old != nil {
		return old, nil
	}
	m := newClusterMap(answer)
	k.cmap.Store(m)
	k.keepOnly(m)
	k.stripe.Retain(m.known)
	k.notice(old, m)
	for id, g := range m.groups {
		if g.slotOf(k.o.ID) >= 0 && (old == nil || !g.equal(old.groups[id])) {
			k.mark(id)
		}
	}
	return m, nil
}

// lastMap is the newest map known, if none could be read for as long as repair waits: a rebuild under it does no harm. Its shard is of no
// use at worst, if the slot has moved, and no slot is declared filled by it.
func (k *Keeper) lastMap() *clusterMap {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.heard) < k.o.Patience {
		return nil
	}
	return k.clusterMap()
}

// own checks that the map knows this store by its identity.
func (k *Keeper) own(m *clusterMap) error {
	s, info := m.stores[k.o.ID], k.o.Store.Info()
	switch {
	case s == nil:
		return vfs.Errorf(vfs.KindIncompatible, "upkeep", "the cluster map has no store %d: nothing is deleted or repaired", k.o.ID)
	case string(s.Uuid) != string(info.Store[:]):
		return vfs.Errorf(vfs.KindIncompatible, "upkeep", "store %d of the cluster map is disk %x, this is %x: nothing is deleted or repaired", k.o.ID, s.Uuid, info.Store[:])
	}
	return nil
}

// Admit implements server.Upkeep.
func (k *Keeper) Admit(ctx context.Context, node string, pg, epoch uint32) error {
	check := func(m *clusterMap) error {
		if m == nil {
			return vfs.Errorf(vfs.KindUnavailable, "upkeep.admit", "the cluster map is not known yet")
		}
		g := m.groups[pg]
		if g == nil || !m.member(g, node) {
			return vfs.Errorf(vfs.KindPerm, "upkeep.admit", "node %q is not a member of placement group %d", node, pg)
		}
		if epoch > g.pg.Epoch {
			return vfs.Errorf(vfs.KindInvalid, "upkeep.admit", "placement group %d is at epoch %d, not %d", pg, g.pg.Epoch, epoch)
		}
		return nil
	}
	if check(k.clusterMap()) == nil {
		return nil
	}
	m, err := k.refresh(ctx) // the peer may know a newer map
	if err != nil {
		return vfs.Errorf(vfs.KindUnavailable, "upkeep.admit", "whether node %q is a member of placement group %d is not known: %w", node, pg, err)
	}
	return check(m)
}
