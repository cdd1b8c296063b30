package nodegroup

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Two of six stores go: writers have 2+2 after a moment. They come back: after another
// moment the smaller groups are closed, and, as nothing is in them, removed.
func TestStoresComeAndGo(t *testing.T) {
	r := newRig(t, 6, 4, 2, 48)
	r.pass(time.Second)
	if open, closed := r.fallback(); len(open)+len(closed) != 0 {
		t.Fatalf("a healthy pool has fallback groups: %v %v", open, closed)
	}
	if s := r.m.Status(); s.Pools[0].Writes != "4+2" || s.Pools[0].Margin != 2 || !strings.Contains(s.Pools[0].Next, "new blocks would be 3+2") {
		t.Fatalf("status %+v", s.Pools[0])
	}
	r.stop(2)
	r.stop(5)
	r.pass(500 * time.Millisecond)
	if open, _ := r.fallback(); len(open) != 0 {
		t.Fatalf("one failed probe made groups: %v", open)
	}
	r.pass(time.Second)
	if open, _ := r.fallback(); open[2] == 0 || len(open) != 1 {
		t.Fatalf("1.5 s after two stores went, open fallback groups by k: %v", open)
	}
	first := r.pool().LastPg
	s := r.m.Status()
	if s.Stores[1].State != Down || s.Stores[1].LastErr == "" || s.Stores[0].State != Up || s.Pools[0].Margin != 0 || s.Pools[0].Writes != "2+2" {
		t.Fatalf("status %+v", s)
	}
	r.pass(10 * time.Second)
	if s := r.m.Status(); s.Stores[1].State != Suspect {
		t.Fatalf("after 11 s: %v", s.Stores[1].State)
	}
	r.start(2)
	r.start(5)
	r.pass(time.Second)
	if open, _ := r.fallback(); open[2] == 0 {
		t.Fatal("groups were closed at the first sign of life")
	}
	r.pass(2 * time.Second)
	if open, closed := r.fallback(); len(open) != 0 || closed[2] == 0 {
		t.Fatalf("with all back: open %v, closed %v", open, closed)
	}
	r.pass(time.Minute)
	if open, closed := r.fallback(); len(open)+len(closed) != 0 {
		t.Fatalf("empty groups are left: %v %v", open, closed)
	}
	// Ids are not used again.
	r.stop(1)
	r.pass(2 * time.Second)
	for _, g := range r.pool().Pgs {
		if g.K != 0 && g.Id <= first {
			t.Fatalf("group %d has an id that was used before, the last was %d", g.Id, first)
		}
	}
}

// A store that is full answers and accepts deletions: writers have groups without it until there is room again.
func TestFullStore(t *testing.T) {
	r := newSizedRig(t, 6, 4, 2, 12, map[uint32]int64{2: 20 << 20})
	r.pass(time.Second)
	s := r.stores[2]
	var keys []segment.Key
	for b := uint64(1); ; b++ {
		k := segment.Key{PG: 99, Block: b}
		err := s.Put(t.Context(), &store.Put{Key: k, Epoch: 1, K: 1, BlockLen: 1 << 20, Data: make([]byte, 1<<20)})
		if vfs.KindOf(err) == vfs.KindNoSpace {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	r.pass(2 * time.Second)
	if open, _ := r.fallback(); open[3] == 0 {
		t.Fatalf("a store is full, open fallback groups by k: %v", open)
	}
	if st := r.m.Status().Stores[1]; st.State != Down || !strings.Contains(st.LastErr, "is full") {
		t.Fatalf("%+v", st)
	}
	if _, err := s.Delete(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Minute); s.Info().Full; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("everything was deleted: %+v", s.Info())
		}
	}
	r.pass(3 * time.Second)
	if open, _ := r.fallback(); len(open) != 0 {
		t.Fatalf("there is room again, open fallback groups by k: %v", open)
	}
}

// A new leader does not take stores that it has not heard of for stores that are up.
func TestNewLeaderWaits(t *testing.T) {
	r := newRig(t, 6, 4, 2, 12)
	r.pass(time.Second)
	r.stop(3)
	r.pass(2 * time.Second)
	open, _ := r.fallback()
	if open[3] == 0 {
		t.Fatal(open)
	}
	before := r.pool()
	r.m.reset()
	r.m = r.manager()
	r.pass(3 * time.Second)
	if after := r.pool(); len(after.Pgs) != len(before.Pgs) {
		t.Fatalf("%d groups after a change of leaders, there were %d", len(after.Pgs), len(before.Pgs))
	}
	if open, closed := r.fallback(); open[3] == 0 || len(closed) != 0 {
		t.Fatalf("after a change of leaders: open %v, closed %v", open, closed)
	}
}

