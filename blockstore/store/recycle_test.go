package store

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Deleted space is used again, for as long as one likes.
func TestSpaceIsReused(t *testing.T) {
	const segments = 10
	ctx := context.Background()
	o := memOptions(-1)
	o.Capacity = segments * MinSegmentSize
	s := mustOpen(t, o)
	rng := rand.New(rand.NewPCG(7, 7))
	live := map[segment.Key]bool{}
	var order []segment.Key
	liveBytes, written, block := int64(0), int64(0), uint64(0)
	size := func(k segment.Key) int64 { return int64(segment.RecordLen(len(shardPut(k, 1).Data))) }
	for written < 20*segments*MinSegmentSize {
		k := key(1+uint32(block%3), block, 0)
		block++
		if err := s.Put(ctx, shardPut(k, 1)); err != nil {
			t.Fatalf("after %d bytes, %d live: %v; %+v", written, liveBytes, err, s.Info())
		}
		live[k] = true
		order = append(order, k)
		liveBytes += size(k)
		written += size(k)
		// One in eight stays long, so segments do not empty by themselves.
		for liveBytes > 5*MinSegmentSize {
			i := rng.IntN(len(order))
			if order[i].Block%8 == 0 && rng.IntN(16) > 0 {
				continue
			}
			d := order[i]
			order[i] = order[len(order)-1]
			order = order[:len(order)-1]
			if n, err := s.Delete(ctx, []segment.Key{d}); n != 1 || err != nil {
				t.Fatalf("delete after %d bytes: %d %v; %+v", written, n, err, s.Info())
			}
			delete(live, d)
			liveBytes -= size(d)
		}
	}
	check := func() {
		t.Helper()
		n := 0
		for pg := uint32(1); pg <= 3; pg++ {
			for _, e := range listAll(t, s, pg, 500) {
				if !live[e.Key] {
					t.Fatalf("shard %v is back", e.Key)
				}
				n++
				checkShard(t, s, e.Key)
			}
		}
		if n != len(live) {
			t.Fatalf("%d shards, want %d", n, len(live))
		}
		checkLive(t, s, 1, 2, 3)
	}
	check()
	if i := s.Info(); i.Segments > segments || i.Bad > 0 {
		t.Fatalf("%+v", i)
	}
	mustClose(t, s)
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	check()
	mustClose(t, s)
}

// fill puts shards of 80 KiB until the store is full.
func fill(t *testing.T, s *Store) []segment.Key {
	t.Helper()
	var keys []segment.Key
	for b := uint64(5); ; b += 6 {
		k := key(1, b, 0)
		err := s.Put(context.Background(), shardPut(k, 1))
		if vfs.KindOf(err) == vfs.KindNoSpace {
			return keys
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
}

// Info says that the store is full from when Puts are refused until there is a segment for them. That comes without a Put,
// though no segment is dead enough to be emptied while there is space: who knows that a store is full sends none.
func TestFullIsTold(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	o.Capacity = 12 * MinSegmentSize
	s := mustOpen(t, o)
	for range 2 {
		if i := s.Info(); i.Full || !i.Writable {
			t.Fatalf("before it is full: %+v", i)
		}
		keys := fill(t, s)
		if i := s.Info(); !i.Full || !i.Writable {
			t.Fatalf("a Put was refused: %+v", i)
		}
		if _, err := s.Delete(ctx, keys[:1]); err != nil {
			t.Fatal(err)
		}
		if !s.Info().Full {
			t.Fatal("one shard's room counts as room")
		}
		var some []segment.Key
		for i := 1; i < len(keys); i += 3 {
			some = append(some, keys[i])
		}
		if _, err := s.Delete(ctx, some); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Minute); s.Info().Full; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("a third was deleted: %+v", s.Info())
			}
		}
		mustPut(t, s, keys[0])
		if _, err := s.Delete(ctx, keys); err != nil {
			t.Fatal(err)
		}
		if err := s.Compact(ctx); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, s)
}

