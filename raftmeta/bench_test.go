package raftmeta

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func cpuTime() time.Duration {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// benchCallers runs op b.N times in all from n goroutines and reports operations and CPU time of the whole process, that is
// of three voters and the client.
func benchCallers(b *testing.B, n int, op func(i int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	cpu := cpuTime()
	for range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := op(i); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
}

var benchCallerCounts = []int{1, 16, 128, 512}

func BenchmarkCreate(b *testing.B) {
	for _, n := range benchCallerCounts {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newCluster(b, 3, []uint16{1}, benchOptions)
			cl := c.gateway(1, "gw")
			ctx := testContext(b)
			// One directory per caller or so, as files are spread over directories.
			dirs := benchDirs(b, cl, 64)
			benchCallers(b, n, func(i int64) error {
				cmd := createCmd(fmt.Sprintf("file-%09d", i))
				cmd.GetCreate().Parent = dirs[i%int64(len(dirs))]
				_, err := cl.Apply(ctx, 1, cmd)
				return err
			})
		})
	}
}

func benchOptions(_ int, o *Options) {
	o.MemTableBytes, o.WALSegmentBytes, o.BlockCacheBytes = 16<<20, 64<<20, 0 // the defaults
}

func benchDirs(b *testing.B, cl *Client, n int) []uint64 {
	var dirs []uint64
	for i := range n {
		cmd := createCmd(fmt.Sprintf("dir-%03d", i))
		cmd.GetCreate().Type = uint32(vfs.TypeDir)
		r, err := cl.Apply(testContext(b), 1, cmd)
		if err != nil {
			b.Fatal(err)
		}
		dirs = append(dirs, r.GetCreate().GetAttr().GetIno())
	}
	return dirs
}

func BenchmarkQuery(b *testing.B) {
	c := newCluster(b, 3, []uint16{1}, benchOptions)
	cl := c.gateway(1, "gw")
	ctx := testContext(b)
	const files = 1000
	var inos [files]uint64
	for i := range inos {
		r, err := cl.Apply(ctx, 1, createCmd(fmt.Sprintf("f%d", i)))
		if err != nil {
			b.Fatal(err)
		}
		inos[i] = r.GetCreate().GetAttr().GetIno()
	}
	for _, n := range benchCallerCounts {
		b.Run(fmt.Sprintf("getattr/%d", n), func(b *testing.B) {
			benchCallers(b, n, func(i int64) error {
				_, err := cl.Query(ctx, 1, &metapb.Query{Fs: testFS, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: inos[i%files]}}})
				return err
			})
		})
		b.Run(fmt.Sprintf("lookup/%d", n), func(b *testing.B) {
			benchCallers(b, n, func(i int64) error {
				_, err := cl.Query(ctx, 1, lookupQuery(fmt.Sprintf("f%d", i%files)))
				return err
			})
		})
	}
	b.Run(fmt.Sprintf("list/%d", files), func(b *testing.B) {
		benchCallers(b, 1, func(int64) error {
			r, err := cl.Query(ctx, 1, &metapb.Query{Fs: testFS, Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{Dir: uint64(vfs.RootIno), Attrs: true}}})
			if err == nil && len(r.GetReadDir().GetEntries()) != files {
				err = fmt.Errorf("%d entries", len(r.GetReadDir().GetEntries()))
			}
			return err
		})
	})
}
