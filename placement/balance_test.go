package placement

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// racks is a cluster of racks of nodes of disks, which are of equal weight.
func racks(racks, nodes, disks int) []StoreState {
	var out []StoreState
	for r := range racks {
		for n := range nodes {
			out = inRack(out, r, fmt.Sprint("n", r, ".", n), disks, 1<<40)
		}
	}
	return out
}

func inRack(stores []StoreState, rack int, name string, disks int, weight uint64) []StoreState {
	for range disks {
		stores = append(stores, StoreState{ID: uint32(len(stores) + 1), Condition: Up, Readable: true, Weight: weight,
			Location: Location{Node: name, Rack: fmt.Sprint("r", rack), Zone: "z"}})
	}
	return stores
}

// fullness is the largest and the smallest number of slots for its weight, over the mean.
func fullness(pool PoolState, stores []StoreState) (most, least float64) {
	slots, weight, n := 0.0, 0.0, slotsOf(pool)
	for _, s := range stores {
		if s.in() {
			slots += float64(n[s.ID])
			weight += float64(s.Weight)
		}
	}
	least = 1e9
	for _, s := range stores {
		if s.in() {
			x := float64(n[s.ID]) / float64(s.Weight) / (slots / weight)
			most, least = max(most, x), min(least, x)
		}
	}
	return most, least
}

// When stores are added, their share is moved, and hardly more; and nothing moves between those that were there.
func TestAddingStoresMovesTheirShare(t *testing.T) {
	for _, c := range []struct {
		name  string
		level Level
		add   func([]StoreState) []StoreState
	}{
		{"a disk", Node, func(s []StoreState) []StoreState { return inRack(s, 3, "n3.0", 1, 1<<40) }},
		{"a node", Node, func(s []StoreState) []StoreState { return inRack(s, 3, "new", 4, 1<<40) }},
		{"a node of larger disks", Node, func(s []StoreState) []StoreState { return inRack(s, 3, "new", 2, 3<<40) }},
		{"a rack", Node, func(s []StoreState) []StoreState {
			for n := range 5 {
				s = inRack(s, 99, fmt.Sprint("new", n), 4, 1<<40)
			}
			return s
		}},
		{"a rack, which is a domain", Rack, func(s []StoreState) []StoreState {
			for n := range 5 {
				s = inRack(s, 99, fmt.Sprint("new", n), 4, 1<<40)
			}
			return s
		}},
		{"a disk, which is a domain", Disk, func(s []StoreState) []StoreState { return inRack(s, 3, "n3.0", 1, 1<<40) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			stores := racks(8, 5, 4)
			pool, moved := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: c.level, PerStore: 6}, stores)
			if moved != 0 || len(pool.Groups) != 6*len(stores) {
				t.Fatalf("%d groups, and %d slots were moved in the beginning", len(pool.Groups), moved)
			}
			if most, least := fullness(pool, stores); most > 1.03 || least < 0.97 {
				t.Fatalf("in the beginning between %.3f and %.3f of the mean", least, most)
			}
			more := c.add(stores)
			total, share := 0.0, 0.0
			for i, s := range more {
				total += float64(s.Weight)
				if i >= len(stores) {
					share += float64(s.Weight)
				}
			}
			minimum := float64(6*len(pool.Groups)) * share / total
			old := map[uint32]bool{}
			for _, s := range stores {
				old[s.ID] = true
			}
			filled, between := 0, 0
			for range 1000 {
				changes := Plan(pool, more)
				if len(changes) == 0 {
					break
				}
				next, err := apply(pool, changes)
				if err != nil {
					t.Fatal(err)
				}
				filling := map[uint32]int{}
				moves(pool, next, func(_, now *Group, j int) {
					if filling[now.Members[j].Store]++; filling[now.Members[j].Store] > maxFillingPerStore {
						t.Fatalf("more than %d slots of a store are filled at once", maxFillingPerStore)
					}
					if old[now.Members[j].Store] {
						between++
					}
				})
				pool = next
				filled += fill(pool)
			}
			// New groups hold nothing: if new stores had more of them than others, they would have less of all data.
			newer := PoolState{Profile: pool.Profile, Groups: pool.Groups[6*len(stores):]}
			for s, n := range slotsOf(newer) {
				if most := 3 + 2*float64(6*len(newer.Groups))*float64(more[s-1].Weight)/total; !old[s] && float64(n) > most {
					t.Errorf("store %d, which is new, has %d slots of the %d groups that are", s, n, len(newer.Groups))
				}
			}
			most, least := fullness(pool, more)
			t.Logf("%d slots moved, the share is %.1f; %d between stores that were there; between %.3f and %.3f of the mean", filled, minimum, between, least, most)
			if float64(filled) > 1.05*minimum+2 || float64(between) > 0.02*minimum+2 {
				t.Errorf("%d slots were moved, %d of them between stores that were there; the share of the new ones is %.1f", filled, between, minimum)
			}
			if most > 1.08 || least < 0.9 {
				t.Errorf("stores have between %.3f and %.3f of the mean for their weight", least, most)
			}
		})
	}
}

