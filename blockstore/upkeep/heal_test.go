package upkeep

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var testSizes = []int{1, 16 << 10, 40 << 10, 100 << 10, 300 << 10, 1 << 20}

func (r *rig) writeMany(n int) (fs []*file) {
	r.t.Helper()
	for i := range n {
		fs = append(fs, r.write(testSizes[i%len(testSizes)]))
	}
	return fs
}

func (r *rig) slotsOf(store uint32) (n, unfinished int) {
	r.t.Helper()
	for _, g := range newClusterMap(r.cluster()).groups {
		if i := g.slotOf(store); i >= 0 {
			n++
			if g.unfinished(i) {
				unfinished++
			}
		}
	}
	return n, unfinished
}

// A store that was lost and replaced by an empty one is filled completely; then the cluster survives the loss of m others.
func TestReplacedStoreIsFilled(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 14})
	fs := r.writeMany(42)
	dying := r.write(300 << 10)
	r.remove(dying)
	n := r.replace(r.nodes[2])
	if slots, unfinished := r.slotsOf(n.id); slots == 0 || unfinished != slots {
		t.Fatalf("%d of %d slots are filling", unfinished, slots)
	}
	st := n.heal()
	slots, unfinished := r.slotsOf(n.id)
	if unfinished != 0 || st.Clean != slots || st.Missing+st.Pending+st.Damaged != 0 || len(st.Unclean) != 0 || st.Rebuilt == 0 {
		t.Fatalf("%d of %d slots are filling, status %+v", unfinished, slots, st)
	}
	for _, f := range fs {
		r.whole(f)
	}
	// A dying block was rebuilt too, where it had a shard.
	g := newClusterMap(r.cluster()).groups[dying.b.PG]
	if i := g.slotOf(n.id); i >= 0 {
		if err := n.has(dying, i, 1); err != nil {
			t.Fatal(err)
		}
	}
	// Whose shards they are is as it was written.
	for _, f := range fs {
		if i := newClusterMap(r.cluster()).groups[f.b.PG].slotOf(n.id); i >= 0 {
			e, owner, err := n.store.Stat(r.ctx, keyOf(f.b.PG, f.b.ID, i))
			if vfs.KindOf(err) == vfs.KindNotFound {
				continue // not stored
			}
			if err != nil || owner.FS != testFS || owner.Ino != 1000+f.b.ID&0xffff || e.Epoch != 2 {
				t.Fatalf("entry %+v of %+v: %v", e, owner, err)
			}
		}
	}
	for _, lost := range []int{0, 5} {
		defer r.nodes[lost].unreachable()()
	}
	r.readAll()
	if st := n.heal(); st.Rebuilt == 0 || st.Missing != 0 { // nothing to do, but members are away
		t.Fatalf("status %+v", st)
	}
}

// Two stores of a group are lost and replaced: blocks with nothing to spare, all are rebuilt.
func TestTwoReplacedStores(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6})
	fs := r.writeMany(24)
	a, b := r.replace(r.nodes[1]), r.replace(r.nodes[4])
	var wg sync.WaitGroup
	for _, n := range []*node{a, b} { // both at once
		wg.Go(func() {
			for n.heal().Clean < 6 && r.ctx.Err() == nil {
			}
		})
	}
	wg.Wait()
	for _, n := range []*node{a, b} {
		if _, unfinished := r.slotsOf(n.id); unfinished != 0 {
			t.Fatalf("store %d: %d slots are filling, %+v", n.id, unfinished, n.keeper.Status())
		}
	}
	for _, f := range fs {
		r.whole(f)
	}
	defer r.nodes[0].unreachable()()
	defer r.nodes[2].unreachable()()
	r.readAll()
}

