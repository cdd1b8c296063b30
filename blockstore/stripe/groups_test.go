package stripe

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// groupOf makes a group of the targets with these numbers.
func (c *cluster) groupOf(id uint32, k int, targets ...int) placement.PG {
	pg := placement.PG{ID: id, Epoch: 1, K: k, M: len(targets) - k}
	for _, i := range targets {
		pg.Slots = append(pg.Slots, placement.Slot{Target: c.targets[i]})
	}
	return pg
}

func (c *cluster) mapOf(t testing.TB, pgs ...placement.PG) *Static {
	t.Helper()
	m, err := NewStatic(map[uint32][]placement.PG{pool: pgs}, c.callers)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// New blocks go to the largest k all targets of which work, never to closed groups, and
// each is read back by the shape of the group that took it.
func TestLargestHealthyGroup(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{BackoffMin: time.Hour, BackoffMax: time.Hour})
	ctx := background(t)
	closed := c.groupOf(6, 4, 5, 4, 3, 2, 1, 0)
	closed.Closed = true
	m := c.mapOf(t, c.groupOf(1, 1, 0, 1, 2), c.groupOf(2, 2, 0, 1, 2, 3), c.groupOf(3, 4, 0, 1, 2, 3, 4, 5), c.groupOf(4, 3, 0, 1, 2, 3, 4), closed)
	for i, want := range []struct {
		pg   uint32
		down string
	}{{3, ""}, {4, "n5"}, {2, "n4"}, {1, "n3"}} {
		if want.down != "" {
			c.nodes[want.down].setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindUnavailable.Err("test") })
		}
		for j := range 5 {
			id := uint64(10*i + j)
			data := randomBytes(id, 1<<20, 0)
			pg, err := c.client.Write(ctx, m, &Write{Pool: pool, Block: id, Data: data})
			if err != nil {
				t.Fatal(err)
			}
			if pg.ID != want.pg {
				t.Fatalf("with %q down, a block went to group %d (%v), want %d", want.down, pg.ID, pg.Profile(), want.pg)
			}
			p := make([]byte, len(data))
			if err := c.client.Read(ctx, m, Block{pg.ID, id, 1 << 20}, 0, p); err != nil || !bytes.Equal(p, data) {
				t.Fatal(err)
			}
		}
		_, err := c.client.Write(ctx, m, &Write{Pool: pool, Block: uint64(10*i + 9), MinK: 4, Data: randomBytes(1, 1<<20, 0)})
		if wantErr := want.pg != 3; wantErr {
			wantKind(t, err, vfs.KindUnavailable)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	c.nodes["n2"].setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindUnavailable.Err("test") })
	_, err := c.client.Write(ctx, m, &Write{Pool: pool, Block: 99, Data: randomBytes(1, 1<<20, 0)})
	wantKind(t, err, vfs.KindUnavailable)
}

// A slot that is being filled and has nothing is an erasure: it does not make a block look deleted.
func TestFillingSlot(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{HedgeMin: time.Minute, HedgeMax: time.Minute, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
	ctx := background(t)
	pg := c.groupOf(1, 4, 0, 1, 2, 3, 4, 5)
	data := randomBytes(5, 1<<20, 0)
	if _, err := c.client.Write(ctx, c.mapOf(t, pg), &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	lose := func(i int) {
		delete(c.nodes[c.targets[i].Node].shards, blockstore.Key{PG: 1, Block: 1, Shard: uint8(i)})
	}
	answer := func(i int, k vfs.Kind) {
		c.nodes[c.targets[i].Node].setFault(func(context.Context, wire.Op, blockstore.Key) error { return k.Err("test") })
	}
	read := func() error {
		p := make([]byte, len(data))
		err := c.client.Read(ctx, c.mapOf(t, pg), Block{1, 1, 1 << 20}, 0, p)
		if err == nil && !bytes.Equal(p, data) {
			t.Fatal("wrong bytes")
		}
		return err
	}
	pg.Slots[0].Filling, pg.Slots[5].Filling = true, true
	lose(0)
	lose(5)
	if err := read(); err != nil {
		t.Fatal(err)
	}
	answer(1, vfs.KindUnavailable)
	wantKind(t, read(), vfs.KindUnavailable)
	answer(1, vfs.KindCorrupt)
	wantKind(t, read(), vfs.KindCorrupt)
	// Were it deleted, the slots that are whole say so.
	answer(1, vfs.KindNotFound)
	wantKind(t, read(), vfs.KindNotFound)
}

// Where targets are probed, a write keeps off one that failed until it has answered, however long ago it failed.
func TestProbe(t *testing.T) {
	c := startCluster(t, 8, 4, 2, 16, wire.ModeInsecure, Options{BackoffMin: 1, BackoffMax: 1, Probed: true})
	ctx := background(t)
	var id uint64
	write := func() *placement.PG {
		id++
		pg, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Data: randomBytes(id, 1<<20, 0)})
		if err != nil {
			t.Fatal(err)
		}
		return pg
	}
	c.client.failed(placement.Target{Node: "n2", Disk: 2}, vfs.KindUnavailable.Err("test"))
	for range 20 {
		for _, s := range write().Slots {
			if s.Target.Node == "n2" {
				t.Fatal("a write tried the target")
			}
		}
	}
	c.client.Probe(ctx, c)
	used := false
	for range 200 {
		for _, s := range write().Slots {
			used = used || s.Target.Node == "n2"
		}
		if used {
			break
		}
	}
	if !used {
		t.Fatal("the target works and is not used")
	}
	// One that does not answer stays avoided, one that is not in the map is forgotten.
	c.nodes[3].stop(t)
	c.client.failed(placement.Target{Node: "n3", Disk: 3}, vfs.KindUnavailable.Err("test"))
	c.client.failed(placement.Target{Node: "elsewhere"}, vfs.KindUnavailable.Err("test"))
	c.client.Probe(ctx, c)
	if !c.client.avoidsWrite(placement.Target{Node: "n3", Disk: 3}) || c.client.avoidsWrite(placement.Target{Node: "elsewhere"}) {
		t.Fatal("after a probe: n3 should be avoided, a node that is gone should not")
	}
	// So is a store that was replaced: its node is in the map, and says for ever that it has no such disk.
	replaced := placement.Target{Node: "n2", Disk: 99}
	c.client.failed(replaced, vfs.KindUnavailable.Err("test"))
	c.client.Probe(ctx, c)
	if !c.client.avoidsWrite(replaced) {
		t.Fatal("a probe found a disk that does not exist")
	}
	c.client.Retain(func(t placement.Target) bool { return t != replaced })
	if c.client.avoidsWrite(replaced) || !c.client.avoidsWrite(placement.Target{Node: "n3", Disk: 3}) {
		t.Fatal("of the targets that failed, the one that was replaced should be forgotten")
	}
}