// Ten minutes of silence give a store up; its slots move, if there is somewhere to move to. When it is back these stay where they
// are being filled; it gets its share from groups that are whole.
func TestGivenUp(t *testing.T) {
	r := newRig(t, 8, 4, 2, 16)
	r.pass(time.Second)
	r.stop(7)
	on := func(id uint32) (n, filling int) {
		for _, g := range r.pool().Pgs {
			for _, s := range g.Slots {
				if s.Store == id {
					n++
				}
				if s.Filling && s.Previous == 7 {
					filling++
				}
			}
		}
		return n, filling
	}
	had, _ := on(7)
	r.pass(time.Minute)
	r.now = r.now.Add(8 * time.Minute)
	r.pass(30 * time.Second)
	if n, _ := on(7); n != had {
		t.Fatalf("slots moved before ten minutes: %d of %d left", n, had)
	}
	r.pass(time.Minute)
	if n, filling := on(7); n != 0 || filling != had {
		t.Fatalf("after ten minutes %d slots are left and %d being filled, of %d", n, filling, had)
	}
	if s := r.m.Status(); s.Stores[6].State != Out || s.Pools[0].Filling != had || s.Pools[0].Margin != 1 {
		t.Fatalf("status %+v %+v", s.Stores[6], s.Pools[0])
	}
	r.start(7)
	r.pass(5 * time.Second)
	n, filling := on(7)
	if filling != had || n > 16-had {
		t.Fatalf("%d slots that left are still filled elsewhere, of %d; it has %d again, and %d groups are whole", filling, had, n, 16-had)
	}
	for _, g := range r.pool().Pgs {
		moving := 0
		for _, s := range g.Slots {
			if s.Filling {
				moving++
			}
		}
		if moving > 1 {
			t.Fatalf("two slots of a group are being filled: %v", g)
		}
	}
	// It has its share when all is filled.
	for range 10 {
		r.filled()
		r.pass(time.Second)
	}
	if n, _ := on(7); n < 10 || n > 14 {
		t.Fatalf("%d slots of 96 are on one of eight stores", n)
	}
}

// An operator's word counts at once, and the store's data is read meanwhile.
func TestDrain(t *testing.T) {
	r := newRig(t, 8, 4, 2, 16)
	r.pass(time.Second)
	rec := r.m.cmap.Stores[6].CloneVT()
	rec.State = metapb.StoreState_STORE_OUT
	r.record(rec)
	r.pass(time.Second)
	for _, g := range r.pool().Pgs {
		for _, s := range g.Slots {
			if s.Store == 7 {
				t.Fatal("a slot is left on a store that is out")
			}
		}
	}
	if s := r.m.Status().Pools[0]; s.Margin != 2 || s.Filling != 12 {
		t.Fatalf("status %+v", s)
	}
}