// A survey during which a member does not answer completes nothing, whatever was rebuilt; it does when the member is back.
func TestMemberAway(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 3})
	fs := r.writeMany(18)
	n := r.replace(r.nodes[0])
	for name, op := range map[string]wire.Op{"fence": blockstore.OpFence, "list": blockstore.OpList} {
		away := r.nodes[3]
		away.setCut(func(call *wire.Call) error {
			if call.Op == op {
				return vfs.Errorf(vfs.KindUnavailable, "test", "cut off")
			}
			return nil
		})
		st := n.heal()
		if _, unfinished := r.slotsOf(n.id); unfinished != 3 || st.Clean != 0 || len(st.Unclean) != 3 || len(st.Unclean[0].Absent) != 1 || !strings.Contains(st.Unclean[0].Absent[0], "n4") {
			t.Fatalf("without an answer to %s: %d of 3 slots are filling, status %+v", name, unfinished, st)
		}
		away.setCut(nil)
	}
	for _, f := range fs { // what could be rebuilt, was
		r.whole(f)
	}
	// Members that answer everything but reads: what is missing is known, and stays missing.
	lost := keyOf(fs[5].b.PG, fs[5].b.ID, newClusterMap(r.cluster()).groups[fs[5].b.PG].slotOf(n.id))
	if _, err := n.store.Delete(r.ctx, []segment.Key{lost}); err != nil {
		t.Fatal(err)
	}
	for _, away := range r.nodes[1:6] {
		away.setCut(func(call *wire.Call) error {
			if call.Op == blockstore.OpGet {
				return vfs.Errorf(vfs.KindUnavailable, "test", "cut off")
			}
			return nil
		})
	}
	if st := n.heal(); st.Missing != 1 || st.Clean != 2 || st.Damaged != 0 {
		t.Fatalf("status %+v", st)
	}
	if _, unfinished := r.slotsOf(n.id); unfinished != 1 {
		t.Fatalf("%d slots are filling, one lacks a shard", unfinished)
	}
	for _, away := range r.nodes[1:6] {
		away.setCut(nil)
	}
	if st := n.heal(); st.Clean != 3 {
		t.Fatalf("status %+v", st)
	}
	if _, unfinished := r.slotsOf(n.id); unfinished != 0 {
		t.Fatalf("%d slots are filling", unfinished)
	}
}

// A writer that does not know the new epoch cannot add a block behind a survey: what it has written is pending and
// keeps the slot open, what it has not is refused.
func TestOldEpochWriters(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
	old := r.gatewayMap()
	written, err := r.put(old, 300<<10) // all shards acknowledged, not committed
	if err != nil {
		t.Fatal(err)
	}
	n := r.supersede(r.nodes[0]) // which a gateway with an old map still reaches
	if st := n.heal(); st.Pending != 1 || st.Clean != 0 {
		t.Fatalf("status %+v with a leased block of an older epoch", st)
	}
	if _, unfinished := r.slotsOf(n.id); unfinished != 1 {
		t.Fatal("the slot was declared filled while a block of an older epoch may be committed")
	}
	if _, err := r.put(old, 300<<10); vfs.KindOf(err) != vfs.KindUnavailable || !strings.Contains(err.Error(), "epoch 1 of pg 1 is over") {
		t.Fatalf("a write under the old epoch: %v", err)
	}
	current, err := r.put(r.gatewayMap(), 300<<10) // leased, under the present epoch: that is nothing to wait for
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Delete(r.ctx, []segment.Key{keyOf(1, current.b.ID, newClusterMap(r.cluster()).groups[1].slotOf(n.id))}); err != nil {
		t.Fatal(err)
	}
	if err := r.commit(written); err != nil {
		t.Fatal(err)
	}
	if st := n.heal(); st.Clean != 1 || st.Pending != 0 {
		t.Fatalf("status %+v", st)
	}
	if _, unfinished := r.slotsOf(n.id); unfinished != 0 {
		t.Fatal("the slot is still filling")
	}
	r.whole(written)
}

// corrupt overwrites a part of a shard's record on disk.
func (n *node) corrupt(key segment.Key, at int) {
	n.r.t.Helper()
	g, err := n.store.Get(n.r.ctx, key, at, 16)
	if err != nil {
		n.r.t.Fatal(err)
	}
	want := append([]byte(nil), g.Bytes...)
	g.Release()
	if n.overwrite(want, func(p []byte) { p[3] ^= 0x40 }) == 0 {
		n.r.t.Fatal("the bytes of the shard are not in the segments")
	}
}

