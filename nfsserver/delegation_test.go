package nfsserver_test

import (
	"context"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
)

// recalls answers CB_RECALL with success and CB_GETATTR with what a client says that has not looked for long: NFS4ERR_BADHANDLE.
type recalls struct {
	t   testing.TB
	got chan nfsv4.CbRecall4args
}

func (r *recalls) ServeRPC(_ context.Context, req *rpc.Request) {
	d := xdr.NewDecoder(req.Body)
	var args nfsv4.CbCompound4args
	if _, err := args.ReadFrom(&d); err != nil {
		r.t.Errorf("callback: %v", err)
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
		case *nfsv4.NfsCbArgop4_OP_CB_RECALL:
			r.got <- op.Opcbrecall
			res.Resarray = append(res.Resarray, &nfsv4.NfsCbResop4_OP_CB_RECALL{})
		default:
			r.t.Errorf("callback %d", op.GetArgop())
			req.GarbageArgs()
			return
		}
	}
	if _, err := res.WriteTo(&req.Reply); err != nil {
		r.t.Error(err)
	}
}

// delegates is a server whose clients outlive it, with a client that has the file "f" for writing, opened and closed.
func delegates(t *testing.T) (in *instance, a *conn, back *recalls, f *nfsclient.File) {
	k := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	in = startInstance(t, &instance{fs: k, kept: k, store: newKeptStore(k), deleg: state.DelegateWrite})
	back = &recalls{t: t, got: make(chan nfsv4.CbRecall4args, 100)}
	a = in.dial("a", func(c *nfsclient.Config) { c.Callbacks = back })
	f = a.file("f")
	if f.Delegation.Type != nfsv4.OPEN_DELEGATE_WRITE {
		t.Fatalf("delegation %+v", f.Delegation)
	}
	want(t, "close", a.CloseFile(in.ctx, f), nfsv4.NFS4_OK)
	f.Stateid = f.Delegation.Stateid
	return in, a, back, f
}

// bind binds the connection to the backchannel, as clients do after a restart.
func (c *conn) bind() {
	c.t.Helper()
	r, err := c.Raw(c.in.ctx, nfsclient.NewRaw().BindConn(c.Session(0).ID(), nfsv4.CDFC4_FORE_OR_BOTH))
	if err == nil {
		err = r.Next(nfsv4.OP_BIND_CONN_TO_SESSION)
	}
	want(c.t, "bind", err, nfsv4.NFS4_OK)
	r.Release()
}

func (c *conn) delegReturn(f *nfsclient.File) error {
	r, err := c.Do(c.in.ctx, nfsclient.NewCompound().PutFH(f.FH).DelegReturn(f.Delegation.Stateid))
	if err != nil {
		return err
	}
	defer r.Release()
	return r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_DELEGRETURN)
}

// A delegation for writing goes on after a restart of the server, once more after another: the client writes by it, others wait for it, and when it is
// returned they go on. What it turned into opens and locks before is in the others' way.
func TestWriteDelegationAfterRestart(t *testing.T) {
	in, a, back, f := delegates(t)
	b := in.dial("b", func(c *nfsclient.Config) { c.Slots = 1 })
	for range 2 {
		in.restart()
		if n := in.srv.State(); n.Delegations != 1 {
			t.Fatalf("%+v", n)
		}
		a.bind()
		_, err := a.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("content"))
		want(t, "write by the delegation", err, nfsv4.NFS4_OK)
	}
	renew(t, b) // the first request after a restart may be a repetition, which is not put off
	b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4ERR_DELAY)
	select {
	case r := <-back.got:
		if r.Stateid != nfsv4.Stateid4(f.Delegation.Stateid) || string(r.Fh) != string(f.FH) {
			t.Errorf("recalled %+v, has %+v", r, f)
		}
	case <-in.ctx.Done():
		t.Fatal("no CB_RECALL")
	}
	// Also if the server is restarted before the client has returned it: nobody gets the file.
	in.restart()
	a.bind()
	renew(t, b)
	b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4ERR_DELAY)
	mine, err := a.Open(in.ctx, f.FH, nfsclient.OpenArgs{Delegated: f.Delegation.Stateid})
	want(t, "open by the delegation", err, nfsv4.NFS4_OK)
	_, err = a.LockRange(in.ctx, mine, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	want(t, "lock", err, nfsv4.NFS4_OK)
	want(t, "return", a.delegReturn(f), nfsv4.NFS4_OK)
	fb := b.open("f", nfsv4.OPEN4_SHARE_ACCESS_BOTH, 0, nfsv4.NFS4_OK)
	_, err = b.LockRange(in.ctx, fb, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	want(t, "lock of what a has", err, nfsv4.NFS4ERR_DENIED)

	// It was returned: a restart does not bring it back.
	in.restart()
	if n := in.srv.State(); n.Delegations != 0 {
		t.Fatalf("%+v", n)
	}
	_, err = b.Write(in.ctx, fb, 0, nfsv4.FILE_SYNC4, []byte("b's"))
	want(t, "write", err, nfsv4.NFS4_OK)
}

// A delegation that was revoked stays so over a restart, and its client is told.
func TestRevokedWriteDelegationAfterRestart(t *testing.T) {
	in, a, _, f := delegates(t)
	b := in.dial("b")
	b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4ERR_DELAY)
	for range 2 {
		in.advance(leaseTime / 2)
		renew(t, a, b)
	}
	fb := b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
	for range 2 {
		_, err := a.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("late"))
		want(t, "write by what was revoked", err, nfsv4.NFS4ERR_DELEG_REVOKED)
		in.restart()
	}
	_, _, err := b.Read(in.ctx, fb, 0, make([]byte, 10))
	want(t, "read", err, nfsv4.NFS4_OK)
}

// A file that is removed by the client that has it for writing is there until it returns the delegation, also over a restart.
func TestWriteDelegationKeepsTheFile(t *testing.T) {
	in, a, _, f := delegates(t)
	want(t, "remove", a.Remove(in.ctx, a.root, "f"), nfsv4.NFS4_OK)
	for range 2 {
		_, err := a.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("content"))
		want(t, "write", err, nfsv4.NFS4_OK)
		in.restart()
	}
	want(t, "return", a.delegReturn(f), nfsv4.NFS4_OK)
	_, err := a.Getattr(in.ctx, f.FH)
	want(t, "getattr", err, nfsv4.NFS4ERR_STALE)
}

// The OPEN that a delegation came with, sent again after a restart, gets the same one.
func TestDelegatingOpenAfterRestart(t *testing.T) {
	in, a, _, _ := delegates(t)
	sl, err := a.Session(0).Slot(in.ctx)
	if err != nil {
		t.Fatal(err)
	}
	cp := nfsclient.NewCompound().PutFH(a.root).Open(a.ID(), &nfsclient.OpenArgs{Name: "g", Create: nfsclient.Unchecked})
	seq := sl.Sequence() + 1
	var first nfsclient.Delegation
	for i := range 3 {
		r := resend(t, in, sl, seq, cp)
		_, err := r.Sequence()
		if err == nil {
			err = r.Skip(nfsv4.OP_PUTFH)
		}
		if err == nil {
			_, _, err = r.Open()
		}
		want(t, "open", err, nfsv4.NFS4_OK)
		d := r.Delegation()
		r.Release()
		if i == 0 {
			first = d
		}
		if d.Type != nfsv4.OPEN_DELEGATE_WRITE || d != first {
			t.Errorf("time %d: %+v, first %+v", i+1, d, first)
		}
		in.restart()
		a.bind()
	}
}
