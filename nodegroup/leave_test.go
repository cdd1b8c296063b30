package nodegroup

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestCanDrain(t *testing.T) {
	m := &metapb.ClusterMapR{Pools: []*metapb.Pool{{Id: 1, Name: "p", K: 2, M: 1, Domain: "node"}, {Id: 2, Name: "q", K: 1, M: 1, Domain: "rack"}, {Id: 3, Name: "of g", K: 1, M: 0, Domain: "node", Group: "g"}}}
	for i, s := range []struct{ node, rack, group string }{{"a", "r1", ""}, {"a", "r1", ""}, {"b", "r1", ""}, {"c", "r2", ""}, {"d", "r2", ""}, {"e", "r2", "g"}} {
		m.Stores = append(m.Stores, &metapb.Store{Id: uint32(i + 1), Node: s.node, Rack: s.rack, Group: s.group})
	}
	refused := func(says string, nodes ...string) {
		t.Helper()
		err := CanDrain(m, nodes...)
		if says == "" && err != nil || says != "" && (vfs.KindOf(err) != vfs.KindNoSpace || !strings.Contains(err.Error(), says)) {
			t.Errorf("drain %v: %v, want %q", nodes, err, says)
		}
	}
	refused("", "a")
	refused("", "x") // a node without stores
	refused("pool p has the profile 2+1 and needs 3 failure domains (node), one for each shard: without a, b it has 2 of its 4", "a", "b")
	refused("pool of g has the profile 1+0 and needs 1 failure domains (node), one for each shard: without e it has 0 of its 1", "e")
	m.Stores[3].State = metapb.StoreState_STORE_OUT // one that leaves already has no place to give
	refused("without a it has 2 of its 3", "a")
	m.Stores[3].State = metapb.StoreState_STORE_IN
	m.Pools[0].K = 1
	refused("pool q has the profile 1+1 and needs 2 failure domains (rack), one for each shard: without c, d it has 1 of its 2", "c", "d")
}

// The node of a store that is removed as lost is asked no more, its slots are rebuilt elsewhere, and when none names it any more it is lost.
func TestLostNode(t *testing.T) {
	r := newRig(t, 7, 2, 1, 12)
	r.pass(time.Second)
	for level := uint32(3); level <= 4; level++ {
		r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level}}})
	}
	id := []byte("7777777777777777")
	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{Name: name(7), Id: id, Version: 1, Roles: []string{"block"}}}}})
	r.pass(DefaultProbeEvery)
	current := func() *Status {
		t.Helper()
		seen := r.m.Status()
		st, err := Current(t.Context(), r.meta, &seen)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	before := r.m.Status()
	if st := current(); !reflect.DeepEqual(*st, before) {
		t.Errorf("without a change of the map: %+v, want %+v", st, before)
	}
	r.stop(7)
	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_RetireNode{RetireNode: &metapb.RetireNode{Name: name(7), Id: id, Lost: true}}})
	// Until the manager looks again it thinks that all is well. Who asks is told better.
	if seen := r.m.Status(); seen.Stores[6].State != Up || seen.Pools[0].Margin != 1 {
		t.Fatalf("the manager has looked: %+v", seen)
	}
	st := current()
	if s := st.Stores[6]; !s.Gone || s.Slots == 0 || s.Record != "STORE_OUT" || s.State != Unknown || s.Readable {
		t.Errorf("the store, before the manager looks again: %+v", s)
	}
	if p := st.Pools[0]; p.Margin != 0 || p.Writes != "2+1" || p.Capacity == 0 || st.Version <= before.Version {
		t.Errorf("the pool, before the manager looks again: %+v", p)
	}
	if stop := StopOf(r.cluster(), before.Stores, map[uint32]bool{1: true})[1]; stop.Reads {
		t.Errorf("what the manager saw before makes up for a lost store: %+v", stop)
	}
	state := func() *metapb.Store { return r.m.cmap.Stores[6] }
	r.m.step(t.Context())
	if s := state(); !s.Gone || s.State != metapb.StoreState_STORE_OUT || r.m.health[7] != nil {
		t.Fatalf("after the removal: %v", s)
	}
	// It begins to rebuild what is there. By the map alone its own look says the same; free space of the disk changes by itself.
	seen := r.m.Status()
	same := seen.with(r.m.cmap)
	same.Pools[0].Capacity, same.Pools[0].Free = seen.Pools[0].Capacity, seen.Pools[0].Free
	if seen.Pools[0].Filling == 0 || !reflect.DeepEqual(same, &seen) {
		t.Errorf("%+v, by its own map %+v", seen, same)
	}
	filled := 0
	for range 100 {
		r.pass(DefaultProbeEvery)
		if filled > 0 && state().State == metapb.StoreState_STORE_LOST {
			break
		}
		for _, g := range r.pool().Pgs {
			for i, s := range g.Slots {
				if s.Store == 7 {
					t.Fatalf("group %d still has a slot on a store that is gone", g.Id)
				}
				if s.Filling { // as its store says when it has all
					done := g.CloneVT()
					done.Slots[i].Filling, done.Slots[i].Previous = false, 0
					r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: 1, Changes: []*metapb.PGChange{{ExpectEpoch: g.Epoch, Pg: done}}}}})
					filled++
					break
				}
			}
		}
	}
	if s := state(); s.State != metapb.StoreState_STORE_LOST || s.Gone || filled == 0 {
		t.Fatalf("after %d slots were filled: %v", filled, s)
	}
	if p := r.m.Status().Pools[0]; p.Margin != 1 {
		t.Errorf("the pool is not whole: %+v", p)
	}
}

