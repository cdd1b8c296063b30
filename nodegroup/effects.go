package nodegroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Effect is what a change of who may hold a pool's data means for the pool.
type Effect struct {
	Pool    string `json:"pool"`
	Group   string `json:"group" doc:"Empty: the shared part of the cluster"`
	Profile string `json:"profile"`
	Domain  string `json:"domain" doc:"Level of its failure domains"`
	Before  int    `json:"domains_before" doc:"Failure domains with stores that may hold its data"`
	After   int    `json:"domains_after"`
	Stores  int    `json:"stores_left" doc:"Stores that may not hold its data any more"`
	Slots   int    `json:"slots" doc:"Slots of placement groups that move off them"`
	Fits    bool   `json:"fits" doc:"Whether the profile still fits, if it did"`
	Data    int64  `json:"data_bytes,omitempty" doc:"What the pools of the group hold, in bytes of shards, if stores leave and it is known"`
	Room    int64  `json:"room_bytes,omitempty" doc:"What the stores that may hold it after can take, one shard of each block in a failure domain"`
	Roomy   bool   `json:"roomy" doc:"Whether that is enough, or is not known"`
	Idle    bool   `json:"idle,omitempty" doc:"No file system keeps data in it: nobody minds what becomes of it"`
	Text    string `json:"text"`
}

// Seen is what is known beside the map. Without it no pool is idle, and there is room.
type Seen struct {
	Stores []StoreStatus          // as the leader's manager sees them; nil: not known
	Idle   func(pool uint32) bool // whether no file system keeps data in a pool; nil: none is idle
}

// fillPercent is how full stores may become by a change. What is beyond that they need for compaction, and for groups that are not quite even.
const fillPercent = 90

// Effects says what a change from m to next means for the pools that it takes stores from or gives some. Stores that are out or lost are not
// among those that a pool has.
func Effects(m, next *metapb.ClusterMapR, seen Seen) (out []Effect) {
	was, will := Reservations(m), Reservations(next)
	then := make(map[uint32]*metapb.Store, len(next.GetStores()))
	for _, s := range next.GetStores() {
		then[s.Id] = s
	}
	for _, p := range m.GetPools() {
		if p.Retiring {
			continue
		}
		level, _ := placement.ParseLevel(p.GetDomain())
		profile := placement.Profile{K: int(p.K), M: int(p.M)}
		e := Effect{Pool: p.Name, Group: p.Group, Profile: profile.String(), Domain: level.String()}
		e.Before = placement.Members(Locations(m, p.Group))[level]
		e.After = placement.Members(Locations(next, p.Group))[level]
		gone, gained := map[uint32]bool{}, 0
		for _, s := range m.GetStores() {
			switch before, after := has(was, p, s), has(will, p, then[s.Id]); {
			case before && !after:
				gone[s.Id] = true
			case after && !before:
				gained++
			}
		}
		e.Stores = len(gone)
		if e.Stores == 0 && gained == 0 {
			continue
		}
		for _, g := range p.GetPgs() {
			for _, s := range g.GetSlots() {
				if gone[s.Store] {
					e.Slots++
				}
			}
		}
		e.Fits = e.After >= profile.Width() || e.After >= e.Before || len(p.GetPgs()) == 0
		e.Idle = seen.Idle != nil && seen.Idle(p.Id)
		if e.Roomy = true; e.Stores > 0 && e.Fits && seen.Stores != nil {
			e.Data, e.Room = seen.data(m, p), seen.room(next, p, level)
			e.Roomy = e.Data <= e.Room
		}
		e.Text = effectText(&e, profile, gained)
		out = append(out, e)
	}
	return out
}

// has reports whether a store has its share of a pool.
func has(r placement.Reservations, p *metapb.Pool, s *metapb.Store) bool {
	return s.GetState() == metapb.StoreState_STORE_IN && eligible(r, p, s)
}

// data is what the pools of p's group hold: everything on stores that only they may be on.
func (seen Seen) data(m *metapb.ClusterMapR, p *metapb.Pool) (n int64) {
	reserved := Reservations(m)
	for _, s := range m.GetStores() {
		if s.State != metapb.StoreState_STORE_LOST && eligible(reserved, p, s) {
			r := seen.of(s)
			n += int64(r.Used)
		}
	}
	return n
}

// room is what the stores that may hold p's data can take, in all and at most fillPercent of it.
func (seen Seen) room(m *metapb.ClusterMapR, p *metapb.Pool, level placement.Level) int64 {
	reserved := Reservations(m)
	domains := map[string][]blockstore.RoomReply{}
	for _, s := range m.GetStores() {
		if has(reserved, p, s) {
			at := placement.Location{Node: s.Node, Rack: s.Rack, Zone: s.Zone}.At(level)
			if level == placement.Disk {
				at = fmt.Sprint(s.Id)
			}
			domains[at] = append(domains[at], seen.of(s))
		}
	}
	var sizes []int64
	for _, stores := range domains {
		_, capacity := blockstore.Together(stores)
		sizes = append(sizes, int64(capacity))
	}
	return placement.Storable(int(p.K+p.M), sizes) / 100 * fillPercent
}

// of is the room of a store; of one that nobody has seen it is what its record says.
func (seen Seen) of(s *metapb.Store) blockstore.RoomReply {
	i := slices.IndexFunc(seen.Stores, func(x StoreStatus) bool { return x.ID == s.Id })
	if i < 0 || seen.Stores[i].Capacity == 0 {
		return blockstore.RoomReply{Capacity: s.Capacity}
	}
	return seen.Stores[i].room()
}

func effectText(e *Effect, profile placement.Profile, gained int) string {
	of := "the shared part of the cluster"
	if e.Group != "" {
		of = "group " + e.Group
	}
	var b strings.Builder
	fmt.Fprintf(&b, "pool %s (%v of %s, one shard per %s): ", e.Pool, profile, of, e.Domain)
	switch {
	case e.Stores == 0:
		fmt.Fprintf(&b, "gains %d stores", gained)
	default:
		fmt.Fprintf(&b, "loses %d stores, of which %d slots move to others", e.Stores, e.Slots)
	}
	fmt.Fprintf(&b, "; %d %ss instead of %d", e.After, e.Domain, e.Before)
	if !e.Fits {
		fmt.Fprintf(&b, ", and %v needs %d", profile, profile.Width())
		if k := e.After - profile.M; k >= 1 {
			fmt.Fprintf(&b, ": slots without another %s to go to stay where they are, and new blocks would be %v", e.Domain, placement.Profile{K: k, M: profile.M})
		} else {
			fmt.Fprintf(&b, ": what cannot move stays where it is, and writers would wait")
		}
	}
	if !e.Roomy {
		fmt.Fprintf(&b, "; %s of shards would have to fit into %s, %d%% of what the %d %ss can take: %s too much", size(e.Data), size(e.Room), fillPercent, e.After, e.Domain, size(e.Data-e.Room))
	}
	return b.String()
}

// size is a number of bytes for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	f, u := float64(n)/(1<<10), 0
	for f >= 1<<10 && u+1 < len(units) {
		f /= 1 << 10
		u++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[u])
}

// Allow refuses a change after which a pool with data could not keep its profile, or would have no room.
func Allow(op string, effects []Effect) error {
	var texts []string
	for _, e := range effects {
		if !e.Idle && !(e.Fits && e.Roomy) {
			texts = append(texts, e.Text)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return vfs.Errorf(vfs.KindBusy, op, "%s: add stores elsewhere first, name fewer, or say --force and have what does not fit stay where it is, and new data in narrower groups, until there are enough", strings.Join(texts, "; "))
}
