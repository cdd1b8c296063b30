package devcluster_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// notified is a backchannel that takes CB_NOTIFY_LOCK.
type notified struct {
	t   *testing.T
	got chan string // lock-owners
}

func (n *notified) ServeRPC(_ context.Context, req *rpc.Request) {
	d := xdr.NewDecoder(req.Body)
	var args nfsv4.CbCompound4args
	if _, err := args.ReadFrom(&d); err != nil {
		n.t.Errorf("callback: %v", err)
		req.GarbageArgs()
		return
	}
	var res nfsv4.CbCompound4res
	for _, op := range args.Argarray {
		switch op := op.(type) {
		case *nfsv4.NfsCbArgop4_OP_CB_SEQUENCE:
			a := op.Opcbsequence
			res.Resarray = append(res.Resarray, &nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
				CsrSessionid: a.CsaSessionid, CsrSequenceid: a.CsaSequenceid, CsrSlotid: a.CsaSlotid,
			}}})
		case *nfsv4.NfsCbArgop4_OP_CB_NOTIFY_LOCK:
			n.got <- string(op.OpcbnotifyLock.CnlaLockOwner.Owner)
			res.Resarray = append(res.Resarray, &nfsv4.NfsCbResop4_OP_CB_NOTIFY_LOCK{})
		default:
			n.t.Errorf("callback %d", op.GetArgop())
			req.GarbageArgs()
			return
		}
	}
	if _, err := res.WriteTo(&req.Reply); err != nil {
		n.t.Error(err)
	}
}

// handOvers is how often a lock goes from one gateway to the other in TestWaiterAtAnotherGateway, and handOverIn how long half of them may take at most: half
// of what each would if the gateway told its client once a second, and a twentieth of what it would if nobody did.
const (
	handOvers  = 60
	handOverIn = 500 * time.Millisecond
)

// A client that waits for a lock of a client of another gateway is told when that unlocks, closes the file, or ends.
func TestWaiterAtAnotherGateway(t *testing.T) {
	ctx := t.Context()
	c, err := devcluster.Start(ctx, devcluster.Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", Gateways: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer stopCluster(t, c)
	var root nfsclient.FH
	lives := byte(0)
	dial := func(at int, owner string) (*nfsclient.Client, *notified) {
		t.Helper()
		n := &notified{t: t, got: make(chan string, 100)}
		lives++
		cl, err := nfsclient.Dial(ctx, nfsclient.Config{Addr: c.NFSAddrs()[at], Owner: owner, Verifier: [8]byte{lives}, Patient: true, Callbacks: n})
		if err != nil {
			t.Fatal(err)
		}
		if root, _, err = cl.Walk(ctx, "/default"); err != nil {
			t.Fatal(err)
		}
		return cl, n
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	holder, _ := dial(0, "holder")
	waiter, told := dial(1, "waiter")
	defer waiter.Close(context.WithoutCancel(ctx))
	_, err = holder.Create(ctx, root, "f", 0o644)
	must("create", err)
	open := func(cl *nfsclient.Client) *nfsclient.File {
		t.Helper()
		f, err := cl.Open(ctx, root, nfsclient.OpenArgs{Name: "f"})
		must("open", err)
		return f
	}
	lock := func(cl *nfsclient.Client, f *nfsclient.File, owner string) (*nfsclient.Lock, bool) {
		t.Helper()
		l := &nfsclient.Lock{Owner: owner}
		_, err := cl.LockRange(ctx, f, l, nfsv4.WRITEW_LT, 0, 10)
		if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_DENIED {
			return l, false
		}
		must("lock", err)
		return l, true
	}
	defer func() { _ = holder.Close(context.WithoutCancel(ctx)) }()
	mine, yours := open(holder), open(waiter)
	var all time.Duration
	slow := 0
	for i := range handOvers {
		owner := fmt.Sprint("owner ", i)
		held, ok := lock(holder, mine, "holder")
		if !ok {
			t.Fatal("nobody has a lock, and one is denied")
		}
		if _, ok := lock(waiter, yours, owner); ok {
			t.Fatal("two clients have the same lock")
		}
		begin := time.Now()
		switch {
		case i == handOvers-1:
			holder.Disconnect()
			holder, _ = dial(0, "holder") // its machine was started again
		case i%5 == 4:
			must("close", holder.CloseFile(ctx, mine))
			mine = open(holder)
		default:
			must("unlock", holder.Unlock(ctx, mine, held, 0, 10))
		}
		var got *nfsclient.Lock
		for ok := false; !ok; { // what was released before the gateway began to ask makes it tell once too often
			select {
			case who := <-told.got:
				if who != owner {
					t.Fatalf("%s was told, %s waits", who, owner)
				}
			case <-time.After(5 * time.Minute):
				t.Fatal("nobody told the client that waits")
			}
			got, ok = lock(waiter, yours, owner)
		}
		took := time.Since(begin)
		if all += took; took > handOverIn {
			slow++
		}
		must("unlock", waiter.Unlock(ctx, yours, got, 0, 10))
	}
	t.Logf("a lock went to the other gateway %d times, in %v each", handOvers, all/handOvers)
	if slow > handOvers/2 {
		t.Errorf("%d of %d took more than %v: nobody tells", slow, handOvers, handOverIn)
	}
}