// How far a store is emptied is told by what left it since it was seen to leave.
func TestMoving(t *testing.T) {
	began := time.Unix(1000, 0)
	b := movement{since: began, from: 40, used: 4000}
	if m := b.progress(40, began); m.Left != 40 || m.BytesLeft != 4000 || m.ETA != 0 || m.SlotsPerMinute != 0 {
		t.Errorf("at its beginning: %+v", m)
	}
	if m := b.progress(10, began.Add(3*time.Minute)); m.Left != 10 || m.BytesLeft != 1000 || m.SlotsPerMinute != 10 || m.ETA != 60 {
		t.Errorf("later: %+v", m)
	}
	if m := b.progress(0, began.Add(4*time.Minute)); m.BytesLeft != 0 || m.ETA != 0 {
		t.Errorf("at its end: %+v", m)
	}
	if m := (movement{since: began}).progress(0, began.Add(time.Minute)); m.BytesLeft != 0 || m.ETA != 0 {
		t.Errorf("of a store that had nothing: %+v", m)
	}
}

func TestStopOf(t *testing.T) {
	m := &metapb.ClusterMapR{Pools: []*metapb.Pool{{Id: 1, Name: "p", K: 1, M: 1, Domain: "node", Pgs: []*metapb.PlacementGroup{
		{Id: 1, Epoch: 1, Slots: []*metapb.Slot{{Store: 1}, {Store: 2}}}, {Id: 2, Epoch: 1, Slots: []*metapb.Slot{{Store: 2}, {Store: 3}}}}}}}
	var seen []StoreStatus
	for i := range uint32(3) {
		m.Stores = append(m.Stores, &metapb.Store{Id: i + 1, Node: name(i + 1), Capacity: 1})
		seen = append(seen, StoreStatus{ID: i + 1, Node: name(i + 1), State: Up, Readable: true})
	}
	stop := func(ids ...uint32) placement.Stop {
		x := map[uint32]bool{}
		for _, id := range ids {
			x[id] = true
		}
		return StopOf(m, seen, x)[1]
	}
	if s := stop(1); !s.OK() {
		t.Errorf("without 1: %+v", s)
	}
	if s := stop(2); s.OK() || !s.Reads {
		t.Errorf("without 2, which all groups need for writes: %+v", s)
	}
	if s := stop(1, 2); s.Reads {
		t.Errorf("without 1 and 2: %+v", s)
	}
	seen[0].State, seen[0].Readable = Down, false
	if s := stop(3); s.OK() || !s.Reads {
		t.Errorf("without 3, while 1 is down: %+v", s)
	}
	if s := stop(2); s.Reads {
		t.Errorf("without 2, while 1 is down: %+v", s)
	}
}

// TestGoneMembers: a group that is to end need not hear from stores of nodes that were removed; one that is only silent it waits for.
func TestGoneMembers(t *testing.T) {
	s := &sight{cmap: &metapb.ClusterMapR{Stores: []*metapb.Store{
		{Id: 1, Node: "a", Gone: true, State: metapb.StoreState_STORE_OUT}, {Id: 2, Node: "b", Gone: true, State: metapb.StoreState_STORE_OUT}, {Id: 3, Node: "c"},
	}}}
	g := &metapb.PlacementGroup{Id: 7, Epoch: 2, Slots: []*metapb.Slot{{Store: 1}, {Store: 2}}}
	if !s.fenceEmpty(t.Context(), g) {
		t.Error("it waits for who was removed")
	}
	g.Slots = append(g.Slots, &metapb.Slot{Store: 1, Previous: 3})
	if s.fenceEmpty(t.Context(), g) {
		t.Error("it does not wait for who is silent")
	}
}
