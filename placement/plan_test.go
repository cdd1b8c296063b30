package placement

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// apply does what the state machine does with a plan, and checks what it checks.
func apply(pool PoolState, changes []Change) (PoolState, error) {
	out := PoolState{Profile: pool.Profile, Level: pool.Level, NextID: pool.NextID, PerStore: pool.PerStore}
	byID := map[uint32]int{}
	for _, g := range pool.Groups {
		byID[g.ID] = len(out.Groups)
		out.Groups = append(out.Groups, g.clone())
		out.NextID = max(out.NextID, g.ID+1)
	}
	for _, c := range changes {
		i, had := byID[c.Group.ID]
		switch {
		case !had && c.Expect != 0:
			return out, fmt.Errorf("group %d does not exist", c.Group.ID)
		case !had:
			if c.Group.ID < out.NextID || c.Group.Epoch != 1 {
				return out, fmt.Errorf("new group %d at epoch %d, next id %d", c.Group.ID, c.Group.Epoch, out.NextID)
			}
			out.NextID = c.Group.ID + 1
			byID[c.Group.ID] = len(out.Groups)
			out.Groups = append(out.Groups, c.Group.clone())
		default:
			old := &out.Groups[i]
			if c.Expect != old.Epoch {
				return out, fmt.Errorf("group %d expected at %d, is at %d", old.ID, c.Expect, old.Epoch)
			}
			if len(old.Members) != len(c.Group.Members) || old.K != c.Group.K {
				return out, fmt.Errorf("group %d has another shape", old.ID)
			}
			moved := old.Closed && !c.Group.Closed && old.K < pool.Profile.K // opening a fallback group raises the epoch too: its removal may have begun
			for j, m := range c.Group.Members {
				moved = moved || m.Store != old.Members[j].Store || m.Previous != old.Members[j].Previous
			}
			if want := old.Epoch + map[bool]uint32{true: 1}[moved]; c.Group.Epoch != want {
				return out, fmt.Errorf("group %d goes from epoch %d to %d, moved %v", old.ID, old.Epoch, c.Group.Epoch, moved)
			}
			*old = c.Group.clone()
		}
	}
	return out, nil
}

// fresh is a pool over n stores as it is made.
func fresh(t interface{ Fatal(...any) }, n, k, m, groups int) PoolState {
	targets := make([]Target, n)
	for i := range targets {
		targets[i].Disk = uint32(i + 1)
	}
	pgs, err := Static(targets, k, m, groups)
	if err != nil {
		t.Fatal(err)
	}
	pool := PoolState{Profile: Profile{K: k, M: m}}
	for _, pg := range pgs {
		g := Group{ID: pg.ID, Epoch: 1, K: k}
		for _, s := range pg.Slots {
			g.Members = append(g.Members, Member{Store: s.Target.Disk})
		}
		pool.Groups = append(pool.Groups, g)
	}
	return pool
}

func allUp(n int) []StoreState {
	out := make([]StoreState, n)
	for i := range out {
		out[i] = StoreState{ID: uint32(i + 1), Condition: Up, Readable: true}
	}
	return out
}

func open(pool PoolState) map[int]int {
	n := map[int]int{}
	for _, g := range pool.Groups {
		if !g.Closed {
			n[g.K]++
		}
	}
	return n
}

func mustApply(t *testing.T, pool PoolState, stores []StoreState) PoolState {
	t.Helper()
	out, err := apply(pool, Plan(pool, stores))
	if err != nil {
		t.Fatal(err)
	}
	if again := Plan(out, stores); len(again) != 0 {
		t.Fatalf("a second plan changes %d groups: %+v", len(again), again[0])
	}
	return out
}

