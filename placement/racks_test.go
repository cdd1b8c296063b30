package placement

import (
	"fmt"
	"testing"
)

// TestRacksThatAppear: groups that were made when there were two racks have three slots in each. When a third rack appears they become even over all
// three by themselves, in moves that cost no redundancy, and come to rest; so they do when a rack goes for good and another one comes.
func TestRacksThatAppear(t *testing.T) {
	for _, disks := range []int{1, 2} {
		for _, perRack := range []int{3, 4} {
			var stores []StoreState
			add := func(rack int) {
				for i := range perRack {
					stores = inRack(stores, rack, fmt.Sprint("n", rack, ".", i), disks, 1<<40)
				}
			}
			most := func(pool PoolState) (worst int) {
				for _, g := range pool.Groups {
					on := map[string]int{}
					for _, m := range g.Members {
						on[stores[m.Store-1].Rack]++
						worst = max(worst, on[stores[m.Store-1].Rack])
					}
				}
				return worst
			}
			add(0)
			add(1)
			pool, _ := settle(t, PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 4}, stores)
			if n := most(pool); n != 3 {
				t.Fatalf("two racks of %d: %d slots of a group in one", perRack, n)
			}
			old := len(pool.Groups)
			add(2)
			pool, moved := settle(t, pool, stores)
			if n := most(pool); n != 2 {
				t.Errorf("a third rack of %d nodes with %d disks: %d slots of a group in one rack", perRack, disks, n)
			}
			// A third of the slots of the groups that there were is the least.
			t.Logf("%d nodes with %d disks in each rack: %v moves, the least is %d", perRack, disks, moved, old*2)
			for i := range stores {
				if stores[i].Rack == "r0" {
					stores[i].Condition = Out
				}
			}
			pool, _ = settle(t, pool, stores)
			add(3)
			pool, _ = settle(t, pool, stores)
			if n := most(pool); n != 2 {
				t.Errorf("another rack instead of one that is gone: %d slots of a group in one rack", n)
			}
		}
	}
}
