package nodegroup

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// cluster is the state machine of shard 0 and a manager whose observation the test makes up: no sockets, no time.
type cluster struct {
	t    *rapid.T
	meta *metadata
	m    *Manager
	disk byte // uuids given out
}

func newCluster(t *rapid.T, tt *testing.T) *cluster {
	c := &cluster{t: t, meta: newMetadata(tt)}
	for l := uint32(3); l <= 4; l++ {
		c.must(&metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: l}}})
	}
	c.m = New(Options{Leads: func() bool { return true }, Meta: c.meta, Logger: quiet()})
	return c
}

func (c *cluster) apply(cmd *metapb.Command) error {
	_, err := c.meta.Apply(c.t.Context(), clusterShard, cmd)
	return err
}

func (c *cluster) must(cmd *metapb.Command) {
	c.t.Helper()
	if err := c.apply(cmd); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) cmap() *metapb.ClusterMapR {
	c.t.Helper()
	r, err := c.meta.Query(c.t.Context(), clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.GetClusterMap()
}

func (c *cluster) uuid() []byte {
	c.disk++
	return []byte{c.disk}
}

func (c *cluster) addStore(id uint32, node, rack string) {
	c.must(&metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{
		Id: id, Uuid: c.uuid(), Node: node, Rack: rack, Zone: "z", Address: node, Capacity: 1 << 40,
	}}}})
	c.m.health[id] = &health{state: Up, readable: true, since: time.Unix(0, 0)}
}

func (c *cluster) reserve(group string, racks ...string) {
	c.must(&metapb.Command{Op: &metapb.Command_ReserveRacks{ReserveRacks: &metapb.ReserveRacks{Group: group, Racks: racks, ExpectMapVersion: c.cmap().Version}}})
}

func (c *cluster) regroup(group string, nodes ...string) {
	c.must(&metapb.Command{Op: &metapb.Command_SetNodeGroup{SetNodeGroup: &metapb.SetNodeGroup{Group: group, Nodes: nodes, ExpectMapVersion: c.cmap().Version}}})
}

// plan is one look of the leader. It reports whether anything changed.
func (c *cluster) plan() bool {
	c.t.Helper()
	if err := c.m.refresh(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	before := c.m.cmap.Version
	if err := c.m.plan(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	return c.cmap().Version != before
}

// fill ends what stores' upkeep would have ended: the filling of slots of stores that run, of groups that pick chooses.
func (c *cluster) fill(pick func() bool) (changed bool) {
	for _, p := range c.cmap().Pools {
		ch := &metapb.ChangePGs{Pool: p.Id}
		for _, g := range p.Pgs {
			done := false
			for _, s := range g.Slots {
				if h := c.m.health[s.Store]; s.Filling && h != nil && h.state == Up && pick() {
					s.Filling, s.Previous, done = false, 0, true
				}
			}
			if done {
				ch.Changes = append(ch.Changes, &metapb.PGChange{ExpectEpoch: g.Epoch, Pg: g})
			}
		}
		if len(ch.Changes) > 0 {
			c.must(&metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: ch}})
			changed = true
		}
	}
	return changed
}