// Six stores at 4+2 lose two, one more, and get them back.
func TestFallbackStory(t *testing.T) {
	pool := fresh(t, 6, 4, 2, 48)
	stores := allUp(6)
	if c := Plan(pool, stores); len(c) != 0 {
		t.Fatalf("a healthy pool is changed: %+v", c)
	}
	down := func(ids ...uint32) {
		for i := range stores {
			stores[i].Condition, stores[i].Readable = Up, true
			if slices.Contains(ids, stores[i].ID) {
				stores[i].Condition, stores[i].Readable = Down, false
			}
		}
	}
	down(2)
	pool = mustApply(t, pool, stores)
	if n := open(pool); n[4] != 48 || n[3] == 0 {
		t.Fatalf("with one of six lost, open groups by k: %v, want some of k=3", n)
	}
	down(2, 5)
	pool = mustApply(t, pool, stores)
	n := open(pool)
	if n[2] == 0 || n[1] != 0 {
		t.Fatalf("with two of six lost, open groups by k: %v, want some of k=2", n)
	}
	slot0 := map[uint32]int{}
	for _, g := range pool.Groups {
		if g.K != 2 {
			continue
		}
		if len(g.Members) != 4 {
			t.Fatalf("group %+v has not m=2", g)
		}
		slot0[g.Members[0].Store]++
		for _, m := range g.Members {
			if m.Store == 2 || m.Store == 5 {
				t.Fatalf("group %+v names a store that is down", g)
			}
		}
	}
	if len(slot0) != 4 {
		t.Fatalf("first slots by store: %v, want all four", slot0)
	}
	total := len(pool.Groups)
	// Flapping of one of them makes nothing new.
	for range 5 {
		down(2)
		pool = mustApply(t, pool, stores)
		down(2, 5)
		pool = mustApply(t, pool, stores)
	}
	if len(pool.Groups) != total {
		t.Fatalf("%d groups after a store came and went, there were %d", len(pool.Groups), total)
	}
	down(1, 2, 3, 5)
	if c := Plan(pool, stores); len(c) != 0 {
		t.Fatalf("with two stores and m=2 something is changed: %+v", c)
	}
	down()
	pool = mustApply(t, pool, stores)
	if n := open(pool); len(n) != 1 || n[4] != 48 {
		t.Fatalf("with all back, open groups by k: %v", n)
	}
}

// With spare stores, what was on a store that is out moves, and only that, evenly.
func TestMoveOut(t *testing.T) {
	pool := fresh(t, 9, 4, 2, 72)
	stores := allUp(9)
	stores[3].Condition = Out // and it still serves: a drain
	after := mustApply(t, pool, stores)
	moved, load := 0, map[uint32]int{}
	for i, g := range after.Groups {
		for j, m := range g.Members {
			load[m.Store]++
			old := pool.Groups[i].Members[j]
			if m == old {
				continue
			}
			moved++
			if old.Store != 4 || m.Previous != 4 || !m.Filling {
				t.Fatalf("group %d slot %d: %+v became %+v", g.ID, j, old, m)
			}
		}
	}
	if load[4] != 0 || moved != 48 {
		t.Fatalf("%d slots moved, %d are left on the store; it had 48", moved, load[4])
	}
	for s, n := range load {
		if n < 52 || n > 56 {
			t.Fatalf("store %d has %d slots, 54 would be even: %v", s, n, load)
		}
	}
}

// A slot that is being filled moves on only when nothing is lost by that.
func TestMoveWhileFilling(t *testing.T) {
	stores := allUp(8)
	base := fresh(t, 6, 4, 2, 6)
	base.Groups[0].Members[1] = Member{Store: 7, Previous: base.Groups[0].Members[1].Store, Filling: true}
	prev := base.Groups[0].Members[1].Previous
	for _, c := range []struct {
		store, previous bool   // readable
		missing         string // that is not, for a short time
		want            uint32 // what it was; 0: it stays
	}{
		{true, true, "", 0}, {true, false, "", 7}, {false, true, "", prev}, {false, false, "", 7},
		{true, false, "previous", 0}, {false, true, "store", 0}, {false, false, "previous", 0}, {false, false, "both", 0}, {false, false, "store", 7},
	} {
		s := slices.Clone(stores)
		s[6] = StoreState{ID: 7, Condition: Out, Readable: c.store, Missing: c.missing == "store" || c.missing == "both"}
		s[prev-1].Readable, s[prev-1].Missing = c.previous, c.missing == "previous" || c.missing == "both"
		got := mustApply(t, base, s).Groups[0].Members[1]
		want := Member{Store: 8, Previous: c.want, Filling: true}
		if c.want == 0 {
			want = base.Groups[0].Members[1]
		}
		if got != want {
			t.Errorf("%+v: slot %+v, want %+v", c, got, want)
		}
	}
}

