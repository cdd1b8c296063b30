package upkeep

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// What is dead goes, whoever asks; what is live, dying or leased stays.
func TestCollect(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6})
	live, dying, reaped := r.write(1<<20), r.write(16<<10), r.write(300<<10)
	r.remove(reaped)
	r.reap()
	r.remove(dying)
	abandoned, err := r.put(r.gatewayMap(), 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.collect(); c.Dead != uint64(6) || c.Elsewhere != 0 || c.Moved != 0 || c.Unanswered != 0 {
		t.Fatalf("collected %+v, the reaped block has 6 shards", c)
	}
	for f, want := range map[*file]int{live: 6, dying: 3, reaped: 0, abandoned: 4} {
		if got := r.shards(f.b.ID); got != want {
			t.Errorf("block of %d bytes has %d shards, want %d", f.b.Len, got, want)
		}
	}
	r.whole(live)
	r.register() // the gateway is born again: its leased ids are dead
	if c := r.collect(); c.Dead != 4 || c.Bytes == 0 {
		t.Fatalf("collected %+v, the abandoned block has 4 shards", c)
	}
	r.reap()
	if c := r.collect(); c.Dead != 3 {
		t.Fatalf("collected %+v, the dying block had 3 shards", c)
	}
	if c := r.collect(); c.Listed != 6 || c.Dead != 0 {
		t.Fatalf("collected %+v, only the live block is left", c)
	}
	r.whole(live)
}

// shared makes a clone of a file, named "clone", which then goes.
func (r *rig) shared() *file {
	r.t.Helper()
	f := r.write(1 << 20)
	c := r.mustApply(&metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(vfs.RootIno), Name: []byte("clone"), Type: uint32(vfs.TypeFile), Open: uint32(vfs.OpenWrite), Attr: &metapb.AttrSet{},
	}}}).GetCreate()
	r.mustApply(&metapb.Command{Op: &metapb.Command_CloneRange{CloneRange: &metapb.CloneRange{
		Ino: c.Attr.Ino, LeaseEpoch: c.Lease.Epoch, Offset: 1 << 30, Length: 1 << 20, SrcIno: f.ino, SrcLeaseEpoch: 1,
	}}})
	r.remove(f)
	r.reap()
	if c := r.collect(); c.Dead != 0 {
		r.t.Fatalf("collected %+v of a block that a clone has", c)
	}
	r.whole(f)
	return f
}

// A block that two files share stays until both are gone.
func TestSharedBlockIsKept(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6})
	f := r.shared()
	r.remove(&file{name: "clone"})
	r.reap()
	r.collect()
	if got := r.shards(f.b.ID); got != 0 {
		t.Fatalf("%d shards of a block that nobody has", got)
	}
}

// A block whose first owner is gone is rebuilt.
func TestSharedBlockIsHealed(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 14})
	f := r.shared()
	n := r.replace(r.nodes[newClusterMap(r.cluster()).groups[f.b.PG].pg.Slots[0].Store-1])
	n.heal()
	r.whole(f)
}

// What an abandoned attempt left in another group goes, once the block is live elsewhere, and not before.
func TestCollectElsewhere(t *testing.T) {
	r := newRig(t, rigOptions{stores: 8, k: 4, m: 2, pgs: 8})
	m := r.gatewayMap()
	m.only = 1
	f, err := r.put(m, 200<<10)
	if err != nil {
		t.Fatal(err)
	}
	first := f.b.PG
	r.ids = append([]uint64{f.b.ID}, r.ids...) // the gateway tries again in another group
	m.only = 2
	g, err := r.put(m, 200<<10)
	if err != nil {
		t.Fatal(err)
	}
	if g.b.ID != f.b.ID || g.b.PG == first || r.shards(f.b.ID) != 12 {
		t.Fatalf("attempts %+v and %+v, %d shards", f.b, g.b, r.shards(f.b.ID))
	}
	if c := r.collect(); c.Dead+c.Elsewhere+c.Moved != 0 {
		t.Fatalf("collected %+v of a leased block", c)
	}
	if err := r.commit(g); err != nil {
		t.Fatal(err)
	}
	if c := r.collect(); c.Elsewhere != 6 || c.Dead+c.Moved != 0 {
		t.Fatalf("collected %+v, 6 shards are in the wrong group", c)
	}
	r.whole(g)
	if n := r.shards(g.b.ID); n != 6 {
		t.Fatalf("%d shards are left", n)
	}
}

