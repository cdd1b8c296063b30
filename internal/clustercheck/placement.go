package clustercheck

import (
	"cmp"
	"fmt"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Placement checks a cluster map by itself. used are the pools in which a file system keeps data.
func Placement(m *metapb.ClusterMapR, used map[uint32]bool, r *Report) {
	stores := map[uint32]*metapb.Store{}
	disks := map[string]uint32{}
	for _, s := range m.GetStores() {
		stores[s.Id] = s
		if other, had := disks[string(s.Uuid)]; had {
			r.add(Error, KindPlacement, "stores %d and %d are the same disk", other, s.Id)
		}
		disks[string(s.Uuid)] = s.Id
	}
	pools := map[uint32]uint32{}
	for _, p := range m.GetPools() {
		for _, g := range p.Pgs {
			if other, had := pools[g.Id]; had {
				r.add(Error, KindPlacement, "placement group %d is in the pools %d and %d", g.Id, other, p.Id)
			}
			pools[g.Id] = p.Id
			if g.Id > p.LastPg && p.LastPg != 0 {
				r.add(Error, KindPlacement, "placement group %d is above the last one that pool %s is said to have had, %d", g.Id, p.Name, p.LastPg)
			}
			group(p, g, stores, r)
		}
	}
	misplaced(m, used, r)
}

// misplaced tells of slots on stores that may not hold their pool's data. Those that move, and those that can and wait for their turn, are what
// the cluster is about to put right.
func misplaced(m *metapb.ClusterMapR, used map[uint32]bool, r *Report) {
	pools := map[uint32]*metapb.Pool{}
	for _, p := range m.GetPools() {
		pools[p.Id] = p
	}
	for _, x := range nodegroup.Exclusive(m) {
		p := pools[x.Pool]
		level, err := placement.ParseLevel(p.GetDomain())
		if err != nil {
			r.add(Error, KindPlacement, "pool %s: %v", p.Name, err)
			continue
		}
		have, need := placement.Members(nodegroup.Locations(m, p.Group))[level], int(p.K+p.M)
		switch {
		case x.Place == nodegroup.Leaving:
			r.add(Notice, KindReservation, "%v", x)
		case x.Place == nodegroup.Waiting && p.Retiring:
			r.add(Notice, KindReservation, "%v: the pool is being removed", x)
		case x.Place == nodegroup.Waiting && have >= need:
			r.add(Notice, KindReservation, "%v: it moves when it is its turn", x)
		case x.Place == nodegroup.Waiting && !used[p.Id] && p.Group != "":
			r.add(Notice, KindReservation, "%v: it has nowhere to go, and no file system keeps data in pool %s: `rackfs group delete %s` ends it, or put nodes into the group", x, p.Name, p.Group)
		case x.Place == nodegroup.Waiting && !used[p.Id]:
			r.add(Notice, KindReservation, "%v: it has nowhere to go, and no file system keeps data in pool %s: add nodes, or leave it", x, p.Name)
		case x.Place == nodegroup.Waiting:
			r.add(Error, KindReservation, "%v: it has nowhere to go, for pool %s has %d domains of level %s and needs %d", x, p.Name, have, level, need)
		default:
			r.add(Error, KindReservation, "%v, and takes new blocks there", x)
		}
	}
}

// group checks one placement group.
func group(p *metapb.Pool, g *metapb.PlacementGroup, stores map[uint32]*metapb.Store, r *Report) {
	if want := int(cmp.Or(g.K, p.K) + p.M); len(g.Slots) != want {
		r.add(Error, KindPlacement, "placement group %d of pool %s has %d slots, not %d", g.Id, p.Name, len(g.Slots), want)
	}
	where := map[string]int{}
	for i, s := range g.Slots {
		st := stores[s.Store]
		if st == nil {
			r.add(Error, KindPlacement, "slot %d of placement group %d is on store %d, which does not exist", i, g.Id, s.Store)
			continue
		}
		if st.State == metapb.StoreState_STORE_LOST {
			r.add(Error, KindPlacement, "slot %d of placement group %d is on store %d, which was given up as lost", i, g.Id, s.Store)
		}
		switch {
		case st.Gone:
			r.add(Notice, KindMoving, "slot %d of placement group %d is on store %d, whose node %s was removed: it is rebuilt where there is room", i, g.Id, s.Store, st.Node)
		case st.State == metapb.StoreState_STORE_OUT:
			r.add(Notice, KindMoving, "slot %d of placement group %d is on store %d, which is out: it moves when there is somewhere to go", i, g.Id, s.Store)
		}
		if s.Previous != 0 && stores[s.Previous] == nil {
			r.add(Error, KindPlacement, "slot %d of placement group %d comes from store %d, which does not exist", i, g.Id, s.Previous)
		}
		if s.Filling {
			r.add(Notice, KindMoving, "slot %d of placement group %d is being filled on store %d", i, g.Id, s.Store)
		}
		d := domain(p, st)
		if j, had := where[d.key]; had {
			r.add(Error, KindPlacement, "slots %d and %d of placement group %d are in one failure domain, %s", j, i, g.Id, d.text)
		}
		where[d.key] = i
	}
}

type failureDomain struct{ key, text string }

// domain is the failure domain of a store in a pool.
func domain(p *metapb.Pool, s *metapb.Store) failureDomain {
	switch p.GetDomain() {
	case "node":
		return failureDomain{s.Node, "node " + s.Node}
	case "rack":
		return failureDomain{s.Rack, "rack " + cmp.Or(s.Rack, "(none)")}
	case "zone":
		return failureDomain{s.Zone, "zone " + cmp.Or(s.Zone, "(none)")}
	}
	return failureDomain{string(s.Uuid), fmt.Sprintf("the disk of store %d", s.Id)}
}