// Over any history of stores that come, go and are given up, every plan keeps the
// invariants, and the plan of what it made is empty.
func TestPlanInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(1, 6).Draw(t, "k")
		m := rapid.IntRange(0, 3).Draw(t, "m")
		n := k + m + rapid.IntRange(0, 4).Draw(t, "more")
		pool := fresh(t, n, k, m, rapid.IntRange(1, 3*n).Draw(t, "groups"))
		stores := allUp(n)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			for i := range stores {
				if !rapid.Bool().Draw(t, "change") {
					continue
				}
				c := rapid.SampledFrom([]Condition{Up, Up, Up, Down, Down, Out}).Draw(t, "condition")
				stores[i].Condition, stores[i].Readable = c, c == Up || rapid.Bool().Draw(t, "readable")
			}
			// Filling and removal end whenever they end.
			for i := range pool.Groups {
				for j := range pool.Groups[i].Members {
					if mem := &pool.Groups[i].Members[j]; mem.Filling && rapid.IntRange(0, 2).Draw(t, "filled") == 0 {
						*mem = Member{Store: mem.Store}
					}
				}
			}
			pool.Groups = slices.DeleteFunc(pool.Groups, func(g Group) bool {
				return g.Closed && g.K < k && rapid.IntRange(0, 3).Draw(t, "removed") == 0
			})
			changes := Plan(pool, stores)
			after, err := apply(pool, changes)
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, pool, after, stores)
			if again := Plan(after, stores); len(again) != 0 {
				t.Fatalf("pool %+v\nstores %+v\nchanges %+v\nthe plan of an applied plan is %+v", pool, stores, changes, again)
			}
			shuffled := slices.Clone(stores)
			slices.Reverse(shuffled)
			if other := Plan(pool, shuffled); !reflect.DeepEqual(other, changes) {
				t.Fatal("the order of stores matters")
			}
			pool = after
		}
	})
}

func checkPlan(t *rapid.T, before, after PoolState, stores []StoreState) {
	state := map[uint32]StoreState{}
	up := 0
	for _, s := range stores {
		state[s.ID] = s
		if s.Condition == Up {
			up++
		}
	}
	old := map[uint32]Group{}
	for _, g := range before.Groups {
		old[g.ID] = g
	}
	usable, best, fallbacks := false, 0, 0
	for _, g := range after.Groups {
		if len(g.Members) != g.K+after.Profile.M || g.K < 1 || g.K > after.Profile.K {
			t.Fatalf("group %+v in a pool of %v", g, after.Profile)
		}
		seen := map[uint32]bool{}
		writable := !g.Closed
		for _, m := range g.Members {
			if seen[m.Store] {
				t.Fatalf("group %+v has two slots on store %d", g, m.Store)
			}
			seen[m.Store] = true
			writable = writable && state[m.Store].Condition == Up
			if state[m.Store].Condition == Out && !g.Closed {
				t.Fatalf("group %+v takes new blocks, and store %d is out", g, m.Store)
			}
		}
		if g.K < after.Profile.K {
			fallbacks++
		}
		if writable {
			usable, best = true, max(best, g.K)
		}
		o, had := old[g.ID]
		if !had {
			for _, m := range g.Members {
				if state[m.Store].Condition != Up || m.Previous != 0 || m.Filling {
					t.Fatalf("new group %+v", g)
				}
			}
			continue
		}
		delete(old, g.ID)
		for j, m := range g.Members {
			om := o.Members[j]
			if m == om {
				continue
			}
			// Moved: off a store that is out, or for balance; on to one that is up, and where its shards were is not forgotten.
			if state[m.Store].Condition != Up || !m.Filling || m.Previous != om.Store && m.Previous != om.Previous {
				t.Fatalf("group %d slot %d: %+v became %+v", g.ID, j, om, m)
			}
			if state[om.Store].Readable && m.Previous != om.Store || om.Previous != 0 && state[om.Previous].Readable && m.Previous != om.Previous && m.Store != om.Previous {
				t.Fatalf("group %d slot %d: %+v became %+v, which forgets shards that can be read", g.ID, j, om, m)
			}
		}
	}
	if len(old) > 0 {
		t.Fatalf("groups vanished: %v", old)
	}
	if fallbacks > MaxFallback {
		t.Fatalf("%d fallback groups", fallbacks)
	}
	// Writers have the largest k that can be had.
	if want := min(after.Profile.K, up-after.Profile.M); want >= 1 {
		if full := best == after.Profile.K; !usable || !full && best != want && fallbacks < MaxFallback {
			t.Fatalf("%d stores are up: the best usable group has k=%d, want %d", up, best, want)
		}
		for _, g := range after.Groups {
			if g.K < best && !g.Closed {
				t.Fatalf("group %d of k=%d is open beside one of k=%d", g.ID, g.K, best)
			}
		}
	}
}