// Another disk behind the address of one that is recorded is not it.
func TestAnotherDisk(t *testing.T) {
	r := newRig(t, 6, 4, 2, 6)
	r.stop(4)
	mine := r.stores[4]
	other, err := store.Open(t.Context(), store.Options{Dir: t.TempDir(), Cluster: segment.ID{1}, Create: true, SegmentSize: 4 << 20, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.stores[4] = other
	uuid := mine.Info().Store
	// As start does, but the record keeps the uuid of the disk that is gone.
	rec := func() *metapb.Store { return r.m.cmap.Stores[3].CloneVT() }
	defer func() { r.stop(4); r.stores[4] = mine }()
	ln := r.serveOnly(4)
	r.pass(time.Second)
	s := rec()
	s.Address, s.Uuid = ln, uuid[:]
	r.record(s)
	r.pass(2 * time.Second)
	if s := r.m.Status().Stores[3]; s.State != Down || s.Readable || !strings.Contains(s.LastErr, "answers as") {
		t.Fatalf("status %+v", s)
	}
}

// What is in a group keeps it: a shard at one member, a write that began before the fence, a block the metadata knows.
func TestRemovalIsSafe(t *testing.T) {
	r := newRig(t, 6, 4, 2, 6)
	r.pass(time.Second)
	r.stop(6)
	r.pass(2 * time.Second)
	r.start(6)
	r.pass(4 * time.Second)
	var groups []*metapb.PlacementGroup
	for _, g := range r.pool().Pgs {
		if g.K == 3 && g.State == metapb.PGState_PG_CLOSED {
			groups = append(groups, g)
		}
	}
	if len(groups) < 3 {
		t.Fatalf("%d closed groups", len(groups))
	}
	exists := func(id uint32) bool {
		for _, g := range r.pool().Pgs {
			if g.Id == id {
				return true
			}
		}
		return false
	}
	put := func(g *metapb.PlacementGroup, slot int) error {
		s := r.stores[g.Slots[slot].Store]
		return s.Put(t.Context(), &store.Put{Key: blockstore.Key{PG: g.Id, Block: 77, Shard: uint8(slot)}, Epoch: g.Epoch, K: 3, M: 2, BlockLen: 4096, Data: make([]byte, 4096)})
	}
	withShard, withBlock := groups[0], groups[1]
	if err := put(withShard, 4); err != nil {
		t.Fatal(err)
	}
	id := r.meta.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}}).GetBlocks().First
	f := r.meta.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_Create{Create: &metapb.Create{Parent: 1, Name: []byte("f"), Type: 1, Open: 2}}}).GetCreate()
	commit := func(e *metapb.NewExtent) {
		r.meta.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
			Ino: f.Attr.Ino, Epoch: f.Lease.Epoch, Size: 4096, Extents: []*metapb.NewExtent{e}}}})
	}
	commit(&metapb.NewExtent{Length: 4096, Block: id, Pg: withBlock.Id, ProfileK: 3, ProfileM: 2})
	r.pass(2 * time.Minute)
	if !exists(withShard.Id) || !exists(withBlock.Id) {
		t.Fatal("a group that is not empty was removed")
	}
	for _, g := range groups[2:] {
		if exists(g.Id) {
			t.Fatalf("empty group %d is left", g.Id)
		}
		if err := put(g, 4); vfs.KindOf(err) != vfs.KindFenced {
			t.Fatalf("a write to a removed group: %v", err)
		}
	}
	// The dying block keeps it too.
	commit(&metapb.NewExtent{Length: 4096, Zero: true})
	r.pass(2 * time.Minute)
	if !exists(withBlock.Id) {
		t.Fatal("a group with a dying block was removed")
	}
	r.meta.must(t, shard, &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: 1 << 40}}})
	r.pass(2 * time.Minute)
	if exists(withBlock.Id) {
		t.Fatal("a group whose block is dead is left")
	}
	if !exists(withShard.Id) {
		t.Fatal("a group with a shard was removed")
	}
}

// A proposal of a leader that was deposed meanwhile is refused, or the next leader's next look sets it right.
func TestLateProposals(t *testing.T) {
	r := newRig(t, 8, 4, 2, 16)
	r.pass(time.Second)
	var late []*metapb.Command
	r.meta.before = func(c *metapb.Command) {
		if c.GetChangePgs() != nil {
			late = append(late, c.CloneVT())
		}
	}
	for _, id := range []uint32{1, 2, 3} {
		r.stop(id)
	}
	r.pass(2 * time.Second)
	for _, id := range []uint32{1, 2, 3} {
		r.start(id)
	}
	r.pass(4 * time.Second)
	rec := r.m.cmap.Stores[6].CloneVT()
	rec.State = metapb.StoreState_STORE_OUT
	r.record(rec)
	r.pass(2 * time.Second)
	r.meta.before = nil
	if len(late) < 3 {
		t.Fatalf("%d proposals", len(late))
	}
	want := fmt.Sprint(r.pool())
	for i, c := range late {
		_, err := r.meta.Apply(t.Context(), clusterShard, c.CloneVT())
		if k := vfs.KindOf(err); err != nil && k != vfs.KindChanged {
			t.Fatalf("proposal %d: %v", i, err)
		}
		r.pass(time.Second)
		if got := fmt.Sprint(r.pool()); got != want {
			t.Fatalf("late proposal %d left another map:\n%s\nwant\n%s", i, got, want)
		}
	}
}

// The manager works while its process leads, and only then.
func TestStopsWithLeadership(t *testing.T) {
	r := newRig(t, 6, 4, 2, 6)
	var leads atomic.Bool
	r.m.o.Leads, r.m.o.Now = leads.Load, time.Now
	r.m.o.ProbeEvery = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.m.Run(ctx) })
	await := func(leading bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Minute); r.m.Status().Leading != leading; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("leading is not %v", leading)
			}
		}
	}
	for range 3 {
		leads.Store(true)
		await(true)
		leads.Store(false)
		await(false)
	}
	cancel()
	wg.Wait()
}