// TestReservedRacks draws clusters, and reservations, moves of nodes, losses and growth in them, in any state of what went before. After each look of the
// leader no group that takes new blocks is where it may not be. When all has come to rest, a slot is where it may not be only if
// nothing else could hold it; so data is where it may be if the profile fits.
func TestReservedRacks(t *testing.T) {
	counts := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(rt, t)
		num := func(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(rt, label) }
		groups := []string{"g", "h"}
		for _, g := range groups {
			c.must(&metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: g}}})
		}
		racks := num("racks", 2, 5)
		rackName := func(i int) string { return fmt.Sprint("r", i) }
		var nodes []string
		next := uint32(1)
		addNode := func(rack int) {
			name := fmt.Sprint("n", len(nodes))
			c.must(&metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{
				Name: name, Id: []byte((name + "................")[:16]), Version: 1, Roles: []string{"block"}, Rack: rackName(rack)}}}})
			for range num("disks", 1, 2) {
				c.addStore(next, name, rackName(rack))
				next++
			}
			nodes = append(nodes, name)
		}
		for r := range racks {
			for range num("nodes", 1, 3) {
				addNode(r)
			}
		}
		pool := func(group string, k, m int) {
			p, exists, err := NewPool(c.cmap(), group, placement.Profile{K: k, M: m})
			if err != nil || exists {
				counts["no pool"]++
				return
			}
			p.GroupsPerStore = 2 // fewer are as good and faster
			c.must(&metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: p}}})
		}
		pool("", num("k", 1, 3), num("m", 0, 2))
		for range num("steps", 1, 12) {
			switch num("step", 0, 9) {
			case 0, 1:
				g, rack := rapid.SampledFrom(groups).Draw(rt, "for"), rackName(num("rack", 0, racks-1))
				m := c.cmap()
				effects := Effects(m, Reserve(m, g, []string{rack}), Seen{})
				if Allow("", effects) != nil && num("force", 0, 1) == 0 {
					counts["refused"]++
					break
				}
				err := c.apply(&metapb.Command{Op: &metapb.Command_ReserveRacks{ReserveRacks: &metapb.ReserveRacks{Group: g, Racks: []string{rack}, ExpectMapVersion: m.Version}}})
				if err != nil && vfs.KindOf(err) != vfs.KindExists {
					rt.Fatal(err)
				}
				counts["reserved"]++
			case 2:
				c.reserve("", rackName(num("rack", 0, racks-1)))
			case 3, 4, 5:
				c.regroup(rapid.SampledFrom([]string{"", "g", "h"}).Draw(rt, "into"), rapid.SampledFrom(nodes).Draw(rt, "node"))
			case 6:
				pool(rapid.SampledFrom([]string{"", "g", "h"}).Draw(rt, "pool of"), num("k", 1, 2), num("m", 0, 2))
			case 7:
				h := c.m.health[uint32(num("store", 1, int(next)-1))]
				if h == nil {
					break
				}
				h.state = rapid.SampledFrom([]State{Up, Up, Down, Out}).Draw(rt, "state")
				h.readable = h.state == Up
			case 8:
				addNode(num("rack", 0, racks-1))
			case 9:
				c.lose(uint32(num("lost", 1, int(next)-1)), next)
				if slices.ContainsFunc(c.cmap().Stores, func(s *metapb.Store) bool { return s.Id == next }) {
					next++
					counts["lost"]++
				}
			}
			for range num("looks", 0, 3) {
				c.plan()
				for _, x := range Exclusive(c.cmap()) {
					if x.Place == Exposed {
						rt.Fatalf("after the leader's look: %v\n%s", x, c)
					}
				}
				c.fill(func() bool { return num("filled", 0, 1) == 0 })
			}
		}
		// Nothing more is lost, and what is away comes back or is given up.
		for _, s := range c.cmap().Stores {
			if h := c.m.health[s.Id]; h != nil && h.state == Down {
				h.state = rapid.SampledFrom([]State{Up, Out}).Draw(rt, "in the end")
				h.readable = h.state == Up
			}
		}
		for rounds := 0; c.plan() || c.fill(func() bool { return true }); rounds++ {
			if rounds > 200 {
				rt.Fatalf("no end of moving after %d rounds\n%s", rounds, c)
			}
		}
		m := c.cmap()
		for _, x := range Exclusive(m) {
			if to := c.couldHold(m, x); to != 0 {
				rt.Fatalf("%v, and store %d could hold it\n%s", x, to, c)
			}
			counts["nowhere to go"]++
		}
		counts["clusters"]++
	})
	for _, what := range []string{"refused", "reserved", "nowhere to go", "lost"} {
		if counts[what] == 0 {
			t.Errorf("%q never happened: the test shows nothing", what)
		}
	}
	t.Log(counts)
}

// lose replaces a store by a new one of its node, if the data of the others suffices.
func (c *cluster) lose(id, with uint32) {
	m := c.cmap()
	i := slices.IndexFunc(m.Stores, func(s *metapb.Store) bool { return s.Id == id })
	if i < 0 || m.Stores[i].State == metapb.StoreState_STORE_LOST || Survives(m, id) != nil {
		return
	}
	fresh := m.Stores[i].CloneVT()
	fresh.Id, fresh.Uuid = with, c.uuid()
	if c.apply(&metapb.Command{Op: &metapb.Command_ReplaceStore{ReplaceStore: &metapb.ReplaceStore{Old: id, New: fresh, ExpectMapVersion: m.Version}}}) == nil {
		delete(c.m.health, id)
		c.m.health[with] = &health{state: Up, readable: true}
	}
}