func TestAssess(t *testing.T) {
	pool := fresh(t, 6, 4, 2, 48)
	stores := allUp(6)
	losses := [levels]Loss{{Disk, "1", 0, 1, "3+2"}, {Node, "", 48, -4, ""}, {Rack, "", 48, -4, ""}, {Zone, "", 48, -4, ""}}
	if r := Assess(pool, stores); r != (Report{Groups: 48, Writable: 48, Margin: 2, AtRisk: 48, Writes: "4+2", AfterNext: "3+2", Losses: losses}) {
		t.Errorf("healthy: %+v", r)
	}
	stores[0] = StoreState{ID: 1, Condition: Down}
	pool = mustApply(t, pool, stores)
	if r := Assess(pool, stores); r.Margin != 1 || r.AtRisk != 48 || r.Writes != "3+2" || r.AfterNext != "2+2" || r.Fallback != 10 || r.Writable != 0 {
		t.Errorf("one lost: %+v", r)
	}
	stores[1], stores[2] = StoreState{ID: 2, Condition: Down}, StoreState{ID: 3, Condition: Down}
	if r := Assess(pool, stores); r.Margin != -1 || r.AtRisk != 48 || r.Writes != "1+2" || r.AfterNext != "" {
		t.Errorf("three lost: %+v", r)
	}
	// A slot that is being filled counts as missing unless its previous store serves.
	pool, stores = fresh(t, 6, 4, 2, 1), allUp(7)
	pool.Groups[0].Members[0] = Member{Store: 7, Filling: true}
	if r := Assess(pool, stores); r.Margin != 1 || r.Filling != 1 {
		t.Errorf("filling: %+v", r)
	}
	pool.Groups[0].Members[0].Previous = 6
	pool.Groups[0].Members[1].Store, pool.Groups[0].Members[2].Store = 1, 2
	if r := Assess(pool, stores); r.Margin != 2 {
		t.Errorf("filling from a store that serves: %+v", r)
	}
	// Blocks that were written since are in the new store only, older ones in the one before: the loss of either counts.
	pool.Groups[0].Members = []Member{{Store: 7, Previous: 6, Filling: true}, {Store: 1}, {Store: 2}, {Store: 3}, {Store: 4}, {Store: 5}}
	for _, lost := range []uint32{6, 7} {
		a := newAssessment(pool, stores)
		if c := a.costs(Disk)[lost-1]; c.margin != 1 {
			t.Errorf("the loss of store %d leaves a margin of %d", lost, c.margin)
		}
	}
	// A lost disk is no lost node while the node has another.
	if r := Assess(PoolState{Profile: Profile{K: 4, M: 2}, Level: Node}, racks(1, 6, 2)); r.Losses[Disk].Writes != "4+2" || r.Losses[Node].Writes != "3+2" {
		t.Errorf("six nodes of two disks: %+v", r.Losses)
	}
	// With eight stores most losses leave a full group.
	if r := Assess(fresh(t, 8, 4, 2, 64), allUp(8)); r.Writes != "4+2" || r.AfterNext != "4+2" {
		t.Errorf("eight stores: %+v", r)
	}
}

