package clustercheck

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// sound is a map of six stores on three racks of two nodes, a pool of 2+1 by rack, and a pool of a node group in a rack of its own.
func sound() *metapb.ClusterMapR {
	m := &metapb.ClusterMapR{
		Groups: []*metapb.NodeGroup{{Name: "g", Id: 1}}, Reservations: []*metapb.RackReservation{{Rack: "r4", Group: "g"}}, LastPg: 9,
	}
	for i := uint32(1); i <= 9; i++ {
		s := &metapb.Store{Id: i, Uuid: []byte{byte(i)}, Node: fmt.Sprintf("n%d", i), Rack: fmt.Sprintf("r%d", (i-1)%3+1)}
		if i > 6 {
			s.Rack, s.Group = "r4", "g"
		}
		m.Stores = append(m.Stores, s)
	}
	slots := func(ids ...uint32) (out []*metapb.Slot) {
		for _, id := range ids {
			out = append(out, &metapb.Slot{Store: id})
		}
		return out
	}
	m.Pools = []*metapb.Pool{
		{Id: 1, Name: "shared", K: 2, M: 1, Domain: "rack", LastPg: 2, Pgs: []*metapb.PlacementGroup{
			{Id: 1, Epoch: 1, Slots: slots(1, 2, 3)}, {Id: 2, Epoch: 1, Slots: slots(4, 2, 6)},
		}},
		{Id: 2, Name: "g", Group: "g", K: 2, M: 1, Domain: "node", LastPg: 3, Pgs: []*metapb.PlacementGroup{{Id: 3, Epoch: 1, Slots: slots(7, 8, 9)}}},
	}
	return m
}

