package nfsserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// slowFS is a file system whose reads wait for a gate once it is shut, and then take longer than a client waits for a copy.
type slowFS struct {
	*memfs.Kept
	in *instance

	plain bool // it does not remember calls of their own

	mu   sync.Mutex
	gate chan struct{} // nil: reads do not wait
}

func (s *slowFS) Fence(ctx context.Context, ino vfs.Ino, call *vfs.Call, off uint64) (uint64, error) {
	if s.plain {
		return 0, vfs.KindNotSupported.Err("fence")
	}
	return s.Kept.Fence(ctx, ino, call, off)
}

func (s *slowFS) set(gate chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
}

func (s *slowFS) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		s.in.advance(3 * time.Second)
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, false, vfs.Wrap("read", ctx.Err())
		}
	}
	return s.Kept.Read(ctx, ino, off, p)
}

// offloads is a client's backchannel with one slot, which outlives connections.
type offloads struct {
	t testing.TB

	mu  sync.Mutex // guards the fields below
	seq map[[16]byte]uint32
	got chan *nfsv4.CbOffload4args
}

func (o *offloads) ServeRPC(_ context.Context, req *rpc.Request) {
	d := xdr.NewDecoder(req.Body)
	var args nfsv4.CbCompound4args
	if _, err := args.ReadFrom(&d); err != nil {
		o.t.Errorf("callback: %v", err)
		req.GarbageArgs()
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	seq := args.Argarray[0].(*nfsv4.NfsCbArgop4_OP_CB_SEQUENCE).Opcbsequence
	var res nfsv4.CbCompound4res
	if o.seq[seq.CsaSessionid]++; o.seq[seq.CsaSessionid] != seq.CsaSequenceid {
		o.seq[seq.CsaSessionid]--
		res.Status = nfsv4.NFS4ERR_SEQ_MISORDERED
		if seq.CsaSequenceid == o.seq[seq.CsaSessionid] {
			res.Status = nfsv4.NFS4ERR_RETRY_UNCACHED_REP // as Linux says
		}
		res.Resarray = []nfsv4.NfsCbResop4{&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_default{CsrStatus: res.Status}}}
	} else {
		res.Resarray = []nfsv4.NfsCbResop4{&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
			CsrSessionid: seq.CsaSessionid, CsrSequenceid: seq.CsaSequenceid, CsrSlotid: seq.CsaSlotid,
		}}}}
		for _, op := range args.Argarray[1:] {
			o.got <- &op.(*nfsv4.NfsCbArgop4_OP_CB_OFFLOAD).Opcboffload
			res.Resarray = append(res.Resarray, &nfsv4.NfsCbResop4_OP_CB_OFFLOAD{})
		}
	}
	if _, err := res.WriteTo(&req.Reply); err != nil {
		o.t.Error(err)
	}
}

// copier is an instance with a client that can copy, and a source of some MiB.
type copier struct {
	*conn
	fs   *slowFS
	back *offloads
	src  *nfsclient.File
	dst  *nfsclient.File
	data []byte
}

func newCopier(t *testing.T) *copier {
	k := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	x := &copier{fs: &slowFS{Kept: k}, back: &offloads{t: t, seq: map[[16]byte]uint32{}, got: make(chan *nfsv4.CbOffload4args, 10)}}
	in := &instance{fs: x.fs, kept: k, store: newKeptStore(k)}
	x.fs.in = in
	startInstance(t, in)
	x.conn = in.dial("copier", func(c *nfsclient.Config) { c.Minor, c.Callbacks = 2, x.back })
	x.src, x.dst, x.data = x.file("src"), x.file("dst"), bytes.Repeat([]byte("0123456789abcde\n"), 3<<16)
	for at := 0; at < len(x.data); at += 1 << 20 {
		_, err := x.Write(in.ctx, x.src, uint64(at), nfsv4.FILE_SYNC4, x.data[at:at+1<<20])
		want(t, "write", err, nfsv4.NFS4_OK)
	}
	return x
}