// overwrite changes every place in the segments where the bytes are.
func (n *node) overwrite(want []byte, change func([]byte)) (places int) {
	t := n.r.t
	t.Helper()
	names, err := n.o.FS.List("/s/segments")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := n.o.FS.Open("/s/segments/" + name)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, n.o.SegmentSize)
		m, _ := f.ReadAt(p, 0)
		for i := 0; i+len(want) <= m; i += 16 {
			if string(p[i:i+len(want)]) == string(want) {
				places++
				change(p[i : i+len(want)])
				if _, err := f.WriteAt(p[i:i+len(want)], int64(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return places
}

// stripe1 is a block in the group of f.
func stripe1(f *file, id uint64) stripe.Block { return stripe.Block{PG: f.b.PG, ID: id, Len: 1} }

// Flipped bits that a reader reports are healed; what it reports wrongly is left alone.
func TestReportedShardsAreHealed(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 3})
	fs := r.writeMany(12)
	reported := map[*node][]segment.Key{}
	g := newClusterMap(r.cluster())
	damage := func(f *file, slot int, how func(n *node, key segment.Key)) {
		n := r.nodes[g.groups[f.b.PG].pg.Slots[slot].Store-1]
		key := keyOf(f.b.PG, f.b.ID, slot)
		how(n, key)
		reported[n] = append(reported[n], key)
	}
	flip := func(n *node, key segment.Key) { n.corrupt(key, 1024) }
	drop := func(n *node, key segment.Key) {
		if _, err := n.store.Delete(r.ctx, []segment.Key{key}); err != nil {
			t.Fatal(err)
		}
	}
	damage(fs[5], 0, flip)
	damage(fs[5], 4, flip)
	damage(fs[4], 1, drop)
	damage(fs[1], 0, flip)
	damage(fs[1], 5, drop)
	damage(fs[11], 3, func(*node, segment.Key) {})                               // nothing is wrong with it
	damage(&file{b: stripe1(fs[0], 77)}, 0, func(*node, segment.Key) {})         // never existed
	damage(&file{b: stripe1(fs[0], fs[0].b.ID)}, 2, func(*node, segment.Key) {}) // a block of one data shard has none there
	for n, keys := range reported {
		gw := dialAs("gw", blockstore.RoleGateway, n.addr)
		call(t, gw, opReport, n.id, keys)
		gw.Close()
		if err := n.keeper.Heal(r.ctx); err != nil {
			t.Fatal(err)
		}
		if st := n.keeper.Status(); st.Damaged != 0 || len(st.Damages) != 0 {
			t.Fatalf("status %+v", st)
		}
	}
	for _, f := range fs {
		r.whole(f)
	}
	r.readAll()
}

// A block of which too few shards are left is told of, with the file it belongs to, and made whole when a store comes back.
func TestDamagedBlock(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
	f, ok := r.write(300<<10), r.write(300<<10)
	g := newClusterMap(r.cluster()).groups[1]
	at := func(slot int) *node { return r.nodes[g.pg.Slots[slot].Store-1] }
	saved := map[int]*store.Put{}
	for _, slot := range []int{0, 1, 4} { // three of six, where four are needed
		n, key := at(slot), keyOf(1, f.b.ID, slot)
		got, err := n.store.Get(r.ctx, key, 0, 76<<10)
		if err != nil {
			t.Fatal(err)
		}
		saved[slot] = shardPut(1, f.b.ID, slot, 4, 2, 300<<10, append([]byte(nil), got.Bytes...))
		got.Release()
		if _, err := n.store.Delete(r.ctx, []segment.Key{key}); err != nil {
			t.Fatal(err)
		}
	}
	st := at(0).heal()
	if st.Damaged != 1 || st.Clean != 0 || len(st.Damages) != 1 {
		t.Fatalf("status %+v", st)
	}
	if d := st.Damages[0]; d.Block != f.b.ID || d.FS != testFS || d.Inode != 1000+f.b.ID&0xffff {
		t.Fatalf("damage %+v of %+v", d, f)
	}
	// While a member is away the block is not given up.
	back := at(2).unreachable()
	if st := at(0).heal(); st.Damaged != 0 || st.Clean != 0 {
		t.Fatalf("status %+v with a member away", st)
	}
	back()
	if err := at(1).store.Put(r.ctx, saved[1]); err != nil {
		t.Fatal(err)
	}
	for _, slot := range []int{0, 4} {
		if st := at(slot).heal(); st.Damaged != 0 || st.Clean != 1 || len(st.Damages) != 0 {
			t.Fatalf("status %+v", st)
		}
	}
	r.whole(f)
	r.whole(ok)
}

// A block that is written while a survey reads the lists, one after the other, is in some of them only: nothing of it is missing.
func TestWriteBesideASurvey(t *testing.T) {
	for last := 1; last < 6; last++ { // how many lists have it
		r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
		r.write(300 << 10)
		g := newClusterMap(r.cluster()).groups[1]
		at := func(slot int) *node { return r.nodes[g.pg.Slots[slot].Store-1] }
		var once sync.Once
		var f *file
		at(6 - last).setCut(func(call *wire.Call) error {
			if call.Op == blockstore.OpList {
				once.Do(func() { f = r.write(300 << 10) })
			}
			return nil
		})
		st := at(0).heal()
		if f == nil {
			t.Fatal("nothing was written: the test shows nothing")
		}
		if st.Damaged != 0 || len(st.Damages) != 0 || st.Missing != 0 || st.Clean != 1 || st.Rebuilt != 0 {
			t.Errorf("the last %d lists have a block that was just written: status %+v", last, st)
		}
		r.whole(f)
	}
}

// failingStore ends the process, as it were, at a Put.
type failingStore struct {
	Store
	puts atomic.Int32
	at   int32
}

var errCrash = errors.New("crash")

func (s *failingStore) Put(ctx context.Context, p *store.Put) error {
	if s.puts.Add(1) >= s.at {
		return errCrash
	}
	return s.Store.Put(ctx, p)
}

// A repair that was cut short at any Put is finished by the next one.
func TestCrashDuringRepair(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 2})
	fs := r.writeMany(12)
	for range 12 { // of small blocks the store may have none: these have a shard at every slot, so that there is one for each Put
		fs = append(fs, r.write(300<<10))
	}
	n := r.replace(r.nodes[3])
	last := uint64(0)
	for _, at := range []int32{1, 2, 5, 4} {
		o := n.keeper.o
		o.Store = &failingStore{Store: n.store, at: at}
		k, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.refresh(r.ctx); err != nil {
			t.Fatal(err)
		}
		k.markAll()
		if err := k.Heal(r.ctx); !errors.Is(err, errCrash) {
			t.Fatalf("heal with a crash at put %d: %v", at, err)
		}
		last += k.Status().Rebuilt
		k.Close()
		if _, unfinished := r.slotsOf(n.id); unfinished != 2 {
			t.Fatalf("%d slots are filling after a crash", unfinished)
		}
	}
	st := n.heal()
	if _, unfinished := r.slotsOf(n.id); unfinished != 0 || st.Clean != 2 || last == 0 {
		t.Fatalf("status %+v, %d shards were rebuilt before", st, last)
	}
	for _, f := range fs {
		r.whole(f)
	}
}

