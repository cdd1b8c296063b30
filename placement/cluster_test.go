package placement

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cluster is a random one and its history: nodes join, stores are drained, lost and come back, racks are reserved; of all that a pool sees
// what Eligible leaves it.
type cluster struct {
	pool     PoolState
	group    string // of the pool
	stores   []StoreState
	groups   []string // of each store's node
	reserved Reservations
	nodes    int
	most     int // stores that were eligible at once
	extra    int // groups that were made because no other could be written to
}

var capacities = []uint64{0, 1 << 40, 1 << 40, 2 << 40, 4 << 40}

func newCluster(t *rapid.T) *cluster {
	c := &cluster{reserved: Reservations{}}
	c.pool = PoolState{
		Profile:  Profile{K: rapid.IntRange(1, 5).Draw(t, "k"), M: rapid.IntRange(0, 2).Draw(t, "m")},
		Level:    rapid.SampledFrom([]Level{Disk, Node, Node, Rack, Zone}).Draw(t, "level"),
		PerStore: rapid.IntRange(1, 4).Draw(t, "groups per store"),
	}
	c.group = rapid.SampledFrom([]string{"", "g1"}).Draw(t, "group")
	for range rapid.IntRange(0, 2).Draw(t, "reserved racks") {
		c.reserved[fmt.Sprint("r", rapid.IntRange(0, 5).Draw(t, "rack"))] = rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "for")
	}
	for range rapid.IntRange(1, 12).Draw(t, "nodes") {
		c.join(t)
	}
	return c
}

func (c *cluster) join(t *rapid.T) {
	c.nodes++
	rack := rapid.IntRange(0, 5).Draw(t, "rack")
	at := Location{Node: fmt.Sprint("n", c.nodes), Rack: fmt.Sprint("r", rack), Zone: fmt.Sprint("z", rack/2)}
	group := rapid.SampledFrom([]string{"", "g1", c.group, c.group, c.group}).Draw(t, "group")
	for range rapid.IntRange(1, 3).Draw(t, "disks") {
		c.stores = append(c.stores, StoreState{
			ID: uint32(len(c.stores) + 1), Condition: Up, Readable: true, Location: at, Weight: rapid.SampledFrom(capacities).Draw(t, "capacity"),
		})
		c.groups = append(c.groups, group)
	}
}

func (c *cluster) eligible(i int) bool {
	return c.reserved.Eligible(c.group, c.groups[i], c.stores[i].Rack)
}

// seen are the stores as the pool sees them.
func (c *cluster) seen() []StoreState {
	out, n := slices.Clone(c.stores), 0
	for i := range out {
		if !c.eligible(i) {
			out[i].Condition = min(out[i].Condition, Out)
		} else if out[i].in() {
			n++
		}
	}
	c.most = max(c.most, n)
	return out
}

// step lets something happen.
func (c *cluster) step(t *rapid.T) {
	switch rapid.IntRange(0, 6).Draw(t, "what") {
	case 0:
		c.join(t)
	case 1:
		c.reserved[fmt.Sprint("r", rapid.IntRange(0, 5).Draw(t, "rack"))] = rapid.SampledFrom([]string{"", "g1", "g2"}).Draw(t, "for")
	default:
		s := &c.stores[rapid.IntRange(0, len(c.stores)-1).Draw(t, "store")]
		s.Condition = rapid.SampledFrom([]Condition{Up, Up, Down, Out, Lost}).Draw(t, "condition")
		s.Readable = s.Condition == Up || s.Condition != Lost && rapid.Bool().Draw(t, "readable")
		if s.Condition == Lost {
			// Nothing names a store that was replaced; here its slots go to another disk of the node, which is new.
			*s = StoreState{ID: s.ID, Condition: Out, Location: s.Location, Weight: s.Weight}
		}
	}
}

// plan applies a plan and ends some of the filling.
func (c *cluster) plan(t *rapid.T) (before, after PoolState) {
	before = c.pool
	after, err := apply(before, Plan(before, c.seen()))
	if err != nil {
		t.Fatal(err)
	}
	c.pool = PoolState{Profile: after.Profile, Level: after.Level, NextID: after.NextID, PerStore: after.PerStore}
	for _, g := range after.Groups {
		g = g.clone()
		for j := range g.Members {
			if g.Members[j].Filling && rapid.Bool().Draw(t, "filled") {
				g.Members[j].Filling, g.Members[j].Previous = false, 0
			}
		}
		c.pool.Groups = append(c.pool.Groups, g)
	}
	return before, after
}