// copyFrom is a COPY of the source from an offset on, to 1 behind that so that nothing can be cloned.
func (x *copier) copyFrom(at uint64) *nfsclient.Compound {
	cp := nfsclient.NewCompound().PutFH(x.src.FH).SaveFH().PutFH(x.dst.FH).Op(nfsv4.OP_COPY)
	for _, s := range []nfsclient.Stateid{x.src.Stateid, x.dst.Stateid} {
		cp.Words(s.Seqid).Raw(s.Other[:])
	}
	return cp.Words(0, uint32(at), 0, 1+uint32(at), 0, uint32(uint64(len(x.data))-at), 1, 0, 0) // offsets, count, consecutive, not synchronous, no other server
}

// copied is the answer to a COPY. id is not zero if it goes on in the background.
func (x *copier) copied(r *nfsclient.Reply, err error) (id nfsclient.Stateid, n uint64) {
	x.t.Helper()
	if err == nil {
		err = r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_SAVEFH, nfsv4.OP_PUTFH, nfsv4.OP_COPY)
	}
	want(x.t, "copy", err, nfsv4.NFS4_OK)
	defer r.Release()
	d := r.D()
	if d.Uint32() == 1 {
		id.Seqid = d.Uint32()
		copy(id.Other[:], d.Fixed(12))
	}
	return id, d.Uint64()
}

// copy sends COPY of the whole source.
func (x *copier) copy() (id nfsclient.Stateid, n uint64) {
	x.t.Helper()
	return x.copied(x.Do(x.in.ctx, x.copyFrom(0)))
}

// background starts a copy that goes on in the background for as long as gate is not closed.
func (x *copier) background() (id nfsclient.Stateid, gate chan struct{}) {
	x.t.Helper()
	gate = x.gate(1)
	id, _ = x.copy()
	if id == (nfsclient.Stateid{}) {
		x.t.Fatal("the copy is not in the background")
	}
	return id, gate
}

// gate lets n MiB be copied, and more when it is closed.
func (x *copier) gate(n int) chan struct{} {
	gate := make(chan struct{}, n)
	for range n {
		gate <- struct{}{}
	}
	x.fs.set(gate)
	return gate
}

// others write into the destination, and are told that it is stable.
func (x *copier) others(at uint64) {
	x.t.Helper()
	if _, _, err := x.fs.Kept.Write(x.in.ctx, &vfs.Root, inoOf(x.t, x.fs, "dst"), at, []byte("OTHERS"), vfs.FileSync); err != nil {
		x.t.Fatal(err)
	}
}

// has checks what is in the destination: the copy, and what others wrote there.
func (x *copier) has(others ...int) {
	x.t.Helper()
	p := make([]byte, len(x.data)+100)
	n, _, err := x.fs.Kept.Read(x.in.ctx, inoOf(x.t, x.fs, "dst"), 0, p)
	if err != nil {
		x.t.Fatal(err)
	}
	want := append([]byte{0}, x.data...)
	for _, at := range others {
		copy(want[at:], "OTHERS")
	}
	if !bytes.Equal(p[:n], want) {
		for i := range min(n, len(want)) {
			if p[i] != want[i] {
				x.t.Fatalf("%d bytes, another one at %d: %q, want %q", n, i, p[i:min(n, i+8)], want[i:min(len(want), i+8)])
			}
		}
		x.t.Fatalf("%d bytes, want %d", n, len(want))
	}
}

// waitFor waits until n bytes of a copy are done.
func (x *copier) waitFor(id nfsclient.Stateid, n uint64) {
	x.t.Helper()
	for x.status(id, n) != n {
		if x.in.ctx.Err() != nil {
			x.t.Fatal("the copy does not go on")
		}
	}
}