// Blocks with the least redundancy left are rebuilt first, over all groups.
func TestLeastRedundancyFirst(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 4})
	fs := r.writeMany(48)
	n := r.replace(r.nodes[0])
	g := newClusterMap(r.cluster())
	poor := map[uint64]bool{}
	for i, f := range fs {
		if i%3 != 0 {
			continue
		}
		pg := g.groups[f.b.PG].pg
		shape, err := blockstore.ShapeOf(int(f.b.Len), 4, 2)
		if err != nil {
			t.Fatal(err)
		}
		for slot := range 6 {
			if s := pg.Slots[slot].Store; s != n.id && shape.Stored(slot) {
				if _, err := r.nodes[s-1].store.Delete(r.ctx, []segment.Key{keyOf(f.b.PG, f.b.ID, slot)}); err != nil {
					t.Fatal(err)
				}
				if i := g.groups[f.b.PG].slotOf(n.id); shape.Stored(i) {
					poor[f.b.ID] = true
				}
				break
			}
		}
	}
	order := &recordingStore{Store: n.store}
	o := n.keeper.o
	o.Store, o.Workers = order, 1
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.refresh(r.ctx); err != nil {
		t.Fatal(err)
	}
	k.markAll()
	if err := k.Heal(r.ctx); err != nil {
		t.Fatal(err)
	}
	if len(order.blocks) <= len(poor) || len(poor) == 0 {
		t.Fatalf("%d shards rebuilt, %d blocks had nothing to spare", len(order.blocks), len(poor))
	}
	for i, id := range order.blocks {
		if poor[id] != (i < len(poor)) {
			t.Fatalf("rebuilt as number %d: block %#x, of those with nothing to spare: %v; there are %d of them", i, id, poor[id], len(poor))
		}
	}
}

type recordingStore struct {
	Store
	blocks []uint64
}

func (s *recordingStore) Put(ctx context.Context, p *store.Put) error {
	s.blocks = append(s.blocks, p.Key.Block)
	return s.Store.Put(ctx, p)
}

