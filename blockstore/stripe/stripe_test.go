package stripe

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

// For every profile and size: what was written reads back in any range, with any m shards lost or damaged; with
// one more lost, a range that needs it is a clear error and never wrong data.
func TestReadWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(1, placement.MaxData).Draw(t, "k")
		m := rapid.IntRange(0, placement.MaxParity).Draw(t, "m")
		n := rapid.OneOf(
			rapid.IntRange(1, 700<<10),
			rapid.SampledFrom([]int{1, 4095, 4096, 4097, 32<<10 - 1, 32 << 10, 32<<10 + 1, 4<<20 - 1, 4 << 20}),
		).Draw(t, "n")
		capacity := rapid.SampledFrom([]int{n, n + blockstore.MaxPadding}).Draw(t, "capacity")
		c := newCluster(t, k+m+2, k, m, 3, Options{HedgeMin: time.Minute, HedgeMax: time.Minute})
		ctx := context.Background()
		data := randomBytes(uint64(n), n, capacity)
		want := bytes.Clone(data)
		in, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 7, Owner: blockstore.Owner{FS: 1, Ino: 2, Offset: 3}, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		pg := in.ID
		if !bytes.Equal(data, want) {
			t.Fatal("Write changed its data")
		}
		s, err := blockstore.ShapeOf(n, k, m)
		if err != nil {
			t.Fatal(err)
		}
		var stored []int
		for i := range k + m {
			has := c.slot(pg, i).shards[blockstore.Key{PG: pg, Block: 7, Shard: uint8(i)}] != nil
			if has != s.Stored(i) {
				t.Fatalf("shard %d stored: %v", i, has)
			}
			if has {
				stored = append(stored, i)
			}
		}
		b := Block{PG: pg, ID: 7, Len: uint32(n)}
		check := func() {
			off := rapid.IntRange(0, n).Draw(t, "off")
			p := make([]byte, rapid.OneOf(rapid.IntRange(0, n-off), rapid.Just(n-off)).Draw(t, "len"))
			if err := c.client.Read(ctx, c, b, off, p); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
				t.Fatalf("bytes %d+%d: %v", off, len(p), err)
			}
		}
		check()
		order := rapid.Permutation(stored).Draw(t, "losses")
		kinds := []vfs.Kind{vfs.KindNotFound, vfs.KindCorrupt, vfs.KindUnavailable}
		lose := func(i int) vfs.Kind {
			kind := rapid.SampledFrom(kinds).Draw(t, "how")
			c.slot(pg, i).setFault(func(context.Context, wire.Op, blockstore.Key) error { return kind.Err("test") })
			return kind
		}
		var lost []vfs.Kind
		for _, i := range order[:m] {
			lost = append(lost, lose(i))
			check()
		}
		lost = append(lost, lose(order[m]))
		p := make([]byte, n)
		err = c.client.Read(ctx, c, b, 0, p)
		if order[m] < k || anyData(order[:m], k) {
			count := map[vfs.Kind]int{}
			for _, l := range lost {
				count[l]++
			}
			wantErr := vfs.KindUnavailable
			if count[vfs.KindUnavailable] == 0 {
				wantErr = vfs.KindCorrupt
				if count[vfs.KindNotFound] > 0 {
					wantErr = vfs.KindNotFound
				}
			}
			if vfs.KindOf(err) != wantErr {
				t.Fatalf("with %v lost: %v, want %v", lost, err, wantErr)
			}
		} else if err != nil || !bytes.Equal(p, want) {
			t.Fatalf("only parity is lost: %v", err)
		}
	})
}

func anyData(shards []int, k int) bool {
	for _, i := range shards {
		if i < k {
			return true
		}
	}
	return false
}

// The code is part of the format: parity that older releases wrote must still fit.
func TestParityGolden(t *testing.T) {
	for _, c := range []struct {
		n, k, m int
		sum     uint32
	}{
		{1 << 20, 4, 2, 0x6505779a}, {20000, 4, 2, 0x2c97adfe}, {1 << 20, 1, 2, 0x3e0b9f7f}, {1 << 20, 10, 4, 0x5d7bffa5},
		{600 << 10, 16, 8, 0x3a564d91}, {100 << 10, 8, 3, 0xd598ed83},
	} {
		cl := newCluster(t, c.k+c.m, c.k, c.m, 1, Options{})
		if _, err := cl.client.Write(background(t), cl, &Write{Pool: pool, Block: 1, Data: randomBytes(1, c.n, 0)}); err != nil {
			t.Fatal(err)
		}
		h := crc32.NewIEEE()
		for i := range c.m {
			h.Write(cl.slot(1, c.k+i).shards[blockstore.Key{PG: 1, Block: 1, Shard: uint8(c.k + i)}])
		}
		if h.Sum32() != c.sum {
			t.Errorf("parity of %d bytes in %d+%d: %#x, want %#x", c.n, c.k, c.m, h.Sum32(), c.sum)
		}
	}
}