// status is how far OFFLOAD_STATUS says that a copy is; at most n.
func (x *copier) status(id nfsclient.Stateid, most uint64) uint64 {
	x.t.Helper()
	n, complete, err := x.offload(nfsv4.OP_OFFLOAD_STATUS, id)
	if err != nil || len(complete) > 0 || n > most {
		x.t.Fatalf("%d bytes, %v, %v; want at most %d", n, complete, err, most)
	}
	return n
}

// offload sends OFFLOAD_STATUS or OFFLOAD_CANCEL.
func (x *copier) offload(op nfsv4.NfsOpnum4, id nfsclient.Stateid) (n uint64, complete []nfsclient.Status, err error) {
	r, err := x.Do(x.in.ctx, nfsclient.NewCompound().PutFH(x.dst.FH).Op(op).Words(id.Seqid).Raw(id.Other[:]))
	if err == nil {
		err = r.Skip(nfsv4.OP_PUTFH, op)
	}
	if err != nil || op != nfsv4.OP_OFFLOAD_STATUS {
		return 0, nil, err
	}
	defer r.Release()
	d := r.D()
	n = d.Uint64()
	for range d.Count(1, 4) {
		complete = append(complete, nfsclient.Status(d.Uint32()))
	}
	return n, complete, d.Err()
}

// bind binds the connection to the session's backchannel and has the server see it.
func (x *copier) bind() {
	x.t.Helper()
	r, err := x.Raw(x.in.ctx, nfsclient.NewRaw().BindConn(x.Session(0).ID(), nfsv4.CDFC4_FORE_OR_BOTH))
	if err == nil {
		err = r.Next(nfsv4.OP_BIND_CONN_TO_SESSION)
	}
	want(x.t, "bind", err, nfsv4.NFS4_OK)
	r.Release()
	x.in.srv.Tick(x.in.ctx)
}

func (x *copier) told() *nfsv4.CbOffload4args {
	x.t.Helper()
	select {
	case got := <-x.back.got:
		return got
	case <-x.in.ctx.Done():
		x.t.Fatal("no CB_OFFLOAD")
		return nil
	}
}

// came checks that the client is told how far a copy came: n bytes, 0: that it is to begin again.
func (x *copier) came(id nfsclient.Stateid, n uint64) {
	x.t.Helper()
	got := x.told()
	if got.CoaStateid != nfsv4.Stateid4(id) || string(got.CoaFh) != string(x.dst.FH) {
		x.t.Fatalf("told %+v", got)
	}
	switch info := got.CoaOffloadInfo.(type) {
	case *nfsv4.OffloadInfo4_NFS4_OK:
		if n == 0 || info.CoaResok4.WrCount != n || info.CoaResok4.WrCommitted != nfsv4.FILE_SYNC4 {
			x.t.Fatalf("told %+v, want %d bytes", info, n)
		}
	default:
		if n > 0 || info.GetCoaStatus() != nfsv4.NFS4ERR_DELAY {
			x.t.Fatalf("told %+v, want %d bytes", info, n)
		}
	}
}

// kill ends the server without a word to its clients, with all that is only in its memory.
func (x *copier) kill() {
	x.t.Helper()
	want(x.t, "serves", x.in.srv.Serves(x.in.ctx, func(state.ClientID) bool { return false }), nfsv4.NFS4_OK)
	x.in.stop()
	x.in.kept.Restart()
	x.fs.set(nil)
	x.in.start()
}

// recorded counts copies in the store.
func (x *copier) recorded() (n int) {
	k := x.in.store.(*keptStore)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.clients {
		n += len(c.Copies)
	}
	return n
}

// settled waits until no copy is recorded any more: the client knows the end, and has the answer of its COPY, as it uses the slot again.
func (x *copier) settled() {
	x.t.Helper()
	for x.recorded() > 0 {
		r, err := x.Do(x.in.ctx, nfsclient.NewCompound().PutRootFH())
		want(x.t, "another request", err, nfsv4.NFS4_OK)
		r.Release()
		x.in.srv.Tick(x.in.ctx)
		if x.in.ctx.Err() != nil {
			x.t.Fatal("the copy stays recorded")
		}
		time.Sleep(time.Millisecond)
	}
}

