package store

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// gate holds back syncs of a file system, and can fail them.
type gate struct {
	vfile.FS
	mu      sync.Mutex
	hold    chan struct{} // syncs wait for it while it is not nil
	waiting chan struct{} // one value per sync that began to wait
	fail    error
	failWr  error // of writes of records and headers
	failRd  func(name string, off int64, n int) error
}

func (g *gate) Create(name string) (vfile.File, error) { return g.wrap(name)(g.FS.Create(name)) }
func (g *gate) Open(name string) (vfile.File, error)   { return g.wrap(name)(g.FS.Open(name)) }
func (g *gate) wrap(name string) func(vfile.File, error) (vfile.File, error) {
	return func(f vfile.File, err error) (vfile.File, error) {
		if err != nil {
			return nil, err
		}
		return &gatedFile{f, g, name}, nil
	}
}

type gatedFile struct {
	vfile.File
	g    *gate
	name string
}

func (f *gatedFile) SyncData() error {
	f.g.mu.Lock()
	hold, fail := f.g.hold, f.g.fail
	f.g.mu.Unlock()
	if hold != nil {
		f.g.waiting <- struct{}{}
		<-hold
	}
	if fail != nil {
		return fail
	}
	return f.File.SyncData()
}

func (f *gatedFile) writeError() error {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	return f.g.failWr
}

