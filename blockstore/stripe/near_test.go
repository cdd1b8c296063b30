package stripe

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// located is a cluster of which some nodes are near.
type located struct {
	*cluster
	near map[string]Distance
}

func (l *located) Distance(node string) Distance {
	if d, ok := l.near[node]; ok {
		return d
	}
	return Elsewhere
}

// patientReads take nobody for slow.
var patientReads = Options{HedgeMin: time.Hour, HedgeMax: time.Hour, FetchTimeout: time.Hour}

// newLocated has one group, of which these slots are near.
func newLocated(t *testing.T, k, m int, near map[int]Distance) *located {
	o := patientReads
	o.Metrics = NewMetrics(prometheus.NewRegistry())
	l := &located{newCluster(t, k+m, k, m, 1, o), map[string]Distance{}}
	for i, d := range near {
		l.near[l.Writable(pool)[0].Slots[i].Target.Node] = d
	}
	return l
}

func (l *located) write(t *testing.T, id uint64, data []byte) Block {
	t.Helper()
	pg, err := l.client.Write(background(t), l, &Write{Pool: pool, Block: id, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return Block{PG: pg.ID, ID: id, Len: uint32(len(data))}
}

// reads reads a range, which must be right, and returns how often each slot was asked.
func (l *located) reads(t *testing.T, b Block, data []byte, off, n int) string {
	t.Helper()
	for _, x := range l.nodes {
		x.mu.Lock()
		x.gets = 0
		x.mu.Unlock()
	}
	p := make([]byte, n)
	if err := l.client.Read(background(t), l, b, off, p); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, data[off:off+n]) {
		t.Fatalf("%d bytes at %d are not what was written", n, off)
	}
	pg, _ := l.PG(b.PG)
	out := ""
	for i := range pg.Slots {
		x := l.slot(b.PG, i)
		x.mu.Lock()
		out += fmt.Sprint(x.gets)
		x.mu.Unlock()
	}
	return out
}

func TestNearShardsAreRead(t *testing.T) {
	const kib = 1 << 10
	for _, c := range []struct {
		name   string
		near   map[int]Distance
		size   int
		off, n int
		asked  string // how often each slot of 4+2
		nearer int
	}{
		{"small block, parity here", map[int]Distance{5: SameNode}, 16 * kib, 100, 5000, "000001", 1},
		{"small block, parity in the rack, data in the zone", map[int]Distance{4: SameRack, 0: SameZone}, 16 * kib, 0, 16 * kib, "000010", 1},
		{"small block, both in the rack", map[int]Distance{4: SameRack, 0: SameRack}, 16 * kib, 0, 16 * kib, "100000", 0},
		{"small block, data here", map[int]Distance{4: SameRack, 0: SameNode}, 16 * kib, 0, 16 * kib, "100000", 0},
		{"all of it, parity here", map[int]Distance{4: SameNode, 0: SameRack, 1: SameRack, 2: SameRack}, 1 << 20, 0, 1 << 20, "111010", 1},
		{"all of it, both parities in the rack", map[int]Distance{4: SameRack, 5: SameRack, 0: SameNode, 3: SameRack}, 1 << 20, 0, 1 << 20, "100111", 2},
		{"all of it, nothing near but data", map[int]Distance{0: SameNode, 1: SameRack}, 1 << 20, 0, 1 << 20, "111100", 0},
		{"a part of it", map[int]Distance{4: SameNode, 5: SameNode}, 1 << 20, 300 * kib, 4 * kib, "010000", 0},
		{"most of it", map[int]Distance{4: SameNode, 5: SameNode}, 1 << 20, 0, 1<<20 - 1, "111100", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLocated(t, 4, 2, c.near)
			data := randomBytes(1, c.size, c.size)
			b := l.write(t, 7, data)
			if got := l.reads(t, b, data, c.off, c.n); got != c.asked {
				t.Errorf("slots were asked %s times, want %s", got, c.asked)
			}
			if n := testutil.ToFloat64(l.client.o.Metrics.Nearer); n != float64(c.nearer) {
				t.Errorf("%v parts were computed, want %d", n, c.nearer)
			}
			if n := testutil.ToFloat64(l.client.o.Metrics.Rebuilds); n != 0 {
				t.Errorf("%v parts count as rebuilt", n)
			}
		})
	}
}

// More parity shards are near than the block has data shards.
func TestOnlyParityIsNear(t *testing.T) {
	const size = 64 << 10
	l := newLocated(t, 4, 3, map[int]Distance{4: SameNode, 5: SameNode, 6: SameNode})
	data := randomBytes(1, size, size)
	b := l.write(t, 7, data)
	if got := l.reads(t, b, data, 0, size); got[:4] != "0000" || strings.Count(got, "1") != 2 {
		t.Errorf("slots were asked %s times, want two of the near ones", got)
	}
}

