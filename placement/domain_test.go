package placement

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// checkDomains fails if two slots of a group are in one domain.
func checkDomains(t interface{ Fatalf(string, ...any) }, pool PoolState, stores []StoreState) {
	domain := map[uint32]string{}
	for _, s := range stores {
		if domain[s.ID] = s.Domain; s.Domain == "" {
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
func node(stores []StoreState, name string, disks int, domain bool) []StoreState {
	for range disks {
		s := StoreState{ID: uint32(len(stores) + 1), Condition: Up, Readable: true}
		if domain {
			s.Domain = name
		} else {
			s.Wider = name
		}
		stores = append(stores, s)
	}
	return stores
}

// A cluster begins with one node and grows: until the profile fits, new blocks get the same parity.
func TestGrowthStory(t *testing.T) {
	pool := PoolState{Profile: Profile{K: 2, M: 1}, PerStore: 8}
	stores := node(nil, "a", 2, true)
	if pool = mustApply(t, pool, stores); len(pool.Groups) != 0 {
		t.Fatalf("with one node, which is one domain, there are groups: %+v", pool.Groups)
	}
	stores = node(stores, "b", 2, true)
	pool = mustApply(t, pool, stores)
	if n := open(pool); n[1] == 0 || n[2] != 0 {
		t.Fatalf("with two nodes, open groups by k: %v, want 1+1", n)
	}
	stores = node(stores, "c", 2, true)
	pool = mustApply(t, pool, stores)
	if n := open(pool); n[1] != 0 || n[2] != 48 {
		t.Fatalf("with three nodes, open groups by k: %v, want 48 of 2+1", n)
	}
	checkDomains(t, pool, stores)
	had := len(pool.Groups)
	stores = node(stores, "d", 1, true)
	pool = mustApply(t, pool, stores)
	if len(pool.Groups) != had+8 {
		t.Fatalf("%d groups for a store that was added, want 8", len(pool.Groups)-had)
	}
	for _, g := range pool.Groups[had:] {
		found := false
		for _, m := range g.Members {
			found = found || m.Store == 7
		}
		if !found {
			t.Errorf("group %+v was made for store 7", g)
		}
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
		stores = node(stores, n, 4, false)
	}
	pool := mustApply(t, PoolState{Profile: Profile{K: 4, M: 2}, PerStore: 8}, stores)
	if len(pool.Groups) == 0 {
		t.Fatal("no groups")
	}
	for _, g := range pool.Groups {
		on := map[string]int{}
		for _, m := range g.Members {
			if on[stores[m.Store-1].Wider]++; on[stores[m.Store-1].Wider] > 2 {
				t.Errorf("group %+v has three slots on one node", g)
			}
		}
	}
	counts := map[uint32]int{}
	for _, g := range pool.Groups {
		for _, m := range g.Members {
			counts[m.Store]++
		}
	}
	for _, s := range stores {
		if d := counts[s.ID] - counts[1]; d < -2 || d > 2 {
			t.Errorf("slots by store: %v", counts)
			break
		}
	}
}

// Whatever nodes come, go and are given up: no two slots in one domain, and the plan of what was planned is empty.
func TestDomainInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := PoolState{Profile: Profile{K: rapid.IntRange(1, 4).Draw(t, "k"), M: rapid.IntRange(0, 2).Draw(t, "m")}, PerStore: rapid.IntRange(1, 8).Draw(t, "per store")}
		byNode := rapid.Bool().Draw(t, "domain is the node")
		var stores []StoreState
		nodes := 0
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if len(stores) == 0 || rapid.Bool().Draw(t, "node joins") {
				nodes++
				stores = node(stores, fmt.Sprint("n", nodes), rapid.IntRange(1, 3).Draw(t, "disks"), byNode)
			} else {
				s := &stores[rapid.IntRange(0, len(stores)-1).Draw(t, "store")]
				s.Condition = rapid.SampledFrom([]Condition{Out, Down, Up}).Draw(t, "condition")
				s.Readable = s.Condition != Down
			}
			next, err := apply(pool, Plan(pool, stores))
			if err != nil {
				t.Fatal(err)
			}
			next.PerStore = pool.PerStore
			pool = next
			checkDomains(t, pool, stores)
			if again := Plan(pool, stores); len(again) != 0 {
				t.Fatalf("a second plan changes %d groups: %+v", len(again), again[0])
			}
			// Every slot is filled at once here.
			for i := range pool.Groups {
				for j := range pool.Groups[i].Members {
					m := &pool.Groups[i].Members[j]
					m.Filling, m.Previous = false, 0
				}
			}
		}
	})
}