// couldHold is a store that the slot could move to, 0 if there is none.
func (c *cluster) couldHold(m *metapb.ClusterMapR, x Misplaced) uint32 {
	r := Reservations(m)
	for _, p := range m.Pools {
		if p.Id != x.Pool {
			continue
		}
		g := p.Pgs[slices.IndexFunc(p.Pgs, func(g *metapb.PlacementGroup) bool { return g.Id == x.PG })]
		level, _ := placement.ParseLevel(p.Domain)
		taken := map[string]bool{}
		domain := func(s *metapb.Store) string {
			return [...]string{fmt.Sprint(s.Id), s.Node, s.Rack, s.Zone}[level]
		}
		for i, s := range g.Slots {
			for _, t := range m.Stores {
				if i != x.Slot && (t.Id == s.Store || t.Id == s.Previous) {
					taken[domain(t)] = true
				}
			}
		}
		for _, s := range m.Stores {
			if h := c.m.health[s.Id]; h != nil && h.state == Up && s.State == metapb.StoreState_STORE_IN && eligible(r, p, s) && !taken[domain(s)] {
				return s.Id
			}
		}
	}
	return 0
}

// String is the state, for failures.
func (c *cluster) String() string {
	var b strings.Builder
	m := c.cmap()
	fmt.Fprintln(&b, "reserved:", m.Reservations)
	for _, s := range m.Stores {
		fmt.Fprintln(&b, s, c.m.health[s.Id])
	}
	for _, p := range m.Pools {
		fmt.Fprintf(&b, "pool %d %s: %q %d+%d %s\n", p.Id, p.Name, p.Group, p.K, p.M, p.Domain)
		for _, g := range p.Pgs {
			fmt.Fprintln(&b, "  ", g)
		}
	}
	return b.String()
}