// A profile without parity is moved by copying; the slot is filled when everything is copied from a previous target that takes no more
// writes.
func TestMoveWithoutParity(t *testing.T) {
	r := newRig(t, rigOptions{stores: 3, k: 2, m: 0, pgs: 1})
	fs := r.writeMany(6)
	g := newClusterMap(r.cluster()).groups[1]
	var spare uint32 = 1
	for g.slotOf(spare) >= 0 {
		spare++
	}
	for slot := range 2 {
		from, to := r.nodes[newClusterMap(r.cluster()).groups[1].pg.Slots[slot].Store-1], r.nodes[spare-1]
		r.change(func(pg *metapb.PlacementGroup) bool {
			pg.Epoch++
			pg.Slots[slot] = &metapb.Slot{Store: to.id, Previous: from.id, Filling: true}
			return true
		})
		if slot == 0 { // only slot 0 is in every block: nobody else vouches
			back := from.unreachable()
			if st := to.heal(); st.Clean != 0 || st.Filling != 1 {
				t.Fatalf("status %+v without the previous target", st)
			}
			back()
		}
		if st := to.heal(); st.Clean != 1 {
			t.Fatalf("slot %d: status %+v", slot, st)
		}
		if c := r.collect(); c.Moved == 0 {
			t.Fatalf("collected %+v after the move", c)
		}
		for _, f := range fs {
			r.whole(f)
		}
		spare = from.id
	}
	r.readAll()
}

// A group whose blocks nobody can name is not declared filled, though nothing is seen to be missing.
func TestNobodyVouches(t *testing.T) {
	t.Run("previous target away", func(t *testing.T) {
		r := newRig(t, rigOptions{stores: 3, k: 2, m: 0, pgs: 1})
		f := r.write(1000) // in slot 0 only
		old := r.gatewayMap()
		g := newClusterMap(r.cluster()).groups[1]
		from, to := r.nodes[g.pg.Slots[0].Store-1], r.nodes[5-g.pg.Slots[0].Store-g.pg.Slots[1].Store]
		r.change(func(pg *metapb.PlacementGroup) bool {
			pg.Epoch++
			pg.Slots[0] = &metapb.Slot{Store: to.id, Previous: from.id, Filling: true}
			return true
		})
		back := from.unreachable()
		if st := to.heal(); st.Clean != 0 || st.Missing != 0 {
			t.Fatalf("status %+v", st)
		}
		back()
		if st := to.heal(); st.Clean != 1 {
			t.Fatalf("status %+v", st)
		}
		r.whole(f)
		// The previous target, alone in what it held, has acknowledged the epoch too.
		if _, err := r.put(old, 1000); vfs.KindOf(err) != vfs.KindUnavailable {
			t.Fatalf("a write under the old epoch: %v", err)
		}
	})
	t.Run("all that name small blocks are lost", func(t *testing.T) {
		r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1, level: 2}) // from level 3 on the third is refused
		r.write(1000)
		g := newClusterMap(r.cluster()).groups[1]
		var fresh []*node
		for _, slot := range []int{0, 4, 5} {
			fresh = append(fresh, r.replace(r.nodes[g.pg.Slots[slot].Store-1]))
		}
		for _, n := range fresh {
			if st := n.heal(); st.Clean != 0 || st.Missing != 0 || !strings.Contains(st.Unclean[0].Error, "no other member knows") {
				t.Fatalf("status %+v", st)
			}
		}
	})
}

// When the metadata is another's, nothing is declared filled; what is missing is rebuilt if it is only another incarnation's.
func TestForeignMetadataFillsNothing(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
	f := r.write(300 << 10)
	n := r.replace(r.nodes[0])
	for _, c := range []struct {
		name   string
		change func(*metapb.ShardInfoR)
	}{
		{"other cluster", func(i *metapb.ShardInfoR) { i.Cluster = []byte(fmt.Sprintf("%16d", 1)) }},
		{"restored", func(i *metapb.ShardInfoR) { i.Incarnation++ }},
	} {
		r.meta.setAmend(func(_ uint16, _ *metapb.Query, res *metapb.QueryResult) {
			if i := res.GetShardInfo(); i != nil {
				c.change(i)
			}
		})
		st := n.heal()
		if _, unfinished := r.slotsOf(n.id); unfinished != 1 || st.Clean != 0 {
			t.Fatalf("%s: status %+v", c.name, st)
		}
		if whole := len(r.lost(f)) == 0; whole != (c.name == "restored") {
			t.Fatalf("%s: the block is whole: %v", c.name, whole)
		}
	}
	r.meta.setAmend(nil)
	// Nothing is missing any more, but that has to be seen by the store's own metadata.
	if st := n.heal(); st.Clean != 1 {
		t.Fatalf("status %+v", st)
	}
}