// A copy in the background is recorded before its client hears of it and until the client knows its end. When the server is killed
// meanwhile, the next one tells the client how far it came, and the client goes on from there: what others wrote before that, and were told is stable, stays.
func TestCopyOfKilledServer(t *testing.T) {
	x := newCopier(t)
	x.gate(2)
	id, _ := x.copy()
	x.waitFor(id, 2<<20)
	if n := x.recorded(); n != 1 {
		t.Fatalf("%d copies are recorded", n)
	}
	x.others(100)
	x.kill()
	x.others(2<<20 - 10)
	n, complete, err := x.offload(nfsv4.OP_OFFLOAD_STATUS, id)
	if want(t, "status", err, nfsv4.NFS4_OK); n != 2<<20 || len(complete) != 1 || complete[0] != nfsv4.NFS4_OK {
		t.Fatalf("status: %d bytes, %v", n, complete)
	}
	x.bind()
	x.came(id, 2<<20)
	x.settled()
	_, _, err = x.offload(nfsv4.OP_OFFLOAD_STATUS, id)
	want(t, "status of what is settled", err, nfsv4.NFS4ERR_BAD_STATEID)
	if n := x.fs.OwnCalls(); n != 1 {
		t.Errorf("%d calls of copies are remembered: one that was ended stays ended", n)
	}

	// As Linux does: a COPY of the rest, which now ends.
	x.rest(2 << 20)
	x.has(100, 2<<20-10)
}

// rest copies from at on, while the client waits.
func (x *copier) rest(at uint64) {
	x.t.Helper()
	x.fs.set(nil)
	if id, n := x.copied(x.Do(x.in.ctx, x.copyFrom(at))); id != (nfsclient.Stateid{}) || n != uint64(len(x.data))-at {
		x.t.Fatalf("%v, %d bytes", id, n)
	}
}

// A copy that ended is told as a whole, and nothing is remembered of it when its client has the answer and knows the end.
func TestEndedCopyIsForgotten(t *testing.T) {
	x := newCopier(t)
	id, gate := x.background()
	close(gate)
	x.came(id, uint64(len(x.data)))
	x.has()
	if n := x.recorded(); n != 1 {
		t.Errorf("%d copies are recorded, while the COPY may be sent again", n)
	}
	x.settled()
	for x.fs.OwnCalls() > 0 {
		if x.in.ctx.Err() != nil {
			t.Fatal("the call of a copy that ended is remembered")
		}
		time.Sleep(time.Millisecond)
	}
}

// The answer with the stateid is lost with the server. The COPY is sent again, and answered with the same one; what went on in the background until then is not copied again.
func TestRepeatedCopyOfKilledServer(t *testing.T) {
	for _, bound := range []bool{false, true} { // the client is told how far it came when it has sent the COPY again, or before
		x := newCopier(t)
		x.gate(2)
		sl, err := x.Session(0).Slot(x.in.ctx)
		if err != nil {
			t.Fatal(err)
		}
		cp := x.copyFrom(0)
		id, _ := x.copied(sl.Do(x.in.ctx, cp))
		x.waitFor(id, 2<<20)
		x.kill()
		x.others(2<<20 - 10)
		if bound {
			x.bind()
			x.came(id, 2<<20)
		}
		x.in.srv.Tick(x.in.ctx)
		if n := x.recorded(); n != 1 {
			t.Fatalf("%d copies are recorded, while the COPY may come again", n)
		}
		r := resendTo(t, x.in.ctx, sl, x.copyFrom(0))
		_, err = r.Sequence()
		if again, n := x.copied(r, err); again != id || n != 0 {
			t.Fatalf("another copy: %v after %v, %d bytes", again, id, n)
		}
		if !bound {
			x.bind()
			x.came(id, 2<<20)
		}
		sl.Put()
		x.settled()
		if n := len(x.back.got); n > 0 {
			t.Errorf("the client is told %d times more", n)
		}
		x.rest(2 << 20)
		x.has(2<<20 - 10)
	}
}

