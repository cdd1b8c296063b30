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
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/devcluster"
)

// twoGateways is a cluster with two, for a test that ends by then.
func twoGateways(t *testing.T) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", Gateways: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopCluster(t, c) })
	return ctx, c
}

// musts is what ends a test when something failed.
func musts(t *testing.T) func(what string, err error) {
	return func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// roaming is a client whose connections lead to one of two gateways.
type roaming struct {
	*nfsclient.Client
	t     *testing.T
	addrs []string
	at    atomic.Int32
}

func roam(t *testing.T, addrs []string, owner string) *roaming { return roamOn(t, addrs, owner, 8) }

// roamOn is roam with so many slots.
func roamOn(t *testing.T, addrs []string, owner string, slots uint32) *roaming {
	t.Helper()
	r := &roaming{t: t, addrs: addrs}
	cl, err := nfsclient.Dial(t.Context(), nfsclient.Config{Owner: owner, Slots: slots, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addrs[r.at.Load()])
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Client = cl
	t.Cleanup(cl.Disconnect)
	return r
}

// move has the next requests come to the other gateway, which both live.
func (r *roaming) move() {
	r.at.Store(1 - r.at.Load())
	r.Session(0).BreakConnection()
}

// TestClientsMove has a client go back and forth between two gateways that live. It keeps its session, opens and locks, a request that is sent
// again through the other gateway has the outcome of the first, and nobody else gets what it has.
func TestClientsMove(t *testing.T) {
	t.Parallel()
	ctx, c := twoGateways(t)
	a, b := roam(t, c.NFSAddrs(), "a"), roam(t, c.NFSAddrs(), "b")
	root, _, err := a.Walk(ctx, "/default")
	must := musts(t)
	must("walk", err)
	session := a.Session(0).ID()
	file, err := a.Create(ctx, root, "file", 0o644)
	must("create", err)
	lock := &nfsclient.Lock{Owner: "l"}
	_, err = a.LockRange(ctx, file, lock, nfsv4.WRITE_LT, 0, 100)
	must("lock", err)
	gone, err := a.Create(ctx, root, "gone", 0o644)
	must("create", err)
	content := []byte("of a file without a name")
	_, err = a.Write(ctx, gone, 0, nfsv4.FILE_SYNC4, content)
	must("write", err)
	must("close", a.CloseFile(ctx, gone))
	reader, err := a.Open(ctx, root, nfsclient.OpenArgs{Name: "gone", Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
	must("open", err)

	var longest time.Duration
	want := bytes.Repeat([]byte{'.'}, 64)
	for round := range 8 {
		unstable := []byte{byte('A' + round)}
		wrote, err := a.Write(ctx, file, uint64(round), nfsv4.UNSTABLE4, unstable)
		must("write", err)
		want[round] = unstable[0]
		if round == 3 {
			a.move() // the reader has not been heard of there when the name goes
			must("remove by another client", b.Remove(ctx, root, "gone"))
			a.move()
		}
		if round%5 == 4 {
			b.move()
		}
		a.move()
		began := time.Now()
		v, err := a.Commit(ctx, file.FH, 0, 0)
		longest = max(longest, time.Since(began))
		must("commit", err)
		if v != wrote.Verifier { // it has to be sent again, as after a restart
			_, err := a.Write(ctx, file, uint64(round), nfsv4.FILE_SYNC4, unstable)
			must("write again", err)
		}
		got := make([]byte, round+1)
		n, _, err := b.Read(ctx, &nfsclient.File{FH: file.FH}, 0, got)
		if err != nil || !bytes.Equal(got[:n], want[:round+1]) {
			t.Fatalf("round %d: another client reads %q, %v, want %q", round, got[:n], err, want[:round+1])
		}
		denied, err := b.TestLock(ctx, file.FH, nfsv4.READ_LT, 0, 1, "l")
		if err != nil || denied == nil || denied.Client != a.ID() {
			t.Fatalf("round %d: the lock: %+v, %v", round, denied, err)
		}
		got = make([]byte, len(content))
		if n, _, err := a.Read(ctx, reader, 0, got); err != nil || !bytes.Equal(got[:n], content) {
			t.Fatalf("round %d: read of a file without a name: %q, %v", round, got[:n], err)
		}
		a.again(ctx, root, round)
	}
	a.introduced(ctx)
	if a.Session(0).ID() != session {
		t.Error("the session is another one")
	}
	t.Logf("the longest first call at another gateway took %v", longest)
	must("unlock", a.Unlock(ctx, file, lock, 0, 100))
	if denied, err := b.TestLock(ctx, file.FH, nfsv4.WRITE_LT, 0, 1, "l"); err != nil || denied != nil {
		t.Errorf("after the unlock: %+v, %v", denied, err)
	}
	must("close", a.CloseFile(ctx, reader))
	must("close", a.CloseFile(ctx, file))
	if _, err := a.Getattr(ctx, reader.FH); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_STALE {
		for ; nfsclient.StatusOf(err) != nfsv4.NFS4ERR_STALE; _, err = b.Getattr(ctx, reader.FH) {
			must("getattr until it is deleted", err)
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// introduced has a client that introduces itself at either gateway be known there, and another life of it be another client.
func (r *roaming) introduced(ctx context.Context) {
	r.t.Helper()
	for _, addr := range r.addrs {
		for life, same := range map[byte]bool{0: true, 1: false} {
			cl := nfsclient.New(nfsclient.Config{Addr: addr, Owner: "a", Verifier: [8]byte{life}})
			if err := cl.ExchangeID(ctx, 0); err != nil {
				r.t.Fatal(err)
			}
			if (cl.ID() == r.ID()) != same {
				r.t.Errorf("client %d introduces itself at %s, in life %d, and is client %d", r.ID(), addr, life, cl.ID())
			}
			cl.Disconnect()
		}
	}
}

// again sends requests that change names once through each gateway.
func (r *roaming) again(ctx context.Context, root nfsclient.FH, round int) {
	r.t.Helper()
	for _, name := range []string{"from", "victim"} {
		f, err := r.Create(ctx, root, fmt.Sprint(name, round), 0o644)
		if err == nil {
			err = r.CloseFile(ctx, f)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	sl, err := r.Session(0).Slot(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	defer sl.Put()
	for what, build := range map[string]func(cp *nfsclient.Compound){
		"create": func(cp *nfsclient.Compound) {
			cp.Open(r.ID(), &nfsclient.OpenArgs{Name: fmt.Sprint("new", round), Create: nfsclient.Guarded, Attr: *attr.Mode(0o600)}).GetFH().Getattr(attr.Stat())
		},
		"rename": func(cp *nfsclient.Compound) { cp.SaveFH().Rename(fmt.Sprint("from", round), fmt.Sprint("to", round)) },
		"remove": func(cp *nfsclient.Compound) { cp.Remove(fmt.Sprint("victim", round)) },
	} {
		cp := nfsclient.NewCompound().PutFH(root)
		build(cp)
		cp.CacheThis = true
		first, err := sl.Do(ctx, cp)
		if err != nil || first.Status != nfsv4.NFS4_OK {
			r.t.Fatalf("round %d, %s: %v, %v", round, what, first, err)
		}
		body := bytes.Clone(first.Body())
		first.Release()
		for range 1 + round%2 {
			r.move()
			second := answer(r.t, ctx, sl, sl.Sequence(), cp)
			if got := second.Body(); second.Status != nfsv4.NFS4_OK || !bytes.Equal(got, body) {
				r.t.Errorf("round %d, %s: first answer\n%x, then\n%x", round, what, body, got)
			}
			second.Release()
		}
	}
}

// A client that has requests under way at both gateways at once has each of them done exactly once.
func TestClientAtBothGateways(t *testing.T) {
	t.Parallel()
	ctx, c := twoGateways(t)
	a := roam(t, c.NFSAddrs(), "a")
	root, _, err := a.Walk(ctx, "/default")
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 4, 40
	var wg sync.WaitGroup
	answered := make(chan struct{}, 2*callers*each)
	for i := range callers {
		wg.Go(func() {
			for n := range each {
				name := fmt.Sprintf("%d-%d", i, n)
				if _, _, err := a.Mkdir(ctx, root, name, 0o755); err != nil { // EEXIST: it was done twice
					t.Errorf("mkdir %s: %v", name, err)
					return
				}
				answered <- struct{}{}
				if err := a.Rename(ctx, root, name, root, name+"x"); err != nil {
					t.Errorf("rename %s: %v", name, err)
					return
				}
				answered <- struct{}{}
			}
		})
	}
	go func() { wg.Wait(); close(answered) }()
	moves, calls := 0, 0
	for range answered {
		if calls++; calls%6 == 0 {
			a.move() // what is under way goes on at the former one, and is sent again
			moves++
		}
	}
	t.Logf("%d moves in %d calls", moves, calls)
}

// A client with connections to both gateways at once, each with a session of its own, has what it asks for done exactly once, while both go on to answer.
func TestSessionsAtBothGateways(t *testing.T) {
	t.Parallel()
	ctx, c := twoGateways(t)
	var dials atomic.Int32
	cl, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: "a", Sessions: 2, Slots: 8, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.NFSAddrs()[dials.Add(1)%2])
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Disconnect()
	root, _, err := cl.Walk(ctx, "/default")
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 4, 30
	began := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := range each { // one call after the other, by one session after the other
				name := fmt.Sprintf("%d-%d", i, n)
				if _, _, err := cl.Mkdir(ctx, root, name, 0o755); err != nil {
					t.Errorf("mkdir %s: %v", name, err)
					return
				}
				if err := cl.Rename(ctx, root, name, root, name+"x"); err != nil {
					t.Errorf("rename %s: %v", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls by %d connections to two gateways in %v", 2*callers*each, dials.Load(), time.Since(began))
}
