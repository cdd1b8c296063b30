package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

func TestPutGet(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{{"disk", diskOptions(t)}, {"mem", memOptions(-1)}} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			s := mustOpen(t, c.o)
			var keys []segment.Key
			for b := range uint64(30) {
				for _, sh := range []uint8{0, 4} {
					keys = append(keys, key(uint32(b%2+1), b, sh))
				}
			}
			for _, k := range keys {
				mustPut(t, s, k)
			}
			for _, k := range keys {
				checkShard(t, s, k)
				want := shardPut(k, 1)
				for _, r := range [][2]int{{0, 0}, {0, 1}, {1, 100}, {4095, 2}, {4096, 10}, {5000, 4000}, {len(want.Data) - 1, 1}, {len(want.Data), 0}} {
					if r[0]+r[1] > len(want.Data) {
						continue
					}
					got, err := s.Get(ctx, k, r[0], r[1])
					if err != nil || !bytes.Equal(got.Bytes, want.Data[r[0]:r[0]+r[1]]) {
						t.Fatalf("%v bytes %v: %v", k, r, err)
					}
					got.Release()
				}
				for _, r := range [][2]int{{-1, 1}, {0, -1}, {0, len(want.Data) + 1}, {len(want.Data) + 1, 0}, {1 << 62, 1 << 62}} {
					_, err := s.Get(ctx, k, r[0], r[1])
					wantKind(t, err, vfs.KindInvalid)
				}
				e, owner, err := s.Stat(ctx, k)
				if err != nil || owner != want.Owner || e.Key != k || int(e.Length) != len(want.Data) || e.BlockLen != want.BlockLen || e.K != 4 || e.M != 2 || e.Epoch != 1 {
					t.Fatalf("stat %+v %+v: %v", e, owner, err)
				}
			}
			_, err := s.Get(ctx, key(1, 999, 0), 0, 1)
			wantKind(t, err, vfs.KindNotFound)
			_, err = s.Get(ctx, key(2, 0, 0), 0, 1) // block 0 is in pg 1
			wantKind(t, err, vfs.KindNotFound)
			if got := listAll(t, s, 1, 7); len(got) != 30 {
				t.Fatalf("%d shards listed, want 30", len(got))
			}
			checkLive(t, s, 1, 2)
			mustClose(t, s)
			_, err = s.Get(ctx, keys[0], 0, 1)
			wantKind(t, err, vfs.KindUnavailable)
			wantKind(t, s.Put(ctx, shardPut(keys[0], 1)), vfs.KindUnavailable)

			c.o.Create = false
			s = mustOpen(t, c.o)
			for _, k := range keys {
				checkShard(t, s, k)
			}
			checkLive(t, s, 1, 2)
			mustClose(t, s)
		})
	}
}

