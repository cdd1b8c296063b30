package devcluster_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
)

// trunked is a client with one session, by connections to both gateways.
type trunked struct {
	*nfsclient.Client
	gone atomic.Bool // the second gateway: its connection leads to the first one
}

func trunk(t testing.TB, c *devcluster.Cluster, owner string) *trunked {
	t.Helper()
	x := new(trunked)
	cl, err := nfsclient.Dial(t.Context(), nfsclient.Config{Owner: owner, Slots: 32, Conns: 2, Patient: true, DialConn: func(ctx context.Context, i int) (net.Conn, error) {
		if x.gone.Load() {
			i = 0
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.NFSAddrs()[i])
	}})
	if err != nil {
		t.Fatal(err)
	}
	x.Client = cl
	t.Cleanup(cl.Disconnect)
	return x
}

// TestTrunking has a client use one session by connections to both gateways at once: each change is made once, what is written is read, by either, and a second client sees its locks; one gateway is
// stopped meanwhile.
func TestTrunking(t *testing.T) {
	t.Parallel()
	ctx, c := twoGateways(t)
	cl, other := trunk(t, c, "a"), trunk(t, c, "b")
	root, _, err := cl.Walk(ctx, "/default")
	if err != nil {
		t.Fatal(err)
	}
	const callers, names, blocks, block = 8, 60, 12, 100 << 10
	lock := &nfsclient.Lock{Owner: "l"}
	file, err := cl.Create(ctx, root, "file", 0o644)
	if err == nil {
		_, err = cl.LockRange(ctx, file, lock, nfsv4.WRITE_LT, 0, 10)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var wg sync.WaitGroup
	var calls atomic.Int32
	halfway := make(chan struct{})
	var longest atomic.Int64
	done := func(since time.Time) {
		for took := int64(time.Since(since)); ; {
			if was := longest.Load(); took <= was || longest.CompareAndSwap(was, took) {
				break
			}
		}
		if calls.Add(1) == callers*names {
			close(halfway)
		}
	}
	for i := range callers {
		wg.Go(func() {
			for n := range names {
				name, since := fmt.Sprintf("%d-%d", i, n), time.Now()
				if _, _, err := cl.Mkdir(ctx, root, name, 0o755); err != nil { // EEXIST: it was made twice
					t.Errorf("mkdir %s: %v", name, err)
				}
				done(since)
				since = time.Now()
				if err := cl.Rename(ctx, root, name, root, name+"x"); err != nil {
					t.Errorf("rename %s: %v", name, err)
				}
				done(since)
			}
		})
	}
	data := bytes.Repeat([]byte("0123456789"), block/10)
	wg.Go(func() {
		for n := range blocks {
			if _, err := cl.Write(ctx, file, uint64(n*block), nfsv4.FILE_SYNC4, data); err != nil {
				t.Errorf("write: %v", err)
			}
			got := make([]byte, block)
			if k, _, err := cl.Read(ctx, file, uint64(n*block), got); err != nil || !bytes.Equal(got[:k], data) {
				t.Errorf("read of block %d: %d bytes, %v: not what was written", n, k, err)
			}
			if denied, err := other.TestLock(ctx, file.FH, nfsv4.WRITE_LT, 0, 1, "l"); err != nil || denied == nil {
				t.Errorf("the lock, at another client: %+v, %v", denied, err)
			}
		}
	})
	<-halfway
	cl.gone.Store(true)
	other.gone.Store(true)
	stopping := time.Now()
	if err := devcluster.StopGateway(ctx, c, 1); err != nil {
		t.Error(err)
	}
	stopped := time.Since(stopping)
	wg.Wait()
	t.Logf("%d calls in %v, the longest took %v; a gateway was stopped in %v", 2*callers*names+3*blocks, time.Since(began), time.Duration(longest.Load()), stopped)
	if err := cl.Unlock(ctx, file, lock, 0, 10); err != nil {
		t.Error(err)
	}
	if denied, err := other.TestLock(ctx, file.FH, nfsv4.WRITE_LT, 0, 1, "l"); err != nil || denied != nil {
		t.Errorf("after the unlock: %+v, %v", denied, err)
	}
}

// A client whose only backchannel is a connection to another gateway than serves it is called by that.
func TestCalledByAnotherGateway(t *testing.T) {
	t.Parallel()
	ctx, c := twoGateways(t)
	must := musts(t)
	told := &notified{t: t, got: make(chan string, 100)}
	waiter, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: "waiter", Conns: 2, Patient: true, Callbacks: told, DialConn: func(ctx context.Context, i int) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.NFSAddrs()[i])
	}})
	must("dial", err)
	defer waiter.Close(context.WithoutCancel(ctx))
	holder := trunk(t, c, "holder")
	root, _, err := holder.Walk(ctx, "/default")
	must("walk", err)
	for i, dir := range []nfsv4.ChannelDirFromClient4{nfsv4.CDFC4_FORE, nfsv4.CDFC4_FORE_OR_BOTH} {
		r, err := waiter.RawBy(ctx, i, nfsclient.NewRaw().BindConn(waiter.Session(0).ID(), dir))
		must("bind", err)
		must("bind", r.Next(nfsv4.OP_BIND_CONN_TO_SESSION))
		r.Release()
	}
	mine, err := holder.Create(ctx, root, "f", 0o644)
	must("create", err)
	yours, err := waiter.Open(ctx, root, nfsclient.OpenArgs{Name: "f"})
	must("open", err)
	for i := range 4 {
		held, owner := &nfsclient.Lock{Owner: "holder"}, fmt.Sprint("waiter ", i)
		_, err := holder.LockRange(ctx, mine, held, nfsv4.WRITE_LT, 0, 10)
		must("lock", err)
		l := &nfsclient.Lock{Owner: owner}
		if _, err := waiter.LockRange(ctx, yours, l, nfsv4.WRITEW_LT, 0, 10); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_DENIED {
			t.Fatalf("a lock that another client has: %v", err)
		}
		must("unlock", holder.Unlock(ctx, mine, held, 0, 10))
		select {
		case who := <-told.got:
			if who != owner {
				t.Fatalf("%s was told, %s waits", who, owner)
			}
		case <-ctx.Done():
			t.Fatal("nobody told the client that waits")
		}
		_, err = waiter.LockRange(ctx, yours, l, nfsv4.WRITEW_LT, 0, 10)
		must("lock", err)
		must("unlock", waiter.Unlock(ctx, yours, l, 0, 10))
	}
}

