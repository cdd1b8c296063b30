package fsm

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func (r *rig) clusterMap(known uint64) *metapb.ClusterMapR {
	r.t.Helper()
	res := r.query(&metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{KnownVersion: known}}})
	if res.Kind != 0 {
		r.t.Fatalf("cluster map: %s %s", vfs.Kind(res.Kind), res.Text)
	}
	return res.GetClusterMap()
}

// mapRules are what holds of the cluster map from level 2 on, between any two commands.
type mapRules struct {
	rt     *rapid.T
	gone   map[[2]uint32]bool   // groups that were removed, by pool and id
	epochs map[[2]uint32]uint32 // the highest seen
	lost   map[uint32]bool
}

func (m *mapRules) check(c *metapb.ClusterMapR) {
	for _, s := range c.Stores {
		if m.lost[s.Id] && s.State != metapb.StoreState_STORE_LOST {
			m.rt.Fatalf("lost store %v came back", s)
		}
		m.lost[s.Id] = s.State == metapb.StoreState_STORE_LOST
	}
	for _, p := range c.Pools {
		here := make(map[[2]uint32]bool)
		for i, g := range p.Pgs {
			k := [2]uint32{p.Id, g.Id}
			here[k] = true
			if m.gone[k] {
				m.rt.Fatalf("group %v came back", g)
			}
			if g.Epoch < m.epochs[k] {
				m.rt.Fatalf("group %v was at epoch %d", g, m.epochs[k])
			}
			m.epochs[k] = g.Epoch
			if i > 0 && p.Pgs[i-1].Id >= g.Id {
				m.rt.Fatalf("groups not in order: %v", p)
			}
			if g.Id > p.LastPg {
				m.rt.Fatalf("the highest id is %d, not %d", g.Id, p.LastPg)
			}
			if want := dataSlots(p, g) + p.M; len(g.Slots) != int(want) {
				m.rt.Fatalf("group %v has not %d slots", g, want)
			}
			for _, s := range g.Slots {
				if m.lost[s.Store] || m.lost[s.Previous] {
					m.rt.Fatalf("group %v names a lost store", g)
				}
			}
		}
		for k := range m.epochs {
			if k[0] == p.Id && !here[k] {
				m.gone[k] = true
			}
		}
	}
}

