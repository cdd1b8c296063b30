package upkeep

import (
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// What a repair moves is paid for at the disks that are read and at the one that is written, each byte once; and whose a
// block is comes with what is read.
func TestRepairIsPaidFor(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6, budget: 1 << 50})
	for i := range 24 {
		r.write([]int{5000, 70 << 10, 500 << 10}[i%3])
	}
	n := r.nodes[2]
	var read, written, put, clients uint64
	g := newClusterMap(r.cluster())
	for _, f := range r.files {
		slot := g.groups[f.b.PG].slotOf(n.id)
		shape, err := blockstore.ShapeOf(int(f.b.Len), 4, 2)
		if err != nil {
			t.Fatal(err)
		}
		put += uint64(shape.ShardLen * (shape.Data + shape.M))
		if !shape.Stored(slot) {
			continue
		}
		if _, err := n.store.Delete(r.ctx, []segment.Key{keyOf(f.b.PG, f.b.ID, slot)}); err != nil {
			t.Fatal(err)
		}
		read += uint64(shape.ShardLen * shape.Data)
		written += uint64(shape.ShardLen)
	}
	var stats atomic.Int32
	for _, x := range r.nodes {
		x.setCut(func(call *wire.Call) error {
			if call.Op == blockstore.OpStat {
				stats.Add(1)
			}
			return nil
		})
	}
	before := make([]uint64, len(r.nodes))
	for i, x := range r.nodes {
		var n uint64
		if before[i], n = x.store.Budget().Totals(); before[i] != 0 {
			t.Fatalf("writing moved %d bytes in the background", before[i])
		}
		clients += n
	}
	if clients != put {
		t.Errorf("clients wrote %d bytes of shards, %d count as theirs", put, clients)
	}
	if st := n.heal(); st.Missing != 0 || st.RebuiltBytes != written {
		t.Fatalf("%+v, want %d bytes rebuilt", st, written)
	}
	var others uint64
	for _, x := range r.nodes {
		moved, _ := x.store.Budget().Totals()
		switch {
		case x != n:
			others += moved
		case moved != written:
			t.Errorf("%d bytes are paid for where %d were written", moved, written)
		}
	}
	if others != read {
		t.Errorf("%d bytes are paid for where %d were read", others, read)
	}
	if stats.Load() != 0 {
		t.Errorf("%d calls asked whose blocks are", stats.Load())
	}
	for _, f := range r.files {
		r.whole(f)
		slot := g.groups[f.b.PG].slotOf(n.id)
		_, owner, err := n.store.Stat(r.ctx, keyOf(f.b.PG, f.b.ID, slot))
		if vfs.KindOf(err) == vfs.KindNotFound {
			continue // the block has no such shard
		}
		// Blocks are written before their files are made, under numbers of their own.
		if want := (segment.Owner{FS: testFS, Ino: 1000 + f.b.ID&0xffff}); err != nil || owner != want {
			t.Errorf("the rebuilt shard is of %+v, want %+v: %v", owner, want, err)
		}
	}
}
