package nodegroup

import (
	"cmp"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// poolState is a pool of the cluster map as placement sees it. firstID is above the group ids of all pools.
func poolState(p *metapb.Pool, firstID uint32) placement.PoolState {
	out := placement.PoolState{Profile: placement.Profile{K: int(p.K), M: int(p.M)}, NextID: firstID}
	for _, g := range p.GetPgs() {
		pg := placement.Group{ID: g.Id, Epoch: g.Epoch, K: int(cmp.Or(g.K, p.K)), Closed: g.State != metapb.PGState_PG_OPEN}
		for _, s := range g.GetSlots() {
			pg.Members = append(pg.Members, placement.Member{Store: s.Store, Previous: s.Previous, Filling: s.Filling})
		}
		out.Groups = append(out.Groups, pg)
	}
	return out
}

// firstFreeID is above every id that a group of any pool has or had.
func firstFreeID(m *metapb.ClusterMapR) uint32 {
	last := uint32(0)
	for _, p := range m.GetPools() {
		last = max(last, p.LastPg)
		for _, g := range p.GetPgs() {
			last = max(last, g.Id)
		}
	}
	return last + 1
}

// commands are the changes of a plan, in pieces that fit a command each.
func commands(p *metapb.Pool, changes []placement.Change) []*metapb.ChangePGs {
	var out []*metapb.ChangePGs
	for len(changes) > 0 {
		n := min(len(changes), maxChanges)
		c := &metapb.ChangePGs{Pool: p.Id}
		for _, ch := range changes[:n] {
			c.Changes = append(c.Changes, &metapb.PGChange{ExpectEpoch: ch.Expect, Pg: pgOf(p, ch.Group)})
		}
		out, changes = append(out, c), changes[n:]
	}
	return out
}

func pgOf(p *metapb.Pool, g placement.Group) *metapb.PlacementGroup {
	pg := &metapb.PlacementGroup{Id: g.ID, Epoch: g.Epoch}
	if g.K != int(p.K) {
		pg.K = uint32(g.K)
	}
	if g.Closed {
		pg.State = metapb.PGState_PG_CLOSED
	}
	for _, m := range g.Members {
		pg.Slots = append(pg.Slots, &metapb.Slot{Store: m.Store, Previous: m.Previous, Filling: m.Filling})
	}
	return pg
}
