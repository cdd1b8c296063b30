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

// Drained is m as it would be with nodes drained.
func Drained(m *metapb.ClusterMapR, nodes []string) *metapb.ClusterMapR {
	next := &metapb.ClusterMapR{Pools: m.GetPools(), Groups: m.GetGroups(), Reservations: m.GetReservations(), Version: m.GetVersion(), LastPg: m.GetLastPg()}
	for _, s := range m.GetStores() {
		if slices.Contains(nodes, s.Node) && s.State == metapb.StoreState_STORE_IN {
			s = s.CloneVT()
			s.State = metapb.StoreState_STORE_OUT
		}
		next.Stores = append(next.Stores, s)
	}
	return next
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