// A slot was on its way from n1 to n5 when n3, which has another slot of the group, was lost, and there is no further node. The move ends when all members
// answer, so the lost slot cannot wait for it: it goes to n1, to another disk than the one that the move is from.
func TestLossDuringAMove(t *testing.T) {
	at := func(id uint32, node string, c Condition) StoreState {
		return StoreState{ID: id, Condition: c, Readable: c == Up, Weight: 1, Location: Location{Node: node}}
	}
	pool := PoolState{Profile: Profile{K: 2, M: 1}, Level: Node, NextID: 2, Groups: []Group{{ID: 1, Epoch: 3, K: 2, Members: []Member{
		{Store: 7}, {Store: 9, Previous: 1, Filling: true}, {Store: 5}}}}}
	stores := []StoreState{at(1, "n1", Up), at(2, "n1", Up), at(5, "n3", Out), at(7, "n4", Up), at(9, "n5", Up)}
	moved := func(stores []StoreState) *Member {
		for _, c := range Plan(pool, stores) {
			if c.Group.ID == 1 && c.Group.Members[2].Store != 5 {
				return &c.Group.Members[2]
			}
		}
		return nil
	}
	if m := moved(stores); m == nil || m.Store != 2 {
		t.Errorf("the lost slot: %+v, want store 2", m)
	}
	stores[2].Readable = true // it is only to be emptied: then it waits, for with n1 two shards would be lost
	if m := moved(stores); m != nil {
		t.Errorf("the slot of a store that is there: %+v, want it to wait", m)
	}
}

// A slot was on its way from n1 to n4, which is the only other node, when n4 was given up: it goes back. Were n4 still there, it would be filled there first.
func TestMoveGoesBack(t *testing.T) {
	at := func(id uint32, node string, c Condition) StoreState {
		return StoreState{ID: id, Condition: c, Readable: c == Up, Weight: 1, Location: Location{Node: node}}
	}
	group := func(m Member, closed bool) PoolState {
		return PoolState{Profile: Profile{K: 2, M: 1}, Level: Node, NextID: 2, Groups: []Group{{ID: 1, Epoch: 3, K: 2, Closed: closed, Members: []Member{{Store: 2}, m, {Store: 3}}}}}
	}
	stores := []StoreState{at(1, "n1", Up), at(2, "n2", Up), at(3, "n3", Up), at(4, "n4", Out)}
	for _, closed := range []bool{false, true} {
		pool := group(Member{Store: 4, Previous: 1, Filling: true}, closed)
		changes := Plan(pool, stores)
		if want := (Member{Store: 1, Previous: 4, Filling: true}); len(changes) == 0 || changes[0].Group.ID != 1 || changes[0].Group.Epoch != 4 || changes[0].Group.Members[1] != want {
			t.Fatalf("%+v, want slot 1 to be %+v", changes, want)
		}
		after, err := apply(pool, changes)
		if err != nil {
			t.Fatal(err)
		}
		if again := Plan(after, stores); len(again) != 0 {
			t.Fatalf("then %+v", again)
		}
	}
	pool := group(Member{Store: 4, Previous: 1, Filling: true}, true)
	for what, change := range map[string]func(s []StoreState){
		"what it came from is given up, too":  func(s []StoreState) { s[0].Condition = Out },
		"it is only to be emptied":            func(s []StoreState) { s[3].Readable = true },
		"what it came from is another's node": func(s []StoreState) { s[0].Node = "n2" },
	} {
		s := slices.Clone(stores)
		change(s)
		for _, c := range Plan(pool, s) {
			if c.Group.ID == 1 && c.Group.Members[1] != pool.Groups[0].Members[1] {
				t.Errorf("%s: slot 1 becomes %+v", what, c.Group.Members[1])
			}
		}
	}
}