// A full store can be told to forget everything one shard at a time, though each deletion takes a record, and takes
// as much again afterwards.
func TestFullStoreEmpties(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	o.Capacity = 8 * MinSegmentSize
	s := mustOpen(t, o)
	first := 0
	for round := range 3 {
		keys := fill(t, s)
		if round == 0 {
			first = len(keys)
		}
		if len(keys) < first*8/10 {
			t.Fatalf("round %d: %d shards fit, %d did at first", round, len(keys), first)
		}
		// Every second one, so that no segment is empty soon.
		for phase := range 2 {
			for i := phase; i < len(keys); i += 2 {
				if n, err := s.Delete(ctx, keys[i:i+1]); n != 1 || err != nil {
					t.Fatalf("round %d, delete %d: %d %v; %+v", round, i, n, err, s.Info())
				}
			}
		}
		if got := listAll(t, s, 1, 1000); len(got) != 0 || s.Info().Used != 0 {
			t.Fatalf("%d shards are left, %d bytes", len(got), s.Info().Used)
		}
	}
	mustClose(t, s)
}

// Deletions that are recorded one by one fill segments too. In a store where no other segment can be won they are
// condensed, and no Delete fails.
func TestDeletionsDoNotFillTheStore(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	o.Capacity = 6 * MinSegmentSize
	s := mustOpen(t, o)
	kept := fill(t, s)
	small := func(b uint64) *Put { return shardPut(key(2, 6*b, 0), 1) } // 1 byte
	if _, err := s.Delete(ctx, kept[:2]); err != nil {
		t.Fatal(err)
	}
	kept = kept[2:]
	for b := range uint64(1000) {
		if err := s.Put(ctx, small(b)); err != nil {
			t.Fatalf("put %d: %v; %+v", b, err, s.Info())
		}
		if n, err := s.Delete(ctx, []segment.Key{small(b).Key}); n != 1 || err != nil {
			t.Fatalf("delete %d: %d %v; %+v", b, n, err, s.Info())
		}
	}
	mustClose(t, s)
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	if got := listAll(t, s, 2, 1000); len(got) != 0 {
		t.Fatalf("%d deleted shards are back", len(got))
	}
	for _, k := range kept {
		checkShard(t, s, k)
	}
	mustClose(t, s)
}

// manual is a store that compacts when told.
func manual() Options {
	o := memOptions(-1)
	o.CompactPercent = -1
	return o
}

// rotate leaves the active segment for the next one.
func rotate(t *testing.T, s *Store) {
	t.Helper()
	s.mu.Lock()
	for len(s.spares) == 0 {
		ch := s.attempt
		s.askSegment()
		s.mu.Unlock()
		<-ch
		s.mu.Lock()
	}
	err := s.activate()
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	// The position moves on with the next record.
	const pg = 1 << 30
	if err := s.Fence(context.Background(), []segment.Epoch{{PG: pg, Epoch: s.Epoch(pg) + 1}}); err != nil {
		t.Fatal(err)
	}
}

func mustDelete(t *testing.T, s *Store, keys ...segment.Key) {
	t.Helper()
	if n, err := s.Delete(context.Background(), keys); n != len(keys) || err != nil {
		t.Fatal(n, err)
	}
}

