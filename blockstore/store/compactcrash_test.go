package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
)

// opFS calls before, if it is set, ahead of every operation that changes something.
type opFS struct {
	*vfile.Mem
	before func(what string)
}

func (o *opFS) call(what string) {
	if o.before != nil {
		o.before(what)
	}
}

func (o *opFS) wrap(f vfile.File, err error) (vfile.File, error) {
	if err != nil {
		return nil, err
	}
	return &opFile{f, o}, nil
}

func (o *opFS) Create(n string) (vfile.File, error) { o.call("create"); return o.wrap(o.Mem.Create(n)) }
func (o *opFS) Open(n string) (vfile.File, error)   { return o.wrap(o.Mem.Open(n)) }
func (o *opFS) Remove(n string) error               { o.call("remove"); return o.Mem.Remove(n) }
func (o *opFS) Rename(a, b string) error            { o.call("rename"); return o.Mem.Rename(a, b) }
func (o *opFS) SyncDir(d string) error              { o.call("syncdir"); return o.Mem.SyncDir(d) }

type opFile struct {
	vfile.File
	o *opFS
}

func (f *opFile) WriteAt(p []byte, off int64) (int, error) {
	f.o.call("write")
	return f.File.WriteAt(p, off)
}
func (f *opFile) WriteVec(b [][]byte, off int64) error {
	f.o.call("writev")
	return f.File.WriteVec(b, off)
}
func (f *opFile) Sync() error     { f.o.call("sync"); return f.File.Sync() }
func (f *opFile) SyncData() error { f.o.call("syncdata"); return f.File.SyncData() }

// model is what a client knows of a store. Shards that a call under way may have put or removed are in doubt.
type model struct {
	mu     sync.Mutex
	live   map[segment.Key]uint64 // the variant of its content
	gone   map[segment.Key]bool   // was there once and is deleted
	doubt  map[segment.Key]bool
	epochs map[uint32]uint32
}

func newModel() *model {
	return &model{live: map[segment.Key]uint64{}, gone: map[segment.Key]bool{}, doubt: map[segment.Key]bool{}, epochs: map[uint32]uint32{}}
}

func (m *model) copy() *model {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &model{live: maps.Clone(m.live), gone: maps.Clone(m.gone), doubt: maps.Clone(m.doubt), epochs: maps.Clone(m.epochs)}
}

// variantPut is a Put of k whose content depends on v, for shards that are deleted and put again with other content.
func variantPut(k segment.Key, v uint64, epoch uint32) *Put {
	p := shardPut(k, epoch)
	p.Data[0] ^= byte(v)
	p.Data[len(p.Data)/2] ^= byte(v >> 8)
	return p
}

func (m *model) put(s *Store, k segment.Key, v uint64) error {
	epoch := max(s.Epoch(k.PG), 1)
	m.mu.Lock()
	m.doubt[k] = true
	m.mu.Unlock()
	err := s.Put(context.Background(), variantPut(k, v, epoch))
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.live[k] = v
		delete(m.gone, k)
		delete(m.doubt, k)
		m.epochs[k.PG] = max(m.epochs[k.PG], epoch)
	}
	return err
}

func (m *model) del(s *Store, keys ...segment.Key) error {
	m.mu.Lock()
	for _, k := range keys {
		m.doubt[k] = true
	}
	m.mu.Unlock()
	_, err := s.Delete(context.Background(), keys)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		for _, k := range keys {
			delete(m.live, k)
			m.gone[k] = true
			delete(m.doubt, k)
		}
	}
	return err
}

