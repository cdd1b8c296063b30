package placement

import (
	"fmt"
	"testing"
)

// checkDomains fails if two slots of a group are in one domain.
func checkDomains(t interface{ Fatalf(string, ...any) }, pool PoolState, stores []StoreState) {
	domain := map[uint32]string{}
	for _, s := range stores {
		if domain[s.ID] = s.At(pool.Level); pool.Level == Disk {
			domain[s.ID] = fmt.Sprint("own ", s.ID)
		}
	}
	for _, g := range pool.Groups {
		seen := map[string]bool{}
		for _, m := range g.Members {
			if seen[domain[m.Store]] {
				t.Fatalf("two slots of group %+v are in %s", g, domain[m.Store])
			}
			seen[domain[m.Store]] = true
		}
	}
}

// node is a node with disks, which are numbered on.
func node(stores []StoreState, name string, disks int) []StoreState {
	for range disks {
		stores = append(stores, StoreState{ID: uint32(len(stores) + 1), Condition: Up, Readable: true, Location: Location{Node: name}})
	}
	return stores
}

// fill ends all filling.
func fill(pool PoolState) (filled int) {
	for i := range pool.Groups {
		for j := range pool.Groups[i].Members {
			if m := &pool.Groups[i].Members[j]; m.Filling {
				m.Filling, m.Previous = false, 0
				filled++
			}
		}
	}
	return filled
}

// settle applies plans and ends filling until there is nothing to do, and says how many slots were filled.
func settle(t interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}, pool PoolState, stores []StoreState) (PoolState, int) {
	t.Helper()
	filled := 0
	for range 10_000 {
		changes := Plan(pool, stores)
		if len(changes) == 0 {
			if n := fill(pool); n > 0 {
				filled += n
				continue
			}
			return pool, filled
		}
		var err error
		if pool, err = apply(pool, changes); err != nil {
			t.Fatal(err)
		}
		if again := Plan(pool, stores); len(again) != 0 {
			t.Fatalf("a second plan changes %d groups: %+v", len(again), again[0])
		}
		filled += fill(pool)
	}
	t.Fatal("it does not come to rest")
	return pool, filled
}

func slotsOf(pool PoolState) map[uint32]int {
	n := map[uint32]int{}
	for _, g := range pool.Groups {
		if g.K == pool.Profile.K {
			for _, m := range g.Members {
				n[m.Store]++
			}
		}
	}
	return n
}

// A cluster begins with one node and grows: until the profile fits, new blocks get the same parity.
func TestGrowthStory(t *testing.T) {
	pool := PoolState{Profile: Profile{K: 2, M: 1}, Level: Node, PerStore: 8}
	stores := node(nil, "a", 2)
	if pool = mustApply(t, pool, stores); len(pool.Groups) != 0 {
		t.Fatalf("with one node, which is one domain, there are groups: %+v", pool.Groups)
	}
	stores = node(stores, "b", 2)
	pool = mustApply(t, pool, stores)
	if n := open(pool); n[1] == 0 || n[2] != 0 {
		t.Fatalf("with two nodes, open groups by k: %v, want 1+1", n)
	}
	stores = node(stores, "c", 2)
	pool = mustApply(t, pool, stores)
	if n := open(pool); n[1] != 0 || n[2] != 48 {
		t.Fatalf("with three nodes, open groups by k: %v, want 48 of 2+1", n)
	}
	checkDomains(t, pool, stores)
	had := len(pool.Groups)
	stores = node(stores, "d", 1)
	pool, moved := settle(t, pool, stores)
	checkDomains(t, pool, stores)
	// Of 56 groups of 3 slots, the seventh store has a seventh, of old groups as of new ones.
	if n := slotsOf(pool)[7]; len(pool.Groups) != had+8 || n < 22 || n > 26 || moved > 26 {
		t.Fatalf("%d groups for a store that was added, want 8; it has %d slots, of which %d were moved: want 24", len(pool.Groups)-had, n, moved)
	}
	// What is given up moves to another node, not to a disk beside one that has a slot already.
	stores[0].Condition, stores[1].Condition = Out, Out
	pool = mustApply(t, pool, stores)
	checkDomains(t, pool, stores)
	for _, g := range pool.Groups {
		for _, m := range g.Members {
			if g.K == 2 && (m.Store == 1 || m.Store == 2) {
				t.Errorf("group %+v names a store that is out, and node d has room", g)
			}
		}
	}
}

// Where each disk is a domain of its own, a node has no more slots of a group than it must.
func TestDisksAreSpreadOverNodes(t *testing.T) {
	var stores []StoreState
	for _, n := range []string{"a", "b", "c"} {
		stores = node(stores, n, 4)
	}
	pool := mustApply(t, PoolState{Profile: Profile{K: 4, M: 2}, PerStore: 8}, stores)
	if len(pool.Groups) != 96 {
		t.Fatalf("%d groups, want 8 for each store", len(pool.Groups))
	}
	for _, g := range pool.Groups {
		on := map[string]int{}
		for _, m := range g.Members {
			if on[stores[m.Store-1].Node]++; on[stores[m.Store-1].Node] > 2 {
				t.Errorf("group %+v has three slots on one node", g)
			}
		}
	}
	for s, n := range slotsOf(pool) {
		if n != 48 {
			t.Errorf("store %d has %d slots, want 48", s, n)
		}
	}
}