func (f *gatedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.writeError(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *gatedFile) WriteVec(bufs [][]byte, off int64) error {
	if err := f.writeError(); err != nil {
		return err
	}
	return f.File.WriteVec(bufs, off)
}

func (f *gatedFile) ReadAt(p []byte, off int64) (int, error) {
	if f.g.failRd != nil {
		if err := f.g.failRd(f.name, off, len(p)); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(p, off)
}

func (g *gate) set(hold chan struct{}, fail error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold, g.fail = hold, fail
}

// A Put is neither acknowledged nor visible before its sync ended, Puts that come meanwhile share the next
// sync, and Fence waits for Puts under older epochs.
func TestGroupCommit(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	g := &gate{FS: o.FS, waiting: make(chan struct{}, 100)}
	o.FS = g
	s := mustOpen(t, o)
	mustPut(t, s, key(1, 0, 0))
	hold := make(chan struct{})
	g.set(hold, nil)
	done := make(chan uint64, 20)
	put := func(b uint64) {
		if err := s.Put(ctx, shardPut(key(1, b, 0), 1)); err != nil {
			t.Error(err)
		}
		done <- b
	}
	go put(6)
	<-g.waiting
	if _, err := s.Get(ctx, key(1, 6, 0), 0, 1); vfs.KindOf(err) != vfs.KindNotFound {
		t.Fatalf("a shard is readable before it is durable: %v", err)
	}
	for b := range uint64(9) {
		go put(b + 12)
	}
	for written := 0; written < 9; {
		s.mu.Lock()
		written = len(s.pending)
		s.mu.Unlock()
	}
	fenced := make(chan error)
	go func() { fenced <- s.Fence(ctx, []segment.Epoch{{PG: 1, Epoch: 2}}) }()
	for s.Epoch(1) != 2 {
	}
	wantKind(t, s.Put(ctx, shardPut(key(1, 50, 0), 1)), vfs.KindFenced)
	select {
	case b := <-done:
		t.Fatalf("put of block %d returned before its sync", b)
	case <-fenced:
		t.Fatal("fence returned while older Puts run")
	default:
	}
	cctx, cancel := context.WithCancel(ctx)
	cancel()
	wantKind(t, s.Put(cctx, shardPut(key(1, 51, 0), 2)), vfs.KindCanceled)
	g.set(nil, nil)
	close(hold)
	for range 10 {
		<-done
	}
	if err := <-fenced; err != nil {
		t.Fatal(err)
	}
	if n := len(g.waiting); n != 0 {
		t.Fatalf("%d further syncs were made under the hold", n)
	}
	for _, b := range []uint64{6, 12, 20} {
		checkShard(t, s, key(1, b, 0))
	}
	mustClose(t, s)
}

func TestFailedSync(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	g := &gate{FS: o.FS, waiting: make(chan struct{}, 100)}
	o.FS = g
	s := mustOpen(t, o)
	mustPut(t, s, key(1, 0, 0))
	g.set(nil, syscall.EIO)
	wantKind(t, s.Put(ctx, shardPut(key(1, 1, 0), 1)), vfs.KindIO)
	g.set(nil, nil)
	// The kernel would report success now; the store does not believe it.
	wantKind(t, s.Put(ctx, shardPut(key(1, 2, 0), 1)), vfs.KindIO)
	if s.Info().Writable {
		t.Fatal("store says that it is writable")
	}
	_, err := s.Get(ctx, key(1, 1, 0), 0, 1)
	wantKind(t, err, vfs.KindNotFound)
	checkShard(t, s, key(1, 0, 0))
	mustClose(t, s)
	s = mustOpen(t, o)
	mustPut(t, s, key(1, 2, 0))
	checkShard(t, s, key(1, 0, 0))
	mustClose(t, s)
}

// A disk that fails, or turned read-only, takes no more writes of any kind, says so, and is still read. What it had
// acknowledged is there when it is opened again.
func TestFailingDisk(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		write, sync error
		kind        vfs.Kind
	}{
		"write EIO":   {syscall.EIO, nil, vfs.KindIO},
		"write EROFS": {syscall.EROFS, nil, vfs.KindReadOnly},
		"sync EIO":    {nil, syscall.EIO, vfs.KindIO},
		"sync EROFS":  {nil, syscall.EROFS, vfs.KindReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			o := manual()
			g := &gate{FS: o.FS, waiting: make(chan struct{}, 100)}
			o.FS = g
			s := mustOpen(t, o)
			keys := putMany(t, s, 1, 30)
			mustDelete(t, s, keys[:5]...)
			keys = keys[5:]
			g.mu.Lock()
			g.fail, g.failWr = c.sync, c.write
			g.mu.Unlock()
			wantKind(t, s.Put(ctx, shardPut(key(1, 100, 0), 1)), c.kind)
			// The disk seems well again; what it lost meanwhile nobody knows.
			g.mu.Lock()
			g.fail, g.failWr = nil, nil
			g.mu.Unlock()
			wantKind(t, s.Put(ctx, shardPut(key(1, 100, 0), 1)), c.kind)
			_, err := s.Delete(ctx, keys[:1])
			wantKind(t, err, c.kind)
			wantKind(t, s.Fence(ctx, []segment.Epoch{{PG: 1, Epoch: 9}}), c.kind)
			wantKind(t, s.Compact(ctx), c.kind)
			if i := s.Info(); i.Writable || i.Failure == "" {
				t.Fatalf("%+v", i)
			}
			for _, k := range keys {
				checkShard(t, s, k)
			}
			if res, err := s.Scrub(ctx, nil, nil, nil); err != nil || res.Bad != 0 || res.Shards != int64(len(keys)) {
				t.Fatalf("%+v %v", res, err)
			}
			mustClose(t, s)
			s = mustOpen(t, o)
			for _, k := range keys {
				checkShard(t, s, k)
			}
			mustPut(t, s, key(1, 100, 0))
			if !s.Info().Writable {
				t.Fatal("not writable after it was opened anew")
			}
			mustClose(t, s)
		})
	}
}

// An index that cannot be written ends writes, not reads, and does not hold up Close.
func TestFailingIndex(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	index := o.IndexFS
	var failing atomic.Bool
	o.IndexFS = errorfs.Wrap(index, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	}))
	s := mustOpen(t, o)
	var keys []segment.Key
	put := func(b uint64) error {
		k := key(1, 6*b, 0)
		err := s.Put(ctx, shardPut(k, 1))
		if err == nil {
			keys = append(keys, k)
		}
		return err
	}
	for b := range uint64(50) {
		if err := put(b); err != nil {
			t.Fatal(err)
		}
	}
	failing.Store(true)
	var err error
	for b := uint64(50); err == nil; b++ {
		err = put(b)
	}
	wantKind(t, err, vfs.KindIO)
	if s.Info().Writable {
		t.Fatal("still writable")
	}
	for _, k := range keys {
		checkShard(t, s, k)
	}
	mustClose(t, s)
	failing.Store(false)
	s = mustOpen(t, o)
	for _, k := range keys {
		checkShard(t, s, k)
	}
	mustClose(t, s)
}