// TestClusterMapRules draws changes of the map: a refused one changes nothing, the version grows if and only
// if something changes, the rules hold, and it does not matter how commands are batched.
func TestClusterMapRules(t *testing.T) {
	changes := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		h := &clusterHistory{draw: func(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(rt, label) }}
		one, batched := newRig(t, Options{}), newRig(t, Options{})
		for _, r := range []*rig{one, batched} {
			r.register("a", 1)
			r.raise()
			r.ok(&metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: "g"}}})
			r.ok(&metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{Name: "n", Id: nodeID("n"), Roles: []string{"block"}, Version: 1}}}})
			r.flush()
		}
		rules := &mapRules{rt: rt, gone: map[[2]uint32]bool{}, epochs: map[[2]uint32]uint32{}, lost: map[uint32]bool{}}
		var entry []*metapb.Command
		for range rapid.IntRange(1, 90).Draw(rt, "commands") {
			before := one.clusterMap(0)
			h.present = before
			c := one.stamp(h.op())
			entry = append(entry, c.CloneVT())
			res := one.one(c)
			after := one.clusterMap(0)
			rules.exclusive(before, after)
			if res.Kind == 0 && after.Version > before.Version {
				switch op := c.Op.(type) {
				case *metapb.Command_PutGroup:
					changes["group"]++
				case *metapb.Command_RemoveGroup:
					changes["group removed"]++
				case *metapb.Command_ReserveRacks:
					changes[map[bool]string{true: "release", false: "reserve"}[op.ReserveRacks.Group == ""]]++
				case *metapb.Command_SetNodeGroup:
					changes["node"]++
				case *metapb.Command_RemovePool:
					changes["pool removed"]++
				case *metapb.Command_ChangePgs:
					changes["change"]++
				case *metapb.Command_ReplaceStore:
					changes["replace"]++
				}
			}
			if r := c.GetReplaceStore(); r != nil {
				if e := r.ExpectMapVersion; e != 0 && e != before.Version && res.Kind == 0 && after.Version != before.Version {
					rt.Fatalf("%v was applied to version %d", r, before.Version)
				}
				gone := hopeless(after)
				for g := range hopeless(before) {
					delete(gone, g)
				}
				if len(gone) > 0 {
					rt.Fatalf("%v left groups %v without enough members:\n%s", r, gone, mapText(after))
				}
				if strings.Contains(res.Text, "whole members") {
					changes["refused"]++
				}
			}
			if strings.Contains(res.Text, "may not hold data of pool") {
				changes["not eligible"]++
			}
			b, a := mapText(before), mapText(after)
			// A node without stores is no part of the map, and has to change its version.
			if (after.Version > before.Version) != (a != b) && (a != b || c.GetSetNodeGroup() == nil) || (res.Kind != 0 && after.Version != before.Version) {
				rt.Fatalf("%v: version %d, was %d:\n%s\n%s", c, after.Version, before.Version, a, b)
			}
			if !one.clusterMap(after.Version).Unchanged {
				rt.Fatal("the present version is not known")
			}
			rules.check(after)
		}
		for len(entry) > 0 {
			n := rapid.IntRange(1, len(entry)).Draw(rt, "entry")
			batched.apply(entry[:n]...)
			entry = entry[n:]
		}
		if d := diffStates(one.state(), batched.state()); d != "" {
			rt.Fatal(d)
		}
	})
	for _, op := range []string{"change", "replace", "refused", "group", "group removed", "reserve", "not eligible"} {
		if changes[op] == 0 {
			t.Errorf("no %s succeeded: the test shows nothing", op)
		}
	}
	t.Log(changes)
}

// exclusive checks that a change gives no store data that it may not have: what is where it should not be was there before a rack was reserved,
// or a node or a disk changed its place.
func (m *mapRules) exclusive(before, after *metapb.ClusterMapR) {
	reserved := map[string]string{}
	for _, r := range after.Reservations {
		reserved[r.Rack] = r.Group
	}
	stores := map[uint32]*metapb.Store{}
	for _, s := range after.Stores {
		stores[s.Id] = s
	}
	had := map[[3]uint32]bool{}
	for _, p := range before.Pools {
		for _, g := range p.Pgs {
			for _, s := range g.Slots {
				had[[3]uint32{p.Id, g.Id, s.Store}] = true
			}
		}
	}
	replaced := map[uint32]bool{}
	for _, s := range after.Stores {
		replaced[s.ReplacedBy] = true
	}
	for _, p := range after.Pools {
		for _, g := range p.Pgs {
			for _, s := range g.Slots {
				t := stores[s.Store]
				if t == nil || had[[3]uint32{p.Id, g.Id, s.Store}] || replaced[s.Store] {
					continue
				}
				if to := reserved[t.Rack]; t.Group != p.Group || t.Rack != "" && to != "" && to != p.Group {
					m.rt.Fatalf("group %v of pool %s (%q) was given store %v; reserved are %v", g, p.Name, p.Group, t, reserved)
				}
			}
		}
	}
}

// hopeless are the groups of which too few slots have, by themselves or by the store before, all that was written.
func hopeless(c *metapb.ClusterMapR) map[[2]uint32]bool {
	out := make(map[[2]uint32]bool)
	for _, p := range c.Pools {
		for _, g := range p.Pgs {
			n := len(g.Slots)
			for _, s := range g.Slots {
				if s.Filling && s.Previous == 0 {
					n--
				}
			}
			if n < int(dataSlots(p, g)) {
				out[[2]uint32{p.Id, g.Id}] = true
			}
		}
	}
	return out
}

func mapText(c *metapb.ClusterMapR) string {
	c = c.CloneVT()
	c.Version = 0
	return show(c.ProtoReflect())
}
