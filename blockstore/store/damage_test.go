package store

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// putMany stores n shards of all sizes in pg.
func putMany(t *testing.T, s *Store, pg uint32, n uint64) []segment.Key {
	t.Helper()
	var keys []segment.Key
	for b := range n {
		k := key(pg, b, uint8(4*(b%2)))
		mustPut(t, s, k)
		keys = append(keys, k)
	}
	return keys
}

// Wherever a bit flips, a Get returns the right bytes or says that it cannot, the scrub finds every shard that is
// damaged, and these can be put again.
func TestFlippedBits(t *testing.T) {
	ctx := context.Background()
	o := manual()
	s := mustOpen(t, o)
	rng := rand.New(rand.NewPCG(3, 9))
	keys := putMany(t, s, 1, 120)
	mustDelete(t, s, keys[:10]...)
	keys = keys[10:]
	for round := range 20 {
		flips := 1 + rng.IntN(30)
		for range flips {
			s.mu.Lock()
			var files []*seg
			for _, g := range s.segs {
				files = append(files, g)
			}
			s.mu.Unlock()
			g := files[rng.IntN(len(files))]
			off := rng.Int64N(MinSegmentSize)
			if rng.IntN(2) == 0 {
				// Half of them hit a record's header, its table or the start of its data.
				l, _, err := s.lookup(keys[rng.IntN(len(keys))])
				if err != nil {
					t.Fatal(err)
				}
				if g = s.segs[l.file]; g == nil {
					continue
				}
				off = l.offset() + rng.Int64N(6000)
			}
			var b [1]byte
			if _, err := g.f.ReadAt(b[:], off); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 1 << rng.IntN(8)
			if _, err := g.f.WriteAt(b[:], off); err != nil {
				t.Fatal(err)
			}
		}
		// Damage as an independent check sees it: header as decoded, and data compared.
		damaged := map[segment.Key]bool{}
		for _, k := range keys {
			l, _, err := s.lookup(k)
			if err != nil {
				t.Fatal(err)
			}
			want := shardPut(k, 1)
			raw := make([]byte, segment.HeaderLen(len(want.Data))+len(want.Data))
			if _, err := s.segs[l.file].f.ReadAt(raw, l.offset()); err != nil {
				t.Fatal(err)
			}
			h := s.segs[l.file].header
			r := segment.Record{Kind: segment.KindShard, Shard: k.Shard, K: 4, M: 2, PG: k.PG, Epoch: 1, Block: k.Block,
				BlockLen: want.BlockLen, Length: uint32(len(want.Data)), Owner: want.Owner, Offset: l.offset()}
			head := segment.EncodeRecord(make([]byte, segment.HeaderLen(len(want.Data))), &h, &r, segment.PageCRCs(nil, want.Data))
			span := segment.HeaderSpan(len(want.Data))
			damaged[k] = !bytes.Equal(raw[:span], head[:span]) || !bytes.Equal(raw[len(head):], want.Data)
		}
		for _, k := range keys[:len(keys)/2] {
			want := shardPut(k, 1).Data
			r, err := s.Get(ctx, k, 0, len(want))
			switch {
			case damaged[k]:
				wantKind(t, err, vfs.KindCorrupt)
				mustPut(t, s, k)
				damaged[k] = false
			case err != nil || !bytes.Equal(r.Bytes, want):
				t.Fatalf("sound shard %v: %v", k, err)
			}
			r.Release()
		}
		found := map[segment.Key]bool{}
		report := func(b Bad) { found[b.Key] = true }
		// In two parts, the first of which is stopped.
		sctx, cancel := context.WithCancel(ctx)
		n := 0
		res, err := s.Scrub(sctx, nil, limitFunc(func() {
			if n++; n == 40 {
				cancel()
			}
		}), report)
		wantKind(t, err, vfs.KindCanceled)
		if res.Next == nil || res.Shards < 30 {
			t.Fatalf("stopped scrub: %+v", res)
		}
		res2, err := s.Scrub(ctx, res.Next, nil, report)
		if err != nil || res2.Next != nil || res.Shards+res2.Shards < int64(len(keys)) {
			t.Fatalf("%+v %+v %v", res, res2, err)
		}
		for _, k := range keys {
			if damaged[k] != found[k] {
				t.Fatalf("round %d: shard %v damaged %v, found %v", round, k, damaged[k], found[k])
			}
			if damaged[k] {
				mustPut(t, s, k)
			}
			checkShard(t, s, k)
		}
		if s.Info().Bad != 0 {
			t.Fatal("repaired shards are still bad")
		}
		if round%5 == 4 {
			mustCompact(t, s)
			mustClose(t, s)
			if round == 14 {
				// What is left by flips in headers of live records only costs these.
				o.IndexFS = pvfs.NewCrashableMem()
			}
			s = mustOpen(t, o)
			for _, k := range keys {
				mustPut(t, s, k)
				checkShard(t, s, k)
			}
		}
	}
	mustClose(t, s)
}