// A read touches the shards it needs and no others, and of them only the range.
func TestReadTouchesLittle(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{HedgeMin: time.Minute, HedgeMax: time.Minute})
	ctx := background(t)
	data := randomBytes(3, 4<<20, 0)
	if _, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	b := Block{PG: 1, ID: 1, Len: 4 << 20}
	total := func() (gets, bytes int) {
		for _, n := range c.nodes {
			gets, bytes = gets+n.gets, bytes+n.bytes
		}
		return
	}
	for _, x := range []struct{ off, n, gets int }{{8192, 4096, 1}, {1<<20 - 100, 200, 2}, {0, 4 << 20, 4}, {3 << 20, 1 << 20, 1}} {
		g0, b0 := total()
		p := make([]byte, x.n)
		if err := c.client.Read(ctx, c, b, x.off, p); err != nil || !bytes.Equal(p, data[x.off:][:x.n]) {
			t.Fatal(err)
		}
		if g, n := total(); g-g0 != x.gets || n-b0 != x.n {
			t.Errorf("%d bytes at %d: %d calls for %d bytes, want %d calls", x.n, x.off, g-g0, n-b0, x.gets)
		}
	}
	// Degraded, a whole block costs one more shard, a part of a shard d parts.
	c.slot(1, 1).setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindCorrupt.Err("test") })
	for _, x := range []struct{ off, n, bytes int }{{0, 4 << 20, 4 << 20}, {1<<20 + 4096, 4096, 4 * 4096}} {
		_, b0 := total()
		p := make([]byte, x.n)
		if err := c.client.Read(ctx, c, b, x.off, p); err != nil || !bytes.Equal(p, data[x.off:][:x.n]) {
			t.Fatal(err)
		}
		if _, n := total(); n-b0 != x.bytes {
			t.Errorf("degraded, %d bytes at %d: %d bytes moved, want %d", x.n, x.off, n-b0, x.bytes)
		}
	}
	if len(c.bad) != 2 || c.bad[0].Shard != 1 || c.bad[0].Block != b || c.bad[0].Target.Node == "" || c.bad[0].Err == nil {
		t.Fatalf("reported: %+v", c.bad)
	}
}

// With one of eight stores down every block still gets a whole group, after the first failure without asking the dead store.
func TestWriteGoesElsewhere(t *testing.T) {
	for _, how := range []vfs.Kind{vfs.KindUnavailable, vfs.KindNoSpace, vfs.KindIO} {
		t.Run(how.String(), func(t *testing.T) {
			c := newCluster(t, 8, 4, 2, 64, Options{BackoffMin: time.Hour, BackoffMax: time.Hour})
			ctx := background(t)
			dead := c.nodes["n3"]
			var asked int
			dead.setFault(func(context.Context, wire.Op, blockstore.Key) error {
				dead.mu.Lock()
				defer dead.mu.Unlock()
				asked++
				return how.Err("test")
			})
			used := map[uint32]bool{}
			for id := uint64(1); id <= 100; id++ {
				data := randomBytes(id, 200<<10, 0)
				pg, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Data: data})
				if err != nil {
					t.Fatal(err)
				}
				used[pg.ID] = true
				for i, s := range pg.Slots {
					if s.Target.Node == "n3" {
						t.Fatalf("block %d counts as written in pg %d, slot %d of which is down", id, pg.ID, i)
					}
				}
				p := make([]byte, len(data))
				if err := c.client.Read(ctx, c, Block{pg.ID, id, uint32(len(data))}, 0, p); err != nil || !bytes.Equal(p, data) {
					t.Fatal(err)
				}
			}
			if asked != 1 {
				t.Errorf("the dead store was asked %d times, want once", asked)
			}
			if len(used) < 5 {
				t.Errorf("only %d groups were used", len(used))
			}
		})
	}
}

