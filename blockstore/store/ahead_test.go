package store

import (
	"context"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// zeroing is how far the newest segment that is being made is filled, and what was wrong with that.
type zeroing struct {
	done  atomic.Int64
	large atomic.Int64 // the largest piece written at once
	begun chan struct{}
}

// watchZeros has o's store tell how it fills segments that it makes after the first.
func watchZeros(o *Options) *zeroing {
	o.fillBelow = math.MaxInt64 / 1_000_000
	z := &zeroing{begun: make(chan struct{})}
	o.FS = vfile.NewFaults(o.FS, func(c vfile.Call) *vfile.Fault {
		if c.Op != vfile.OpZero || !strings.HasSuffix(c.Name, "2"+newSuffix) {
			return nil
		}
		if c.Off == 0 {
			close(z.begun)
		}
		z.done.Store(c.Off + c.Len)
		z.large.Store(max(z.large.Load(), c.Len))
		return nil
	})
	return z
}

// A segment that nobody waits for is filled little by little, along with what is appended, and is there when the active one is full.
func TestAhead(t *testing.T) {
	o := memOptions(-1)
	o.SegmentSize = 8 << 20
	z := watchZeros(&o)
	s := mustOpen(t, o)
	defer mustClose(t, s)
	const size = 64 << 10
	appended := func() int64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.ahead.appended
	}
	waits := func() bool { // the preparer has done what there was to do
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.spares) > 0 || s.ahead.at > s.ahead.appended && s.ahead.at < 1<<62
	}
	for block := uint64(0); ; block++ {
		p := &Put{Key: key(1, block, 0), Epoch: 1, K: 2, M: 1, BlockLen: 2 * size, Data: make([]byte, size)}
		if err := s.Put(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		if appended() < 2<<20+2*segment.HeaderSize+size {
			continue
		}
		<-z.begun
		for !waits() {
			runtime.Gosched() // it is awake, or about to be
		}
		if n := appended(); z.done.Load() > 2*(n-1<<20) {
			t.Fatalf("%d bytes are filled with zeros after %d bytes of records", z.done.Load(), n)
		}
		s.mu.Lock()
		left, spares := s.active.header.End()-s.next, len(s.spares)
		second := s.active.header.File == 2
		s.mu.Unlock()
		if second {
			t.Fatal("the first segment is full, and the next one was not ready before")
		}
		if spares > 0 {
			if left < 512<<10 || left > 4<<20 {
				t.Fatalf("the next segment is ready when %d bytes are left", left)
			}
			break
		}
	}
	if z.large.Load() > zeroStep {
		t.Fatalf("%d bytes of zeros were written at once", z.large.Load())
	}
}

// Who waits for a segment that is being filled along with others' records gets it at once.
func TestAheadInAHurry(t *testing.T) {
	o := memOptions(-1)
	z := watchZeros(&o)
	s := mustOpen(t, o)
	defer mustClose(t, s)
	put := func(block uint64, n int) {
		t.Helper()
		p := &Put{Key: key(1, block, 0), Epoch: 1, K: 1, M: 1, BlockLen: uint32(n), Data: make([]byte, n)}
		if err := s.Put(context.Background(), p); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 300<<10)
	<-z.begun
	put(2, 380<<10) // the last quarter of the next segment is due after 407 KiB
	s.mu.Lock()
	spares := len(s.spares)
	s.mu.Unlock()
	if spares != 0 {
		t.Fatal("the next segment is ready before it is waited for")
	}
	put(3, 448<<10)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active.header.File != 2 {
		t.Fatalf("the record is in segment %d", s.active.header.File)
	}
}

// A store that is closed while it fills a segment leaves nothing of it.
func TestAheadEndsWithTheStore(t *testing.T) {
	o := memOptions(-1)
	o.SegmentSize = 8 << 20
	z := watchZeros(&o)
	s := mustOpen(t, o)
	for block := uint64(1); block <= 3; block++ {
		if err := s.Put(context.Background(), &Put{Key: key(1, block, 0), Epoch: 1, K: 1, M: 1, BlockLen: 1 << 20, Data: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
	}
	<-z.begun
	mustClose(t, s)
	names, err := o.FS.List("/s/segments")
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	if vfs.KindOf(s.Put(context.Background(), shardPut(key(1, 9, 0), 1))) != vfs.KindUnavailable {
		t.Fatal("a closed store takes a shard")
	}
}

// lazyFS is a file system that cannot reserve space.
type lazyFS struct{ vfile.FS }

type lazyFile struct{ vfile.File }

func (fs lazyFS) Create(name string) (vfile.File, error) {
	f, err := fs.FS.Create(name)
	return lazyFile{f}, err
}

func (f lazyFile) Allocate(size int64) (bool, error) {
	_, err := f.File.Allocate(size)
	return false, err
}

// A segment is filled with zeros where little was synced at a time since the last one was begun, and where its space is not there otherwise.
func TestFill(t *testing.T) {
	const small, large = 16 << 10, 900 << 10
	for name, x := range map[string]struct {
		sizes []int // of the records of one segment after the other
		lazy  bool
		want  []bool // of those after the second, which may be begun early
	}{
		"small groups":      {[]int{small, small, small}, false, []bool{true, true}},
		"large groups":      {[]int{large, large, large}, false, []bool{false, false}},
		"large, then small": {[]int{large, large, small, small}, false, []bool{false, true, true}},
		"nothing reserved":  {[]int{large, large, large}, true, []bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions(-1)
			o.SegmentSize = 8 << 20
			if x.lazy {
				o.FS = lazyFS{o.FS}
			}
			var mu sync.Mutex
			filled := map[string]int64{}
			o.FS = vfile.NewFaults(o.FS, func(c vfile.Call) *vfile.Fault {
				if c.Op == vfile.OpZero {
					mu.Lock()
					defer mu.Unlock()
					filled[path.Base(c.Name)] += c.Len
				}
				return nil
			})
			s := mustOpen(t, o)
			defer mustClose(t, s)
			block := uint64(0)
			for i, size := range x.sizes {
				goesOn := func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.active == nil || s.active.header.File <= uint32(i+1)
				}
				for ; goesOn(); block++ {
					p := &Put{Key: key(1, block, 0), Epoch: 1, K: 1, M: 1, BlockLen: uint32(size), Data: make([]byte, size)}
					if err := s.Put(context.Background(), p); err != nil {
						t.Fatal(err)
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for i, want := range x.want {
				name := path.Base(s.segmentPath(uint32(i+3), newSuffix))
				if got := filled[name]; got > 0 != want || want && got < o.SegmentSize {
					t.Errorf("%d bytes of segment %d of %d are filled with zeros", got, i+3, o.SegmentSize)
				}
			}
		})
	}
}

// On a disk, a log in segments that were not filled is replayed to its end, and its shards are read.
func TestReplayOfUnfilled(t *testing.T) {
	o := diskOptions(t)
	o.fillBelow = -1
	s := mustOpen(t, o)
	keys := putMany(t, s, 1, 400)
	mustClose(t, s)
	if err := os.RemoveAll(filepath.Join(o.Dir, "index")); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	defer mustClose(t, s)
	for _, k := range keys {
		r, err := s.Get(context.Background(), k, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
	}
}