// A drain moves what is there and nothing else; the end of a drain brings back the share.
func TestDrainAndBack(t *testing.T) {
	stores := racks(8, 5, 4)
	pool, _ := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 6}, stores)
	had := 0
	for i := range 4 {
		stores[i].Condition = Out
		had += slotsOf(pool)[stores[i].ID]
	}
	pool, moved := settle(t, pool, stores)
	if float64(moved) > 1.05*float64(had) {
		t.Errorf("%d slots were moved to empty a node that had %d", moved, had)
	}
	if most, least := fullness(pool, stores); most > 1.06 || least < 0.94 {
		t.Errorf("without the node, stores have between %.3f and %.3f of the mean", least, most)
	}
	for i := range 4 {
		if n := slotsOf(pool)[stores[i].ID]; n != 0 {
			t.Fatalf("%d slots are left on a store that is drained", n)
		}
		stores[i].Condition = Up
	}
	pool, moved = settle(t, pool, stores)
	if float64(moved) > 1.05*float64(had) {
		t.Errorf("%d slots were moved to fill the node again, its share is %d", moved, had)
	}
	if most, least := fullness(pool, stores); most > 1.08 || least < 0.9 {
		t.Errorf("in the end stores have between %.3f and %.3f of the mean", least, most)
	}
}

// Disks of different size get slots by their size, and the slots that hold most too.
func TestSlotsByCapacity(t *testing.T) {
	var stores []StoreState
	for n := range 30 {
		stores = inRack(stores, n%5, fmt.Sprint("n", n), 4, []uint64{4 << 40, 8 << 40, 16 << 40}[n%3])
	}
	pool, moved := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 8}, stores)
	if most, least := fullness(pool, stores); moved != 0 || most > 1.06 || least < 0.94 {
		t.Errorf("%d slots were moved at once, stores have between %.3f and %.3f of the mean for their weight", moved, least, most)
	}
	p := newPlanner(pool, stores)
	l := p.loads(p.fullTree())
	for j := range l.slot {
		for s, n := range l.slot[j] {
			// 8 groups for a store of mean size, so 8 of each position. Those that hold most are spread best.
			off := 2.5
			if classOf(4, j) == light {
				off = 4
			}
			if want := 8 * l.weight[s]; float64(n) < want-off || float64(n) > want+off {
				t.Errorf("store %d, whose share is %.2f of the mean, has %d slots of position %d, want %.1f", s+1, l.weight[s], n, j, want)
			}
		}
	}
}

