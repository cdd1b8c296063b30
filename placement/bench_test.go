package placement

import (
	"fmt"
	"testing"
)

// large is a cluster of racks of 10 nodes with 10 disks, and its pool at rest.
func large(b *testing.B, disks int) (PoolState, []StoreState) {
	stores := make([]StoreState, disks)
	for i := range stores {
		stores[i] = StoreState{ID: uint32(i + 1), Condition: Up, Readable: true, Weight: 16 << 40,
			Location: Location{Node: fmt.Sprint("n", i/10), Rack: fmt.Sprint("r", i/100), Zone: "z"}}
	}
	pool := PoolState{Profile: Profile{K: 4, M: 2}, Level: Node, PerStore: 6}
	pool, err := apply(pool, Plan(pool, stores))
	if err != nil {
		b.Fatal(err)
	}
	if again := Plan(pool, stores); len(again) != 0 {
		b.Fatalf("%d changes", len(again))
	}
	return pool, stores
}

const benchDisks = 10_000

// BenchmarkPlanFirst makes all groups of a pool.
func BenchmarkPlanFirst(b *testing.B) {
	pool, stores := large(b, benchDisks)
	pool.Groups = nil
	for b.Loop() {
		Plan(pool, stores)
	}
}

// BenchmarkPlanAtRest finds nothing to do.
func BenchmarkPlanAtRest(b *testing.B) {
	pool, stores := large(b, benchDisks)
	for b.Loop() {
		Plan(pool, stores)
	}
}

// BenchmarkPlanNodeOut moves the slots of a node that is given up.
func BenchmarkPlanNodeOut(b *testing.B) {
	pool, stores := large(b, benchDisks)
	for i := range 10 {
		stores[i].Condition = Out
	}
	for b.Loop() {
		Plan(pool, stores)
	}
}

// BenchmarkPlanRackOut moves the slots of a rack that is given up.
func BenchmarkPlanRackOut(b *testing.B) {
	pool, stores := large(b, benchDisks)
	for i := range 100 {
		stores[i].Condition = Out
	}
	for b.Loop() {
		Plan(pool, stores)
	}
}

// BenchmarkPlanNodeAdded makes a new node's groups and begins to move slots to it.
func BenchmarkPlanNodeAdded(b *testing.B) {
	pool, stores := large(b, benchDisks)
	for i := range 10 {
		stores = append(stores, StoreState{ID: uint32(benchDisks + i + 1), Condition: Up, Readable: true, Weight: 16 << 40, Location: Location{Node: "new", Rack: "r0", Zone: "z"}})
	}
	for b.Loop() {
		Plan(pool, stores)
	}
}

func BenchmarkAssess(b *testing.B) {
	pool, stores := large(b, benchDisks)
	for b.Loop() {
		Assess(pool, stores)
	}
}