// A server that is left behind in the middle of a copy goes on after another one has ended it: it changes nothing any more, and does not call the client.
func TestCopyGoesOnTooLate(t *testing.T) {
	x := newCopier(t)
	gate := x.gate(2)
	id, _ := x.copy()
	x.waitFor(id, 2<<20)
	k := x.in.store.(*keptStore)
	k.mu.Lock()
	var r state.CopyRecord
	var client state.ClientID
	for c, rec := range k.clients {
		client, r = c, rec.Copies[0]
	}
	k.mu.Unlock()
	if to, err := x.fs.Fence(x.in.ctx, r.Ino, r.Call(client, 2), r.Off+r.Before); err != nil || to != 1+2<<20 {
		t.Fatalf("done to %d, %v", to, err)
	}
	x.others(2<<20 + 100)
	close(gate)
	x.in.stop() // waits for it
	p := make([]byte, 6)
	if _, _, err := x.fs.Kept.Read(t.Context(), r.Ino, 2<<20+100, p); err != nil || string(p) != "OTHERS" {
		t.Fatalf("%q, %v", p, err)
	}
	if len(x.back.got) > 0 {
		t.Error("the client is told by a server that has lost the copy")
	}
	x.in.start()
}

// A copy of which nothing is remembered, as a release before recorded it, is begun again.
func TestOldRecordOfCopy(t *testing.T) {
	x := newCopier(t)
	id, _ := x.background()
	x.kill()
	k := x.in.store.(*keptStore)
	k.mu.Lock()
	for _, c := range k.clients {
		c.Copies[0].CopyTarget, c.Copies[0].CopyRequest = state.CopyTarget{}, state.CopyRequest{}
	}
	k.mu.Unlock()
	x.kill()
	n, complete, err := x.offload(nfsv4.OP_OFFLOAD_STATUS, id)
	if want(t, "status", err, nfsv4.NFS4_OK); n != 0 || len(complete) != 1 || complete[0] != nfsv4.NFS4ERR_DELAY {
		t.Fatalf("status: %d bytes, %v", n, complete)
	}
	x.bind()
	x.came(id, 0)
	x.settled()
}

// Where calls of their own are not remembered, no copy goes on in the background: the answer is short, and the client asks for the rest.
func TestCopyWithoutOwnCalls(t *testing.T) {
	x := newCopier(t)
	x.fs.plain = true
	x.gate(3)
	for at := uint64(0); at < uint64(len(x.data)); {
		id, n := x.copied(x.Do(x.in.ctx, x.copyFrom(at)))
		if id != (nfsclient.Stateid{}) || n != 1<<20 {
			t.Fatalf("stateid %v, %d bytes", id, n)
		}
		at += n
	}
	x.has()
	if n := x.recorded(); n != 0 {
		t.Errorf("%d copies are recorded", n)
	}
}

// sequenceFlags is where sr_status_flags are in a COMPOUND's reply without a tag.
const sequenceFlags = 12 + 8 + 16 + 4*4

func inoOf(t testing.TB, fs vfs.FS, name string) vfs.Ino {
	t.Helper()
	a, err := fs.Lookup(t.Context(), &vfs.Root, vfs.RootIno, name)
	if err != nil {
		t.Fatal(err)
	}
	return a.Ino
}