// Groups are as even over racks as can be, also where racks differ, up to what a small rack can bear.
func TestEvenOverRacks(t *testing.T) {
	for _, c := range []struct {
		nodes []int // of each rack
		most  int   // slots of a group in one rack
		least int
	}{
		{[]int{4, 4, 4}, 2, 2},
		{[]int{4, 2, 2}, 2, 2},
		{[]int{4, 4, 4, 4}, 2, 1},
		{[]int{20, 1}, 6, 0}, // even would be three in a rack of one node
		{[]int{10, 10, 10, 10, 10, 10, 10}, 1, 0},
	} {
		var stores []StoreState
		for r, n := range c.nodes {
			for i := range n {
				stores = inRack(stores, r, fmt.Sprint("n", r, ".", i), 2, 1<<40)
			}
		}
		check := func(pool PoolState) {
			t.Helper()
			for _, g := range pool.Groups {
				on := map[string]int{}
				for _, m := range g.Members {
					on[stores[m.Store-1].Rack]++
				}
				for r := range c.nodes {
					if n := on[fmt.Sprint("r", r)]; n > c.most || n < c.least {
						t.Fatalf("racks of %v nodes: %d slots of group %+v are in rack %d, want %d to %d", c.nodes, n, g, r, c.least, c.most)
					}
				}
			}
		}
		pool, _ := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 4}, stores)
		check(pool)
		if len(c.nodes) == 2 {
			n := 0
			for s := range stores {
				if stores[s].Rack == "r1" {
					n += slotsOf(pool)[stores[s].ID]
				}
			}
			if share := float64(n) / float64(6*len(pool.Groups)) * float64(len(stores)) / 2; share > maxTilt+0.1 {
				t.Errorf("a rack of one node has %.2f times its share", share)
			}
		}
		// A node goes and comes back.
		stores[0].Condition, stores[1].Condition = Out, Out
		pool, _ = settle(t, pool, stores)
		stores[0].Condition, stores[1].Condition = Up, Up
		pool, _ = settle(t, pool, stores)
		check(pool)
	}
}

// What stopping stores costs, in words and numbers.
func TestCanStop(t *testing.T) {
	stores := racks(3, 4, 2)
	pool, _ := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 4}, stores)
	stop := func(f func(s *StoreState) bool) Stop {
		return CanStop("default", pool, stores, func(id uint32) bool { return f(&stores[id-1]) })
	}
	for _, c := range []struct {
		what        string
		stop        Stop
		reads, full bool
		text        string
	}{
		{"nothing", stop(func(*StoreState) bool { return false }), true, true,
			"pool default (4+2, 96 groups, domain node): of its 24 stores 0 would stop; no group would miss a member by that, so reads stay as they are; 96 of 96 groups could be written, so new blocks stay 4+2"},
		{"a node", stop(func(s *StoreState) bool { return s.Node == "n0.0" }), true, true,
			"of its 24 stores 2 would stop; 48 groups would miss members by that, none more than the 2 that it may, so reads stay as they are; 48 of 96 groups could be written"},
		{"a rack", stop(func(s *StoreState) bool { return s.Rack == "r0" }), true, false,
			"96 groups would miss members by that, none more than the 2 that it may, so reads stay as they are; no group of 6 would be whole, and 8 domains would take writes: new blocks would be 4+2"},
		{"two racks", stop(func(s *StoreState) bool { return s.Rack != "r0" }), false, false,
			"96 groups would miss more than 2 members (the worst 4 by this stop), and their blocks could not be read; no group of 6 would be whole, and 4 domains would take writes: new blocks would be 2+2"},
		{"all but two nodes", stop(func(s *StoreState) bool { return s.Node != "n0.0" && s.Node != "n1.0" }), false, false,
			"of its failure domains 2 would take writes, fewer than the 3 that one data and 2 parity shards need: writers would wait"},
	} {
		if c.stop.Reads != c.reads || c.stop.Full != c.full || c.stop.OK() != (c.reads && c.full) {
			t.Errorf("%s: %+v", c.what, c.stop)
		}
		if !strings.Contains(c.stop.Text, c.text) {
			t.Errorf("%s: %s\nwant %s", c.what, c.stop.Text, c.text)
		}
	}
	// Who is away already counts too.
	stores[0].Condition, stores[0].Readable = Down, false
	stores[1].Condition, stores[1].Readable = Down, false
	if s := stop(func(s *StoreState) bool { return s.Rack == "r1" }); s.Reads || s.Unreadable == 0 || s.UnreadableNow != 0 {
		t.Errorf("a rack beside a node that is away: %+v", s)
	}
	// The same follows for the worst of each level.
	stores = racks(3, 4, 2)
	r := Assess(pool, stores)
	if l := r.Losses[Node]; l.Unreadable != 0 || l.Margin != 1 || l.Writes != "4+2" {
		t.Errorf("one node: %+v", l)
	}
	if l := r.Losses[Rack]; l.Unreadable != 0 || l.Margin != 0 || l.Writes != "4+2" || l.Name != "r0" {
		t.Errorf("one rack: %+v", l)
	}
	if l := r.Losses[Zone]; l.Unreadable != 96 || l.Writes != "" || l.Name != "z" {
		t.Errorf("the zone: %+v", l)
	}
	if s := r.Losses[Rack].String(); s != "without rack r0: everything can be read, and one more lost store would lose data; new blocks would be 4+2" {
		t.Error(s)
	}
}