type limitFunc func()

func (f limitFunc) WaitN(ctx context.Context, _ int) error { f(); return ctx.Err() }

// Compaction does not copy what is damaged: it is reported, and the rest moves.
func TestCompactionMeetsDamage(t *testing.T) {
	o := manual()
	var told []segment.Key
	o.OnBad = func(k segment.Key, _ error) { told = append(told, k) }
	s := mustOpen(t, o)
	var keys []segment.Key
	for b := range uint64(11) {
		keys = append(keys, key(1, 6*b+5, 0))
		mustPut(t, s, keys[b])
	}
	earlier := key(9, 5, 0) // its deletion is in the damaged segment, its record is not
	rotate(t, s)
	stay := putMany(t, s, 2, 20)
	mustPut(t, s, earlier)
	rotate(t, s)
	var ballast []segment.Key
	for b := range uint64(8) {
		ballast = append(ballast, key(3, 6*b+5, 0))
		mustPut(t, s, ballast[b])
	}
	mustDelete(t, s, earlier)
	rotate(t, s)
	mustDelete(t, s, keys[:8]...)
	mustDelete(t, s, ballast...)
	hit := func(k segment.Key, at int64) {
		l, _, err := s.lookup(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.segs[l.file].f.WriteAt([]byte("noise noise"), l.offset()+at); err != nil {
			t.Fatal(err)
		}
	}
	hit(keys[8], 0)         // a header: the walk does not see it
	hit(keys[9], 4096+5000) // data
	// And the record of the deletion.
	it := func(key, value []byte) (bool, error) {
		g := s.byInc[be.Uint64(key[1:])]
		_, err := g.f.WriteAt([]byte("noise"), int64(be.Uint32(key[9:]))*segment.PageSize+4096)
		return false, err
	}
	if err := s.each(context.Background(), []byte{prefixTombstone}, []byte{prefixTombstone + 1}, it); err != nil {
		t.Fatal(err)
	}
	mustCompact(t, s)
	slices.SortFunc(told, compareKeys)
	if !slices.Equal(told, keys[8:10]) {
		t.Fatalf("told of %v, want %v", told, keys[8:10])
	}
	if n := counterValue(t, s.m.Recycled); n != 2 {
		t.Fatalf("%v segments recycled, want 2", n)
	}
	checkShard(t, s, keys[10])
	for _, rebuild := range []bool{false, true} {
		mustClose(t, s)
		if rebuild {
			o.IndexFS = pvfs.NewCrashableMem()
		}
		s = mustOpen(t, o)
		if got := listAll(t, s, 1, 10); len(got) != 1 || got[0].Key != keys[10] {
			t.Fatalf("listed %v", got)
		}
		if got := listAll(t, s, 9, 10); len(got) != 0 {
			t.Fatal("a shard is back whose deletion was in a damaged record")
		}
		for _, k := range stay {
			checkShard(t, s, k)
		}
	}
	for _, k := range keys[8:10] {
		mustPut(t, s, k)
		checkShard(t, s, k)
	}
	mustClose(t, s)
}

// A segment file that was overwritten, cut short or removed costs the shards in it, which are bad, and nothing else: the
// store opens, deletions stay, and the space is used again.
func TestLostSegments(t *testing.T) {
	noise := make([]byte, MinSegmentSize)
	rand.NewChaCha8([32]byte{5}).Read(noise)
	overwrite := func(t *testing.T, fs vfile.FS, name string, from, to int64) {
		f, err := fs.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(noise[from:to], from); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	// truncate leaves the first n bytes.
	truncate := func(t *testing.T, fs vfile.FS, name string, n int64) {
		p, err := vfile.ReadFile(fs, name, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > 0 {
			if _, err := f.WriteAt(p, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, fs vfile.FS, name string)
		header bool // survives
	}{
		"noise": {func(t *testing.T, fs vfile.FS, name string) { overwrite(t, fs, name, 0, MinSegmentSize) }, false},
		"both headers": {func(t *testing.T, fs vfile.FS, name string) {
			overwrite(t, fs, name, 0, 4096)
			overwrite(t, fs, name, MinSegmentSize-4096, MinSegmentSize)
		}, false},
		"noise inside":   {func(t *testing.T, fs vfile.FS, name string) { overwrite(t, fs, name, 4096, MinSegmentSize-4096) }, true},
		"cut to nothing": {func(t *testing.T, fs vfile.FS, name string) { truncate(t, fs, name, 0) }, false},
		"cut in header":  {func(t *testing.T, fs vfile.FS, name string) { truncate(t, fs, name, 100) }, false},
		"cut":            {func(t *testing.T, fs vfile.FS, name string) { truncate(t, fs, name, 40_000) }, true},
		"removed":        {func(t *testing.T, fs vfile.FS, name string) { truncate(t, fs, name, 0); fs.Remove(name) }, false},
	} {
		for _, which := range []string{"first", "deletions", "active"} {
			for _, index := range []string{"kept", "gone"} {
				t.Run(name+"/"+which+"/index "+index, func(t *testing.T) {
					ctx := context.Background()
					o := manual()
					s := mustOpen(t, o)
					deleted := key(5, 5, 0)
					mustPut(t, s, deleted)
					all := putMany(t, s, 1, 40)
					files := map[string]uint32{"first": s.active.header.File}
					rotate(t, s)
					mustDelete(t, s, deleted)
					all = append(all, putMany(t, s, 2, 20)...)
					if err := s.Fence(ctx, []segment.Epoch{{PG: 8, Epoch: 8}}); err != nil {
						t.Fatal(err)
					}
					files["deletions"] = s.active.header.File
					rotate(t, s)
					all = append(all, putMany(t, s, 3, 20)...)
					files["active"] = s.active.header.File
					file := files[which]
					in := map[segment.Key]bool{}
					for _, k := range all {
						if l, _, _ := s.lookup(k); l.file == file {
							in[k] = true
						}
					}
					path := s.segmentPath(file, segmentSuffix)
					segments := s.Info().Segments
					mustClose(t, s)
					c.damage(t, o.FS, path)
					if index == "gone" {
						o.IndexFS = pvfs.NewCrashableMem()
					}
					o.CompactPercent = 0
					// The compactor finds some of them meanwhile, and tells when it has marked them.
					var mu sync.Mutex
					told := map[segment.Key]bool{}
					o.OnBad = func(k segment.Key, _ error) {
						mu.Lock()
						defer mu.Unlock()
						told[k] = true
					}
					tellings := func() int {
						mu.Lock()
						defer mu.Unlock()
						return len(told)
					}
					s = mustOpen(t, o)
					lost := 0
					for _, k := range all {
						want := shardPut(k, 1).Data
						r, err := s.Get(ctx, k, 0, len(want))
						switch {
						case err == nil && bytes.Equal(r.Bytes, want):
						case !in[k]:
							t.Fatalf("shard %v of another segment: %v", k, err)
						case index == "kept":
							wantKind(t, err, vfs.KindCorrupt)
							lost++
						default:
							wantKind(t, err, vfs.KindNotFound)
							lost++
						}
						r.Release()
					}
					if lost == 0 && len(in) > 0 && name != "both headers" || lost == 0 && !c.header && len(in) > 0 {
						t.Fatal("no shard is lost")
					}
					if index == "kept" {
						for end := time.Now().Add(5 * time.Minute); tellings() < lost && time.Now().Before(end); {
							time.Sleep(time.Millisecond)
						}
						if n := tellings(); n != lost {
							t.Fatalf("told of %d shards, %d are lost", n, lost)
						}
					}
					n := 0
					for pg := uint32(1); pg <= 3; pg++ {
						n += len(listAll(t, s, pg, 100))
					}
					if n != len(all)-lost {
						t.Fatalf("%d shards listed, want %d", n, len(all)-lost)
					}
					// With the index the deletion is known. Without both it cannot be.
					if _, err := s.Get(ctx, deleted, 0, 1); index == "kept" || which != "deletions" {
						wantKind(t, err, vfs.KindNotFound)
					}
					for _, k := range all {
						mustPut(t, s, k)
						checkShard(t, s, k)
					}
					mustCompact(t, s)
					i := s.Info()
					if i.Lost != 0 || i.Bad != 0 || name != "removed" && i.Segments < segments {
						t.Fatalf("%d segments before; %+v", segments, i)
					}
					mustClose(t, s)
					o.IndexFS = pvfs.NewCrashableMem()
					s = mustOpen(t, o)
					for _, k := range all {
						checkShard(t, s, k)
					}
					if index == "kept" {
						_, err := s.Get(ctx, deleted, 0, 1)
						wantKind(t, err, vfs.KindNotFound)
						if e := s.Epoch(8); e != 8 {
							t.Fatalf("epoch %d, was 8", e)
						}
					}
					mustClose(t, s)
				})
			}
		}
	}
}