// A near target that is slow, busy, failing or empty is no better than a far one.
func TestNearIsWeighed(t *testing.T) {
	const size = 16 << 10
	data := randomBytes(2, size, size)
	begin := func(t *testing.T) (*located, Block, placement.Target) {
		l := newLocated(t, 4, 2, map[int]Distance{4: SameNode})
		b := l.write(t, 9, data)
		pg, _ := l.PG(b.PG)
		return l, b, pg.Slots[4].Target
	}
	t.Run("slow", func(t *testing.T) {
		l, b, near := begin(t)
		pg, _ := l.PG(b.PG)
		l.client.pulls.end(l.client.pulls.begin(pg.Slots[0].Target), size, leastPull, true)
		l.client.pulls.end(l.client.pulls.begin(near), size, 5*leastPull, true)
		if got := l.reads(t, b, data, 0, size); got != "100000" {
			t.Errorf("asked: %s", got)
		}
	})
	for pending, want := range map[int]string{2: "000010", 4: "100000"} {
		t.Run(fmt.Sprintf("%d under way", pending), func(t *testing.T) {
			l, b, near := begin(t)
			for range pending {
				l.client.pulls.begin(near)
			}
			if got := l.reads(t, b, data, 0, size); got != want {
				t.Errorf("asked: %s, want %s", got, want)
			}
		})
	}
	for _, kind := range []vfs.Kind{vfs.KindUnavailable, vfs.KindNotFound, vfs.KindCorrupt} {
		t.Run(kind.String(), func(t *testing.T) {
			l, b, _ := begin(t)
			l.slot(b.PG, 4).setFault(func(context.Context, wire.Op, blockstore.Key) error { return kind.Err("get") })
			l.reads(t, b, data, 0, size)
		})
	}
	t.Run("hung", func(t *testing.T) {
		l, b, _ := begin(t)
		l.client.o.HedgeMin, l.client.o.HedgeMax = 20*time.Millisecond, 20*time.Millisecond
		l.slot(b.PG, 4).setFault(func(ctx context.Context, _ wire.Op, _ blockstore.Key) error {
			<-ctx.Done()
			return vfs.Wrap("get", ctx.Err())
		})
		for l.reads(t, b, data, 0, size) != "100000" { // soon it is not asked any more
		}
	})
	t.Run("being filled", func(t *testing.T) {
		l, b, _ := begin(t)
		pg, _ := l.PG(b.PG)
		pg.Slots[4].Filling = true
		if got := l.reads(t, b, data, 0, size); got != "100000" {
			t.Errorf("asked: %s", got)
		}
	})
}

// What is lost is made good of near shards first.
func TestNearShardsMakeGood(t *testing.T) {
	const size = 1 << 20
	l := newLocated(t, 4, 2, map[int]Distance{5: SameRack})
	data := randomBytes(3, size, size)
	b := l.write(t, 3, data)
	l.slot(b.PG, 1).setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindNotFound.Err("get") })
	// A part of shard 1 takes the three other data shards or parities, the near one among them.
	if got := l.reads(t, b, data, 300<<10, 4<<10); got[5] != '1' {
		t.Errorf("asked: %s", got)
	}
}

// A far shard is to be made of two near ones, of which one is lost. That one is made of the far one, which is fetched itself, too: in whichever
// order that is, all bytes are there.
func TestLostNearShard(t *testing.T) {
	const size = 128 << 10
	l := newLocated(t, 2, 1, map[int]Distance{1: SameRack, 2: SameRack})
	data := randomBytes(3, size, size)
	b := l.write(t, 3, data)
	l.slot(b.PG, 1).setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindNotFound.Err("get") })
	for range 500 {
		l.reads(t, b, data, 0, size)
	}
}

// What repair reads it reads of survivors that have least to do.
func TestRebuildReadsIdleTargets(t *testing.T) {
	const size = 1 << 20
	for busy := range 5 {
		c := newCluster(t, 6, 4, 2, 1, patientReads)
		data := randomBytes(4, size, size)
		pg, err := c.client.Write(background(t), c, &Write{Pool: pool, Block: 5, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			c.client.pulls.begin(pg.Slots[busy].Target)
		}
		if _, err := c.client.Rebuild(background(t), c, Block{PG: pg.ID, ID: 5, Len: size}, 5, make([]byte, size/4)); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			x := c.slot(pg.ID, i)
			x.mu.Lock()
			if x.gets > 0 == (i == busy) {
				t.Errorf("slot %d was asked %d times, slot %d is busy", i, x.gets, busy)
			}
			x.mu.Unlock()
		}
	}
}

// Two data shards are made of near parity shards, one of which fails or hangs, so that each may be made from the other or come from its own target. In whichever
// order that is, all bytes are there.
func TestNearShardsFail(t *testing.T) {
	const size = 1 << 20
	data := randomBytes(6, size, size)
	for name, fault := range map[string]func(ctx context.Context) error{
		"fails": func(context.Context) error { return vfs.KindNotFound.Err("get") },
		"hangs": func(ctx context.Context) error {
			<-ctx.Done()
			return vfs.Wrap("get", ctx.Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLocated(t, 4, 2, map[int]Distance{4: SameNode, 5: SameNode})
			l.client.o.HedgeMin, l.client.o.HedgeMax = time.Microsecond, time.Microsecond
			b := l.write(t, 8, data)
			var n atomic.Int32
			for slot := range 6 {
				l.slot(b.PG, slot).setFault(func(ctx context.Context, _ wire.Op, k blockstore.Key) error {
					if int(k.Shard) == 4 {
						return fault(ctx)
					}
					time.Sleep(time.Duration(n.Add(1)%7) * 20 * time.Microsecond) // any order
					return nil
				})
			}
			for range 200 {
				l.client.pulls = pulls{m: map[placement.Target]*pull{}} // near ones are tried again
				l.client.forget(l.Writable(pool)[0].Slots[4].Target)
				p := make([]byte, size)
				if err := l.client.Read(background(t), l, b, 0, p); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, data) {
					t.Fatal("other bytes than were written")
				}
			}
		})
	}
}