func (m *model) fence(s *Store, pg, epoch uint32) error {
	if err := s.Fence(context.Background(), []segment.Epoch{{PG: pg, Epoch: epoch}}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epochs[pg] = max(m.epochs[pg], epoch)
	return nil
}

// check compares the store with the model.
func (m *model) check(s *Store) error {
	ctx := context.Background()
	got := map[segment.Key]bool{}
	for pg := range m.epochs {
		var after *segment.Key
		for more := true; more; {
			var page []Entry
			var err error
			if page, more, err = s.List(ctx, pg, after, 0); err != nil {
				return err
			}
			for i := range page {
				got[page[i].Key] = true
				after = &page[i].Key
			}
		}
		if e := s.Epoch(pg); e < m.epochs[pg] {
			return fmt.Errorf("epoch %d of pg %d, was %d", e, pg, m.epochs[pg])
		}
	}
	for k, v := range m.live {
		if m.doubt[k] {
			continue
		}
		want := variantPut(k, v, 1).Data
		r, err := s.Get(ctx, k, 0, len(want))
		if err != nil {
			return fmt.Errorf("acknowledged shard %v: %w", k, err)
		}
		same := string(r.Bytes) == string(want)
		r.Release()
		if !same {
			return fmt.Errorf("shard %v has other content", k)
		}
		if !got[k] {
			return fmt.Errorf("shard %v is not listed", k)
		}
	}
	for k := range got {
		if m.doubt[k] {
			if _, err := s.Get(ctx, k, 0, 1); err != nil {
				return fmt.Errorf("shard %v is there by half: %w", k, err)
			}
			continue
		}
		if m.gone[k] {
			return fmt.Errorf("deleted shard %v is back", k)
		}
		if _, ok := m.live[k]; !ok {
			return fmt.Errorf("shard %v was never put", k)
		}
	}
	sum := int64(0)
	for k := range got {
		sum += int64(segment.RecordLen(len(shardPut(k, 1).Data)))
	}
	if used := s.Info().Used; used != sum {
		return fmt.Errorf("%d live bytes counted, shards have %d", used, sum)
	}
	if bad := s.Info().Bad; bad != 0 {
		return fmt.Errorf("%d shards marked bad", bad)
	}
	return nil
}

// checkClone opens what a crash left, with its index and without, compacts it, and checks it each time.
func (m *model) checkClone(o Options) error {
	o.Metrics = nil
	var told error
	o.OnBad = func(k segment.Key, err error) { told = fmt.Errorf("shard %v is said to be bad: %w", k, err) }
	for _, rebuild := range []bool{false, true, false, true} {
		if rebuild {
			o.IndexFS = pvfs.NewCrashableMem()
		}
		s, err := Open(context.Background(), o)
		if err != nil {
			return err
		}
		err = m.check(s)
		if err == nil && !rebuild {
			if err = s.Compact(context.Background()); err == nil {
				err = m.check(s)
			}
		}
		if cerr := s.Close(); err == nil {
			err = errors.Join(cerr, told)
		}
		if err != nil {
			return fmt.Errorf("rebuilt %v: %w", rebuild, err)
		}
	}
	return nil
}

// crashEverywhere makes run crash at each operation on files, of segments and of the index, and checks what is left.
func crashEverywhere(t *testing.T, o Options, m *model, fs *opFS, index *pvfs.MemFS, armed func() func(), run func()) {
	var mu sync.Mutex // one crash at a time
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	n, every := 0, 1
	if testing.Short() {
		every = 7
	}
	crash := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		if n++; n%every != 0 || t.Failed() {
			return
		}
		for _, survive := range []float64{0, 1, 0.5, 0.5} {
			clone := o
			var known *model
			clone.FS = fs.CrashClone(rng, survive, func() {
				known = m.copy()
				clone.IndexFS = index.CrashClone(pvfs.CrashCloneCfg{UnsyncedDataPercent: int(survive * 100), RNG: rng})
			})
			if err := known.checkClone(clone); err != nil {
				t.Errorf("crash before operation %d (%s), %v survives: %v", n, what, survive, err)
			}
		}
	}
	fs.before = crash
	disarm := armed()
	run()
	disarm()
	fs.before = nil
	t.Logf("%d operations", n)
	if n < 20 {
		t.Fatal("the test is void: hardly any operation")
	}
}

// Whatever the moment of a crash during compaction and recycling, and while recycled segments are written again, nothing
// acknowledged is lost and nothing deleted comes back; not with the index, and not without.
func TestCrashInCompaction(t *testing.T) {
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
	k := func(i uint64) segment.Key { return key(uint32(i%3+1), 6*i+5, 0) } // 80 KiB on disk
	// Three segments: the first stays, and has shards deleted in the second; of the others little is left.
	for i := range uint64(9) {
		must(m.put(s, k(i), 0))
	}
	must(m.fence(s, 2, 5))
	rotate(t, s)
	must(m.del(s, k(0), k(1)))
	for i := uint64(20); i < 29; i++ {
		must(m.put(s, k(i), 0))
	}
	must(m.fence(s, 7, 3))
	rotate(t, s)
	for i := uint64(40); i < 49; i++ {
		must(m.put(s, k(i), 0))
	}
	rotate(t, s)
	must(m.del(s, k(20), k(21), k(22), k(23), k(24), k(25), k(26)))
	must(m.del(s, k(40), k(41), k(42), k(43), k(44), k(45), k(46), k(47)))
	must(m.put(s, k(20), 77)) // again, with other content
	must(m.put(s, k(2), 0))
	hookFor := func() func() {
		hookMu.Lock()
		hook = fs.before
		hookMu.Unlock()
		return func() {
			hookMu.Lock()
			hook = nil
			hookMu.Unlock()
		}
	}
	crashEverywhere(t, Options{
		Dir: o.Dir, Cluster: o.Cluster, SegmentSize: o.SegmentSize, ReserveBytes: o.ReserveBytes,
		CompactPercent: -1, CompactBytesPerSecond: -1, Logger: o.Logger, MemTableBytes: o.MemTableBytes,
	}, m, fs, index, hookFor, func() {
		// Compaction, and beside it calls that race with it.
		done := make(chan error)
		go func() { done <- s.Compact(context.Background()) }()
		must(m.del(s, k(27), k(48)))
		must(m.put(s, k(60), 0))
		must(<-done)
		if counterValue(t, s.m.Recycled) < 2 {
			t.Error("nothing was recycled")
		}
		// What was recycled is used again.
		recycled := s.spares[0].header.Incarnation
		for i := uint64(70); i < 84; i++ {
			must(m.put(s, k(i), 0))
		}
		must(m.del(s, k(70), k(71), k(28), k(20)))
		if recycled == 0 || s.Info().Segments > 6 {
			t.Error("no recycled segment was used")
		}
		must(s.Compact(context.Background()))
		// The first segment goes, then the deletions that it kept in the log.
		must(m.del(s, k(2), k(3), k(4), k(5), k(6), k(7), k(8)))
		for i := uint64(90); i < 98; i++ {
			must(m.put(s, k(i), 0))
			must(m.del(s, k(i)))
		}
		must(s.Compact(context.Background()))
		for i := uint64(100); i < 104; i++ {
			must(m.put(s, k(i), 0))
		}
	})
	must(m.check(s))
	mustClose(t, s)
}