// Nothing is deleted because of answers of other metadata: restored, older, of another cluster or shard, or changing meanwhile; nor
// because of no answer; nor by a store that the map does not know.
func TestForeignMetadataDeletesNothing(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 2})
	dead := r.write(300 << 10)
	r.remove(dead)
	r.reap()
	info := func(change func(*metapb.ShardInfoR)) func(uint16, *metapb.Query, *metapb.QueryResult) {
		return func(shard uint16, q *metapb.Query, res *metapb.QueryResult) {
			if i := res.GetShardInfo(); i != nil {
				change(i)
			}
		}
	}
	var asked atomic.Int32
	n := r.nodes[0]
	for name, amend := range map[string]func(uint16, *metapb.Query, *metapb.QueryResult){
		"restored":      info(func(i *metapb.ShardInfoR) { i.Incarnation++ }),
		"older":         info(func(i *metapb.ShardInfoR) { i.Incarnation-- }),
		"other cluster": info(func(i *metapb.ShardInfoR) { i.Cluster = []byte(strings.Repeat("x", 16)) }),
		"no cluster":    info(func(i *metapb.ShardInfoR) { i.Cluster = nil }),
		"other shard":   info(func(i *metapb.ShardInfoR) { i.Shard++ }),
		"restored before the states were asked": info(func(i *metapb.ShardInfoR) {
			if asked.Add(1)%2 == 0 {
				i.Incarnation++
			}
		}),
		"restored after": info(func(i *metapb.ShardInfoR) {
			if asked.Add(1)%2 == 1 {
				i.Incarnation--
			}
		}),
		"too few states": func(_ uint16, _ *metapb.Query, res *metapb.QueryResult) {
			if b := res.GetBlockStates(); b != nil {
				b.States = b.States[:0]
			}
		},
		"another disk has the id": func(_ uint16, _ *metapb.Query, res *metapb.QueryResult) {
			if m := res.GetClusterMap(); m != nil {
				for _, s := range m.Stores {
					s.Uuid[0]++
				}
				m.Unchanged = false
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			n.keeper.cmap.Store(nil)
			r.meta.setAmend(amend)
			defer r.meta.setAmend(nil)
			defer n.keeper.cmap.Store(nil)
			c, err := n.keeper.Collect(r.ctx)
			if err == nil || c.Dead+c.Elsewhere+c.Moved != 0 {
				t.Fatalf("collected %+v: %v", c, err)
			}
			if s := n.keeper.Status(); s.Collect.Error == "" {
				t.Fatal("the status does not say why nothing was deleted")
			}
		})
	}
	t.Run("no answer", func(t *testing.T) {
		r.meta.hook(func(shard uint16, q *metapb.Query) error {
			if q.GetBlockStates() != nil {
				return vfs.Errorf(vfs.KindUnavailable, "test", "no leader")
			}
			return nil
		})
		defer r.meta.hook(nil)
		if c, err := n.keeper.Collect(r.ctx); vfs.KindOf(err) != vfs.KindUnavailable || c.Dead != 0 || c.Unanswered == 0 {
			t.Fatalf("collected %+v: %v", c, err)
		}
	})
	if got := r.shards(dead.b.ID); got != 6 {
		t.Fatalf("%d of 6 shards are left", got)
	}
	if c := r.collect(); c.Dead != 6 {
		t.Fatalf("collected %+v of 6 dead shards", c)
	}
}

// Shards of a shard that does not exist, or of shard 0, stay; the others' are collected all the same.
func TestUnknownNamespaceShard(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
	dead := r.write(300 << 10)
	r.remove(dead)
	r.reap()
	n := r.nodes[0]
	slot := newClusterMap(r.cluster()).groups[1].slotOf(n.id)
	for _, id := range []uint64{5, 9 << shardShift} {
		p := content(id, 64<<10)
		if err := n.store.Put(r.ctx, shardPut(1, id, slot, 4, 2, 256<<10, p)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := n.keeper.Collect(r.ctx)
	if err == nil || c.Dead != 1 || c.Unanswered != 2 {
		t.Fatalf("collected %+v: %v", c, err)
	}
	if got := r.shards(5) + r.shards(9<<shardShift); got != 2 {
		t.Fatalf("%d of 2 shards are left", got)
	}
}

// A Put that comes between the answer "dead" and the deletion is of a write that can no longer be acknowledged.
func TestPutAfterTheAnswer(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 1})
	f, err := r.put(r.gatewayMap(), 300<<10)
	if err != nil {
		t.Fatal(err)
	}
	old := r.origin
	r.register()
	fresh := r.origin
	n := r.nodes[0]
	slot := newClusterMap(r.cluster()).groups[1].slotOf(n.id)
	late := false
	r.meta.setAmend(func(_ uint16, _ *metapb.Query, res *metapb.QueryResult) {
		if res.GetBlockStates() == nil || late {
			return
		}
		late = true
		got, err := n.store.Get(r.ctx, keyOf(1, f.b.ID, slot), 0, 76<<10)
		if err != nil {
			t.Error(err)
			return
		}
		defer got.Release()
		if err := n.store.Put(r.ctx, shardPut(1, f.b.ID, slot, 4, 2, 300<<10, got.Bytes)); err != nil {
			t.Error(err)
		}
	})
	if c, err := n.keeper.Collect(r.ctx); err != nil || c.Dead != 1 || !late {
		t.Fatalf("collected %+v: %v", c, err)
	}
	r.meta.setAmend(nil)
	// The commit that the late Put belongs to is refused.
	r.origin = old
	if err := r.commit(f); err == nil {
		t.Fatal("a dead block was committed")
	}
	r.origin = fresh
	if err := r.commit(f); err == nil {
		t.Fatal("a dead block was committed by another")
	}
}

