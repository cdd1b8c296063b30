package store

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// rebuildNow has the index made anew and waits until it was.
func rebuildNow(t testing.TB, s *Store) {
	t.Helper()
	n := counterValue(t, s.m.IndexRebuilds)
	s.indexDamaged(fmt.Errorf("test: %w", pebble.ErrCorruption))
	awaitRebuild(t, s, n)
}

func awaitRebuild(t testing.TB, s *Store, before float64) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); counterValue(t, s.m.IndexRebuilds) == before || s.Info().Rebuilding; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the index is not made anew")
		}
	}
}

// dump is all that the index says, but for the position.
func dump(t testing.TB, s *Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := s.each(context.Background(), []byte{0}, []byte{255}, func(key, value []byte) (bool, error) {
		if key[0] != prefixMeta {
			all[string(key)] = string(value)
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An index that was made anew beside the one in use says what one says that is made anew by Open, and so do the counts beside it.
func TestRebuiltOnlineIsTheSame(t *testing.T) {
	o := manual()
	m := newModel()
	s := mustOpen(t, o)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k := func(i uint64) segment.Key { return key(uint32(i%3+1), 6*i+5, 0) }
	for i := range uint64(60) {
		must(m.put(s, k(i), 0))
		if i%5 == 4 {
			must(m.del(s, k(i), k(i-1)))
		}
		if i%10 == 9 {
			must(m.put(s, k(i), i)) // again, with other content
			must(m.fence(s, uint32(i%3+1), uint32(i)))
		}
	}
	must(s.Compact(context.Background()))
	rebuildNow(t, s)
	must(m.check(s))
	if _, err := o.FS.Stat(o.Dir + "/" + rebuildName); err == nil {
		t.Fatal("the mark is left")
	}
	must(m.put(s, k(100), 0))
	must(m.del(s, k(100)))
	mustClose(t, s)
	// And the next start takes it over, without reading all of the log.
	o.Metrics = NewMetrics(nil, nil)
	s = mustOpen(t, o)
	if n := counterValue(t, s.m.Replayed); n > 4 {
		t.Fatalf("%v records were replayed", n)
	}
	must(m.check(s))
	must(m.put(s, k(101), 0))
	must(m.del(s, k(101)))
	rebuildNow(t, s)
	must(m.check(s))
	online, info := dump(t, s), s.Info()
	mustClose(t, s)
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	must(m.check(s))
	if offline := dump(t, s); !maps.Equal(online, offline) {
		for key, v := range offline {
			if online[key] != v {
				t.Errorf("key %q: %x, want %x", key, online[key], v)
			}
		}
		for key := range online {
			if _, ok := offline[key]; !ok {
				t.Errorf("key %q is too much", key)
			}
		}
	}
	if now := s.Info(); now != info {
		t.Fatalf("%+v, want %+v", info, now)
	}
	mustClose(t, s)
}

// The making of a new index is within the disk's budget, but for the end, when writes wait for it.
func TestRebuildIsPaidFor(t *testing.T) {
	o := manual()
	o.Budget = budget.New(1 << 50)
	s := mustOpen(t, o)
	m := newModel()
	for i := range uint64(60) {
		if err := m.put(s, key(1, 6*i+5, 0), 0); err != nil {
			t.Fatal(err)
		}
	}
	rebuildNow(t, s)
	if moved, _ := o.Budget.Totals(); moved < uint64(s.Info().Used) {
		t.Errorf("%d bytes are paid for, %d had to be read", moved, s.Info().Used)
	}
	if err := m.check(s); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}

// While shards are put, deleted and fenced by many, the index is made anew again and again; also
// what a power cut leaves in the middle of that is whole.
func TestRebuildUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	o := memOptions(-1)
	j := newJournal()
	s := mustOpen(t, o)
	for round := range uint64(4) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() { j.load(s, round+1, w, stop) })
		}
		rebuildNow(t, s)
		go func() {
			defer close(stop)
			rebuildNow(t, s)
		}()
		before := j.copy()
		var index *pvfs.MemFS
		left := o
		left.FS = o.FS.(*vfile.Mem).CrashClone(rng, 0.5, func() {
			index = o.IndexFS.(*pvfs.MemFS).CrashClone(pvfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		})
		left.IndexFS, left.Metrics = index, nil
		after := j.copy()
		wg.Wait()
		c := mustOpen(t, left)
		verify(t, c, before, after)
		mustClose(t, c)
	}
	verify(t, s, j, j)
	if bad := s.Info().Bad; bad != 0 {
		t.Fatalf("%d shards are marked bad", bad)
	}
	s.mu.Lock()
	if s.inflight != 0 || s.paused != nil || len(s.busy) != 0 {
		t.Errorf("%d in flight, %d claimed", s.inflight, len(s.busy))
	}
	s.mu.Unlock()
	mustClose(t, s)
	s = mustOpen(t, o)
	verify(t, s, j, j)
	mustClose(t, s)
}

// A flipped bit in a table of the index of a store that runs is met by a read or a scan. That says so; and a little later all
// is there, without a restart, and while shards are written and read.
func TestFlippedBitsWhileRunning(t *testing.T) {
	flips := 8
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		flips = 200
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	rebuilt := 0
	for i := uint64(0); i < uint64(flips) || rebuilt == 0 && i < 10*uint64(flips); i++ {
		o := diskOptions(t)
		o.IndexCache = pebble.NewCache(1) // what was read is read again
		s := mustOpen(t, o)
		keys := putMany(t, s, 1, 150)
		mustDelete(t, s, keys[:10]...)
		if err := s.flushIndex(context.Background()); err != nil {
			t.Fatal(err)
		}
		// Of the tables that are there one is complete; another may be on its way.
		tables, err := filepath.Glob(o.Dir + "/index/*.sst")
		if err != nil || len(tables) == 0 {
			t.Fatal(tables, err)
		}
		var f *os.File
		var info os.FileInfo
		for _, n := range rng.Perm(len(tables)) {
			if f, err = os.OpenFile(tables[n], os.O_RDWR, 0); err != nil {
				t.Fatal(err)
			}
			if info, err = f.Stat(); err != nil {
				t.Fatal(err)
			}
			if info.Size() > 0 {
				break
			}
			f.Close()
		}
		at, p := rng.Int64N(info.Size()), make([]byte, 1)
		if _, err := f.ReadAt(p, at); err != nil {
			t.Fatal(err)
		}
		p[0] ^= 1 << rng.IntN(8)
		if _, err := f.WriteAt(p, at); err != nil {
			t.Fatal(err)
		}
		f.Close()
		met := false
		for n, k := range keys {
			r, err := s.Get(context.Background(), k, 0, 1)
			switch {
			case n < 10 && err == nil:
				t.Fatal("a deleted shard is back")
			case err == nil:
				r.Release()
			case vfs.KindOf(err) == vfs.KindNotFound && n >= 10:
				t.Fatalf("byte %d: shard %v is said not to be there", at, k)
			case vfs.KindOf(err) != vfs.KindNotFound:
				met = true
			}
			if n%10 == 0 { // writes go on, but for one that meets the damage itself
				if err := s.Put(context.Background(), shardPut(key(2, uint64(n), 0), 1)); err != nil {
					wantKind(t, err, vfs.KindIO)
					met = true
				}
			}
		}
		if met {
			rebuilt++
			awaitRebuild(t, s, 0)
			for _, k := range keys[10:] {
				checkShard(t, s, k)
			}
			if got := listAll(t, s, 1, 50); len(got) != len(keys)-10 {
				t.Fatalf("%d shards are listed, want %d", len(got), len(keys)-10)
			}
			checkLive(t, s, 1, 2)
			mustPut(t, s, key(3, i, 0))
		}
		mustClose(t, s)
		o.IndexCache.Unref()
	}
	if rebuilt == 0 {
		t.Fatal("no flip was met: the test shows little")
	}
	t.Logf("%d of %d flips were met", rebuilt, flips)
}

// A new index that cannot be written is given up; the store goes on with the old one, and makes it anew later.
func TestRebuildFails(t *testing.T) {
	o := memOptions(-1)
	index := o.IndexFS
	failing := make(chan struct{})
	var once sync.Once
	o.IndexFS = errorfs.Wrap(index, errorfs.InjectorFunc(func(op errorfs.Op) error {
		select {
		case <-failing:
			return nil
		default:
		}
		if filepath.Base(filepath.Dir(op.Path)) == "index.new" && filepath.Ext(op.Path) == ".sst" && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return vfs.KindNoSpace.Err("test")
		}
		return nil
	}))
	defer once.Do(func() { close(failing) })
	s := mustOpen(t, o)
	keys := putMany(t, s, 1, 40)
	s.indexDamaged(pebble.ErrCorruption)
	for {
		s.mu.Lock()
		gaveUp := !s.rebuildAfter.IsZero()
		s.mu.Unlock()
		if gaveUp {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if i := s.Info(); !i.Writable || i.Rebuilding {
		t.Fatalf("%+v", i)
	}
	mustPut(t, s, key(2, 1, 0))
	for _, k := range keys {
		checkShard(t, s, k)
	}
	if names, err := index.List("/s/index.new"); err == nil {
		t.Fatalf("%q are left", names)
	}
	once.Do(func() { close(failing) })
	s.mu.Lock()
	s.rebuildAfter = time.Time{}
	s.mu.Unlock()
	rebuildNow(t, s)
	for _, k := range keys {
		checkShard(t, s, k)
	}
	mustClose(t, s)
}

// Whatever the moment of a crash while the index is made anew and put in the place of the old one, beside calls that race with it,
// nothing acknowledged is lost and nothing deleted comes back; not with the index that is left, and not without.
func TestCrashInRebuild(t *testing.T) {
	o := manual()
	fs := &opFS{Mem: o.FS.(*vfile.Mem)}
	index := o.IndexFS.(*pvfs.MemFS)
	var hook func(string)
	var hookMu sync.Mutex
	o.FS = fs
	o.IndexFS = errorfs.Wrap(index, errorfs.InjectorFunc(func(op errorfs.Op) error {
		hookMu.Lock()
		h := hook
		hookMu.Unlock()
		if h != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			h("index")
		}
		return nil
	}))
	m := newModel()
	s := mustOpen(t, o)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k := func(i uint64) segment.Key { return key(uint32(i%3+1), 6*i+5, 0) }
	for i := range uint64(13) {
		must(m.put(s, k(i), 0))
	}
	must(m.fence(s, 2, 5))
	must(m.del(s, k(0), k(1)))
	must(m.put(s, k(0), 7))
	crashEverywhere(t, Options{
		Dir: o.Dir, Cluster: o.Cluster, SegmentSize: o.SegmentSize, ReserveBytes: o.ReserveBytes,
		CompactPercent: -1, CompactBytesPerSecond: -1, Logger: o.Logger, MemTableBytes: o.MemTableBytes,
	}, m, fs, index, func() func() {
		hookMu.Lock()
		hook = fs.before
		hookMu.Unlock()
		return func() {
			hookMu.Lock()
			hook = nil
			hookMu.Unlock()
		}
	}, func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			rebuildNow(t, s)
		}()
		must(m.del(s, k(5), k(6)))
		must(m.put(s, k(30), 0))
		must(m.put(s, k(5), 9))
		<-done
		// What is compacted after it depends on the new index.
		must(m.del(s, k(2), k(3), k(4), k(7), k(8), k(9), k(10), k(11), k(12)))
		must(s.Compact(context.Background()))
	})
	must(m.check(s))
	mustClose(t, s)
}
