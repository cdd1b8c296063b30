package nodegroup

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// poolState is a pool of the cluster map as placement sees it. firstID is above the group ids of all pools.
func poolState(p *metapb.Pool, firstID uint32) placement.PoolState {
	// The state machine takes no other names than those of levels.
	level, _ := placement.ParseLevel(p.GetDomain())
	out := placement.PoolState{Profile: placement.Profile{K: int(p.K), M: int(p.M)}, Level: level, NextID: firstID, PerStore: int(p.GroupsPerStore)}
	for _, g := range p.GetPgs() {
		pg := placement.Group{ID: g.Id, Epoch: g.Epoch, K: int(cmp.Or(g.K, p.K)), Closed: g.State != metapb.PGState_PG_OPEN}
		pg.Members = make([]placement.Member, 0, len(g.GetSlots()))
		for _, s := range g.GetSlots() {
			pg.Members = append(pg.Members, placement.Member{Store: s.Store, Previous: s.Previous, Filling: s.Filling})
		}
		out.Groups = append(out.Groups, pg)
	}
	return out
}

// storeState is a store as placement sees it in a pool, if it is as observed. One that may not hold the pool's data is
// Out, whatever else: so what it has leaves it.
func storeState(s *metapb.Store, eligible bool, c placement.Condition, readable bool) placement.StoreState {
	if !eligible {
		c = min(c, placement.Out)
	}
	return placement.StoreState{
		ID: s.Id, Condition: c, Readable: readable, Weight: s.Capacity,
		Location: placement.Location{Node: s.Node, Rack: s.Rack, Zone: s.Zone},
	}
}

// firstFreeID is above every id that a placement group of any pool has or had.
func firstFreeID(m *metapb.ClusterMapR) uint32 {
	last := m.GetLastPg()
	for _, p := range m.GetPools() {
		last = max(last, p.LastPg)
		for _, g := range p.GetPgs() {
			last = max(last, g.Id)
		}
	}
	return last + 1
}

// commands are the changes of a plan, in pieces that fit a command each.
//
// The state machine raises an epoch only for slots that change. A group that is opened has none: one of its slots begins
// to be filled with the new epoch, and is filled in the next command, for its members are the same and lack nothing by that. If
// the second command is not made, the slot's store finds that it lacks nothing.
func commands(p *metapb.Pool, changes []placement.Change) []*metapb.ChangePGs {
	now := make(map[uint32]*metapb.PlacementGroup, len(p.GetPgs()))
	for _, g := range p.GetPgs() {
		now[g.Id] = g
	}
	var all, then []*metapb.PGChange
	for _, ch := range changes {
		c := &metapb.PGChange{ExpectEpoch: ch.Expect, Pg: pgOf(p, ch.Group)}
		if old := now[ch.Group.ID]; old != nil && ch.Group.Epoch != old.Epoch && slices.EqualFunc(old.Slots, c.Pg.Slots, func(a, b *metapb.Slot) bool { return proto.Equal(a, b) }) {
			if i := filledSlot(ch.Group); i >= 0 {
				then = append(then, &metapb.PGChange{ExpectEpoch: ch.Group.Epoch, Pg: c.Pg.CloneVT()})
				c.Pg.Slots[i].Filling = true
			} else {
				c.Pg.Epoch = old.Epoch
			}
		}
		all = append(all, c)
	}
	var out []*metapb.ChangePGs
	for _, list := range [][]*metapb.PGChange{all, then} {
		for part := range slices.Chunk(list, maxChanges) {
			out = append(out, &metapb.ChangePGs{Pool: p.Id, Changes: part})
		}
	}
	return out
}

// filledSlot is a slot of g that is not being filled, -1 if there is none: the last of the data, so that slot 0 or
// a parity slot, which vouch for a group, is as it was.
func filledSlot(g placement.Group) int {
	for i := g.K - 1; i >= 0; i-- {
		if !g.Members[i].Filling {
			return i
		}
	}
	return slices.IndexFunc(g.Members, func(m placement.Member) bool { return !m.Filling })
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
