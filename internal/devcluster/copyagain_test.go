package devcluster_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// offloads is a client's backchannel.
type offloads struct {
	t   testing.TB
	got chan *nfsv4.CbOffload4args

	mu  sync.Mutex
	seq map[[16]byte]uint32
}

func (o *offloads) ServeRPC(_ context.Context, req *rpc.Request) {
	d := xdr.NewDecoder(req.Body)
	var args nfsv4.CbCompound4args
	if _, err := args.ReadFrom(&d); err != nil {
		req.GarbageArgs()
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	seq := args.Argarray[0].(*nfsv4.NfsCbArgop4_OP_CB_SEQUENCE).Opcbsequence
	var res nfsv4.CbCompound4res
	if last := o.seq[seq.CsaSessionid]; seq.CsaSequenceid != last+1 {
		res.Status = nfsv4.NFS4ERR_SEQ_MISORDERED
		if seq.CsaSequenceid == last {
			res.Status = nfsv4.NFS4ERR_RETRY_UNCACHED_REP // as Linux says
		}
		res.Resarray = []nfsv4.NfsCbResop4{&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_default{CsrStatus: res.Status}}}
	} else {
		o.seq[seq.CsaSessionid]++
		res.Resarray = []nfsv4.NfsCbResop4{&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
			CsrSessionid: seq.CsaSessionid, CsrSequenceid: seq.CsaSequenceid, CsrSlotid: seq.CsaSlotid,
		}}}}
		for _, op := range args.Argarray[1:] {
			if off, ok := op.(*nfsv4.NfsCbArgop4_OP_CB_OFFLOAD); ok {
				o.got <- &off.Opcboffload
				res.Resarray = append(res.Resarray, &nfsv4.NfsCbResop4_OP_CB_OFFLOAD{})
			}
		}
	}
	if _, err := res.WriteTo(&req.Reply); err != nil {
		o.t.Error(err)
	}
}