func TestWriteUnavailable(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 8, Options{BackoffMin: time.Millisecond, BackoffMax: time.Millisecond, WriteAttempts: 3})
	ctx := background(t)
	c.nodes["n0"].setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindUnavailable.Err("test") })
	w := &Write{Pool: pool, Block: 1, Data: randomBytes(1, 200<<10, 0)}
	_, err := c.client.Write(ctx, c, w)
	wantKind(t, err, vfs.KindUnavailable)
	_, err = c.client.Write(ctx, c, &Write{Pool: 99, Block: 1, Data: w.Data})
	wantKind(t, err, vfs.KindUnavailable)
	for _, data := range [][]byte{nil, make([]byte, blockstore.MaxBlock+1)} {
		_, err = c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: data})
		if vfs.KindOf(err) != vfs.KindInvalid && vfs.KindOf(err) != vfs.KindUnavailable {
			t.Fatal(err)
		}
	}
	// Back, it is used again without anybody telling.
	c.nodes["n0"].setFault(nil)
	for {
		if _, err = c.client.Write(ctx, c, w); err == nil {
			break
		}
		wantKind(t, err, vfs.KindUnavailable)
	}
	cctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err = c.client.Write(cctx, c, w)
	wantKind(t, err, vfs.KindCanceled)
}

// A conflict is not papered over by writing somewhere else.
func TestWriteConflict(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 8, Options{})
	for _, n := range c.nodes {
		n.setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindExists.Err("test") })
	}
	_, err := c.client.Write(background(t), c, &Write{Pool: pool, Block: 1, Data: []byte("x")})
	wantKind(t, err, vfs.KindExists)
}

// movingMap is a map whose epochs rise.
type movingMap struct {
	*cluster
	mu    sync.Mutex
	epoch uint32
}

func (m *movingMap) Writable(p uint32) []*placement.PG {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*placement.PG
	for _, pg := range m.cluster.Writable(p) {
		c := *pg
		c.Epoch = m.epoch
		out = append(out, &c)
	}
	m.epoch++ // the map is newer when it is asked next
	return out
}

// A store that knows a newer epoch refuses; the block is then written under the newer one, and nobody is blamed.
func TestWriteFenced(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{BackoffMin: time.Hour})
	c.nodes["n2"].epochs[1] = 2
	m := &movingMap{cluster: c, epoch: 1}
	pg, err := c.client.Write(background(t), m, &Write{Pool: pool, Block: 1, Data: randomBytes(1, 200<<10, 0)})
	if err != nil || pg.ID != 1 || pg.Epoch != 2 {
		t.Fatal(pg, err)
	}
	for _, target := range c.targets {
		if c.client.avoids(target) {
			t.Fatalf("%v is avoided", target)
		}
	}
}

// A slow shard does not hold up a read, and its late answer harms nothing.
func TestHedge(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{HedgeMin: time.Millisecond, HedgeMax: time.Millisecond, FetchTimeout: time.Hour})
	ctx := background(t)
	data := randomBytes(5, 4<<20, 0)
	if _, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	stuck := func(ctx context.Context, _ wire.Op, _ blockstore.Key) error {
		<-ctx.Done()
		return vfs.Wrap("test", ctx.Err())
	}
	c.slot(1, 2).setFault(stuck)
	c.slot(1, 5).setFault(stuck) // nor does a slow one among the helpers
	for range 5 {
		p := make([]byte, len(data))
		if err := c.client.Read(ctx, c, Block{1, 1, 4 << 20}, 0, p); err != nil || !bytes.Equal(p, data) {
			t.Fatal(err)
		}
	}
	// Three stuck of m=2: the caller's patience decides, and the error says so.
	c.slot(1, 0).setFault(stuck)
	cctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	err := c.client.Read(cctx, c, Block{1, 1, 4 << 20}, 0, make([]byte, 4<<20))
	wantKind(t, err, vfs.KindUnavailable)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// A slot that is being moved is found at its new or at its previous place.