// A group whose removal began, so that its members are fenced, and did not end takes blocks when it is opened again. Else
// writers would wait for as long as there is no other.
func TestOpenedAfterItsFence(t *testing.T) {
	r := newRig(t, 6, 4, 2, 6)
	r.pass(time.Second)
	r.stop(6)
	r.pass(2 * time.Second)
	r.start(6)
	r.pass(4 * time.Second)
	// Every closed group has a block of which no shard is listed: it is fenced, and stays.
	ids := r.meta.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 64}}}).GetBlocks().First
	f := r.meta.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_Create{Create: &metapb.Create{Parent: 1, Name: []byte("f"), Type: 1, Open: 2}}}).GetCreate()
	for i, g := range r.pool().Pgs {
		if g.K != 0 {
			r.meta.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
				Ino: f.Attr.Ino, Epoch: f.Lease.Epoch, Size: uint64(i+1) * 4096, Extents: []*metapb.NewExtent{
					{Offset: uint64(i) * 4096, Length: 4096, Block: ids + uint64(i), Pg: g.Id, ProfileK: 3, ProfileM: 2}}}}})
		}
	}
	r.pass(2 * time.Minute)
	if _, closed := r.fallback(); closed[3] == 0 {
		t.Fatal("no group is left")
	}
	r.stop(6)
	r.pass(2 * time.Second)
	opened := 0
	for _, g := range r.pool().Pgs {
		if g.K == 0 || g.State != metapb.PGState_PG_OPEN {
			continue
		}
		opened++
		for i, s := range g.Slots {
			if s.Filling {
				t.Errorf("group %d, slot %d is being filled, for nothing", g.Id, i)
			}
			err := r.stores[s.Store].Put(t.Context(), &store.Put{Key: blockstore.Key{PG: g.Id, Block: 99, Shard: uint8(i)}, Epoch: g.Epoch, K: 3, M: 2, BlockLen: 3 * 32 << 10, Data: make([]byte, 32<<10)})
			if err != nil {
				t.Errorf("group %d is open, and slot %d does not take a shard: %v", g.Id, i, err)
			}
		}
	}
	if opened == 0 {
		t.Fatal("no group is open")
	}
}

// The scan that the removal of groups takes may hang or last for hours: stores are observed and groups made meanwhile. It is one for
// all groups.
func TestObservationDoesNotWaitForTheScan(t *testing.T) {
	r := newRig(t, 6, 4, 2, 6)
	r.pass(time.Second)
	r.stop(6)
	r.pass(2 * time.Second)
	r.start(6)
	r.pass(4 * time.Second)
	_, closed := r.fallback()
	if closed[3] < 2 {
		t.Fatalf("%d closed groups", closed[3])
	}
	scans, hold := make(chan []uint32), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	r.meta.asked = func(q *metapb.Query) {
		if b := q.GetBlocks(); b != nil {
			select {
			case scans <- b.Pgs:
			case <-ctx.Done():
			}
			<-hold
		}
	}
	r.m.reset()
	r.m = r.manager()
	r.m.o.Now, r.m.o.ProbeEvery, r.m.o.RetireEvery = time.Now, 10*time.Millisecond, 10*time.Millisecond
	r.m.o.Timing = Timing{FailAfter: time.Millisecond, SuspectAfter: time.Hour, OutAfter: time.Hour, UpAfter: time.Millisecond}
	var wg sync.WaitGroup
	wg.Go(func() { r.m.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	if pgs := <-scans; len(pgs) != closed[3] {
		t.Errorf("a scan is about %d groups of %d", len(pgs), closed[3])
	}
	// It hangs now.
	await := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Minute); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				close(hold)
				t.Fatalf("%s: %+v", what, r.m.Status())
			}
		}
	}
	r.stop(1)
	await("a store that stopped was not seen to", func() bool { st := r.m.Status(); return len(st.Stores) > 0 && st.Stores[0].State == Down })
	await("no groups were opened", func() bool { open, _ := r.fallback(); return open[3] > 0 })
	if n := r.m.Status().Retiring.Groups; n != closed[3] {
		t.Errorf("the status says that the scan is about %d groups", n)
	}
	close(hold)
}
