package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// journal is what clients know: what they asked for and what was acknowledged.
type journal struct {
	mu      sync.Mutex
	tried   map[segment.Key]bool
	acked   map[segment.Key]bool
	delTry  map[segment.Key]bool
	deleted map[segment.Key]bool
	fenced  map[uint32]uint32
}

func newJournal() *journal {
	return &journal{tried: map[segment.Key]bool{}, acked: map[segment.Key]bool{}, delTry: map[segment.Key]bool{},
		deleted: map[segment.Key]bool{}, fenced: map[uint32]uint32{}}
}

func (j *journal) copy() *journal {
	j.mu.Lock()
	defer j.mu.Unlock()
	return &journal{tried: maps.Clone(j.tried), acked: maps.Clone(j.acked), delTry: maps.Clone(j.delTry),
		deleted: maps.Clone(j.deleted), fenced: maps.Clone(j.fenced)}
}

func (j *journal) note(m map[segment.Key]bool, k segment.Key) {
	j.mu.Lock()
	defer j.mu.Unlock()
	m[k] = true
}

// load writes, deletes and fences until the store refuses or stop is closed.
func (j *journal) load(s *Store, seed uint64, worker int, stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, uint64(worker)))
	ctx := context.Background()
	var mine []segment.Key
	epoch := uint32(1)
	pg := uint32(worker%3 + 1)
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		switch x := rng.IntN(20); {
		case x == 0 && len(mine) > 0:
			i := rng.IntN(len(mine))
			k := mine[i]
			mine = append(mine[:i], mine[i+1:]...)
			j.note(j.delTry, k)
			if _, err := s.Delete(ctx, []segment.Key{k}); err != nil {
				return
			}
			j.note(j.deleted, k)
		case x == 1:
			// Only worker 0 of a PG raises its epoch, and a new worker takes over at the known one.
			if worker >= 3 {
				continue
			}
			epoch = s.Epoch(pg) + 1
			if err := s.Fence(ctx, []segment.Epoch{{PG: pg, Epoch: epoch}}); err != nil {
				return
			}
			j.mu.Lock()
			j.fenced[pg] = max(j.fenced[pg], epoch)
			j.mu.Unlock()
		default:
			k := key(pg, seed<<32|uint64(worker)<<24|uint64(n), uint8([]int{0, 4, 5}[rng.IntN(3)]))
			j.note(j.tried, k)
			err := s.Put(ctx, shardPut(k, s.Epoch(pg)))
			if vfs.KindOf(err) == vfs.KindFenced {
				continue
			}
			if err != nil {
				return
			}
			j.note(j.acked, k)
			mine = append(mine, k)
		}
	}
}

// verify checks a store that came up after a crash: before and after are the
// journal just before and after the moment of the crash.
func verify(t *testing.T, s *Store, before, after *journal) {
	t.Helper()
	ctx := context.Background()
	for k := range before.acked {
		if after.delTry[k] {
			continue
		}
		checkShard(t, s, k)
	}
	for pg := uint32(1); pg <= 3; pg++ {
		for _, e := range listAll(t, s, pg, 50) {
			if !after.tried[e.Key] {
				t.Fatalf("shard %v was never written", e.Key)
			}
			if before.deleted[e.Key] {
				t.Fatalf("shard %v is back after its deletion was acknowledged", e.Key)
			}
			checkShard(t, s, e.Key) // acknowledged or not: whole
		}
		if e := before.fenced[pg]; e > 0 {
			err := s.Put(ctx, shardPut(key(pg, 1<<60, 0), e-1))
			wantKind(t, err, vfs.KindFenced)
		}
	}
	checkLive(t, s, 1, 2, 3)
	if n := gaugeValue(t, s.m.LostSegments); n != 0 {
		t.Fatalf("%v segments came out of the crash without a header", n)
	}
}

// Whatever a power cut leaves, every acknowledged Put, Delete and Fence is there, and what was not
// acknowledged is there whole or not at all; and so again for a crash of what came up after the crash.
func TestCrash(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	base := uint64(time.Now().UnixNano())
	for i := range seeds {
		seed := base + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crashRun(t, seed) })
	}
}

func crashRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	o := memOptions(-1)
	o.fillBelow = []int64{0, -1}[rng.IntN(2)]
	j := newJournal()
	for gen := range 4 {
		s := mustOpen(t, o)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				j.load(s, uint64(gen), w, stop)
			}()
		}
		// The crash comes after a random number of acknowledgements, at a random step.
		target := len(j.copy().acked) + 1 + rng.IntN(150)
		for len(j.copy().acked) < target {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
		}
		before := j.copy()
		var index *pvfs.MemFS
		fs := o.FS.(*vfile.Mem).CrashClone(rng, []float64{0, 0.5, 0.9}[rng.IntN(3)], func() {
			index = o.IndexFS.(*pvfs.MemFS).CrashClone(pvfs.CrashCloneCfg{
				UnsyncedDataPercent: rng.IntN(101), RNG: rng,
			})
		})
		after := j.copy()
		close(stop)
		wg.Wait()
		mustClose(t, s)

		o.FS, o.IndexFS = fs, index
		o.Metrics = NewMetrics(nil, nil)
		s = mustOpen(t, o)
		verify(t, s, before, after)
		mustClose(t, s)
		if gen%2 == 1 {
			// The index is only a copy of what the log says.
			o.IndexFS = pvfs.NewCrashableMem()
			s = mustOpen(t, o)
			verify(t, s, before, after)
			mustClose(t, s)
		}
		// From here on only what survived exists.
		j = newJournal()
		j.tried, j.fenced = after.tried, before.fenced
		s = mustOpen(t, o)
		for pg := uint32(1); pg <= 3; pg++ {
			for _, e := range listAll(t, s, pg, 1000) {
				j.acked[e.Key] = true
			}
		}
		for k := range before.deleted {
			if !j.acked[k] {
				j.deleted[k] = true
			}
		}
		mustClose(t, s)
	}
}

// A store that is killed, not powered off, finds its unsynced writes in the page cache. They may be entered, but
// not before they are durable: a power cut right after must not turn them into bad shards.
func TestCrashAfterKill(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	o := memOptions(-1)
	s := mustOpen(t, o)
	mustPut(t, s, key(1, 1, 0))
	mustClose(t, s)
	// What a process leaves that dies between its write and the fdatasync.
	p := shardPut(key(1, 3, 0), 1)
	g := s.segs[s.active.header.File]
	r := segment.Record{Kind: segment.KindShard, K: 4, M: 2, PG: 1, Epoch: 1, Block: 3, BlockLen: p.BlockLen, Length: uint32(len(p.Data)), Offset: s.next}
	f, err := o.FS.Open(s.segmentPath(g.header.File, segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	hdr := segment.EncodeRecord(make([]byte, segment.HeaderLen(len(p.Data))), &g.header, &r, segment.PageCRCs(nil, p.Data))
	if err := f.WriteVec([][]byte{hdr, p.Data}, s.next); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	checkShard(t, s, p.Key)
	// Putting it again is acknowledged because it is there, so it must be there for good.
	if err := s.Put(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	o2 := o
	o2.FS = o.FS.(*vfile.Mem).CrashClone(rng, 0, nil)
	o2.IndexFS = o.IndexFS.(*pvfs.MemFS).CrashClone(pvfs.CrashCloneCfg{})
	mustClose(t, s)
	s = mustOpen(t, o2)
	checkShard(t, s, p.Key)
	checkShard(t, s, key(1, 1, 0))
	mustClose(t, s)
}

// A recycled file is full of records that once counted. Only those of its new incarnation do.
func TestRecycledSegment(t *testing.T) {
	o := memOptions(-1)
	s := mustOpen(t, o)
	for b := range uint64(12) {
		mustPut(t, s, key(1, b, 0))
	}
	first := s.active.header
	// All is deleted and the file recycled, as compaction will do it: header free, index without entries.
	var keys []segment.Key
	for b := range uint64(12) {
		keys = append(keys, key(1, b, 0))
	}
	n, err := s.Delete(context.Background(), keys)
	if err != nil || n != 12 {
		t.Fatal(n, err)
	}
	mustClose(t, s)
	recycle := func(h segment.Header) {
		f, err := o.FS.Open(s.segmentPath(h.File, segmentSuffix))
		if err != nil {
			t.Fatal(err)
		}
		h.State = segment.StateFree
		if err := writeHeader(f, &h); err != nil {
			t.Fatal(err)
		}
		if err := f.SyncData(); err != nil {
			t.Fatal(err)
		}
	}
	recycle(first)
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	if got := listAll(t, s, 1, 10); len(got) != 0 {
		t.Fatalf("a free segment brought back %d shards", len(got))
	}
	mustPut(t, s, key(1, 100, 0))
	if h := s.active.header; h.File != first.File || h.Incarnation <= first.Incarnation || h.Salt == first.Salt {
		t.Fatalf("reused as %+v after %+v", h, first)
	}
	mustClose(t, s)
	o.IndexFS = pvfs.NewCrashableMem() // a scan of the whole file, old records behind the new one
	s = mustOpen(t, o)
	got := listAll(t, s, 1, 10)
	if len(got) != 1 || got[0].Key != key(1, 100, 0) {
		t.Fatalf("after the scan of a recycled segment: %+v", got)
	}
	checkShard(t, s, key(1, 100, 0))
	mustPut(t, s, key(1, 101, 0))
	mustClose(t, s)
	raw, err := vfile.ReadFile(o.FS, s.segmentPath(first.File, segmentSuffix), MinSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, shardPut(key(1, 11, 0), 1).Data[:512]) {
		t.Fatal("the test is void: no old record is left in the file")
	}
}