func TestMovingSlot(t *testing.T) {
	c := newCluster(t, 7, 4, 2, 1, Options{HedgeMin: time.Minute, HedgeMax: time.Minute})
	ctx := background(t)
	data := randomBytes(5, 1<<20, 0)
	if _, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	pg, _ := c.PG(1)
	var free placement.Target
	used := map[string]bool{}
	for _, s := range pg.Slots {
		used[s.Target.Node] = true
	}
	for _, target := range c.targets {
		if !used[target.Node] {
			free = target
		}
	}
	moved := *pg
	moved.Epoch++
	moved.Slots = append([]placement.Slot(nil), pg.Slots...)
	old := pg.Slots[1].Target
	moved.Slots[1] = placement.Slot{Target: free, Previous: &old}
	m, err := NewStatic(map[uint32][]placement.PG{pool: {moved}}, c.callers)
	if err != nil {
		t.Fatal(err)
	}
	// No other shard answers, so a rebuild cannot help.
	for i, s := range pg.Slots {
		if i != 1 {
			c.nodes[s.Target.Node].setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindUnavailable.Err("test") })
		}
	}
	p := make([]byte, 256<<10)
	for range 2 {
		if err := c.client.Read(ctx, m, Block{1, 1, 1 << 20}, 256<<10, p); err != nil || !bytes.Equal(p, data[256<<10:512<<10]) {
			t.Fatal(err)
		}
		key := blockstore.Key{PG: 1, Block: 1, Shard: 1}
		c.nodes[free.Node].shards[key] = c.nodes[old.Node].shards[key]
		delete(c.nodes[old.Node].shards, key)
	}
}

func TestReadRefuses(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{})
	ctx := background(t)
	p := make([]byte, 10)
	wantKind(t, c.client.Read(ctx, c, Block{1, 1, 100}, 91, p), vfs.KindInvalid)
	wantKind(t, c.client.Read(ctx, c, Block{1, 1, 100}, -1, p), vfs.KindInvalid)
	wantKind(t, c.client.Read(ctx, c, Block{1, 1, 1 << 31}, 0, p), vfs.KindInvalid)
	wantKind(t, c.client.Read(ctx, c, Block{77, 1, 100}, 0, p), vfs.KindUnavailable)
	wantKind(t, c.client.Read(ctx, c, Block{1, 1, 100}, 100, nil), vfs.KindOK)
	wantKind(t, c.client.Read(ctx, c, Block{1, 1, 100}, 0, p), vfs.KindNotFound)
}

// An error says which shards failed where: an operator has nothing else.
func TestErrorNamesTargets(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{})
	ctx := background(t)
	if _, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: randomBytes(1, 1<<20, 0)}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c.slot(1, i).setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindUnavailable.Err("dial") })
	}
	err := c.client.Read(ctx, c, Block{1, 1, 1 << 20}, 0, make([]byte, 1<<20))
	wantKind(t, err, vfs.KindUnavailable)
	pg, _ := c.PG(1)
	for i := range 3 {
		if !strings.Contains(err.Error(), pg.Slots[i].Target.String()) {
			t.Errorf("%q does not name %v", err, pg.Slots[i].Target)
		}
	}
}

func TestStaticRefuses(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 2, Options{})
	a, _ := c.PG(1)
	for name, pools := range map[string]map[uint32][]placement.PG{
		"same id twice": {1: {*a}, 2: {*a}},
		"bad group":     {1: {{ID: 1, K: 4, M: 2}}},
		"unknown node":  {1: {{ID: 1, K: 1, Slots: []placement.Slot{{Target: placement.Target{Node: "x"}}}}}},
	} {
		if _, err := NewStatic(pools, c.callers); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of a read of two shards one cannot be read, and the target of the other is avoided, although it answers: the first is rebuilt from the
// second, which arrives all the same. In whichever order that is, all bytes are there.
func TestReadOfAvoidedShard(t *testing.T) {
	c := newCluster(t, 3, 2, 1, 1, Options{BackoffMin: time.Hour, BackoffMax: time.Hour, HedgeMin: time.Minute, HedgeMax: time.Minute})
	ctx := background(t)
	data := randomBytes(1, 128<<10, 0)
	if _, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	c.slot(1, 0).setFault(func(context.Context, wire.Op, blockstore.Key) error { return vfs.KindNotFound.Err("test") })
	pg, _ := c.PG(1)
	for range 500 {
		c.client.failed(pg.Slots[1].Target, vfs.KindUnavailable.Err("test"))
		p := make([]byte, len(data))
		if err := c.client.Read(ctx, c, Block{1, 1, uint32(len(data))}, 0, p); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, data) {
			t.Fatal("other bytes than were written")
		}
	}
}
