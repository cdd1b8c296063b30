package upkeep

import (
	"testing"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// copies are the states of both shards, as a backup has them.
func (m *metadata) copies() map[uint16]*fsm.MemStore {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[uint16]*fsm.MemStore{}
	for id, x := range m.shards {
		out[id] = x.store.Snapshot()
	}
	return out
}

// restore makes copies the metadata, as a new incarnation.
func (m *metadata) restore(t *testing.T, copies map[uint16]*fsm.MemStore, incarnation uint64) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, c := range copies {
		o := fsm.Options{Shard: id, Cluster: testCluster[:]}
		applied, err := fsm.Renew(c, o, fsm.Renewal{Incarnation: incarnation, HandleSecret: make([]byte, 16)})
		if err != nil {
			t.Fatal(err)
		}
		x := &machine{store: c, index: applied}
		if x.fsm, err = fsm.Open(c, o); err != nil {
			t.Fatal(err)
		}
		m.shards[id] = x
	}
}

// Metadata that was restored from a backup does not know what was written since. Nothing of that is deleted, by no store and however often it
// looks, until an operator allows it; what is written meanwhile is whole; then exactly what the metadata does not know goes.
func TestRestoredMetadataDeletesNothing(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6})
	old := r.write(1 << 20)
	dying := r.write(64 << 10)
	r.remove(dying)
	backup := r.meta.copies()
	var since []*file
	for range 5 {
		since = append(since, r.write(300<<10))
	}
	r.remove(since[0])
	r.reap()
	if c := r.collect(); c.Dead != 6+4 {
		t.Fatalf("collected %+v before the restore", c)
	}
	since = since[1:]

	r.meta.restore(t, backup, 900)
	for _, n := range r.nodes {
		n.keeper.cmap.Store(nil)
	}
	r.register()
	later := r.write(300 << 10) // epochs have risen: the stores take it
	r.reap()
	refused := func() {
		t.Helper()
		for _, n := range r.nodes {
			c, err := n.keeper.Collect(r.ctx)
			if vfs.KindOf(err) != vfs.KindIncompatible || c.Dead+c.Elsewhere+c.Moved != 0 {
				t.Fatalf("%s collected %+v: %v", n.name, c, err)
			}
			if i := n.store.Info(); i.MetadataIncarnation != fsm.FirstIncarnation {
				t.Fatalf("%s accepted incarnation %d", n.name, i.MetadataIncarnation)
			}
		}
		for _, f := range since {
			if n := r.shards(f.b.ID); n != 6 {
				t.Fatalf("block %#x has %d shards", f.b.ID, n)
			}
		}
	}
	refused()
	r.whole(old)
	r.whole(later)

	// Allowed for another incarnation, or by metadata of another cluster: that is nothing.
	amend := func(change func(*metapb.ShardInfoR)) {
		r.meta.setAmend(func(_ uint16, _ *metapb.Query, res *metapb.QueryResult) {
			if i := res.GetShardInfo(); i != nil {
				change(i)
			}
		})
	}
	amend(func(i *metapb.ShardInfoR) { i.DeletionIncarnation = 899 })
	refused()
	amend(func(i *metapb.ShardInfoR) { i.DeletionIncarnation, i.Cluster = 900, []byte("another cluster!") })
	refused()
	amend(func(i *metapb.ShardInfoR) { i.DeletionIncarnation, i.Incarnation = 0, 0 })
	refused()
	r.meta.setAmend(nil)
	refused()

	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_AllowDeletion{AllowDeletion: &metapb.AllowDeletion{Incarnation: 900}}})
	if c := r.collect(); c.Dead != uint64(6*len(since)) { // the dying block's shards went before
		t.Fatalf("collected %+v, the metadata does not know %d blocks", c, len(since))
	}
	r.whole(old)
	r.whole(later)
	for _, n := range r.nodes {
		if i := n.store.Info(); i.MetadataIncarnation != 900 {
			t.Fatalf("%s is of incarnation %d", n.name, i.MetadataIncarnation)
		}
		if err := n.store.Adopt(899); vfs.KindOf(err) != vfs.KindInvalid {
			t.Fatalf("back to an earlier incarnation: %v", err)
		}
	}
	// Another restore of the same backup stops deletion again.
	r.meta.restore(t, r.meta.copies(), 901)
	if _, err := r.nodes[0].keeper.Collect(r.ctx); vfs.KindOf(err) != vfs.KindIncompatible {
		t.Fatalf("after the next restore: %v", err)
	}
}
