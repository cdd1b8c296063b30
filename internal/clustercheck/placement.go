package clustercheck

import (
	"cmp"
	"fmt"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Placement checks a cluster map by itself.
func Placement(m *metapb.ClusterMapR, r *Report) {
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
	for _, x := range nodegroup.Exclusive(m) {
		severity := Error
		if x.Place == nodegroup.Leaving {
			severity = Notice // the slot is on its way
		}
		r.add(severity, KindReservation, "%v", x)
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