func TestPutAgain(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, memOptions(-1))
	defer mustClose(t, s)
	k := key(1, 4, 0)
	mustPut(t, s, k)
	used := s.Info().Used
	mustPut(t, s, k)
	if got := s.Info().Used; got != used {
		t.Fatalf("the same shard again takes %d more bytes", got-used)
	}
	p := shardPut(k, 1)
	p.Data[77] ^= 1
	wantKind(t, s.Put(ctx, p), vfs.KindExists)
	checkShard(t, s, k)

	// A damaged one is replaced.
	l, _, err := s.lookup(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.segs[l.file].f.WriteAt([]byte{1, 2, 3}, l.offset()+5000); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(ctx, k, 0, 8192)
	wantKind(t, err, vfs.KindCorrupt)
	mustPut(t, s, k)
	checkShard(t, s, k)
	checkLive(t, s, 1)

	// The same shard from two sides at once is one shard.
	var wg sync.WaitGroup
	var exists, ok atomic.Int32
	for i := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := shardPut(key(1, 5, 0), 1)
			p.Data[0] = byte(i % 2)
			switch err := s.Put(ctx, p); vfs.KindOf(err) {
			case vfs.KindOK:
				ok.Add(1)
			case vfs.KindExists:
				exists.Add(1)
			default:
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if ok.Load() != 8 || exists.Load() != 8 {
		t.Fatalf("%d accepted, %d refused, want 8 of each", ok.Load(), exists.Load())
	}
}

func TestPutRefusesNonsense(t *testing.T) {
	s := mustOpen(t, memOptions(-1))
	defer mustClose(t, s)
	for name, f := range map[string]func(p *Put){
		"profile":          func(p *Put) { p.K = 0 },
		"block length":     func(p *Put) { p.BlockLen = 0 },
		"long block":       func(p *Put) { p.BlockLen = 1 << 31 },
		"shard beyond k+m": func(p *Put) { p.Key.Shard = 6 },
		"zero shard":       func(p *Put) { p.Key.Shard = 1 },
		"short data":       func(p *Put) { p.Data = p.Data[:len(p.Data)-1] },
		"no data":          func(p *Put) { p.Data = nil },
		"too big for the segment": func(p *Put) {
			p.K, p.M, p.BlockLen, p.Data = 1, 0, 1<<20, make([]byte, 1<<20)
		},
	} {
		p := shardPut(key(1, 3, 0), 1)
		f(p)
		if err := s.Put(context.Background(), p); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEpochs(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	s := mustOpen(t, o)
	put := func(b uint64, epoch uint32) error { return s.Put(ctx, shardPut(key(1, b, 0), epoch)) }
	check := func(err error, k vfs.Kind) { t.Helper(); wantKind(t, err, k) }
	check(put(1, 5), vfs.KindOK)
	check(put(2, 4), vfs.KindFenced) // an older epoch than a Put's
	check(put(2, 5), vfs.KindOK)
	check(s.Put(ctx, shardPut(key(2, 2, 0), 1)), vfs.KindOK) // other PGs have their own
	check(s.Fence(ctx, []segment.Epoch{{PG: 1, Epoch: 7}}), vfs.KindOK)
	check(put(3, 6), vfs.KindFenced)
	check(s.Fence(ctx, []segment.Epoch{{PG: 1, Epoch: 6}}), vfs.KindFenced)
	check(put(1, 8), vfs.KindOK) // stored already, yet it tells of epoch 8
	check(put(3, 7), vfs.KindFenced)
	mustClose(t, s)
	for _, rebuild := range []bool{false, true} {
		if rebuild {
			o.IndexFS = pvfs.NewCrashableMem()
		}
		s = mustOpen(t, o)
		check(put(3, 7), vfs.KindFenced)
		if e := s.Epoch(1); e != 8 {
			t.Fatalf("epoch %d after a restart, want 8", e)
		}
		mustClose(t, s)
	}
}

// Any flipped bit of a stored shard or of its header is found by the Get that touches it. From then on the shard is
// missing for List and can be put again.
func TestBadShard(t *testing.T) {
	ctx := context.Background()
	o := memOptions(-1)
	var told []segment.Key
	o.OnBad = func(k segment.Key, err error) {
		wantKind(t, err, vfs.KindCorrupt)
		told = append(told, k)
	}
	s := mustOpen(t, o)
	k, other := key(1, 5, 0), key(1, 4, 0) // 76 KiB
	mustPut(t, s, k)
	mustPut(t, s, other)
	flip := func(at int64) {
		t.Helper()
		l, ok, err := s.lookup(k)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		f := s.segs[l.file].f
		var b [1]byte
		if _, err := f.ReadAt(b[:], l.offset()+at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0x20
		if _, err := f.WriteAt(b[:], l.offset()+at); err != nil {
			t.Fatal(err)
		}
	}
	get := func(off, n int, want vfs.Kind) {
		t.Helper()
		r, err := s.Get(ctx, k, off, n)
		wantKind(t, err, want)
		r.Release()
	}
	listed := func(want ...segment.Key) {
		t.Helper()
		var got []segment.Key
		for _, e := range listAll(t, s, 1, 10) {
			got = append(got, e.Key)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("listed %v, want %v", got, want)
		}
	}
	bad := func(want ...segment.Key) {
		t.Helper()
		got, more, err := s.ListBad(ctx, nil, 10)
		if err != nil || more || !slices.Equal(got, want) || s.Info().Bad != len(want) {
			t.Fatalf("bad %v (%d), want %v: %v", got, s.Info().Bad, want, err)
		}
	}
	for i, at := range []int64{0, 7, 9, 60, 127, 128, 131} { // header and its table
		flip(at)
		get([]int{0, 40000}[i%2], 100, vfs.KindCorrupt)
		get(0, 0, vfs.KindCorrupt)
		listed(other)
		bad(k)
		mustPut(t, s, k)
		listed(other, k)
		bad()
		checkShard(t, s, k)
	}
	if len(told) != 7 || told[0] != k {
		t.Fatalf("told of %v", told)
	}
	flip(4096 + 8192 + 17)
	get(0, 8192, vfs.KindOK)
	get(12288, 100, vfs.KindOK)
	get(8192, 1, vfs.KindCorrupt)
	get(12288, 100, vfs.KindCorrupt) // all of it is given up
	// The mark outlives a restart; with a new index the shard is not there at all.
	mustClose(t, s)
	s = mustOpen(t, o)
	get(0, 100, vfs.KindCorrupt)
	listed(other)
	bad(k)
	mustClose(t, s)
	o2 := o
	o2.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o2)
	listed(other)
	mustClose(t, s)
	// A bad shard can be deleted too.
	s = mustOpen(t, o)
	if n, err := s.Delete(ctx, []segment.Key{k}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	get(0, 100, vfs.KindNotFound)
	bad()
	mustPut(t, s, k)
	checkShard(t, s, k)
	checkLive(t, s, 1)
	mustClose(t, s)
}

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	o := diskOptions(t)
	open := func(f func(o *Options)) error {
		o := o
		f(&o)
		s, err := Open(ctx, o)
		if err == nil {
			s.Close()
		}
		return err
	}
	check := func(err error, k vfs.Kind, words ...string) {
		t.Helper()
		wantKind(t, err, k)
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not say %q", err, w)
			}
		}
	}
	check(open(func(o *Options) { o.Create = false }), vfs.KindNotFound, "mounted?")
	check(open(func(o *Options) { o.Cluster = segment.ID{} }), vfs.KindInvalid, "cluster id")
	check(open(func(o *Options) { o.SegmentSize = 12345 }), vfs.KindInvalid, "segment size")
	s := mustOpen(t, o)
	mustPut(t, s, key(1, 1, 0))
	check(open(func(*Options) {}), vfs.KindBusy, "in use by another process")
	mustClose(t, s)
	check(open(func(o *Options) { o.Cluster = segment.ID{7} }), vfs.KindIncompatible, "belongs to cluster")

	name := filepath.Join(o.Dir, superblockName)
	orig, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	write := func(p []byte) {
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := bytes.Clone(orig)
	p[100] ^= 1
	write(p)
	check(open(func(*Options) {}), vfs.KindCorrupt, "damaged")
	write([]byte("hello"))
	check(open(func(*Options) {}), vfs.KindCorrupt, "not the superblock")
	newer, err := decodeSuperblock("", orig)
	if err != nil {
		t.Fatal(err)
	}
	p = newer.encode()
	le.PutUint16(p[8:], 2)
	copy(p[16:48], "rackfs 9.7\x00\x00\x00")
	le.PutUint32(p[superblockSize-4:], segment.PageCRCs(nil, p[:superblockSize-4])[0])
	write(p)
	check(open(func(*Options) {}), vfs.KindIncompatible, "format 2", "rackfs 9.7")
	write(orig)

	// A segment of another store.
	other := diskOptions(t)
	s = mustOpen(t, other)
	mustPut(t, s, key(1, 1, 0))
	mustClose(t, s)
	seg, err := filepath.Glob(filepath.Join(other.Dir, "segments", "*.seg"))
	if err != nil || len(seg) == 0 {
		t.Fatal(seg, err)
	}
	stray := filepath.Join(o.Dir, "segments", "00000077.seg")
	if err := os.Rename(seg[0], stray); err != nil {
		t.Fatal(err)
	}
	check(open(func(*Options) {}), vfs.KindIncompatible, "by mistake")
	if err := os.Remove(stray); err != nil {
		t.Fatal(err)
	}

	// A directory with something else in it.
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	check(open(func(*Options) {}), vfs.KindIncompatible, "left untouched")
	write(orig)
	s = mustOpen(t, o)
	checkShard(t, s, key(1, 1, 0))
	mustClose(t, s)
}

// An index that is gone, damaged, or another store's is made anew; one that is damaged while in use is made anew at the next start.
func TestIndexRebuilt(t *testing.T) {
	other := diskOptions(t)
	s := mustOpen(t, other)
	mustPut(t, s, key(1, 7, 0))
	mustClose(t, s)
	for name, damage := range map[string]func(dir string) error{
		"gone":   func(dir string) error { return os.RemoveAll(dir) },
		"marked": func(dir string) error { return os.WriteFile(filepath.Join(dir, "..", rebuildName), nil, 0o600) },
		"foreign": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join(other.Dir, "index"))))
		},
		"garbage": func(dir string) error {
			return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".sst") && !strings.HasPrefix(d.Name(), "MANIFEST") {
					return err
				}
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				for i := range b {
					b[i] ^= 0x55
				}
				return os.WriteFile(p, b, 0o600)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := diskOptions(t)
			s := mustOpen(t, o)
			for b := range uint64(20) {
				mustPut(t, s, key(1, b, 0))
			}
			if _, err := s.Delete(context.Background(), []segment.Key{key(1, 3, 0)}); err != nil {
				t.Fatal(err)
			}
			mustClose(t, s)
			if err := damage(filepath.Join(o.Dir, "index")); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o)
			if got := listAll(t, s, 1, 6); len(got) != 19 {
				t.Fatalf("%d shards, want 19", len(got))
			}
			for b := range uint64(20) {
				if b != 3 {
					checkShard(t, s, key(1, b, 0))
				}
			}
			checkLive(t, s, 1)
			mustClose(t, s)
			if _, err := os.Stat(filepath.Join(o.Dir, rebuildName)); err == nil {
				t.Fatal("the request for a new index is still there")
			}
		})
	}
}

