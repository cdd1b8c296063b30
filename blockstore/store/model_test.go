package store

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

// Any sequence of calls, damage, compaction, restarts, power cuts and new indexes leaves what a map would hold. The store is
// small, so segments are recycled all the time, unasked as well.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		ctx := context.Background()
		o := memOptions(-1)
		o.Capacity = int64(6+rng.IntN(5)) * MinSegmentSize
		o.CompactPercent = []int{0, -1, 80}[rng.IntN(3)]
		o.fillBelow = []int64{0, -1}[rng.IntN(2)]
		var s *Store
		open := func() {
			o.Metrics = nil
			var err error
			if s, err = Open(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
		m := newModel()
		m.epochs = map[uint32]uint32{1: 0, 2: 0, 3: 0}
		variant := uint64(0)
		live := func() int64 {
			n := int64(0)
			for k := range m.live {
				n += int64(segment.RecordLen(len(shardPut(k, 1).Data)))
			}
			return n
		}
		draw := func() segment.Key {
			return key(uint32(rng.IntN(3)+1), uint64(rng.IntN(60)), uint8(4*rng.IntN(2)))
		}
		check := func(after string) {
			t.Helper()
			if err := m.check(s); err != nil {
				t.Fatalf("after %s: %v", after, err)
			}
		}
		open()
		defer func() { s.Close() }()
		for step := range rapid.IntRange(20, 300).Draw(t, "steps") {
			switch x := rng.IntN(40); {
			case x < 20:
				k := draw()
				if _, there := m.live[k]; there {
					break
				}
				variant++
				err := m.put(s, k, variant)
				if vfs.KindOf(err) == vfs.KindNoSpace {
					if live() < o.Capacity/3 && o.CompactPercent >= 0 {
						t.Fatalf("step %d: full with %d of %d bytes live: %+v", step, live(), o.Capacity, s.Info())
					}
					delete(m.doubt, k)
				} else if err != nil {
					t.Fatal(err)
				}
			case x < 30:
				var keys []segment.Key
				for range 1 + rng.IntN(6) {
					if k := draw(); !slices.Contains(keys, k) {
						if _, there := m.live[k]; there {
							keys = append(keys, k)
						}
					}
				}
				if err := m.del(s, keys...); err != nil {
					t.Fatal(err)
				}
			case x == 30:
				pg := uint32(rng.IntN(3) + 1)
				if err := m.fence(s, pg, s.Epoch(pg)+1); err != nil {
					t.Fatal(err)
				}
			case x < 33:
				if err := s.Compact(ctx); err != nil && vfs.KindOf(err) != vfs.KindNoSpace {
					t.Fatal(err)
				}
			case x == 33: // a damaged record is found, or not; it is put again
				for k, v := range m.live {
					l, ok, err := s.lookup(k)
					if err != nil || !ok {
						t.Fatal(ok, err)
					}
					s.mu.Lock()
					f := s.segs[l.file].f
					s.mu.Unlock()
					if _, err := f.WriteAt(bytes.Repeat([]byte{0xaa}, 8), l.offset()+rng.Int64N(4100)); err != nil {
						t.Fatal(err)
					}
					if rng.IntN(2) == 0 {
						if r, err := s.Get(ctx, k, 0, int(l.length)); err == nil {
							r.Release() // it moved just then, or only padding was hit
						} else if vfs.KindOf(err) != vfs.KindCorrupt {
							t.Fatal(err)
						}
					}
					if err := s.Put(ctx, variantPut(k, v, max(s.Epoch(k.PG), 1))); vfs.KindOf(err) == vfs.KindNoSpace {
						m.doubt[k] = true
						if err := m.del(s, k); err != nil {
							t.Fatal(err)
						}
					} else if err != nil {
						t.Fatal(err)
					}
					m.epochs[k.PG] = max(m.epochs[k.PG], 1)
					break
				}
			case x == 34:
				check("calls")
			case x == 35:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				open()
				check("a restart")
			case x == 36:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				o.IndexFS = pvfs.NewCrashableMem()
				open()
				check("a new index")
			case x < 39:
				var index *pvfs.MemFS
				fs := o.FS.(*vfile.Mem).CrashClone(rng, rng.Float64(), func() {
					index = o.IndexFS.(*pvfs.MemFS).CrashClone(pvfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
				})
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				o.FS, o.IndexFS = fs, index
				if rng.IntN(3) == 0 {
					o.IndexFS = pvfs.NewCrashableMem()
				}
				open()
				check("a power cut")
			default:
				if res, err := s.Scrub(ctx, nil, nil, nil); err != nil || res.Bad != 0 {
					t.Fatal(res, err)
				}
			}
		}
		check("all")
	})
}