func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name     string
		disk     int64
		capacity int64
	}{{"disk", 5*MinSegmentSize + 64<<10, 0}, {"capacity", -1, 5 * MinSegmentSize}} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			o := memOptions(c.disk)
			o.Capacity = c.capacity
			s := mustOpen(t, o)
			var kept []segment.Key
			var err error
			for b := uint64(5); err == nil; b += 6 {
				k := key(1, b, 0)
				if err = s.Put(ctx, shardPut(k, 1)); err == nil {
					kept = append(kept, k)
				}
			}
			wantKind(t, err, vfs.KindNoSpace)
			if used := len(kept) * segment.RecordLen(76<<10); used < 3*MinSegmentSize*8/10 {
				t.Fatalf("full with %d of %d bytes used", used, 3*MinSegmentSize)
			}
			wantKind(t, s.Put(ctx, shardPut(key(1, 1<<40+1, 0), 1)), vfs.KindNoSpace)
			for _, k := range kept {
				checkShard(t, s, k)
			}
			// It can still be told what to forget, and what epoch it is.
			var n int
			if n, err = s.Delete(ctx, kept[:3]); n != 3 || err != nil {
				t.Fatal(n, err)
			}
			if err := s.Fence(ctx, []segment.Epoch{{PG: 9, Epoch: 9}}); err != nil {
				t.Fatal(err)
			}
			mustClose(t, s)
			s = mustOpen(t, o)
			for _, k := range kept[3:] {
				checkShard(t, s, k)
			}
			// What was deleted makes room for as much again, and not for much more.
			for i := range uint64(3) {
				mustPut(t, s, key(1, 6<<40+5+6*i, 0))
			}
			for i := uint64(3); err == nil || vfs.KindOf(err) == vfs.KindOK; i++ {
				if i == 6 {
					t.Fatal("more fits than was deleted")
				}
				err = s.Put(ctx, shardPut(key(1, 6<<40+5+6*i, 0), 1))
			}
			wantKind(t, err, vfs.KindNoSpace)
			for _, k := range kept[3:] {
				checkShard(t, s, k)
			}
			mustClose(t, s)
		})
	}
}

func TestReadError(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	var bad atomic.Int64
	bad.Store(-1)
	g := &gate{FS: o.FS, failRd: func(_ string, off int64, n int) error {
		if b := bad.Load(); b >= off && b < off+int64(n) {
			return syscall.EIO
		}
		return nil
	}}
	o.FS = g
	s := mustOpen(t, o)
	for b := range uint64(6) {
		mustPut(t, s, key(1, b, 0))
	}
	l, _, err := s.lookup(key(1, 3, 0))
	if err != nil {
		t.Fatal(err)
	}
	bad.Store(l.offset() + 10) // its header
	_, err = s.Get(ctx, key(1, 3, 0), 0, 1)
	wantKind(t, err, vfs.KindCorrupt)
	mustClose(t, s)
	// With an index to make anew, the bad sector costs one shard, and the segment takes no more records.
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	_, err = s.Get(ctx, key(1, 3, 0), 0, 1)
	wantKind(t, err, vfs.KindNotFound)
	for _, b := range []uint64{0, 1, 2, 4, 5} {
		checkShard(t, s, key(1, b, 0))
	}
	mustPut(t, s, key(1, 100, 0))
	if n, _, _ := s.lookup(key(1, 100, 0)); n.file == l.file {
		t.Fatal("a record was appended to a segment that could not be read to its end")
	}
	mustClose(t, s)
}