// histories checks something after every step of random histories.
func histories(t *testing.T, check func(t *rapid.T, c *cluster, stores []StoreState, before, after PoolState)) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t)
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			before, after := c.plan(t)
			check(t, c, c.seen(), before, after)
			c.step(t)
		}
	})
}

func byID(stores []StoreState) map[uint32]*StoreState {
	out := map[uint32]*StoreState{}
	for i := range stores {
		out[stores[i].ID] = &stores[i]
	}
	return out
}

// moves calls f for every slot that after names another store for than before.
func moves(before, after PoolState, f func(old, now *Group, slot int)) {
	old := map[uint32]*Group{}
	for i := range before.Groups {
		old[before.Groups[i].ID] = &before.Groups[i]
	}
	for i := range after.Groups {
		g := &after.Groups[i]
		if o := old[g.ID]; o != nil {
			for j := range g.Members {
				if g.Members[j].Store != o.Members[j].Store {
					f(o, g, j)
				}
			}
		}
	}
}

func TestDomainsStayDistinct(t *testing.T) {
	histories(t, func(t *rapid.T, c *cluster, stores []StoreState, before, after PoolState) {
		checkDomains(t, after, stores)
		// Nor does a slot move to where another one is still read from, unless its own shards are nowhere (roomFor).
		p := newPlanner(after, stores)
		moves(before, after, func(old, now *Group, j int) {
			if o := old.Members[j]; !p.readable(o.Store) && (o.Previous == 0 || !p.readable(o.Previous)) {
				return
			}
			for i, m := range now.Members {
				if i != j && m.Previous != 0 && p.together(m.Previous, p.at(now.Members[j].Store)) {
					t.Fatalf("slot %d of %+v moves to the domain that slot %d is filled from", j, now, i)
				}
			}
		})
	})
}

func TestPlanComesToRest(t *testing.T) {
	histories(t, func(t *rapid.T, c *cluster, stores []StoreState, before, after PoolState) {
		if again := Plan(after, stores); len(again) != 0 {
			t.Fatalf("the plan of an applied plan changes %d groups: %+v", len(again), again[0])
		}
		// When everything is filled it goes on, and comes to an end after no more moves than there are slots to move.
		slots := 0
		for _, g := range after.Groups {
			slots += len(g.Members)
		}
		rest, moved := settle(t, clonePool(after), stores)
		for _, g := range rest.Groups {
			slots += len(g.Members)
		}
		if moved > slots {
			t.Fatalf("%d slots were moved of %d", moved, slots)
		}
		// Stores that go down and come back move nothing, unless new groups had to be made for writers.
		if i := rapid.IntRange(0, len(stores)-1).Draw(t, "goes down"); stores[i].Condition == Up {
			was := stores[i]
			stores[i].Condition, stores[i].Readable = Down, false
			down, err := apply(rest, Plan(rest, stores))
			if err != nil {
				t.Fatal(err)
			}
			moves(rest, down, func(old, now *Group, j int) {
				if len(down.Groups) > len(rest.Groups) {
					return
				}
				t.Fatalf("store %d is down and slot %d of %+v moves: %+v", was.ID, j, old, now)
			})
			stores[i] = was
		}
	})
}

func clonePool(p PoolState) PoolState {
	out := p
	out.Groups = nil
	for i := range p.Groups {
		out.Groups = append(out.Groups, p.Groups[i].clone())
	}
	return out
}

// A slot leaves a store that is not given up only for balance: then every member of its group is there, the slot is the only one of
// the group that is filled, and what is read is where it was.
func TestBalanceCostsNoRedundancy(t *testing.T) {
	histories(t, func(t *rapid.T, c *cluster, stores []StoreState, before, after PoolState) {
		state := byID(stores)
		filling, started := 0, 0
		for _, g := range after.Groups {
			for _, m := range g.Members {
				if m.Filling {
					filling++
				}
			}
		}
		moves(before, after, func(old, now *Group, j int) {
			m := now.Members[j]
			if state[m.Store].Condition != Up {
				t.Fatalf("slot %d of %+v moves to a store that is %v", j, old, state[m.Store].Condition)
			}
			if state[old.Members[j].Store].Condition == Out {
				return
			}
			started++
			if m != (Member{Store: m.Store, Previous: old.Members[j].Store, Filling: true}) {
				t.Fatalf("slot %d of %+v becomes %+v", j, old, m)
			}
			for i, o := range old.Members {
				if s := state[o.Store]; !s.Readable || !s.in() || o.Filling || o.Previous != 0 || i != j && now.Members[i] != o {
					t.Fatalf("slot %d of %+v moves to %d for balance: %+v", j, old, m.Store, now)
				}
			}
		})
		if most := max(minFilling, len(stores)/fillingShare); started > 0 && filling > most {
			t.Fatalf("%d slots were moved for balance, and now %d are being filled, at most %d may", started, filling, most)
		}
		if was, is := Assess(before, stores), Assess(after, stores); len(before.Groups) > 0 && is.Margin < was.Margin {
			t.Fatalf("a plan lowers the margin from %d to %d", was.Margin, is.Margin)
		}
	})
}

