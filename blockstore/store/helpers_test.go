package store

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testCluster = segment.ID{0xc1}

func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 4}))
}

// memOptions is a store in memory with the smallest segments.
func memOptions(capacity int64) Options {
	m := vfile.NewMem(capacity)
	if err := m.MkdirAll("/s"); err != nil {
		panic(err)
	}
	return Options{
		Dir: "/s", Cluster: testCluster, Create: true, SegmentSize: MinSegmentSize, ReserveBytes: 4096,
		FS: m, IndexFS: pvfs.NewCrashableMem(), Logger: quiet(), MemTableBytes: 64 << 10, CompactBytesPerSecond: -1,
	}
}

func diskOptions(t testing.TB) Options {
	return Options{Dir: t.TempDir(), Cluster: testCluster, Create: true, SegmentSize: 8 << 20, Logger: quiet()}
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// shardPut is a Put whose content follows from its key.
func shardPut(k segment.Key, epoch uint32) *Put {
	rng := rand.New(rand.NewPCG(k.Block, uint64(k.PG)<<8|uint64(k.Shard)))
	sizes := []int{1, 4096, 5000, 16 << 10, 64 << 10, 300 << 10}
	shape, err := blockstore.ShapeOf(sizes[int(k.Block)%len(sizes)], 4, 2)
	if err != nil {
		panic(err)
	}
	p := &Put{
		Key: k, Epoch: epoch, K: 4, M: 2, BlockLen: uint32(shape.BlockLen),
		Owner: segment.Owner{FS: 1, Ino: k.Block * 3, Offset: k.Block << 22},
		Data:  make([]byte, shape.ShardLen),
	}
	for i := 0; i < len(p.Data); i += 8 {
		le.PutUint64(p.Data[i:], rng.Uint64())
	}
	return p
}

func key(pg uint32, block uint64, shard uint8) segment.Key {
	return segment.Key{PG: pg, Block: block, Shard: shard}
}

func mustPut(t testing.TB, s *Store, k segment.Key) {
	t.Helper()
	if err := s.Put(context.Background(), shardPut(k, 1)); err != nil {
		t.Fatal(err)
	}
}

// checkShard fails unless the shard reads back whole.
func checkShard(t testing.TB, s *Store, k segment.Key) {
	t.Helper()
	want := shardPut(k, 1).Data
	r, err := s.Get(context.Background(), k, 0, len(want))
	if err != nil {
		t.Fatalf("shard %v: %v", k, err)
	}
	defer r.Release()
	if !bytes.Equal(r.Bytes, want) {
		t.Fatalf("shard %v has other content", k)
	}
}

func wantKind(t testing.TB, err error, k vfs.Kind) {
	t.Helper()
	if vfs.KindOf(err) != k {
		t.Fatalf("error %v, want kind %v", err, k)
	}
}

// listAll returns every shard of the PG.
func listAll(t testing.TB, s *Store, pg uint32, limit int) []Entry {
	t.Helper()
	var all []Entry
	var after *segment.Key
	for {
		page, more, err := s.List(context.Background(), pg, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if !more {
			return all
		}
		if len(page) != limit {
			t.Fatalf("page of %d entries though there are more, limit %d", len(page), limit)
		}
		after = &page[len(page)-1].Key
	}
}

// checkLive fails unless the count of live bytes is that of the shards listed.
func checkLive(t testing.TB, s *Store, pgs ...uint32) {
	t.Helper()
	sum := int64(0)
	for _, pg := range pgs {
		for _, e := range listAll(t, s, pg, 100) {
			sum += int64(segment.RecordLen(int(e.Length)))
		}
	}
	if got := s.Info().Used; got != sum {
		t.Fatalf("%d live bytes counted, shards have %d", got, sum)
	}
}

func counterValue(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func gaugeValue(t testing.TB, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}