// Groups with a member that does not answer are not moved for balance: they have lost enough.
func TestBalanceWaitsForMembers(t *testing.T) {
	stores := racks(1, 12, 1)
	pool, _ := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 6}, stores)
	stores[0].Condition, stores[0].Readable = Down, false
	stores = inRack(stores, 0, "new", 1, 1<<40)
	for range 100 {
		next, err := apply(pool, Plan(pool, stores))
		if err != nil {
			t.Fatal(err)
		}
		moves(pool, next, func(old, _ *Group, j int) {
			for _, m := range old.Members {
				if m.Store == 1 {
					t.Fatalf("slot %d of %+v moves, and store 1 does not answer", j, old)
				}
			}
		})
		pool = next
		fill(pool)
	}
	if n := slotsOf(pool)[13]; n < 12 {
		t.Errorf("the new store has %d slots of the groups that are whole", n)
	}
}

// Two racks of unequal size, as they are when one has lost a node: each group has about half of its slots in each, so the smaller one's stores have more than their share
// by capacity, but never more than maxTilt of it; within a rack all have alike. Beyond that, capacity decides.
func TestTwoRacksAreUnevenWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stores []StoreState
		perRack := [2]int{rapid.IntRange(3, 8).Draw(t, "first"), rapid.IntRange(3, 8).Draw(t, "second")}
		for r, n := range perRack {
			for i := range n {
				stores = inRack(stores, r, fmt.Sprint("n", r, ".", i), 1, 1<<40)
			}
		}
		const perStore = 12
		pool, _ := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: perStore}, stores)
		check := func(when string) {
			slots := slotsOf(pool)
			in, total := 0, 0
			for i := range stores {
				if stores[i].Condition == Up {
					in, total = in+1, total+slots[stores[i].ID]
				} else if slots[stores[i].ID] > 0 {
					t.Fatalf("%s: store %d is out and has %d slots", when, i, slots[stores[i].ID])
				}
			}
			share := float64(total) / float64(in)
			least, most := [2]int{1 << 30, 1 << 30}, [2]int{}
			for i := range stores {
				if stores[i].Condition != Up {
					continue
				}
				r, n := int(stores[i].Rack[1]-'0'), slots[stores[i].ID]
				least[r], most[r] = min(least[r], n), max(most[r], n)
				if float64(n) > maxTilt*share+2 {
					t.Fatalf("%s, %v: a store has %d slots, its share is %.1f: %v", when, perRack, n, share, slots)
				}
			}
			for r := range least {
				if most[r]-least[r] > 3 {
					t.Fatalf("%s, %v: stores of rack %d have %d to %d slots: %v", when, perRack, r, least[r], most[r], slots)
				}
			}
		}
		check("at the begin")
		lost := rapid.IntRange(0, len(stores)-1).Draw(t, "lost")
		if len(stores) == 6 || perRack[int(stores[lost].Rack[1]-'0')] == 3 {
			return // without it the profile, or three slots in that rack, have no room
		}
		stores[lost].Condition, stores[lost].Readable = Out, false
		pool, _ = settle(t, pool, stores)
		check("after the loss")
	})
}
