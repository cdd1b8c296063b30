package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// fsmUnit is how far the first ids of two ranges that follow one another are apart.
const fsmUnit = 4096

// states asks what is known of block ids.
func (m *metadata) states(t tb, ids ...uint64) []metapb.BlockState {
	t.Helper()
	g := &gateway{metadata: m}
	r, err := g.Query(ctx, testShard, &metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: ids}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetBlockStates().States
}

// file writes one block.
func file(t testing.TB, c *crashing, name string) {
	t.Helper()
	write(t, c, create(t, c, name), 0, fill(10_000, 1), vfs.FileSync)
}

// An attempt that was given up leaves shards under an id that no file names. It is dead as soon as the ids leased
// with it are used up; an id that is tried again keeps them from being returned.
func TestAbandonedIDsAreReturned(t *testing.T) {
	c := newCrashing(t, volume.Config{BlockIDs: 4})
	var mu sync.Mutex // guards tried
	var tried []uint64
	var keep atomic.Uint64 // an id that no store takes for now
	c.blocks.setFailWrite(func(id uint64, _ int) error {
		if id == keep.Load() {
			return vfs.KindUnavailable.Err("blocks")
		}
		mu.Lock()
		defer mu.Unlock()
		tried = append(tried, id)
		if len(tried) == 1 {
			return vfs.KindInternal.Err("blocks") // what came of it nobody knows
		}
		return nil
	})
	file(t, c, "a")
	if len(tried) != 2 || tried[0] == tried[1] {
		t.Fatalf("ids %x", tried)
	}
	given := tried[0]
	if s := c.meta.states(t, tried...); s[0] != metapb.BlockState_BLOCK_LEASED || s[1] != metapb.BlockState_BLOCK_LIVE {
		t.Fatalf("%v", s)
	}
	keep.Store(given + 2)
	b := create(t, c, "b")
	write(t, c, b, 0, fill(10_000, 2), vfs.Unstable)
	done := make(chan error, 1)
	go func() {
		_, err := c.Commit(ctx, b, 0, 0)
		done <- err
	}()
	eventually(t, "the id is tried and tried again", func() bool { return c.volume().IDsHeld() == 1 })
	file(t, c, "c") // the last id of the range
	file(t, c, "d") // of the next one
	if s := c.meta.states(t, given, given+2); s[0] != metapb.BlockState_BLOCK_LEASED || s[1] != metapb.BlockState_BLOCK_LEASED {
		t.Fatalf("%v while a write with an id of the range is under way", s)
	}
	keep.Store(0)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the given up id is dead", func() bool {
		return c.meta.states(t, given)[0] == metapb.BlockState_BLOCK_DEAD
	})
	if s := c.meta.states(t, given+1, given+2, given+3, given+fsmUnit); s[0] != metapb.BlockState_BLOCK_LIVE || s[1] != s[0] || s[2] != s[0] || s[3] != s[0] {
		t.Fatalf("%v", s)
	}
	if got := read(t, c, b, 0, 20_000); !bytes.Equal(got, fill(10_000, 2)) {
		t.Fatal("bytes differ")
	}
	// A clean end gives back the rest.
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	last := slices.Max(tried)
	if s := c.meta.states(t, last, last+1); s[0] != metapb.BlockState_BLOCK_LIVE || s[1] != metapb.BlockState_BLOCK_DEAD {
		t.Fatalf("after a shutdown: %v", s)
	}
}

// Ids are not returned while a CommitData that brings one is under way, whose outcome is not known.
func TestIDsOfCommitsUnderWay(t *testing.T) {
	c := newCrashing(t, volume.Config{BlockIDs: 1})
	var held atomic.Bool
	held.Store(true)
	c.meta.fail = func(cmd *metapb.Command) error {
		if cmd.GetCommitData() != nil && held.Load() {
			return vfs.KindUnavailable.Err("meta")
		}
		return nil
	}
	f := create(t, c, "f")
	write(t, c, f, 0, fill(10_000, 3), vfs.Unstable)
	done := make(chan error, 1)
	go func() {
		_, err := c.Commit(ctx, f, 0, 0)
		done <- err
	}()
	eventually(t, "the block is written", func() bool { n, _ := c.blocks.counts(); return n == 1 })
	var id uint64
	c.blocks.mu.Lock()
	for id = range c.blocks.data {
	}
	c.blocks.mu.Unlock()
	time.Sleep(20 * time.Millisecond) // it may show an early return; it decides nothing
	if s := c.meta.states(t, id)[0]; s != metapb.BlockState_BLOCK_LEASED {
		t.Fatalf("%v", s)
	}
	held.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s := c.meta.states(t, id)[0]; s != metapb.BlockState_BLOCK_LIVE {
		t.Fatalf("%v", s)
	}
}