// Every fault that is put into a sound map is found, and named.
func TestPlacement(t *testing.T) {
	var r Report
	if Placement(sound(), map[uint32]bool{1: true, 2: true}, &r); r.Errors+r.Notices != 0 {
		t.Fatalf("a sound map: %v", r.Findings)
	}
	first := func(m *metapb.ClusterMapR) *metapb.PlacementGroup { return m.Pools[0].Pgs[0] }
	for name, x := range map[string]struct {
		spoil func(m *metapb.ClusterMapR)
		want  Finding
	}{
		"two slots in one rack": {func(m *metapb.ClusterMapR) { first(m).Slots[1].Store = 4 }, Finding{Error, KindPlacement, "slots 0 and 1 of placement group 1 are in one failure domain, rack r1"}},
		"two slots on one store": {func(m *metapb.ClusterMapR) {
			m.Pools[0].Domain = ""
			first(m).Slots[2].Store = 2
		}, Finding{Error, KindPlacement, "slots 1 and 2 of placement group 1 are in one failure domain, the disk of store 2"}},
		"no such store":      {func(m *metapb.ClusterMapR) { first(m).Slots[0].Store = 77 }, Finding{Error, KindPlacement, "is on store 77, which does not exist"}},
		"from no such store": {func(m *metapb.ClusterMapR) { first(m).Slots[0].Previous = 77 }, Finding{Error, KindPlacement, "comes from store 77"}},
		"a lost store":       {func(m *metapb.ClusterMapR) { m.Stores[0].State = metapb.StoreState_STORE_LOST }, Finding{Error, KindPlacement, "store 1, which was given up"}},
		"too few slots":      {func(m *metapb.ClusterMapR) { first(m).Slots = first(m).Slots[:2] }, Finding{Error, KindPlacement, "has 2 slots, not 3"}},
		"one id, two pools":  {func(m *metapb.ClusterMapR) { m.Pools[1].Pgs[0].Id = 2 }, Finding{Error, KindPlacement, "placement group 2 is in the pools 1 and 2"}},
		"one disk, two ids":  {func(m *metapb.ClusterMapR) { m.Stores[1].Uuid = m.Stores[0].Uuid }, Finding{Error, KindPlacement, "stores 1 and 2 are the same disk"}},
		"above the last":     {func(m *metapb.ClusterMapR) { m.Pools[0].LastPg = 1 }, Finding{Error, KindPlacement, "placement group 2 is above the last"}},
		"in a reserved rack": {func(m *metapb.ClusterMapR) { first(m).Slots[0].Store = 7 }, Finding{Error, KindReservation, "slot 0 of placement group 1 is exposed on store 7"}},
		"outside its group":  {func(m *metapb.ClusterMapR) { m.Pools[1].Pgs[0].Slots[2].Store = 1 }, Finding{Error, KindReservation, "slot 2 of placement group 3 is exposed on store 1"}},
		"reserved afterwards": {func(m *metapb.ClusterMapR) {
			m.Reservations = append(m.Reservations, &metapb.RackReservation{Rack: "r2", Group: "g"})
		}, Finding{Error, KindReservation, "slot 1 of placement group 2 is exposed on store 2"}},
		"waits for its turn": {func(m *metapb.ClusterMapR) {
			m.Pools[0].Domain = "node"
			m.Reservations = append(m.Reservations, &metapb.RackReservation{Rack: "r2", Group: "g"})
			for _, g := range m.Pools[0].Pgs {
				g.State = metapb.PGState_PG_CLOSED
			}
		}, Finding{Notice, KindReservation, "slot 1 of placement group 2 is waiting on store 2, which may not hold it: it moves when it is its turn"}},
		"nowhere to go": {func(m *metapb.ClusterMapR) {
			m.Reservations = append(m.Reservations, &metapb.RackReservation{Rack: "r2", Group: "g"})
			for _, g := range m.Pools[0].Pgs {
				g.State = metapb.PGState_PG_CLOSED
			}
		}, Finding{Error, KindReservation, "slot 1 of placement group 2 is waiting on store 2, which may not hold it: it has nowhere to go, for pool shared has 2 domains of level rack and needs 3"}},
		"idle, and its last nodes left the group": {func(m *metapb.ClusterMapR) {
			for _, s := range m.Stores[6:] {
				s.Group = ""
			}
			m.Pools[1].Pgs[0].State = metapb.PGState_PG_CLOSED
		}, Finding{Notice, KindReservation, "no file system keeps data in pool g: `rackfs group delete g` ends it"}},
		"its last nodes left the group": {func(m *metapb.ClusterMapR) {
			for _, s := range m.Stores[6:] {
				s.Group = ""
			}
			m.Pools[1].Pgs[0].State = metapb.PGState_PG_CLOSED
		}, Finding{Error, KindReservation, "it has nowhere to go, for pool g has 0 domains of level node and needs 3"}},
		"leaving": {func(m *metapb.ClusterMapR) { s := first(m).Slots[0]; s.Previous, s.Filling = 7, true }, Finding{Notice, KindReservation, "is leaving on store 7"}},
		"filling": {func(m *metapb.ClusterMapR) { first(m).Slots[1].Filling = true }, Finding{Notice, KindMoving, "slot 1 of placement group 1 is being filled on store 2"}},
		"out":     {func(m *metapb.ClusterMapR) { m.Stores[5].State = metapb.StoreState_STORE_OUT }, Finding{Notice, KindMoving, "slot 2 of placement group 2 is on store 6, which is out"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := sound()
			x.spoil(m)
			var r Report
			Placement(m, map[uint32]bool{1: !strings.HasPrefix(name, "idle"), 2: !strings.HasPrefix(name, "idle")}, &r)
			for _, f := range r.Findings {
				if f.Severity == x.want.Severity && f.Kind == x.want.Kind && strings.Contains(f.Text, x.want.Text) {
					return
				}
			}
			t.Fatalf("found %v, want %v", r.Findings, x.want)
		})
	}
}

// Findings beyond the first of a kind are counted, not kept.
func TestReportIsBounded(t *testing.T) {
	var r Report
	for i := range 10 * findingsKept {
		r.add(Error, KindMissing, "%d", i)
		r.add(Notice, KindMoving, "%d", i)
	}
	if r.Errors != 10*findingsKept || r.Notices != 10*findingsKept || r.Counts[KindMissing] != 10*findingsKept || len(r.Findings) != 2*findingsKept {
		t.Fatalf("%d errors, %d notices, %d findings", r.Errors, r.Notices, len(r.Findings))
	}
}
