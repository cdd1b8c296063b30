package devcluster_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
)

// startCluster runs a cluster in dir until the test ends.
func startCluster(t testing.TB, dir string) *devcluster.Cluster {
	t.Helper()
	c, err := devcluster.Start(t.Context(), devcluster.Config{DataDir: dir, NFSAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func stopCluster(t testing.TB, c *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func dial(t testing.TB, c *devcluster.Cluster, sessions int) (*nfsclient.Client, nfsclient.FH) {
	t.Helper()
	cl, err := nfsclient.Dial(t.Context(), nfsclient.Config{Addr: c.NFSAddr(), Owner: t.Name(), Sessions: sessions, Patient: true})
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := cl.Walk(t.Context(), "/default")
	if err != nil {
		t.Fatal(err)
	}
	return cl, root
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run spreads b.N operations over workers and reports CPU per operation, of
// the cluster and the client together.
func run(b *testing.B, workers int, op func(ctx context.Context, worker, i int) error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	before := cpuTime()
	for w := range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				if err := op(b.Context(), w, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// BenchmarkNFS measures the whole way of an operation, from an NFS client to the
// disks, all roles and the client in this process.
func BenchmarkNFS(b *testing.B) {
	c := startCluster(b, filepath.Join(b.TempDir(), "data"))
	defer stopCluster(b, c)
	cl, root := dial(b, c, 4)
	defer cl.Close(context.Background())
	mkdir := func(b *testing.B) nfsclient.FH {
		fh, _, err := cl.Mkdir(b.Context(), root, fmt.Sprintf("d%d", time.Now().UnixNano()), 0o755)
		if err != nil {
			b.Fatal(err)
		}
		return fh
	}
	for _, workers := range []int{1, 64} {
		b.Run(fmt.Sprintf("create/%d", workers), func(b *testing.B) {
			dir := mkdir(b)
			run(b, workers, func(ctx context.Context, w, i int) error {
				f, err := cl.Create(ctx, dir, fmt.Sprintf("f%d", i), 0o644)
				if err != nil {
					return err
				}
				return cl.CloseFile(ctx, f)
			})
		})
		b.Run(fmt.Sprintf("getattr/%d", workers), func(b *testing.B) {
			run(b, workers, func(ctx context.Context, w, i int) error {
				_, err := cl.Getattr(ctx, root)
				return err
			})
		})
		b.Run(fmt.Sprintf("small-file/%d", workers), func(b *testing.B) {
			dir := mkdir(b)
			data := make([]byte, 16<<10)
			rand.Read(data)
			b.SetBytes(int64(len(data)))
			run(b, workers, func(ctx context.Context, w, i int) error {
				f, err := cl.Create(ctx, dir, fmt.Sprintf("f%d", i), 0o644)
				if err != nil {
					return err
				}
				if _, err := cl.Write(ctx, f, 0, nfsv4.FILE_SYNC4, data); err != nil {
					return err
				}
				return cl.CloseFile(ctx, f)
			})
		})
	}
	for _, workers := range []int{1, 64} {
		b.Run(fmt.Sprintf("lock-unlock/%d", workers), func(b *testing.B) {
			dir := mkdir(b)
			files, locks := make([]*nfsclient.File, workers), make([]*nfsclient.Lock, workers)
			for w := range workers {
				f, err := cl.Create(b.Context(), dir, fmt.Sprintf("f%d", w), 0o644)
				if err != nil {
					b.Fatal(err)
				}
				files[w], locks[w] = f, &nfsclient.Lock{Owner: "l"}
			}
			run(b, workers, func(ctx context.Context, w, i int) error {
				if _, err := cl.LockRange(ctx, files[w], locks[w], nfsv4.WRITE_LT, 0, 100); err != nil {
					return err
				}
				return cl.Unlock(ctx, files[w], locks[w], 0, 100)
			})
		})
	}
	const streams, mib = 4, 1 << 20
	files := make([]*nfsclient.File, streams)
	dir := mkdir(b)
	for i := range files {
		f, err := cl.Create(b.Context(), dir, fmt.Sprintf("s%d", i), 0o644)
		if err != nil {
			b.Fatal(err)
		}
		files[i] = f
	}
	var written [streams]uint64
	b.Run("stream-write/4", func(b *testing.B) {
		data := make([]byte, mib)
		rand.Read(data)
		b.SetBytes(mib)
		run(b, streams, func(ctx context.Context, w, i int) error {
			off := written[w]
			written[w] += mib
			if _, err := cl.Write(ctx, files[w], off, nfsv4.UNSTABLE4, data); err != nil {
				return err
			}
			if written[w]%(64*mib) == 0 {
				_, err := cl.Commit(ctx, files[w].FH, 0, 0)
				return err
			}
			return nil
		})
		for _, f := range files {
			if _, err := cl.Commit(b.Context(), f.FH, 0, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stream-read/4", func(b *testing.B) {
		b.SetBytes(mib)
		var pos [streams]uint64
		bufs := make([][]byte, streams)
		for i := range bufs {
			bufs[i] = make([]byte, mib)
		}
		run(b, streams, func(ctx context.Context, w, i int) error {
			if pos[w] >= written[w] {
				pos[w] = 0
			}
			_, _, err := cl.Read(ctx, files[w], pos[w], bufs[w])
			pos[w] += mib
			return err
		})
	})
}