// A clean stop leaves nothing to replay.
func TestCleanRestartReplaysNothing(t *testing.T) {
	o := memOptions(-1)
	s := mustOpen(t, o)
	for b := range uint64(40) {
		mustPut(t, s, key(1, b, 0))
	}
	mustClose(t, s)
	o.Metrics = NewMetrics(nil, nil)
	s = mustOpen(t, o)
	defer mustClose(t, s)
	if n := counterValue(t, o.Metrics.Replayed); n != 0 {
		t.Fatalf("%v records replayed", n)
	}
	mustPut(t, s, key(1, 1000, 0))
}

func TestSegmentHeaderCopy(t *testing.T) {
	o := memOptions(-1)
	s := mustOpen(t, o)
	mustPut(t, s, key(1, 1, 0))
	file := s.active.header.File
	mustClose(t, s)
	f, err := o.FS.Open(s.segmentPath(file, segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	junk := bytes.Repeat([]byte{0x66}, 4096)
	if _, err := f.WriteAt(junk, 0); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	checkShard(t, s, key(1, 1, 0))
	mustClose(t, s)
	// Opening has restored the copy. Without both the segment's shards are lost, the store is not.
	for _, off := range []int64{0, MinSegmentSize - 4096} {
		if _, err := f.WriteAt(junk, off); err != nil {
			t.Fatal(err)
		}
	}
	o.IndexFS = pvfs.NewCrashableMem()
	s = mustOpen(t, o)
	_, err = s.Get(context.Background(), key(1, 1, 0), 0, 1)
	wantKind(t, err, vfs.KindNotFound)
	mustPut(t, s, key(1, 2, 0))
	checkShard(t, s, key(1, 2, 0))
	mustClose(t, s)
}

func TestConcurrent(t *testing.T) {
	s := mustOpen(t, diskOptions(t))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 40 {
				k := key(uint32(w+1), uint64(i), 0)
				mustPut(t, s, k)
				checkShard(t, s, k)
				if i%5 == 4 {
					if n, err := s.Delete(context.Background(), []segment.Key{k, k, key(99, 1, 1)}); n != 1 || err != nil {
						t.Error(n, err)
					}
				}
			}
		}()
	}
	wg.Wait()
	for w := range 8 {
		if n := len(listAll(t, s, uint32(w+1), 9)); n != 32 {
			t.Fatal(fmt.Sprint(n, " shards listed, want 32"))
		}
	}
	checkLive(t, s, 1, 2, 3, 4, 5, 6, 7, 8)
	mustClose(t, s)
}