// Many writers, stores that fail in every way: no commit is refused because its ids were returned, no live block dies,
// and every id that no file names is dead in the end.
func TestReturnsAmongFailures(t *testing.T) {
	c := newCrashing(t, volume.Config{BlockIDs: 3, BlockWriters: 4})
	var mu sync.Mutex // guards the fields below
	random := rand.New(rand.NewPCG(1, 2))
	tried := map[uint64]bool{}
	c.blocks.setFailWrite(func(id uint64, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		tried[id] = true
		switch random.IntN(6) {
		case 0:
			return vfs.KindUnavailable.Err("blocks")
		case 1:
			return vfs.KindInternal.Err("blocks")
		case 2:
			return vfs.KindExists.Err("blocks")
		}
		return nil
	})
	var wg sync.WaitGroup
	const writers, rounds = 8, 12
	inos := make([]vfs.Ino, writers)
	for i := range writers {
		inos[i] = create(t, c, string(rune('a'+i)))
		wg.Go(func() {
			for r := range rounds {
				_, _, err := c.Write(ctx, &vfs.Root, inos[i], uint64(r%3)*10_000, fill(10_000, byte(i*rounds+r)), vfs.FileSync)
				// Ten hard failures in a row lose the bytes, which is told; nothing else may.
				if k := vfs.KindOf(err); k != vfs.KindOK && k != vfs.KindInternal {
					t.Errorf("writer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	c.blocks.setFailWrite(nil)
	for i, ino := range inos {
		for r := rounds - 3; r < rounds; r++ {
			write(t, c, ino, uint64(r%3)*10_000, fill(10_000, byte(i*rounds+r)), vfs.FileSync)
		}
	}
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: math.MaxUint64}}})
	live := map[uint64]bool{}
	g := &gateway{metadata: c.meta}
	for i, ino := range inos {
		r, err := g.Query(ctx, testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{Ino: uint64(ino)}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetExtents().Extents {
			live[e.Block] = true
			c.blocks.mu.Lock()
			data := c.blocks.data[e.Block]
			c.blocks.mu.Unlock()
			round := rounds - 3 + int(e.Offset/10_000)
			if !bytes.Equal(data[e.BlockOffset:e.BlockOffset+e.Length], fill(int(e.Length), byte(i*rounds+round))) {
				t.Fatalf("file %d: extent %v has other bytes", i, e)
			}
		}
	}
	for id := range tried {
		want := metapb.BlockState_BLOCK_DEAD
		if live[id] {
			want = metapb.BlockState_BLOCK_LIVE
		}
		if s := c.meta.states(t, id)[0]; s != want {
			t.Errorf("block %#x is %v, want %v", id, s, want)
		}
	}
	if len(tried) < writers*rounds || len(live) == 0 {
		t.Fatalf("%d ids, %d live: the test shows nothing", len(tried), len(live))
	}
}

// A range that is not used up goes back when it is old, but not while a write with one of its ids is under way.
func TestOldRangesAreReturned(t *testing.T) {
	var clock atomic.Int64 // ns ahead of the real one
	c := newCrashing(t, volume.Config{
		FlushAge: time.Millisecond, BlockIDAge: time.Hour,
		Now: func() time.Time { return time.Now().Add(time.Duration(clock.Load())) },
	})
	var hold atomic.Bool
	var first, kept atomic.Uint64
	c.blocks.setFailWrite(func(id uint64, _ int) error {
		switch {
		case first.CompareAndSwap(0, id):
			return vfs.KindInternal.Err("blocks") // what came of it nobody knows
		case hold.Load():
			kept.Store(id)
			return vfs.KindUnavailable.Err("blocks")
		}
		return nil
	})
	file(t, c, "a")
	hold.Store(true)
	b := create(t, c, "b")
	write(t, c, b, 0, fill(10_000, 2), vfs.Unstable)
	eventually(t, "the write of b waits", func() bool { return kept.Load() != 0 })
	clock.Add(int64(time.Hour) + 1)
	leased := c.meta.states(t, first.Load())[0]
	eventually(t, "no more ids are taken from the range", func() bool { return c.volume().IDsLeft() == 0 })
	if s := c.meta.states(t, first.Load(), kept.Load()); leased != metapb.BlockState_BLOCK_LEASED || s[0] != leased || s[1] != leased {
		t.Fatalf("%v, %v while a write is under way", leased, s)
	}
	hold.Store(false)
	eventually(t, "the given up id is dead", func() bool { return c.meta.states(t, first.Load())[0] == metapb.BlockState_BLOCK_DEAD })
	if s := c.meta.states(t, kept.Load())[0]; s != metapb.BlockState_BLOCK_LIVE {
		t.Fatalf("%v after its write succeeded", s)
	}
	// What comes next leases another range, on demand.
	last := kept.Load()
	if n := c.volume().IDsLeft(); n != 0 {
		t.Fatalf("%d ids are leased without need", n)
	}
	file(t, c, "c")
	if s := c.meta.states(t, last&^(fsmUnit-1)+fsmUnit)[0]; s != metapb.BlockState_BLOCK_LIVE {
		t.Fatalf("%v: c is not in the next range", s)
	}
}

// unitWatch is Blocks that counts the writes under way by unit of ids.
type unitWatch struct {
	*blocks
	mu       sync.Mutex // guards the fields below
	writing  map[uint64]int
	returned map[uint64]bool
	bad      []string
}

func (w *unitWatch) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	unit := id &^ (fsmUnit - 1)
	w.mu.Lock()
	w.writing[unit]++
	if w.returned[unit] {
		w.bad = append(w.bad, fmt.Sprintf("id %#x is written after it was returned", id))
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.writing[unit]--
	}()
	return w.blocks.Write(ctx, id, o, data)
}

// Ranges that are retired as fast as can be, among writers and stores that fail: no id of a returned range is
// written or committed.
func TestRetiringRace(t *testing.T) {
	c := &crashing{t: t, meta: newMetadata(t), blocks: newBlocks()}
	w := &unitWatch{blocks: c.blocks, writing: map[uint64]int{}, returned: map[uint64]bool{}}
	returns := 0
	c.meta.fail = func(cmd *metapb.Command) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, u := range cmd.GetReturnBlocks().GetFirst() {
			returns++
			w.returned[u] = true
			if w.writing[u] > 0 {
				w.bad = append(w.bad, fmt.Sprintf("unit %#x is returned during %d writes", u, w.writing[u]))
			}
		}
		for _, e := range cmd.GetCommitData().GetExtents() {
			if w.returned[e.Block&^(fsmUnit-1)] {
				w.bad = append(w.bad, fmt.Sprintf("block %#x is committed after it was returned", e.Block))
			}
		}
		return nil
	}
	c.blocks.setFailWrite(func(id uint64, _ int) error {
		if id%7 == 3 {
			return vfs.KindExists.Err("blocks")
		}
		return nil
	})
	gw := c.meta.gateway(t, "gw")
	v := volume.New(volume.Config{
		FS: testFS, Shard: testShard, Meta: gw, Blocks: w, Incarnation: gw.incarnation,
		FlushAge: 100 * time.Microsecond, BlockIDAge: 1,
	})
	t.Cleanup(v.Abandon)
	var wg sync.WaitGroup
	for i := range 4 {
		ino := create(t, v, string(rune('a'+i)))
		wg.Go(func() {
			for r := range 200 {
				if _, _, err := v.Write(ctx, &vfs.Root, ino, uint64(r%3)*10_000, fill(10_000, byte(r)), vfs.FileSync); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.bad {
		t.Error(b)
	}
	if returns < 10 {
		t.Errorf("%d ranges were returned: the test shows nothing", returns)
	}
	t.Logf("%d ranges were returned", returns)
}

// A block that was rewritten and whose grace is over: who has cached extents that name it asks again.
func TestRewrittenBlock(t *testing.T) {
	for what, other := range map[string]bool{"with the lease": false, "without it": true} {
		t.Run(what, func(t *testing.T) {
			c := newCrashing(t, volume.Config{CacheLimitBytes: 1})
			f, data := bigFile(t, c, 3<<20)
			reader := c.FS
			if _, err := c.Open(ctx, &vfs.Root, f, vfs.OpenRead|vfs.OpenWrite, false); err != nil {
				t.Fatal(err)
			}
			if other { // the volume of another gateway, which has no lease
				g := c.meta.gateway(t, "other")
				v := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: g, Blocks: c.blocks, Incarnation: g.incarnation, CacheLimitBytes: 1})
				t.Cleanup(v.Abandon)
				reader = v
			}
			if !bytes.Equal(read(t, reader, f, 0, 100), data[:100]) {
				t.Fatal("bytes differ")
			}
			w := c.meta.gateway(t, "rewriter")
			id := c.meta.rewrite(t, w, c.blocks, f)
			if !bytes.Equal(read(t, reader, f, 1<<20, 100), data[1<<20:1<<20+100]) {
				t.Fatal("bytes differ while the old block is in its grace")
			}
			r := c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: math.MaxUint64}}})
			if len(r.GetReap().Blocks) != 1 || r.GetReap().Blocks[0].Id == id {
				t.Fatalf("reaped %v", r)
			}
			c.blocks.mu.Lock()
			delete(c.blocks.data, r.GetReap().Blocks[0].Id)
			c.blocks.mu.Unlock()
			if !bytes.Equal(read(t, reader, f, 0, 3<<20), data) {
				t.Fatal("bytes differ after the old block is gone")
			}
		})
	}
}

