package nodegroup

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Reservations are the reserved racks of a map.
func Reservations(m *metapb.ClusterMapR) placement.Reservations {
	r := make(placement.Reservations, len(m.GetReservations()))
	for _, x := range m.GetReservations() {
		r[x.Rack] = x.Group
	}
	return r
}

// eligible reports whether a store may hold data of a pool.
func eligible(r placement.Reservations, p *metapb.Pool, s *metapb.Store) bool {
	return r.Eligible(p.GetGroup(), s.GetGroup(), s.GetRack())
}

// Locations are where the stores are that may hold data of a group's pools and are to have their share: neither lost nor out.
func Locations(m *metapb.ClusterMapR, group string) (out []placement.Location) {
	r := Reservations(m)
	for _, s := range m.GetStores() {
		if s.State == metapb.StoreState_STORE_IN && r.Eligible(group, s.Group, s.Rack) {
			out = append(out, placement.Location{Node: s.Node, Rack: s.Rack, Zone: s.Zone})
		}
	}
	return out
}

// Place says how a slot stands that is on a store which may not hold its pool's data.
type Place uint8

const (
	// Leaving is a slot that has moved to a store which may hold it, and is being filled from one that may not.
	Leaving Place = iota + 1
	// Waiting is a slot on a store that may not hold it, in a group that takes no new blocks: there is nowhere to go, or it waits for its
	// turn.
	Waiting
	// Exposed is a slot on a store that may not hold it, in a group that takes new blocks. It is so from a reservation until
	// the leader's next look, and no longer.
	Exposed
)

func (p Place) String() string {
	return [...]string{"", "leaving", "waiting", "exposed"}[min(p, Exposed)]
}

// MarshalText implements encoding.TextMarshaler.
func (p Place) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Misplaced is a slot on a store that may not hold its pool's data.
type Misplaced struct {
	Pool  uint32 `json:"pool"`
	PG    uint32 `json:"pg"`
	Slot  int    `json:"slot"`
	Store uint32 `json:"store"`
	Place Place  `json:"place"`
}

func (x Misplaced) String() string {
	return fmt.Sprintf("pool %d: slot %d of placement group %d is %v on store %d, which may not hold it", x.Pool, x.Slot, x.PG, x.Place, x.Store)
}

// Exclusive lists the slots on stores that may not hold their pool's data: reserved racks hold only their group's data, and a group's data is
// only there, if and only if there are none.
func Exclusive(m *metapb.ClusterMapR) (out []Misplaced) {
	r := Reservations(m)
	stores := make(map[uint32]*metapb.Store, len(m.GetStores()))
	for _, s := range m.GetStores() {
		stores[s.Id] = s
	}
	for _, p := range m.GetPools() {
		bad := func(id uint32) bool {
			s := stores[id]
			return s != nil && s.State != metapb.StoreState_STORE_LOST && !eligible(r, p, s)
		}
		for _, g := range p.GetPgs() {
			for i, s := range g.GetSlots() {
				x := Misplaced{Pool: p.Id, PG: g.Id, Slot: i, Store: s.Store}
				switch {
				case bad(s.Store) && g.State == metapb.PGState_PG_OPEN:
					x.Place = Exposed
				case bad(s.Store):
					x.Place = Waiting
				case bad(s.Previous):
					x.Place, x.Store = Leaving, s.Previous
				default:
					continue
				}
				out = append(out, x)
			}
		}
	}
	slices.SortFunc(out, func(a, b Misplaced) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.PG, b.PG), cmp.Compare(a.Slot, b.Slot))
	})
	return out
}

// ProfileOf is a pool's profile.
func ProfileOf(p *metapb.Pool) placement.Profile {
	return placement.Profile{K: int(p.GetK()), M: int(p.GetM())}
}
