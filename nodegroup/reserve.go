package nodegroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// groupsPerStore is how many placement groups a new pool gets for each store.
const groupsPerStore = 8

// Reserve is m as it would be with racks reserved for a group, or released (group "").
func Reserve(m *metapb.ClusterMapR, group string, racks []string) *metapb.ClusterMapR {
	next := &metapb.ClusterMapR{Stores: m.GetStores(), Pools: m.GetPools(), Groups: m.GetGroups(), Version: m.GetVersion(), LastPg: m.GetLastPg()}
	for _, r := range m.GetReservations() {
		if !slices.Contains(racks, r.Rack) {
			next.Reservations = append(next.Reservations, r)
		}
	}
	for _, r := range racks {
		if group != "" {
			next.Reservations = append(next.Reservations, &metapb.RackReservation{Rack: r, Group: group})
		}
	}
	return next
}

// Regroup is m as it would be with nodes in a group.
func Regroup(m *metapb.ClusterMapR, group string, nodes []string) *metapb.ClusterMapR {
	next := &metapb.ClusterMapR{Pools: m.GetPools(), Groups: m.GetGroups(), Reservations: m.GetReservations(), Version: m.GetVersion(), LastPg: m.GetLastPg()}
	for _, s := range m.GetStores() {
		if slices.Contains(nodes, s.Node) {
			s = s.CloneVT()
			s.Group = group
		}
		next.Stores = append(next.Stores, s)
	}
	return next
}

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
	Text    string `json:"text"`
}

// Effects says what a change from m to next means for the pools that it takes stores from or gives some. Stores that are out or lost do not
// count.
func Effects(m, next *metapb.ClusterMapR) (out []Effect) {
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
			if s.State == metapb.StoreState_STORE_LOST {
				continue
			}
			switch before, after := eligible(was, p, s), eligible(will, p, then[s.Id]); {
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
		e.Text = effectText(&e, profile, gained)
		out = append(out, e)
	}
	return out
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
	return b.String()
}

// Allow refuses a change after which a pool could not keep its profile.
func Allow(op string, effects []Effect) error {
	var texts []string
	for _, e := range effects {
		if !e.Fits {
			texts = append(texts, e.Text)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return vfs.Errorf(vfs.KindBusy, op, "%s: add stores elsewhere first, name fewer, or say --force and have new data in narrower groups until there are enough", strings.Join(texts, "; "))
}

// NewPool is the pool of a group ("": the shared part of the cluster) with this profile, and whether it is there already; else it is to be
// put. KindInvalid, with the arithmetic: the profile does not fit the stores.
func NewPool(m *metapb.ClusterMapR, group string, profile placement.Profile) (p *metapb.Pool, exists bool, err error) {
	const op = "new pool"
	if err := profile.Validate(); err != nil {
		return nil, false, vfs.Wrap(op, err)
	}
	if group != "" && !slices.ContainsFunc(m.GetGroups(), func(g *metapb.NodeGroup) bool { return g.Name == group }) {
		return nil, false, noGroup(op, m, group)
	}
	last := uint32(0)
	names := map[string]bool{}
	for _, o := range m.GetPools() {
		if o.Group == group && int(o.K) == profile.K && int(o.M) == profile.M {
			if o.Retiring {
				return nil, false, vfs.Errorf(vfs.KindUnavailable, op, "pool %s is being removed, %d placement groups are left: try again in a minute", o.Name, len(o.Pgs))
			}
			return o, true, nil
		}
		last = max(last, o.Id)
		names[o.Name] = true
	}
	level, _, err := placement.ChooseLevel(profile, Locations(m, group))
	if err != nil {
		if group != "" {
			return nil, false, vfs.Errorf(vfs.KindOf(err), op, "group %s: %w", group, err)
		}
		return nil, false, vfs.Wrap(op, err)
	}
	name := fmt.Sprintf("%s-%v", group, profile)
	if group == "" {
		name = fmt.Sprintf("shared:%v", profile) // no group has this in its name
	}
	for names[name] {
		name += "-"
	}
	return &metapb.Pool{
		Id: last + 1, Name: name, Group: group, K: uint32(profile.K), M: uint32(profile.M), Domain: level.String(), GroupsPerStore: groupsPerStore,
	}, false, nil
}

// noGroup says which groups there are.
func noGroup(op string, m *metapb.ClusterMapR, group string) error {
	var names []string
	for _, g := range m.GetGroups() {
		names = append(names, g.Name)
	}
	if len(names) == 0 {
		return vfs.Errorf(vfs.KindNotFound, op, "there is no group %s, nor any other: make it with `rackfs group create %s`", group, group)
	}
	return vfs.Errorf(vfs.KindNotFound, op, "there is no group %s, only %s: make it with `rackfs group create %s`", group, strings.Join(names, ", "), group)
}