// TestEffects checks the arithmetic of reservations and moves of nodes, and what new pools are.
func TestEffects(t *testing.T) {
	m := &metapb.ClusterMapR{Version: 7, Groups: []*metapb.NodeGroup{{Name: "g", Id: 1}}, Pools: []*metapb.Pool{
		{Id: 1, Name: "default", K: 2, M: 1, Domain: "node", Pgs: []*metapb.PlacementGroup{{Id: 1, Epoch: 1, Slots: []*metapb.Slot{{Store: 1}, {Store: 2}, {Store: 3}}}}},
	}}
	for id := uint32(1); id <= 4; id++ {
		m.Stores = append(m.Stores, &metapb.Store{Id: id, Node: name(id), Rack: "r" + string('0'+rune(id)), Zone: "z"})
	}
	effects := Effects(m, Reserve(m, "g", []string{"r1"}), Seen{})
	if len(effects) != 1 || effects[0].Before != 4 || effects[0].After != 3 || effects[0].Slots != 1 || Allow("", effects) != nil {
		t.Errorf("%+v", effects)
	}
	if e := Effects(m, Reserve(m, "g", []string{"r9"}), Seen{}); len(e) != 0 {
		t.Errorf("an empty rack: %+v", e)
	}
	err := Allow("reserve", Effects(m, Reserve(m, "g", []string{"r1", "r2"}), Seen{}))
	if vfs.KindOf(err) != vfs.KindBusy || !strings.Contains(err.Error(), "loses 2 stores, of which 2 slots move to others; 2 nodes instead of 4, and 2+1 needs 3: slots without another node to go to stay where they are, and new blocks would be 1+1") {
		t.Error(err)
	}
	if err := Allow("", Effects(m, Reserve(m, "g", []string{"r1", "r2", "r3"}), Seen{})); !strings.Contains(err.Error(), "writers would wait") {
		t.Error(err)
	}
	if err := Allow("", Effects(m, Regroup(m, "g", []string{"n1", "n2"}), Seen{})); !strings.Contains(err.Error(), "2 nodes instead of 4") {
		t.Error(err)
	}
	// Room: what the stores hold has to fit into what the others can take, one shard of each block on a node.
	seen := Seen{Stores: []StoreStatus{{ID: 1, Used: 50 << 30, Capacity: 100 << 30}, {ID: 2, Used: 50 << 30, Capacity: 100 << 30}, {ID: 3, Used: 50 << 30, Capacity: 100 << 30}, {ID: 4, Used: 50 << 30, Capacity: 100 << 30}}}
	effects = Effects(m, Reserve(m, "g", []string{"r1"}), seen)
	if len(effects) != 1 || effects[0].Data != 200<<30 || effects[0].Room != 300<<30/100*90 || Allow("", effects) != nil {
		t.Errorf("%+v", effects)
	}
	seen.Stores[2].Used = 120 << 30
	if err := Allow("", Effects(m, Reserve(m, "g", []string{"r1"}), seen)); err != nil {
		t.Errorf("just as much as fits: %v", err)
	}
	seen.Stores[2].Used = 150 << 30
	if err := Allow("", Effects(m, Reserve(m, "g", []string{"r1"}), seen)); vfs.KindOf(err) != vfs.KindBusy ||
		!strings.Contains(err.Error(), "300.0 GiB of shards would have to fit into 270.0 GiB, 90% of what the 3 nodes can take: 30.0 GiB too much") {
		t.Error(err)
	}
	// Small nodes limit the large ones, and what stores share counts once.
	seen.Stores[2].Used, seen.Stores[3].Used, seen.Stores[3].Capacity = 50<<30, 5<<30, 10<<30
	if e := Effects(m, Reserve(m, "g", []string{"r1"}), seen); e[0].Room != 30<<30/100*90 || e[0].Roomy {
		t.Errorf("%+v", e)
	}
	m.Stores = append(m.Stores, &metapb.Store{Id: 5, Node: name(4), Rack: "r4", Zone: "z"})
	seen.Stores[3] = StoreStatus{ID: 4, Capacity: 60 << 30, Shared: 60 << 30, Device: strings.Repeat("ab", 16)}
	seen.Stores = append(seen.Stores, StoreStatus{ID: 5, Capacity: 60 << 30, Shared: 60 << 30, Device: strings.Repeat("ab", 16)})
	if e := Effects(m, Reserve(m, "g", []string{"r1"}), seen); e[0].Room != 180<<30/100*90 || !e[0].Roomy {
		t.Errorf("%+v", e)
	}
	m.Stores = m.Stores[:4]
	// What no file system keeps data in is nobody's concern.
	if err := Allow("", Effects(m, Reserve(m, "g", []string{"r1", "r2", "r3"}), Seen{Idle: func(uint32) bool { return true }})); err != nil {
		t.Error(err)
	}
	// A drain is the same arithmetic.
	if e := Effects(m, Drained(m, []string{"n1"}), seen); len(e) != 1 || e[0].After != 3 || e[0].Slots != 1 || !e[0].Roomy {
		t.Errorf("%+v", e)
	}
	// A node of the group in the reserved rack: the group gains what the shared part loses.
	own := Reserve(Regroup(m, "g", []string{"n1"}), "g", []string{"r1"})
	if _, _, err := NewPool(own, "g", placement.Profile{K: 2, M: 1}); vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), "group g") || !strings.Contains(err.Error(), "there is 1 disk") && !strings.Contains(err.Error(), "1 disk on 1 node") {
		t.Error(err)
	}
	p, exists, err := NewPool(own, "g", placement.Profile{K: 1, M: 0})
	if err != nil || exists || p.Id != 2 || p.Name != "g-1+0" || p.Group != "g" || p.Domain != "zone" || p.GroupsPerStore == 0 {
		t.Errorf("%v %v %v", p, exists, err)
	}
	if p, exists, err := NewPool(m, "", placement.Profile{K: 2, M: 1}); err != nil || !exists || p.Id != 1 {
		t.Errorf("%v %v %v", p, exists, err)
	}
	if _, _, err := NewPool(m, "h", placement.Profile{K: 1, M: 0}); vfs.KindOf(err) != vfs.KindNotFound || !strings.Contains(err.Error(), "only g") {
		t.Error(err)
	}
	// What is on its way off is told apart from what waits, and from what is not to be.
	own.Pools[0] = own.Pools[0].CloneVT()
	for what, c := range map[string]struct {
		slot  *metapb.Slot
		state metapb.PGState
		want  string
	}{
		"exposed": {&metapb.Slot{Store: 1}, metapb.PGState_PG_OPEN, "is exposed on store 1"},
		"waiting": {&metapb.Slot{Store: 1}, metapb.PGState_PG_CLOSED, "is waiting on store 1"},
		"leaving": {&metapb.Slot{Store: 4, Previous: 1, Filling: true}, metapb.PGState_PG_OPEN, "is leaving on store 1"},
		"gone":    {&metapb.Slot{Store: 4, Filling: true}, metapb.PGState_PG_OPEN, ""},
	} {
		own.Pools[0].Pgs[0].Slots[0], own.Pools[0].Pgs[0].State = c.slot, c.state
		got := ""
		for _, x := range Exclusive(own) {
			got += x.String()
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", what, got)
		}
	}
}