// TestCopyIsToldAgain kills everything in the middle of a COPY that goes on in the background. The client is told how far it came, whether it has the answer of the COPY or sends it again, and copies the rest. What another client
// wrote into the part that was copied, before and after the kill, stays.
func TestCopyIsToldAgain(t *testing.T) {
	const size = 128 << 20
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	c := &child{t: t, dir: filepath.Join(t.TempDir(), "data")}
	c.start()
	defer func() { c.kill() }()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	back := &offloads{t: t, got: make(chan *nfsv4.CbOffload4args, 100), seq: map[[16]byte]uint32{}}
	client := func(owner string, callbacks rpc.Program) *nfsclient.Client {
		cl, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: owner, Slots: 8, Patient: true, Minor: 2, Callbacks: callbacks, DialFunc: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.addr)
		}})
		must("dial", err)
		t.Cleanup(cl.Disconnect)
		return cl
	}
	a, b := client("a", back), client("b", nil)
	root, _, err := a.Walk(ctx, "/default")
	must("walk", err)
	src, err := a.Create(ctx, root, "src", 0o666)
	must("create", err)
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<20/16)
	for at := 0; at < size; at += 1 << 20 {
		_, err := a.Write(ctx, src, uint64(at), nfsv4.UNSTABLE4, data)
		must("write", err)
	}
	_, err = a.Commit(ctx, src.FH, 0, 0)
	must("commit", err)
	for name, lost := range map[string]bool{"answered": false, "the answer is lost": true} {
		dst, err := a.Create(ctx, root, name, 0o666)
		must("create", err)
		over, err := b.Open(ctx, root, nfsclient.OpenArgs{Name: name})
		must("open", err)
		// from is a COPY of what comes from there on, to 1 behind it: blocks are not shared.
		from := func(at uint64) *nfsclient.Compound {
			cp := nfsclient.NewCompound().PutFH(src.FH).SaveFH().PutFH(dst.FH).Op(nfsv4.OP_COPY)
			for _, id := range []nfsclient.Stateid{src.Stateid, dst.Stateid} {
				cp.Words(id.Seqid).Raw(id.Other[:])
			}
			return cp.Words(0, uint32(at), 0, uint32(at)+1, 0, uint32(size-at), 1, 0, 0)
		}
		copied := func(r *nfsclient.Reply) (id nfsclient.Stateid, n uint64) {
			t.Helper()
			must("copy", r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_SAVEFH, nfsv4.OP_PUTFH, nfsv4.OP_COPY))
			defer r.Release()
			d := r.D()
			if d.Uint32() == 1 {
				id.Seqid = d.Uint32()
				copy(id.Other[:], d.Fixed(12))
			}
			return id, d.Uint64()
		}
		status := func(id nfsclient.Stateid) (n uint64, complete bool) {
			t.Helper()
			r, err := a.Do(ctx, nfsclient.NewCompound().PutFH(dst.FH).Op(nfsv4.OP_OFFLOAD_STATUS).Words(id.Seqid).Raw(id.Other[:]))
			must("status", err)
			defer r.Release()
			must("status", r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_OFFLOAD_STATUS))
			d := r.D()
			return d.Uint64(), d.Uint32() == 1
		}
		others := map[uint64]bool{}
		write := func(at uint64) {
			t.Helper()
			_, err := b.Write(ctx, over, at, nfsv4.FILE_SYNC4, []byte("BBB"))
			must("write over it", err)
			others[at] = true
		}

		sl, err := a.Session(0).Slot(ctx)
		must("slot", err)
		cp := from(0)
		seq := sl.Sequence() + 1
		r, err := sl.Do(ctx, cp)
		must("copy", err)
		id, n := copied(r)
		if id == (nfsclient.Stateid{}) {
			t.Fatalf("%d bytes, not in the background", n)
		}
		first, complete := status(id)
		for n := first; n == first; n, complete = status(id) { // until something was done in the background
		}
		if complete {
			t.Log("it ended before the kill")
		}
		write(5)
		write(first + 1<<20 - 1)
		c.kill()
		c.start()
		if lost { // the answer was lost
			r := answer(t, ctx, sl, seq, cp)
			_, err := r.Sequence()
			must("sent again", err)
			if again, n := copied(r); again != id || n != 0 {
				t.Fatalf("sent again: %v and %d bytes, it was %v", again, n, id)
			}
		}
		sl.Put()
		var told *nfsv4.CbOffload4args
		for told == nil || told.CoaStateid != nfsv4.Stateid4(id) {
			r, err := a.Raw(ctx, nfsclient.NewRaw().BindConn(a.Session(0).ID(), nfsv4.CDFC4_FORE_OR_BOTH))
			must("bind", err)
			r.Release()
			select {
			case told = <-back.got:
			case <-time.After(time.Second):
			case <-ctx.Done():
				t.Fatal("no CB_OFFLOAD")
			}
		}
		ok, is := told.CoaOffloadInfo.(*nfsv4.OffloadInfo4_NFS4_OK)
		if !is || ok.CoaResok4.WrCount < first || ok.CoaResok4.WrCommitted != nfsv4.FILE_SYNC4 {
			t.Fatalf("told %+v, after %d bytes were done", told.CoaOffloadInfo, first)
		}
		done := ok.CoaResok4.WrCount
		t.Logf("told %d bytes, after %d", done, first)
		write(done - 10)
		for done < size {
			r, err := a.Do(ctx, from(done))
			must("copy", err)
			id, n := copied(r)
			if id != (nfsclient.Stateid{}) {
				for told := (*nfsv4.CbOffload4args)(nil); told == nil || told.CoaStateid != nfsv4.Stateid4(id); {
					select {
					case told = <-back.got:
						if ok, is := told.CoaOffloadInfo.(*nfsv4.OffloadInfo4_NFS4_OK); is {
							n = ok.CoaResok4.WrCount
						}
					case <-ctx.Done():
						t.Fatal("no CB_OFFLOAD")
					}
				}
			}
			if n == 0 {
				t.Fatalf("nothing was copied from %d on", done)
			}
			done += n
		}
		p := make([]byte, 1<<20)
		for at := uint64(0); at < size; at += 1 << 20 {
			n, _, err := a.Read(ctx, dst, at+1, p)
			must("read", err)
			want := bytes.Clone(data)
			for o := range others {
				for i := range uint64(3) {
					if o+i > at && o+i <= at+1<<20 {
						want[o+i-at-1] = 'B'
					}
				}
			}
			if !bytes.Equal(p[:n], want) {
				i := 0
				for i < min(n, len(want)) && p[i] == want[i] {
					i++
				}
				t.Fatalf("%d bytes from %d on; byte %d is %q", n, at+1, i, p[i:min(n, i+4)])
			}
		}
	}
}