// A hint deletes what is dead and nothing else.
func TestHints(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 4})
	live, dead := r.write(300<<10), r.write(300<<10)
	r.remove(dead)
	r.reap()
	var c Collected
	for _, n := range r.nodes {
		meta := dialAs("m1", "meta", n.addr)
		call(t, meta, opHint, n.id, []segment.Key{{PG: live.b.PG, Block: live.b.ID}, {PG: dead.b.PG, Block: dead.b.ID}, {PG: 99, Block: 99}})
		meta.Close()
		d, err := n.keeper.CollectHinted(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		c.add(d)
	}
	if c.Dead != 6 || c.Listed != 12 || c.Elsewhere+c.Moved != 0 {
		t.Fatalf("collected %+v", c)
	}
	r.whole(live)
}

// Under any schedule of writes, retries, deletions, reaps, gateway restarts and collections, no shard of an acknowledged block is deleted, and when all
// is quiet nothing else is left.
func TestCollectModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, rigOptions{stores: 3, k: 2, m: 1, pgs: 3, capacity: 64 << 20})
		defer func() {
			r.peers.close()
			for _, n := range r.nodes {
				n.close()
			}
		}()
		ctx, cancel := context.WithCancel(r.ctx)
		stopped := make(chan struct{})
		go func() { // all the while, passes
			defer close(stopped)
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := r.nodes[i%3].keeper.Collect(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		}()
		var written []*file // and not committed
		size := rapid.SampledFrom([]int{5000, 40 << 10, 100 << 10})
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) { r.write(size.Draw(rt, "n")) },
			"attempt": func(rt *rapid.T) {
				m := r.gatewayMap()
				m.only = uint32(rapid.IntRange(1, 3).Draw(rt, "pg"))
				f, err := r.put(m, size.Draw(rt, "n"))
				if err != nil {
					rt.Fatal(err)
				}
				written = append(written, f)
			},
			"again elsewhere": func(rt *rapid.T) {
				if len(written) == 0 {
					rt.Skip("nothing was tried")
				}
				i := rapid.IntRange(0, len(written)-1).Draw(rt, "which")
				r.ids = append([]uint64{written[i].b.ID}, r.ids...)
				m := r.gatewayMap()
				m.only = uint32(rapid.IntRange(1, 3).Draw(rt, "pg"))
				f, err := r.put(m, int(written[i].b.Len))
				if err != nil {
					rt.Fatal(err)
				}
				written[i] = f
			},
			"commit": func(rt *rapid.T) {
				if len(written) == 0 {
					rt.Skip("nothing was tried")
				}
				if err := r.commit(written[0]); err != nil {
					rt.Fatal(err)
				}
				written = written[1:]
			},
			"remove": func(rt *rapid.T) {
				for _, f := range r.files {
					r.remove(f)
					return
				}
				rt.Skip("there is no file")
			},
			"reap": func(*rapid.T) { r.reap() },
			"gateway restarts": func(*rapid.T) {
				r.register()
				written = nil
			},
			"": func(rt *rapid.T) {
				for _, f := range r.files {
					if lost := r.lost(f); len(lost) > 0 {
						rt.Fatalf("block %+v lacks %v", f.b, lost)
					}
				}
			},
		})
		cancel()
		<-stopped
		r.register()
		r.reap()
		r.collect()
		want := 0
		for _, f := range r.files {
			r.whole(f)
			want += r.shards(f.b.ID)
		}
		if c := r.collect(); c.Listed != uint64(want) || c.Dead+c.Elsewhere+c.Moved != 0 {
			rt.Fatalf("%d shards belong to files; then %+v", want, c)
		}
	})
}

