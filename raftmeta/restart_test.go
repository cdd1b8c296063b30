package raftmeta

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// TestRestartWithManyFiles: a shard with many files is back after a restart with all of them,
// and tells how long that took and what memory it needs. With RACKFS_TEST_LONG the numbers of files are those
// of the goal: a million must cost about what a hundred thousand cost.
func TestRestartWithManyFiles(t *testing.T) {
	for _, files := range restartSizes() {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			c := newCluster(t, 3, []uint16{1}, func(_ int, o *Options) {
				o.MemTableBytes, o.WALSegmentBytes, o.BlockCacheBytes = 16<<20, 64<<20, 0 // the defaults
			})
			cl := c.gateway(1, "gw")
			ctx := t.Context()
			const perDir = 1000
			dirs := manyDirs(t, cl, (files+perDir-1)/perDir)
			fill(t, 512, files, func(i int) error {
				cmd := createCmd(fmt.Sprintf("sample-%08d.npy", i))
				cmd.GetCreate().Parent = dirs[i/perDir]
				_, err := cl.Apply(ctx, 1, cmd)
				return err
			})
			for i := range c.servers {
				c.stop(i)
			}
			before := rss(t)
			begin := time.Now()
			for i := range c.servers {
				c.start(i)
			}
			check := func(i int) {
				q := lookupQuery(fmt.Sprintf("sample-%08d.npy", i))
				q.GetLookup().Dir = dirs[i/perDir]
				if _, err := cl.Query(ctx, 1, q); err != nil {
					t.Fatalf("file %d after the restart: %v", i, err)
				}
			}
			check(files - 1)
			took := time.Since(begin)
			for i := 0; i < files; i += max(1, files/2000) {
				check(i)
			}
			r, err := cl.Query(ctx, 1, &metapb.Query{Fs: testFS, Q: &metapb.Query_Statfs{Statfs: &metapb.StatFSQ{}}})
			if err != nil {
				t.Fatal(err)
			}
			if n := int(r.GetStatfs().GetUsedInodes()); n < files {
				t.Fatalf("%d inodes after the restart, %d files were made", n, files)
			}
			t.Logf("%d files: three voters serve %.2f s after their start; resident memory grew by %.1f MiB in the three of them", files, took.Seconds(), float64(rss(t)-before)/(1<<20))
		})
	}
}

func restartSizes() []int {
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		return []int{100_000, 1_000_000}
	}
	return []int{5_000}
}

// manyDirs makes n directories.
func manyDirs(t testing.TB, cl *Client, n int) []uint64 {
	t.Helper()
	dirs := make([]uint64, n)
	fill(t, 64, n, func(i int) error {
		cmd := createCmd(fmt.Sprintf("dir-%05d", i))
		cmd.GetCreate().Type = uint32(vfs.TypeDir)
		r, err := cl.Apply(t.Context(), 1, cmd)
		dirs[i] = r.GetCreate().GetAttr().GetIno()
		return err
	})
	return dirs
}

// fill runs f for 0 to n-1 from callers at a time.
func fill(t testing.TB, callers, n int, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// rss is the resident memory of this process, after a collection.
func rss(t testing.TB) int64 {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Fscan(bytes.NewReader(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}