// What is owed is owed until the client knows it or does not want to, by however many servers.
func TestLostCopyIsCancelled(t *testing.T) {
	x := newCopier(t)
	id, _ := x.background()
	for range 2 {
		x.kill()
		x.in.srv.Tick(x.in.ctx) // nobody is bound
		if n := x.recorded(); n != 1 {
			t.Fatalf("%d copies are recorded", n)
		}
	}
	other := x.in.dial("other", func(c *nfsclient.Config) { c.Minor = 2 })
	stranger := &copier{conn: other, dst: x.dst}
	_, _, err := stranger.offload(nfsv4.OP_OFFLOAD_CANCEL, id)
	want(t, "cancel by another client", err, nfsv4.NFS4ERR_BAD_STATEID)
	_, _, err = x.offload(nfsv4.OP_OFFLOAD_CANCEL, id)
	want(t, "cancel", err, nfsv4.NFS4_OK)
	_, _, err = x.offload(nfsv4.OP_OFFLOAD_CANCEL, id)
	want(t, "cancel what is cancelled", err, nfsv4.NFS4ERR_BAD_STATEID)
	x.kill()
	x.bind()
	if n := x.recorded(); n != 0 || len(x.back.got) > 0 {
		t.Errorf("%d copies are recorded, told of %d", n, len(x.back.got))
	}
}

// A copy that is cancelled while it runs is not recorded any more.
func TestCancelledCopyIsNotRecorded(t *testing.T) {
	x := newCopier(t)
	id, _ := x.background()
	_, _, err := x.offload(nfsv4.OP_OFFLOAD_CANCEL, id)
	want(t, "cancel", err, nfsv4.NFS4_OK)
	x.settled()
	x.kill()
	x.bind()
	if len(x.back.got) > 0 {
		t.Error("told of a copy that was cancelled")
	}
}

// Without a record there is no copy in the background.
func TestCopyThatCannotBeRecorded(t *testing.T) {
	x := newCopier(t)
	gate := make(chan struct{}, 1)
	gate <- struct{}{}
	x.fs.set(gate)
	k := x.in.store.(*keptStore)
	k.fail(vfs.KindUnavailable.Err("put client"))
	id, n := x.copy()
	if id != (nfsclient.Stateid{}) || n != 1<<20 {
		t.Fatalf("stateid %v, %d bytes", id, n)
	}
	k.fail(nil)
	x.in.srv.Tick(x.in.ctx)
	if n := x.recorded(); n != 0 {
		t.Errorf("%d copies are recorded", n)
	}
}

// A former server used the backchannel a few times: where its slots are is found, and the client is told what it is owed.
func TestBackchannelThatWasUsed(t *testing.T) {
	x := newCopier(t)
	for range 2 {
		_, gate := x.background()
		close(gate)
		x.told()
	}
	x.settled()
	id, _ := x.background()
	x.kill()
	x.bind()
	x.came(id, 1<<20)
	x.settled()
}

// A former server used the backchannel very often: its slots are where only the client knows. It is told to make another session, and then
// is told what it is owed.
func TestBackchannelThatWasUsedOften(t *testing.T) {
	x := newCopier(t)
	id, _ := x.background()
	x.back.mu.Lock()
	x.back.seq[x.Session(0).ID()] = 5000
	x.back.mu.Unlock()
	x.kill()
	x.bind()
	flags := func() uint32 {
		r, err := x.Do(x.in.ctx, nfsclient.NewCompound().PutRootFH())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		b := r.Body()
		return binary.BigEndian.Uint32(b[sequenceFlags:])
	}
	for flags()&nfsv4.SEQ4_STATUS_BACKCHANNEL_FAULT == 0 {
		if x.in.ctx.Err() != nil {
			t.Fatal("the client is not told that the backchannel is at fault")
		}
	}
	if len(x.back.got) > 0 {
		t.Fatal("a callback was taken for a new one")
	}
	want(t, "another session", x.Recover(x.in.ctx), nfsv4.NFS4_OK)
	x.in.srv.Tick(x.in.ctx)
	x.came(id, 1<<20)
	x.settled()
	if flags()&nfsv4.SEQ4_STATUS_BACKCHANNEL_FAULT != 0 {
		t.Error("the new session is at fault")
	}
}
