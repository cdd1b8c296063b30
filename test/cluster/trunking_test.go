package cluster

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// trunked is an NFS client with one session, by a connection to each of two gateways.
type trunked struct {
	*nfsclient.Client
	at [2]atomic.Pointer[machine]

	answered atomic.Int64 // calls
	last     atomic.Int64 // when, Unix nanoseconds
	longest  atomic.Int64 // in which nothing was answered, since it was looked at last
}

func newTrunked(t *testing.T, owner string, a, b *machine) *trunked {
	t.Helper()
	x := new(trunked)
	x.at[0].Store(a)
	x.at[1].Store(b)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	x.Client, err = dialPatiently(ctx, nfsclient.Config{Owner: owner, Slots: 16, Conns: 2, Patient: true, DialConn: func(ctx context.Context, i int) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", x.at[i].Load().host+":2049")
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Disconnect)
	return x
}

// to has a connection lead to another gateway.
func (x *trunked) to(conn int, m *machine) {
	x.at[conn].Store(m)
	x.Session(0).BreakConn(conn)
}

func (x *trunked) note() {
	x.answered.Add(1)
	now := time.Now().UnixNano()
	if was := x.last.Swap(now); was != 0 {
		for took := now - was; ; {
			if old := x.longest.Load(); took <= old || x.longest.CompareAndSwap(old, took) {
				return
			}
		}
	}
}

// await waits until so many more calls were answered.
func (x *trunked) await(ctx context.Context, t *testing.T, calls int64) {
	t.Helper()
	for end := x.answered.Load() + calls; x.answered.Load() < end; time.Sleep(10 * time.Millisecond) {
		if t.Failed() || ctx.Err() != nil {
			t.Fatalf("calls are not answered any more: %v", ctx.Err())
		}
	}
}

// TestTrunkedGatewaysDie has a client use both gateways at once by one session, and one of them killed, paused longer than its lease, and stopped, while calls are under way at both and carried from one to the
// other. Every call that changes names is done once, what was written is read, and a lock is held all the while.
func TestTrunkedGatewaysDie(t *testing.T) {
	t.Parallel()
	ms := machinesFrom(t, 46, "meta, block", "gateway", "gateway")
	n1, n2, n3 := ms[0], ms[1], ms[2]
	n1.conf.disks, n1.conf.meta = 3, ", gateway_lease: 4s"
	n1.configure()
	for _, g := range []*machine{n2, n3} {
		g.conf.nfs = ", several: true, lease: 5m"
		g.configure()
	}
	n1.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	n1.start()
	for _, g := range []*machine{n2, n3} {
		g.must("node", "join", "--token", n1.must("cluster", "token", "--roles", "gateway"))
		g.start()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	x, other := newTrunked(t, "x", n2, n3), newMoving(t, "other", n3)
	root, _, err := x.Walk(ctx, "/default")
	must("walk", err)
	file, err := x.Create(ctx, root, "file", 0o644)
	must("create", err)
	_, err = x.LockRange(ctx, file, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	must("lock", err)

	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%d-%d", i, n)
				_, _, err := x.Mkdir(ctx, root, name, 0o755) // EEXIST: it was made twice
				must("mkdir "+name, err)
				x.note()
				must("rename "+name, x.Rename(ctx, root, name, root, name+"x"))
				x.note()
				must("rmdir "+name, x.Remove(ctx, root, name+"x"))
				x.note()
				if i == 0 {
					p := fmt.Appendf(nil, "%08d", n)
					_, err := x.Write(ctx, file, 100, nfsv4.FILE_SYNC4, p)
					must("write", err)
					got := make([]byte, len(p))
					_, _, err = x.Read(ctx, file, 100, got)
					must("read", err)
					if string(got) != string(p) {
						t.Errorf("read %q, written %q", got, p)
					}
					x.note()
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	held := func(when string) {
		t.Helper()
		denied, err := other.TestLock(ctx, file.FH, nfsv4.WRITE_LT, 0, 1, "l")
		must("test of the lock", err)
		if denied == nil {
			t.Errorf("%s: the lock is free", when)
		}
		t.Logf("%s: nothing was answered for %v", when, time.Duration(x.longest.Swap(0)))
	}
	const some = 60 // calls
	x.await(ctx, t, 4*some)
	held("both serve")
	for range 2 { // from the second time on each serves the client when it dies
		n2.kill()
		other.to(n3)
		x.to(0, n3)
		x.await(ctx, t, some)
		held("n2 was killed")
		n2.start()
		x.to(0, n2)
		x.await(ctx, t, some)
		n3.signal(syscall.SIGSTOP)
		x.await(ctx, t, 1) // what n2 carries to n3 waits until n2 takes the client
		x.to(1, n2)
		other.to(n2)
		x.await(ctx, t, some)
		held("n3 was paused")
		n3.signal(syscall.SIGCONT)
		x.to(1, n3)
		x.await(ctx, t, some)
	}
	other.to(n3)
	x.to(0, n3)
	n2.stop()
	x.await(ctx, t, some)
	held("n2 was stopped")
	close(stop)
	work.Wait()
	t.Logf("%d calls", x.answered.Load())
	for _, m := range []*machine{n3, n1} {
		m.stop()
	}
}