// A store that has moved out of a group keeps its shards until the group is filled and their new place has them.
func TestMovedShards(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 1})
	var fs []*file
	for i := range 6 {
		fs = append(fs, r.write([]int{16 << 10, 200 << 10, 1 << 20}[i%3]))
	}
	g := newClusterMap(r.cluster()).groups[1]
	var spare uint32 = 1
	for g.slotOf(spare) >= 0 {
		spare++
	}
	const slot = 0
	from, to := r.nodes[g.pg.Slots[slot].Store-1], r.nodes[spare-1]
	r.change(func(pg *metapb.PlacementGroup) bool {
		pg.Epoch++
		pg.Slots[slot] = &metapb.Slot{Store: to.id, Previous: from.id, Filling: true}
		return true
	})
	late := r.write(200 << 10) // under the new epoch, at the new place
	// One shard is at the new place already; it stays at both until all are.
	first, err := from.store.Get(r.ctx, keyOf(1, fs[2].b.ID, slot), 0, 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	p := shardPut(1, fs[2].b.ID, slot, 4, 2, 1<<20, first.Bytes)
	p.Epoch = 2
	if err := to.store.Put(r.ctx, p); err != nil {
		t.Fatal(err)
	}
	first.Release()
	if c := r.collect(); c.Moved+c.Dead+c.Elsewhere != 0 {
		t.Fatalf("collected %+v while the slot is filling", c)
	}
	if st := to.heal(); st.Missing != 0 || st.Clean != 1 || st.Rebuilt != 5 {
		t.Fatalf("status %+v", st)
	}
	if s := newClusterMap(r.cluster()).groups[1].pg.Slots[slot]; s.Filling || s.Previous != 0 {
		t.Fatalf("slot %+v after its repair", s)
	}
	// One shard is gone from the new place meanwhile: its last copy stays.
	if _, err := to.store.Delete(r.ctx, []segment.Key{keyOf(1, fs[1].b.ID, slot)}); err != nil {
		t.Fatal(err)
	}
	if c := r.collect(); c.Moved != 5 || c.Dead+c.Elsewhere != 0 {
		t.Fatalf("collected %+v, 5 of 6 may go", c)
	}
	// And none goes while the new place cannot be asked.
	back := to.unreachable()
	if c, err := from.keeper.Collect(r.ctx); err != nil || c.Listed != 1 || c.Moved != 0 {
		t.Fatalf("collected %+v: %v", c, err)
	}
	back()
	to.heal()
	if c := r.collect(); c.Moved != 1 {
		t.Fatalf("collected %+v, the last one may go", c)
	}
	r.whole(late)
	for _, f := range fs {
		r.whole(f)
	}
	r.readAll()
}

// Who may do what at a block server with upkeep.
func TestRolesOfUpkeep(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 1})
	f := r.write(300 << 10)
	g := newClusterMap(r.cluster()).groups[1]
	var outside uint32 = 1
	for g.slotOf(outside) >= 0 {
		outside++
	}
	n := r.nodes[g.pg.Slots[0].Store-1]
	member := r.nodes[g.pg.Slots[1].Store-1].name
	for _, c := range []struct {
		name, role string
		op         wire.Op
		epoch      uint32
		want       vfs.Kind
	}{
		{member, "block", opGet, 0, vfs.KindOK},
		{"gw", "gateway", opGet, 0, vfs.KindOK},
		{r.nodes[outside-1].name, "block", opGet, 0, vfs.KindPerm},
		{"m1", "meta", opGet, 0, vfs.KindPerm},
		{member, "block", opFence, 1, vfs.KindOK},
		{member, "block", opFence, 2, vfs.KindInvalid}, // not reached
		{r.nodes[outside-1].name, "block", opFence, 1, vfs.KindPerm},
		{"gw", "gateway", opFence, 1, vfs.KindPerm},
		{"m1", "meta", opFence, 1, vfs.KindOK},
		{member, "block", opPut, 0, vfs.KindPerm},
		{member, "block", opDelete, 0, vfs.KindPerm},
		{member, "block", opHint, 0, vfs.KindPerm},
		{"gw", "gateway", opHint, 0, vfs.KindPerm},
		{"m1", "meta", opHint, 0, vfs.KindOK},
		{"gw", "gateway", opReport, 0, vfs.KindOK},
		{member, "block", opReport, 0, vfs.KindOK},
		{"m1", "meta", opReport, 0, vfs.KindPerm},
		{"gw", "gateway", opUpkeep, 0, vfs.KindOK},
		{"x", "", opUpkeep, 0, vfs.KindPerm},
	} {
		peer := dialAs(c.name, c.role, n.addr)
		err := try(peer, c.op, n.id, keyOf(1, f.b.ID, 0), c.epoch)
		peer.Close()
		if vfs.KindOf(err) != c.want {
			t.Errorf("%s with role %q, operation %#x, epoch %d: %v, want %v", c.name, c.role, c.op, c.epoch, err, c.want)
		}
	}
}
