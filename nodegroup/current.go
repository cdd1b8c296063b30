package nodegroup

import (
	"context"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Current is seen, which the leader's manager published at its last look, with the map as it is now. Between two looks somebody removes a node, and stores fill
// slots; under load looks are seconds apart. Whoever is told that a node was removed must not be told then that all is well, because the
// last look was before: its data has one copy less until it is rebuilt. How stores are is as the leader saw it.
func Current(ctx context.Context, meta Meta, seen *Status) (*Status, error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{KnownVersion: seen.Version}}})
	if err != nil {
		return seen, vfs.Wrap("nodegroup.map", err)
	}
	if r.GetClusterMap().GetUnchanged() {
		return seen, nil
	}
	return seen.with(r.GetClusterMap()), nil
}

// with is st with another map.
func (st *Status) with(m *metapb.ClusterMapR) *Status {
	out := *st
	out.Version, out.Stores, out.Pools = m.Version, nil, nil
	before := make(map[uint32]StoreStatus, len(st.Stores))
	for _, s := range st.Stores {
		before[s.ID] = s
	}
	slots := SlotsOn(m)
	for _, s := range m.GetStores() {
		x := before[s.Id] // of one that was not there: unknown
		if s.Gone || s.State == metapb.StoreState_STORE_LOST {
			x = StoreStatus{Moving: x.Moving} // nobody asks it any more
		}
		if s.State != metapb.StoreState_STORE_OUT && x.State != Out {
			x.Moving = nil
		}
		x.ID, x.Node, x.Record, x.Gone, x.Slots = s.Id, s.Node, s.State.String(), s.Gone, slots[s.Id]
		out.Stores = append(out.Stores, x)
	}
	now := make(map[uint32]*StoreStatus, len(out.Stores))
	for i := range out.Stores {
		now[out.Stores[i].ID] = &out.Stores[i]
	}
	rooms := func(ids []uint32) (used, capacity uint64) {
		var list []blockstore.RoomReply
		for _, id := range ids {
			if x := now[id]; x != nil {
				list = append(list, x.room())
			}
		}
		return blockstore.Together(list)
	}
	misplaced, reserved := Exclusive(m), Reservations(m)
	for _, p := range m.GetPools() {
		if p.Retiring {
			continue
		}
		var states []placement.StoreState
		for _, s := range m.GetStores() {
			c, readable := now[s.Id].condition(s)
			states = append(states, storeState(s, eligible(reserved, p, s), c, readable))
		}
		x := poolStatus(p, placement.Assess(poolState(p, 0), states), misplaced)
		x.Capacity, x.Free = PoolRoom(p, OpenStores(p), rooms)
		out.Pools = append(out.Pools, x)
	}
	return &out
}

// condition is what placement makes of a store with this record, as it was seen, and whether it answers.
func (s *StoreStatus) condition(rec *metapb.Store) (placement.Condition, bool) {
	switch {
	case rec.State == metapb.StoreState_STORE_LOST:
		return placement.Lost, false
	case rec.Gone: // perhaps it was seen before it was removed
		return placement.Out, false
	case rec.State == metapb.StoreState_STORE_OUT || s.State == Out:
		return placement.Out, s.Readable
	case s.State == Up:
		return placement.Up, s.Readable
	}
	return placement.Down, s.Readable
}