// BenchmarkTrunking is what a call costs of a client with connections to one gateway, to both, and of one that each time comes to the other one.
func BenchmarkTrunking(b *testing.B) {
	c, err := devcluster.Start(b.Context(), devcluster.Config{DataDir: filepath.Join(b.TempDir(), "data"), NFSAddr: "127.0.0.1:0", Gateways: 2})
	if err != nil {
		b.Fatal(err)
	}
	defer stopCluster(b, c)
	one := trunk(b, c, "one")
	one.gone.Store(true)
	one.Session(0).BreakConnection()
	both := trunk(b, c, "both")
	for _, x := range []struct {
		name string
		cl   *trunked
	}{{"one", one}, {"both", both}} {
		root, _, err := x.cl.Walk(b.Context(), "/default")
		if err != nil {
			b.Fatal(err)
		}
		file, err := x.cl.Create(b.Context(), root, x.name, 0o644)
		if err != nil {
			b.Fatal(err)
		}
		data := make([]byte, 1<<20)
		if _, err := x.cl.Write(b.Context(), file, 0, nfsv4.FILE_SYNC4, data); err != nil {
			b.Fatal(err)
		}
		b.Run("getattr/"+x.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := x.cl.Getattr(b.Context(), root); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("getattr-8/"+x.name, func(b *testing.B) {
			b.SetParallelism(4) // of 2 processors
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := x.cl.Getattr(b.Context(), root); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run("read-1MiB/"+x.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			got := make([]byte, len(data))
			for b.Loop() {
				if _, _, err := x.cl.Read(b.Context(), file, 0, got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