// Nothing is ever given to a store that may not hold the pool's data, and what one has leaves it if there is somewhere to go.
func TestReservedRacksHoldNothingElse(t *testing.T) {
	histories(t, func(t *rapid.T, c *cluster, stores []StoreState, before, after PoolState) {
		had := map[uint32]bool{}
		for _, g := range before.Groups {
			had[g.ID] = true
		}
		moves(before, after, func(old, now *Group, j int) {
			if !c.eligible(int(now.Members[j].Store) - 1) {
				t.Fatalf("slot %d of group %d moves to store %d, which is not eligible", j, now.ID, now.Members[j].Store)
			}
		})
		for _, g := range after.Groups {
			for j, m := range g.Members {
				if !had[g.ID] && !c.eligible(int(m.Store)-1) {
					t.Fatalf("new group %+v names store %d, which is not eligible", g, m.Store)
				}
				if c.eligible(int(m.Store)-1) || m.Filling {
					continue
				}
				p := newPlanner(after, stores)
				for s := range p.stores {
					if p.stores[s].Condition == Up && p.free(&g, j, int32(s)) {
						t.Fatalf("slot %d of group %+v is left on store %d, which is not eligible, and %d is free", j, g, m.Store, p.stores[s].ID)
					}
				}
			}
		}
	})
}

// The number of distinct sets of stores is bounded by groups per store, whatever moves. More are made only while writers have no group of
// the full profile that is whole.
func TestCopysetsAreBounded(t *testing.T) {
	histories(t, func(t *rapid.T, c *cluster, stores []StoreState, before, after PoolState) {
		in := 0
		for i := range stores {
			if stores[i].in() {
				in++
			}
		}
		full := func(p PoolState) (n int) {
			for _, g := range p.Groups {
				if g.K == p.Profile.K {
					n++
				}
			}
			return n
		}
		if more := full(after) - max(full(before), c.pool.PerStore*in); more > 0 {
			if Assess(before, stores).Writable > 0 {
				t.Fatalf("%d groups too many, and there were some to write to", more)
			}
			c.extra += more
		}
		sets := map[string]bool{}
		for _, g := range after.Groups {
			if g.K == after.Profile.K {
				var ids []uint32
				for _, m := range g.Members {
					ids = append(ids, m.Store)
				}
				slices.Sort(ids)
				sets[fmt.Sprint(ids)] = true
			}
		}
		if most := c.pool.PerStore*c.most + c.extra; len(sets) > most {
			t.Fatalf("%d sets of stores, there may be %d", len(sets), most)
		}
	})
}

// At rest, with all stores there, every store has the slots that its weight asks for, as near as moves for balance go, where any move is possible; and
// groups are as even over zones, racks and nodes as shares allow.
func TestSlotsFollowCapacity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t)
		for range rapid.IntRange(0, 6).Draw(t, "steps") {
			c.plan(t)
			c.step(t)
		}
		for i := range c.stores {
			c.stores[i].Condition, c.stores[i].Readable = Up, true
		}
		stores := c.seen()
		fill(c.pool)
		pool, _ := settle(t, c.pool, stores)
		p := newPlanner(pool, stores)
		tr := p.fullTree()
		if !tr.fits() {
			return
		}
		l := p.loads(tr)
		for i := range p.groups {
			g := &p.groups[i]
			if g.K != pool.Profile.K {
				continue
			}
			for j, m := range g.Members {
				a := p.at(m.Store)
				for b := range int32(len(p.stores)) {
					x := classOf(g.K, j)
					if tr.leaf[b] < 0 || !p.free(g, j, b) || l.asDonor(a, x) <= l.asReceiver(b, x) {
						continue
					}
					r := rebalancer{planner: p, tree: tr}
					if r.even(g, j, a, b) {
						t.Fatalf("slot %d of %+v could move from %+v (%d slots) to %+v (%d slots)", j, g, p.stores[a], l.all[a], p.stores[b], l.all[b])
					}
				}
			}
		}
	})
}
