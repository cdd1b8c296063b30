package stripe

import (
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// One of seven stores gets full: blocks go to groups without it, and no probe says that it works. All get full: the error says so,
// unless one is down besides. Blocks are deleted: writes go on.
func TestFullStores(t *testing.T) {
	const mib = store.MinSegmentSize
	capacities := []int64{6 * mib, 9 * mib, 9 * mib, 9 * mib, 9 * mib, 9 * mib, 9 * mib}
	c := startSized(t, capacities, 4, 2, 48, wire.ModeInsecure, Options{BackoffMin: 1, BackoffMax: 1, Probed: true})
	ctx := background(t)
	written := map[uint64]*placement.PG{}
	id := uint64(0)
	small, first := placement.Target{Node: "n0"}, placement.Target{Node: "n1", Disk: 1}
	deleted := false
	write := func() error {
		known := c.client.avoidsWrite(small)
		c.client.Probe(ctx, c)
		if known && !deleted && !c.client.avoidsWrite(small) {
			t.Fatal("a probe says that a full store takes writes")
		}
		id++
		pg, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Data: randomBytes(id, 400<<10, 0)})
		if err == nil {
			written[id] = pg
		}
		return err
	}
	without := 0
	var err error
	for err == nil && id < 1000 {
		if err = write(); err != nil {
			break
		}
		if !c.client.avoidsWrite(small) {
			continue
		}
		without++
		for _, s := range written[id].Slots {
			if s.Target == small {
				t.Fatal("a block is in a group with the full store")
			}
		}
	}
	if without < 10 {
		t.Fatalf("%d blocks were written after the first store was full, then: %v", without, err)
	}
	// Until every group is known to have a full store, the kind may be the other one.
	for tries := 0; vfs.KindOf(err) != vfs.KindNoSpace; tries++ {
		if tries == 20 {
			t.Fatalf("the pool is full and the error is: %v", err)
		}
		err = write()
	}
	wantKind(t, write(), vfs.KindNoSpace)

	c.client.failed(first, vfs.KindUnavailable.Err("test"))
	_, err = c.client.Write(ctx, c, &Write{Pool: pool, Block: 1 << 20, Data: randomBytes(1, 1<<20, 0)})
	wantKind(t, err, vfs.KindUnavailable)

	deleted = true
	for i, n := range c.nodes {
		var keys []blockstore.Key
		for b, pg := range written {
			for j, s := range pg.Slots {
				if s.Target.Disk == uint32(i) && b%4 != 0 {
					keys = append(keys, blockstore.Key{PG: pg.ID, Block: b, Shard: uint8(j)})
				}
			}
		}
		if _, err := n.store.Delete(ctx, keys); err != nil {
			t.Fatal(err)
		}
	}
	for ; write() != nil; time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("three quarters were deleted and no block can be written")
		}
	}
}