// rewrite puts the one block of a file into a new one.
func (m *metadata) rewrite(t *testing.T, w *gateway, b *blocks, f vfs.Ino) uint64 {
	t.Helper()
	apply := func(cmd *metapb.Command) *metapb.Result {
		t.Helper()
		cmd.Fs = testFS
		r, err := w.Apply(ctx, testShard, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	q, err := w.Query(ctx, testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{Ino: uint64(f)}}})
	if err != nil || len(q.GetExtents().Extents) != 1 {
		t.Fatalf("%v, %v", q, err)
	}
	old := q.GetExtents().Extents[0]
	id := apply(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 1}}}).GetBlocks().First
	b.mu.Lock()
	data := bytes.Clone(b.data[old.Block])
	b.mu.Unlock()
	nb, err := b.Write(ctx, id, volume.Owner{}, data)
	if err != nil {
		t.Fatal(err)
	}
	got := apply(&metapb.Command{Op: &metapb.Command_RewriteExtents{RewriteExtents: &metapb.RewriteExtents{Ino: uint64(f), Extents: []*metapb.ExtentRewrite{{
		Length: old.Length, OldBlock: old.Block, Block: id, BlockLength: old.Length, Pg: nb.PG, K: uint32(nb.K), M: uint32(nb.M),
	}}}}})
	if got.GetRewrite().Bytes != uint64(old.Length) {
		t.Fatalf("%v", got)
	}
	return id
}

