package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
)

// BenchmarkPut stores shards in one store on disk, by one writer and by
// many. syncs/op falls with the size of the groups.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20} {
		for _, writers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%dK/c%d", size>>10, writers), func(b *testing.B) {
				o := diskOptions(b)
				o.SegmentSize = 256 << 20
				o.Metrics = NewMetrics(nil, nil)
				s := mustOpen(b, o)
				defer mustClose(b, s)
				shape, err := blockstore.ShapeOf(4*size, 4, 2)
				if err != nil || shape.ShardLen != size {
					b.Fatal(shape, err)
				}
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(i * 7)
				}
				put := func(block uint64) error {
					return s.Put(context.Background(), &Put{
						Key: segment.Key{PG: 1, Block: block}, Epoch: 1, K: 4, M: 2, BlockLen: uint32(4 * size), Data: data,
					})
				}
				if err := put(1 << 60); err != nil { // the first segment is ready
					b.Fatal(err)
				}
				before := counterValue(b, o.Metrics.Syncs)
				var next atomic.Int64
				var wg sync.WaitGroup
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for range writers {
					wg.Add(1)
					go func() {
						defer wg.Done()
						for {
							i := next.Add(1)
							if i > int64(b.N) {
								return
							}
							if err := put(uint64(i)); err != nil {
								b.Error(err)
								return
							}
						}
					}()
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric((counterValue(b, o.Metrics.Syncs)-before)/float64(b.N), "syncs/op")
			})
		}
	}
}

// BenchmarkGet reads from the page cache, with the check of every page.
func BenchmarkGet(b *testing.B) {
	o := diskOptions(b)
	s := mustOpen(b, o)
	defer mustClose(b, s)
	data := make([]byte, 1<<20)
	k := segment.Key{PG: 1, Block: 1}
	if err := s.Put(context.Background(), &Put{Key: k, Epoch: 1, K: 4, M: 2, BlockLen: 4 << 20, Data: data}); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := range b.N {
				r, err := s.Get(context.Background(), k, i*n%(1<<20), n)
				if err != nil {
					b.Fatal(err)
				}
				r.Release()
			}
		})
	}
}

// BenchmarkCompact empties segments of which 40% is live, without a limit. MB/s is of the bytes moved, s/GiB the CPU of
// the process for them.
func BenchmarkCompact(b *testing.B) {
	const n = 480
	for _, size := range []int{16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			ctx := context.Background()
			shape, err := blockstore.ShapeOf(4*size, 4, 2)
			if err != nil {
				b.Fatal(err)
			}
			per := 256 << 10 / size
			var moved, spent float64
			for range b.N {
				b.StopTimer()
				o := diskOptions(b)
				o.SegmentSize = 32 << 20
				o.CompactPercent, o.CompactBytesPerSecond = -1, -1
				o.Metrics = NewMetrics(nil, nil)
				s := mustOpen(b, o)
				var wg sync.WaitGroup
				for w := range 8 {
					wg.Add(1)
					go func() {
						defer wg.Done()
						for i := w; i < n*per; i += 8 {
							err := s.Put(ctx, &Put{Key: key(1, uint64(i), 0), Epoch: 1, K: 4, M: 2, BlockLen: uint32(4 * size), Data: make([]byte, shape.ShardLen)})
							if err != nil {
								b.Error(err)
							}
						}
					}()
				}
				wg.Wait()
				var dead []segment.Key
				for i := range n * per {
					if i%5 < 3 {
						dead = append(dead, key(1, uint64(i), 0))
					}
					if len(dead) == MaxDeleteKeys || i == n*per-1 {
						if _, err := s.Delete(ctx, dead); err != nil {
							b.Fatal(err)
						}
						dead = nil
					}
				}
				before := cpuSeconds(b)
				b.StartTimer()
				if err := s.Compact(ctx); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				spent += cpuSeconds(b) - before
				moved += counterValue(b, o.Metrics.CompactedBytes)
				if counterValue(b, o.Metrics.Recycled) == 0 {
					b.Fatal("nothing was recycled")
				}
				mustClose(b, s)
				b.StartTimer()
			}
			b.StopTimer()
			b.ReportMetric(moved/1e6/b.Elapsed().Seconds(), "MB/s")
			b.ReportMetric(spent/(moved/(1<<30)), "cpu-s/GiB")
		})
	}
}

func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