func mustCompact(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// The life of a deletion: carried from segment to segment while a segment with the shard's record is in use, whatever
// is recycled in between, and gone when it is not.
func TestTombstoneLifetime(t *testing.T) {
	o := manual()
	s := mustOpen(t, o)
	tombstones := func() (n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, g := range s.segs {
			n += g.kept / 16
		}
		return n
	}
	// Segment 1: a shard to delete beside others that stay, so that it is not compacted.
	dead, stay := key(1, 5, 0), []segment.Key{}
	mustPut(t, s, dead)
	for b := range uint64(8) {
		k := key(1, 11+6*b, 0)
		stay = append(stay, k)
		mustPut(t, s, k)
	}
	rotate(t, s)
	rotate(t, s)
	// Segment 2: the deletion, and shards that die in it, as in each one after it.
	ballast := func(round uint64) {
		var keys []segment.Key
		for b := range uint64(3) {
			k := key(2, 6*(3*round+b)+5, 0)
			mustPut(t, s, k)
			keys = append(keys, k)
		}
		mustDelete(t, s, keys...)
		rotate(t, s)
	}
	mustDelete(t, s, dead)
	ballast(0)
	for round := range uint64(3) {
		before := counterValue(t, s.m.Recycled)
		mustCompact(t, s)
		if counterValue(t, s.m.Recycled) == before {
			t.Fatal("nothing was recycled")
		}
		if n := tombstones(); n != 1 {
			t.Fatalf("%d deletions kept, want that of the shard whose record is still there", n)
		}
		mustClose(t, s)
		rebuilt := o
		rebuilt.IndexFS = pvfs.NewCrashableMem()
		s = mustOpen(t, rebuilt)
		if _, err := s.Get(context.Background(), dead, 0, 1); vfs.KindOf(err) != vfs.KindNotFound {
			t.Fatalf("a deleted shard is back: %v", err)
		}
		for _, k := range stay {
			checkShard(t, s, k)
		}
		mustClose(t, s)
		s = mustOpen(t, o)
		ballast(round + 1)
	}
	// The record goes with its segment; then the deletion goes.
	mustDelete(t, s, stay...)
	for round := range uint64(4) {
		ballast(10 + round)
		mustCompact(t, s)
	}
	if n := tombstones(); n != 0 {
		t.Fatalf("%d deletions kept of records that are gone", n)
	}
	n := 0
	for _, lower := range []byte{prefixPin, prefixTombstone} {
		if err := s.each(context.Background(), []byte{lower}, []byte{lower + 1}, func(_, _ []byte) (bool, error) { n++; return true, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n != 0 {
		t.Fatalf("%d entries about them are left in the index", n)
	}
	mustClose(t, s)
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	if got := listAll(t, s, 1, 10); len(got) != 0 {
		t.Fatalf("%d shards are back", len(got))
	}
	mustClose(t, s)
}

// A segment that is among the free ones is free on the disk too. If a power cut could make it used again, deletions
// of its shards might be gone already.
func TestFreeIsDurable(t *testing.T) {
	o := manual()
	s := mustOpen(t, o)
	for b := range uint64(8) {
		mustPut(t, s, key(1, 6*b+5, 0))
		mustDelete(t, s, key(1, 6*b+5, 0))
	}
	file := s.active.header.File
	rotate(t, s)
	mustCompact(t, s)
	if h := s.segs[file].header; h.State != segment.StateFree {
		t.Fatal("the segment was not recycled")
	}
	clone := o.FS.(*vfile.Mem).CrashClone(rand.New(rand.NewPCG(1, 1)), 0, nil)
	f, err := clone.Open(s.segmentPath(file, segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, MinSegmentSize - segment.HeaderSize} {
		p := make([]byte, segment.HeaderSize)
		if _, err := f.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		if h, ok, err := segment.DecodeHeader(p); !ok || err != nil || h.State != segment.StateFree {
			t.Fatalf("after a power cut: %+v %v %v", h, ok, err)
		}
	}
	mustClose(t, s)
}

// Epochs outlive the segments that told of them.
func TestEpochsAreCarried(t *testing.T) {
	ctx := context.Background()
	o := manual()
	s := mustOpen(t, o)
	for pg := uint32(1); pg <= 40; pg++ {
		if err := s.Fence(ctx, []segment.Epoch{{PG: pg, Epoch: 10 * pg}}); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, s, key(99, 1, 0))
	mustDelete(t, s, key(99, 1, 0))
	rotate(t, s)
	mustCompact(t, s)
	rotate(t, s)
	mustCompact(t, s)
	mustClose(t, s)
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	for pg := uint32(1); pg <= 40; pg++ {
		if e := s.Epoch(pg); e != 10*pg {
			t.Fatalf("epoch %d of pg %d, want %d", e, pg, 10*pg)
		}
	}
	if e := s.Epoch(99); e != 1 {
		t.Fatalf("epoch %d of a pg whose only shard was deleted", e)
	}
	if n := s.Info().Segments; n > 3 {
		t.Fatalf("%d segments for nothing but epochs", n)
	}
	mustClose(t, s)
}

// Who looked a shard up before it moved, and reads after its place was used again, gets its bytes.
func TestReadersOfRecycledSegments(t *testing.T) {
	ctx := context.Background()
	o := manual()
	s := mustOpen(t, o)
	k := key(1, 5, 0)
	mustPut(t, s, k)
	for round := range 6 {
		old, _, err := s.lookup(k)
		if err != nil {
			t.Fatal(err)
		}
		rotate(t, s)
		// Deletions leave nothing to move but k.
		mustCompact(t, s)
		now, _, _ := s.lookup(k)
		if now == old {
			mustPut(t, s, key(2, 5+6*uint64(round), 0))
			continue
		}
		_, _, _, buf, err := s.readRecord(k, old, 0, int(old.length))
		buf.Release()
		wantKind(t, err, vfs.KindCorrupt)
		checkShard(t, s, k)
	}
	if counterValue(t, s.m.Recycled) == 0 {
		// k alone in its segment is less than half of it, but nothing beside it was dead.
		mustPut(t, s, key(1, 11, 0))
	}
	// Readers while everything moves.
	done := make(chan struct{})
	go func() {
		defer close(done)
		want := shardPut(k, 1).Data
		for i := range 3000 {
			off := i % 3 * 10_000 // the others are of what was read lately
			r, err := s.Get(ctx, k, off, 100)
			if err != nil {
				t.Error(err)
				return
			}
			if !bytes.Equal(r.Bytes, want[off:off+100]) {
				t.Errorf("other bytes at %d", off)
			}
			r.Release()
		}
	}()
	for b := uint64(0); ; b++ {
		select {
		case <-done:
		default:
			for i := range uint64(8) {
				mustPut(t, s, key(3, 6*(8*b+i)+5, 0))
			}
			for i := range uint64(8) {
				mustDelete(t, s, key(3, 6*(8*b+i)+5, 0))
			}
			rotate(t, s)
			mustCompact(t, s)
			continue
		}
		break
	}
	if n := s.Info().Bad; n != 0 {
		t.Fatalf("%d shards marked bad", n)
	}
	checkShard(t, s, k)
	mustClose(t, s)
}

// Compaction that goes on slowly, beside clients, is in a hurry as soon as a write needs space.
func TestWritesDoNotWaitForBudget(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	o := memOptions(-1)
	o.Capacity = 12 * MinSegmentSize
	o.Budget = budget.New(1) // byte a second
	s := mustOpen(t, o)
	for range 3 {
		keys := fill(t, s)
		var some []segment.Key
		for i, k := range keys {
			if i%3 > 0 {
				some = append(some, k)
			}
		}
		if _, err := s.Delete(ctx, some); err != nil {
			t.Fatal(err)
		}
		s.kickCompactor()
		for pausing := false; !pausing; time.Sleep(time.Millisecond) {
			s.mu.Lock()
			pausing = s.compacting.pausing != nil
			s.mu.Unlock()
			if ctx.Err() != nil {
				t.Fatal("compaction does not pause: the test shows nothing")
			}
		}
		for _, k := range some[:len(some)/2] {
			if err := s.Put(ctx, shardPut(k, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Delete(ctx, keys); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, s)
}