// A gateway whose origin ended goes on under another one: what was buffered is lost and told, what was durable is there,
// leases and block ids are new, and files that had no name any more are gone.
func TestReregistered(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, u := create(t, c, "f"), create(t, c, "unlinked")
	for _, ino := range []vfs.Ino{f, u} {
		if _, err := c.Open(ctx, &vfs.Root, ino, vfs.OpenRead|vfs.OpenWrite, false); err != nil {
			t.Fatal(err)
		}
		write(t, c, ino, 0, fill(10_000, 1), vfs.FileSync)
	}
	if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "unlinked", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	v0 := write(t, c, f, 5_000, fill(10_000, 2), vfs.Unstable)
	change := func() uint64 {
		a, err := c.GetAttr(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		return a.Change
	}
	shown := change()
	c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: c.gw.origin}}})
	c.gw.again(t)
	c.volume().Reregistered(c.gw.origin, c.gw.incarnation)
	_, err := c.Commit(ctx, f, 0, 0)
	want(t, vfs.KindFenced, err)
	if v := commit(t, c, f); v == v0 {
		t.Fatal("bytes were lost and the verifier is the same")
	}
	if got := read(t, c, f, 0, 20_000); !bytes.Equal(got, fill(10_000, 1)) {
		t.Fatal("not what was durable")
	}
	if now := change(); now <= shown {
		t.Fatalf("change %d, %d was shown for other content", now, shown)
	}
	write(t, c, f, 5_000, fill(10_000, 3), vfs.FileSync)
	if got := read(t, c, f, 0, 20_000); !bytes.Equal(got, append(fill(5_000, 1), fill(10_000, 3)...)) {
		t.Fatal("bytes differ")
	}
	_, err = c.GetAttr(ctx, u)
	want(t, vfs.KindStale, err)
	if err := c.Close(ctx, f, vfs.OpenRead|vfs.OpenWrite); err != nil {
		t.Fatal(err)
	}
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}
