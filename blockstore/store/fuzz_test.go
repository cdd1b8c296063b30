package store

import (
	"bytes"
	"context"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
)

// FuzzOpen overwrites part of a store's superblock or segment and opens it,
// with and without its index. It is refused, or serves; then every shard it lists
// reads back as it was written or is reported as damaged, and it takes new ones.
func FuzzOpen(f *testing.F) {
	ctx := context.Background()
	base := memOptions(-1)
	s := mustOpen(f, base)
	tried := map[segment.Key]bool{}
	for b := range uint64(6) {
		k := key(1, b, 0)
		mustPut(f, s, k)
		tried[k] = true
	}
	if _, err := s.Delete(ctx, []segment.Key{key(1, 2, 0)}); err != nil {
		f.Fatal(err)
	}
	if err := s.Fence(ctx, []segment.Epoch{{PG: 3, Epoch: 3}}); err != nil {
		f.Fatal(err)
	}
	used := int(s.next)
	seg := s.segmentPath(s.active.header.File, segmentSuffix)
	mustClose(f, s)
	image := func(name string, n int) []byte {
		p, err := vfile.ReadFile(base.FS, name, int64(n))
		if err != nil {
			f.Fatal(err)
		}
		return p
	}
	super, log := image("/s/"+superblockName, superblockSize), image(seg, used)
	for _, off := range []int{0, 8, 12, 48, 64, 80, 88, superblockSize - 4} {
		f.Add(true, uint32(off), super[off:min(off+8, len(super))])
	}
	for off := 0; off < used; off += segment.PageSize { // headers of the segment and of all records
		f.Add(false, uint32(off), log[off:off+64])
	}
	f.Add(false, uint32(segment.HeaderSize), log[2*segment.PageSize:]) // all shifted by a page
	f.Add(false, uint32(0), make([]byte, segment.HeaderSize))
	f.Fuzz(func(t *testing.T, inSuper bool, off uint32, with []byte) {
		if len(with) > 1<<16 {
			return
		}
		for _, fresh := range []bool{false, true} {
			o := base
			o.Create = false
			o.Metrics = nil
			o.FS = base.FS.(*vfile.Mem).CrashClone(nil, 0, nil)
			o.IndexFS = base.IndexFS.(*pvfs.MemFS).CrashClone(pvfs.CrashCloneCfg{})
			if fresh {
				o.IndexFS = pvfs.NewCrashableMem()
			}
			name, size := seg, MinSegmentSize
			if inSuper {
				name, size = "/s/"+superblockName, superblockSize
			}
			file, err := o.FS.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			at := int(off) % size
			if _, err := file.WriteAt(with[:min(len(with), size-at)], int64(at)); err != nil {
				t.Fatal(err)
			}
			s, err := Open(ctx, o)
			if err != nil {
				if err.Error() == "" {
					t.Fatal("refused without a reason")
				}
				continue
			}
			for _, e := range listAll(t, s, 1, 100) {
				want := shardPut(e.Key, 1).Data
				r, err := s.Get(ctx, e.Key, 0, int(e.Length))
				if err != nil {
					continue
				}
				if !tried[e.Key] || !bytes.Equal(r.Bytes, want) {
					t.Fatalf("shard %v is not what was written", e.Key)
				}
				r.Release()
			}
			mustPut(t, s, key(2, 1, 0))
			checkShard(t, s, key(2, 1, 0))
			mustClose(t, s)
		}
	})
}
