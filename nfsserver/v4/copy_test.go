package v4_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/rpc"

	"github.com/rackfs/rackfs/vfs"
)

func copyArgs(src, dst nfsv4.Stateid4, from, to, n uint64, wait bool) *nfsv4.NfsArgop4_OP_COPY {
	return &nfsv4.NfsArgop4_OP_COPY{Opcopy: nfsv4.Copy4args{
		CaSrcStateid: src, CaDstStateid: dst, CaSrcOffset: from, CaDstOffset: to, CaCount: n, CaConsecutive: true, CaSynchronous: wait,
	}}
}

func copyOK(r nfsv4.NfsResop4) nfsv4.Copy4resok {
	return r.(*nfsv4.NfsResop4_OP_COPY).Opcopy.(*nfsv4.Copy4res_NFS4_OK).CrResok4
}

// copyWorld has file systems /default and /other, with files "src" of size bytes and "dst" in each.
func copyWorld(t *testing.T, wrap func(*memfs.FS) vfs.FS) (w *world, other *memfs.FS) {
	mem, other := memfs.New(memfs.Options{}), memfs.New(memfs.Options{})
	w = newWorldOf(t, mem, wrap(mem), 0)
	ex := exportOf(2, "/other", other, export.ReadWrite, export.SquashNone)
	ex.FSID = 8
	w.exports.Replace(w.table(exportOf(1, "/default", wrap(mem), export.ReadWrite, export.SquashNone), ex))
	return w, other
}

func plainFS(m *memfs.FS) vfs.FS { return m }

func lookupIno(t *testing.T, fs vfs.FS, name string) vfs.Ino {
	t.Helper()
	a, err := fs.Lookup(t.Context(), &vfs.Root, vfs.RootIno, name)
	if err != nil {
		t.Fatal(err)
	}
	return a.Ino
}

func contentOf(t *testing.T, fs vfs.FS, name string, n int) []byte {
	t.Helper()
	buf := make([]byte, n)
	k, _, err := fs.Read(t.Context(), lookupIno(t, fs, name), 0, buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:k]
}

func (c *client) openIn(path string, access uint32, name string) ([]byte, nfsv4.Stateid4) {
	c.t.Helper()
	res := c.ok(&nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup(path), open("o", access, 0, unchecked(), named(name)), &nfsv4.NfsArgop4_OP_GETFH{})
	return fhOf(last(res)), openOK(res[len(res)-2]).Stateid
}

// fewAtOnce clones no more than this many bytes at once.
type fewAtOnce struct {
	*memfs.FS
	most   uint64
	cloned atomic.Int64 // bytes
	asked  atomic.Int64
}

func (f *fewAtOnce) Clone(ctx context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	f.asked.Add(1)
	if n == 0 || n > f.most {
		return vfs.Errorf(vfs.KindXDev, "clone", "too much")
	}
	f.cloned.Add(int64(n))
	return f.FS.Clone(ctx, c, src, srcOff, dst, dstOff, n)
}

// A clone that is too large to be done as a whole is refused; a copy of the same shares it in parts.
func TestCopyOfWhatIsTooMuchToClone(t *testing.T) {
	var few *fewAtOnce
	w, _ := copyWorld(t, func(m *memfs.FS) vfs.FS {
		if few == nil {
			few = &fewAtOnce{FS: m}
		}
		return few
	})
	c := w.connect("a", 2)
	f, id := c.openIn("default", rw, "src")
	g, gid := c.openIn("default", rw, "dst")
	data := pattern(3 << 20)
	for at := 0; at < len(data); at += 1 << 20 {
		c.ok(putFH(f), write(id, uint64(at), nfsv4.UNSTABLE4, data[at:at+1<<20]))
	}
	clone := &nfsv4.NfsArgop4_OP_CLONE{Opclone: nfsv4.Clone4args{ClSrcStateid: id, ClDstStateid: gid}}
	for _, most := range []uint64{1 << 20, 100 << 10, 0} {
		few.most = most
		few.cloned.Store(0)
		few.asked.Store(0)
		c.fails(nfsv4.NFS4ERR_XDEV, putFH(f), &nfsv4.NfsArgop4_OP_SAVEFH{}, putFH(g), clone)
		c.ok(putFH(f), &nfsv4.NfsArgop4_OP_SAVEFH{}, putFH(g), copyArgs(id, gid, 0, 0, uint64(len(data)), true))
		if !bytes.Equal(contentOf(t, w.fs, "dst", 4<<20), data) {
			t.Fatal("the copy differs")
		}
		if n := few.cloned.Load(); most > 0 && n != int64(len(data)) || few.asked.Load() > 100 {
			t.Errorf("%d at once: %d bytes were cloned, %d times asked", most, n, few.asked.Load())
		}
		size := uint64(0)
		if _, err := w.fs.SetAttr(t.Context(), &vfs.Root, lookupIno(t, w.fs, "dst"), vfs.SetAttr{Size: &size}, true); err != nil {
			t.Fatal(err)
		}
	}
}

// copiesItself copies by itself, in pieces as it likes.
type copiesItself struct {
	vfs.FS
	refuses bool
	copied  atomic.Int64 // bytes
}

func (f *copiesItself) Copy(ctx context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) (uint64, vfs.Verifier, error) {
	if f.refuses {
		return 0, vfs.Verifier{}, vfs.KindNotSupported.Err("copy")
	}
	p := make([]byte, min(n, 300_000))
	k, _, err := f.Read(ctx, src, srcOff, p)
	if err != nil || k == 0 {
		return 0, vfs.Verifier{}, err
	}
	_, v, err := f.Write(ctx, c, dst, dstOff, p[:k], vfs.Unstable)
	f.copied.Add(int64(k))
	return uint64(k), v, err
}

// A file system that copies by itself does so, also what it cannot clone; between two of them it is read and written.
func TestCopyByTheFileSystem(t *testing.T) {
	var own *copiesItself
	w, other := copyWorld(t, func(m *memfs.FS) vfs.FS {
		if own == nil {
			own = &copiesItself{FS: struct{ vfs.FS }{m}} // without Clone
		}
		return own
	})
	c := w.connect("a", 2)
	f, id := c.openIn("default", rw, "src")
	g, gid := c.openIn("default", rw, "dst")
	h, hid := c.openIn("other", rw, "dst")
	data := pattern(3<<20 + 77)
	for at := 0; at < len(data); at += 1 << 20 {
		c.ok(putFH(f), write(id, uint64(at), nfsv4.UNSTABLE4, data[at:min(at+1<<20, len(data))]))
	}
	for _, x := range []struct {
		to      []byte
		id      nfsv4.Stateid4
		fs      vfs.FS
		at      int
		refuses bool
		itself  int
	}{
		{g, gid, w.fs, 0, false, len(data)},
		{g, gid, w.fs, 1234, false, len(data)},
		{g, gid, w.fs, 4321, true, 0},
		{h, hid, other, 0, false, 0},
	} {
		own.refuses = x.refuses
		own.copied.Store(0)
		res := c.ok(putFH(f), &nfsv4.NfsArgop4_OP_SAVEFH{}, putFH(x.to), copyArgs(id, x.id, 0, uint64(x.at), 0, true))
		if n := copyOK(last(res)).CrResponse.WrCount; n != uint64(len(data)) {
			t.Errorf("at %d: %d bytes", x.at, n)
		}
		if n := own.copied.Load(); n != int64(x.itself) {
			t.Errorf("at %d: it copied %d bytes by itself, want %d", x.at, n, x.itself)
		}
		if got := contentOf(t, x.fs, "dst", 4<<20); !bytes.Equal(got[x.at:], data) {
			t.Errorf("at %d: the copy differs", x.at)
		}
	}
}

func TestCopy(t *testing.T) {
	w, other := copyWorld(t, plainFS)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	c := w.connect("a", 2)
	f, id := c.openIn("default", rw, "src")
	g, gid := c.openIn("default", rw, "dst")
	h, hid := c.openIn("other", rw, "dst")
	data := pattern(3<<20 + 77)
	for at := 0; at < len(data); at += 1 << 20 {
		c.ok(putFH(f), write(id, uint64(at), nfsv4.UNSTABLE4, data[at:min(at+1<<20, len(data))]))
	}
	type end struct {
		fh []byte
		id nfsv4.Stateid4
		fs *memfs.FS
	}
	for i, x := range []struct {
		to          end
		from, at, n uint64
	}{
		{end{g, gid, w.fs}, 0, 0, 0},
		{end{g, gid, w.fs}, 4096, 0, 1 << 20},
		{end{g, gid, w.fs}, 100, 4096 + 100, 1 << 20}, // pages can be shared between two ends that cannot
		{end{g, gid, w.fs}, 5, 6, 2 << 20},            // none can
		{end{g, gid, w.fs}, 1 << 20, 4 << 20, 0},
		{end{h, hid, other}, 0, 0, 0},
		{end{h, hid, other}, 77, 3, 1 << 20},
		{end{g, gid, w.fs}, uint64(len(data)), 9, 0}, // nothing is left
	} {
		before := contentOf(t, x.to.fs, "dst", 16<<20)
		n := x.n
		if n == 0 {
			n = uint64(len(data)) - x.from
		}
		res := c.ok(ops(pair(f, x.to.fh), copyArgs(id, x.to.id, x.from, x.at, x.n, true), &nfsv4.NfsArgop4_OP_COMMIT{})...)
		got := copyOK(res[len(res)-2])
		if got.CrResponse.WrCount != n || !got.CrRequirements.CrSynchronous || !got.CrRequirements.CrConsecutive || len(got.CrResponse.WrCallbackId) > 0 {
			t.Fatalf("case %d: %+v, want %d bytes", i, got, n)
		}
		verifier := last(res).(*nfsv4.NfsResop4_OP_COMMIT).Opcommit.(*nfsv4.Commit4res_NFS4_OK).Resok4.Writeverf
		if got.CrResponse.WrCommitted != nfsv4.FILE_SYNC4 || got.CrResponse.WrWriteverf != verifier {
			t.Fatalf("case %d: committed %d, verifier %x, that of COMMIT %x", i, got.CrResponse.WrCommitted, got.CrResponse.WrWriteverf, verifier)
		}
		want := append(before, make([]byte, max(0, int(x.at+n)-len(before)))...)
		if n == 0 {
			want = before
		}
		copy(want[min(int(x.at), len(want)):], data[x.from:x.from+n])
		if !bytes.Equal(contentOf(t, x.to.fs, "dst", 16<<20), want) {
			t.Fatalf("case %d: other bytes", i)
		}
	}
	elsewhere := copyArgs(id, gid, 0, 0, 0, true)
	elsewhere.Opcopy.CaSourceServer = []nfsv4.Netloc4{&nfsv4.Netloc4_NL4_NAME{NlName: "elsewhere"}}
	for name, x := range map[string]struct {
		ops  []nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"from beyond the end":         {ops(pair(f, g), copyArgs(id, gid, 4<<20, 0, 0, true)), nfsv4.NFS4ERR_XDEV},
		"at the end":                  {ops(pair(f, g), copyArgs(id, gid, uint64(len(data)), 0, 1, true)), nfsv4.NFS4ERR_XDEV},
		"over itself":                 {ops(pair(f, f), copyArgs(id, id, 0, 1<<20, 2<<20, true)), nfsv4.NFS4ERR_INVAL},
		"to beyond the largest":       {ops(pair(f, g), copyArgs(id, gid, 0, vfs.MaxSize, 1, true)), nfsv4.NFS4ERR_FBIG},
		"from another server":         {ops(pair(f, g), elsewhere), nfsv4.NFS4ERR_NOTSUPP},
		"without a source":            {ops(putFH(g), copyArgs(id, gid, 0, 0, 0, true)), nfsv4.NFS4ERR_NOFILEHANDLE},
		"with the stateids swapped":   {ops(pair(f, g), copyArgs(gid, id, 0, 0, 0, true)), nfsv4.NFS4ERR_BAD_STATEID},
		"to a directory":              {ops(putFH(f), &nfsv4.NfsArgop4_OP_SAVEFH{}, at("d"), copyArgs(id, anonymous, 0, 0, 0, true)), nfsv4.NFS4ERR_WRONG_TYPE},
		"OFFLOAD_STATUS of no copy":   {ops(putFH(g), offloadStatus(gid)), nfsv4.NFS4ERR_BAD_STATEID},
		"OFFLOAD_CANCEL of no copy":   {ops(putFH(g), offloadCancel(gid)), nfsv4.NFS4ERR_BAD_STATEID},
		"COPY_NOTIFY, for others":     {ops(putFH(g), &nfsv4.NfsArgop4_OP_COPY_NOTIFY{OpoffloadNotify: nfsv4.CopyNotify4args{CnaDestinationServer: &nfsv4.Netloc4_NL4_NAME{}}}), nfsv4.NFS4ERR_NOTSUPP},
		"of a file that is read only": {ops(pair(f, g), copyArgs(id, nfsv4.Stateid4{Seqid: 1, Other: [12]byte{9}}, 0, 0, 0, true)), nfsv4.NFS4ERR_STALE_STATEID},
	} {
		if res := c.do(x.ops...); res.Status != x.want {
			t.Errorf("%s: %s, want %s", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
	if got := copyOK(last(c.ok(ops(pair(f, g), copyArgs(id, gid, 1<<20, 0, 1<<40, true))...))); got.CrResponse.WrCount != uint64(len(data)-1<<20) {
		t.Errorf("more than there is: %+v", got)
	}
	// What is too much for a client that waits, or has no backchannel, is answered in part.
	w.v4.SetCopyBound(1 << 20)
	for _, wait := range []bool{true, false} {
		got := copyOK(last(c.ok(ops(pair(f, h), copyArgs(id, hid, 1, 0, 0, wait))...)))
		if got.CrResponse.WrCount != 1<<20 || !got.CrRequirements.CrSynchronous {
			t.Errorf("wait %v: %+v", wait, got)
		}
	}
}

// losingFS loses all that is not durable, once, with a write.
type losingFS struct {
	*memfs.FS
	writes atomic.Int32 // before it
	fail   bool
}

func (l *losingFS) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	if l.writes.Add(-1) == 0 {
		l.Crash()
		if l.fail {
			return 0, vfs.Verifier{}, vfs.Errorf(vfs.KindFenced, "write", "what was buffered was lost")
		}
	}
	return l.FS.Write(ctx, c, ino, off, p, s)
}

// TestCopyIsLost shows that a COPY does not answer with bytes that were lost before they were durable, whether a write says so or only
// the verifiers do.
func TestCopyIsLost(t *testing.T) {
	for _, fail := range []bool{true, false} {
		var l *losingFS
		w, _ := copyWorld(t, func(m *memfs.FS) vfs.FS {
			if l == nil {
				l = &losingFS{FS: m, fail: fail}
			}
			return l
		})
		c := w.connect("a", 2)
		f, id := c.openIn("default", rw, "src")
		g, gid := c.openIn("default", rw, "dst")
		data := pattern(3<<20 + 77)
		for at := 0; at < len(data); at += 1 << 20 {
			c.ok(putFH(f), write(id, uint64(at), nfsv4.FILE_SYNC4, data[at:min(at+1<<20, len(data))]))
		}
		l.writes.Store(3)
		const to = 1 // nothing can be cloned
		done, lost := uint64(0), 0
		for done < uint64(len(data)) {
			res := c.do(putFH(f), &nfsv4.NfsArgop4_OP_SAVEFH{}, putFH(g), copyArgs(id, gid, done, to+done, 0, true))
			if res.Status == nfsv4.NFS4ERR_DELAY {
				lost++
				continue
			}
			done += copyOK(last(res.Resarray)).CrResponse.WrCount
		}
		if got := contentOf(t, l, "dst", len(data)+to)[to:]; !bytes.Equal(got, data) || lost == 0 {
			t.Errorf("fail %v: told %d times that it was lost; the copy is the source: %v", fail, lost, bytes.Equal(got, data))
		}
	}
}

func offloadStatus(id nfsv4.Stateid4) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_OFFLOAD_STATUS{OpoffloadStatus: nfsv4.OffloadStatus4args{OsaStateid: id}}
}

func offloadCancel(id nfsv4.Stateid4) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_OFFLOAD_CANCEL{OpoffloadCancel: nfsv4.OffloadCancel4args{OcaStateid: id}}
}

// backchannel is the client's side of callbacks.
type backchannel struct {
	t testing.TB

	mu     sync.Mutex // guards the fields below
	seqs   map[uint32]uint32
	answer []func(*nfsv4.CbCompound4args) (nfsv4.Nfsstat4, bool) // of the next calls; false: none
	calls  int
	creds  []vfs.Cred
	got    chan *nfsv4.CbOffload4args

	recall   func(nfsv4.CbRecall4args) nfsv4.Nfsstat4 // how CB_RECALL is answered; nil: NFS4_OK
	recalled chan nfsv4.CbRecall4args
	notified chan nfsv4.CbNotifyLock4args

	getattr func(nfsv4.CbGetattr4args) nfsv4.CbGetattr4res // how CB_GETATTR is answered; nil: NFS4ERR_BADHANDLE
	asked   int                                            // how often
}

// ServeRPC checks the slot as a client does and takes CB_OFFLOAD, CB_RECALL and CB_NOTIFY_LOCK.
func (b *backchannel) ServeRPC(_ context.Context, req *rpc.Request) {
	d := xdr.NewDecoder(req.Body)
	var args nfsv4.CbCompound4args
	if _, err := args.ReadFrom(&d); err != nil {
		b.t.Errorf("callback: %v", err)
		req.GarbageArgs()
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	b.creds = append(b.creds, req.Cred)
	seq := args.Argarray[0].(*nfsv4.NfsCbArgop4_OP_CB_SEQUENCE).Opcbsequence
	reply := func(res nfsv4.CbCompound4res) {
		if _, err := res.WriteTo(&req.Reply); err != nil {
			b.t.Error(err)
		}
	}
	if seq.CsaSequenceid != b.seqs[seq.CsaSlotid]+1 {
		reply(nfsv4.CbCompound4res{Status: nfsv4.NFS4ERR_SEQ_MISORDERED, Resarray: []nfsv4.NfsCbResop4{
			&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_default{CsrStatus: nfsv4.NFS4ERR_SEQ_MISORDERED}},
		}})
		return
	}
	st := nfsv4.NFS4_OK
	if len(b.answer) > 0 {
		var ok bool
		st, ok = b.answer[0](&args)
		b.answer = b.answer[1:]
		if !ok {
			req.Conn.Close() // it was never seen
			return
		}
	}
	b.seqs[seq.CsaSlotid]++
	if op, is := args.Argarray[1].(*nfsv4.NfsCbArgop4_OP_CB_NOTIFY_LOCK); is {
		b.notified <- op.OpcbnotifyLock
		reply(nfsv4.CbCompound4res{Resarray: []nfsv4.NfsCbResop4{
			&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
				CsrSessionid: seq.CsaSessionid, CsrSequenceid: seq.CsaSequenceid, CsrSlotid: seq.CsaSlotid,
			}}},
			&nfsv4.NfsCbResop4_OP_CB_NOTIFY_LOCK{},
		}})
		return
	}
	if op, is := args.Argarray[1].(*nfsv4.NfsCbArgop4_OP_CB_GETATTR); is {
		b.asked++
		var res nfsv4.CbGetattr4res = &nfsv4.CbGetattr4res_default{Status: nfsv4.NFS4ERR_BADHANDLE}
		if b.getattr != nil {
			res = b.getattr(op.Opcbgetattr)
		}
		reply(nfsv4.CbCompound4res{Status: res.GetStatus(), Resarray: []nfsv4.NfsCbResop4{
			&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
				CsrSessionid: seq.CsaSessionid, CsrSequenceid: seq.CsaSequenceid, CsrSlotid: seq.CsaSlotid,
			}}},
			&nfsv4.NfsCbResop4_OP_CB_GETATTR{Opcbgetattr: res},
		}})
		return
	}
	if op, is := args.Argarray[1].(*nfsv4.NfsCbArgop4_OP_CB_RECALL); is {
		if b.recall != nil {
			st = b.recall(op.Opcbrecall)
		}
		b.recalled <- op.Opcbrecall
		reply(nfsv4.CbCompound4res{Status: st, Resarray: []nfsv4.NfsCbResop4{
			&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
				CsrSessionid: seq.CsaSessionid, CsrSequenceid: seq.CsaSequenceid, CsrSlotid: seq.CsaSlotid,
			}}},
			&nfsv4.NfsCbResop4_OP_CB_RECALL{Opcbrecall: nfsv4.CbRecall4res{Status: st}},
		}})
		return
	}
	if st == nfsv4.NFS4_OK {
		b.got <- &args.Argarray[1].(*nfsv4.NfsCbArgop4_OP_CB_OFFLOAD).Opcboffload
	}
	reply(nfsv4.CbCompound4res{Status: st, Resarray: []nfsv4.NfsCbResop4{
		&nfsv4.NfsCbResop4_OP_CB_SEQUENCE{Opcbsequence: &nfsv4.CbSequence4res_NFS4_OK{CsrResok4: nfsv4.CbSequence4resok{
			CsrSessionid: seq.CsaSessionid, CsrSequenceid: seq.CsaSequenceid, CsrSlotid: seq.CsaSlotid,
		}}},
		&nfsv4.NfsCbResop4_OP_CB_OFFLOAD{Opcboffload: nfsv4.CbOffload4res{CorStatus: st}},
	}})
}

const callbackProgram = 0x40000000

// dialBack is a connection that takes callbacks.
func (w *world) dialBack(b *backchannel, minor uint32) *client {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{w: w, t: w.t, minor: minor, conn: rpc.NewClientConn(nc, rpc.ClientConfig{
		Callbacks: b, CallbackProg: callbackProgram, CallbackLow: 1, CallbackHigh: 1,
	})}
	w.t.Cleanup(func() {
		c.conn.Close()
		<-c.conn.Done()
	})
	return c
}

// connectBack is a client with a session and a backchannel of one slot.
func (w *world) connectBack(owner string) (*client, *backchannel) {
	w.t.Helper()
	b := &backchannel{t: w.t, seqs: map[uint32]uint32{}, got: make(chan *nfsv4.CbOffload4args, 10), recalled: make(chan nfsv4.CbRecall4args, 1000), notified: make(chan nfsv4.CbNotifyLock4args, 1000)}
	c := w.dialBack(b, 2)
	c.exchangeID(owner)
	c.backSession(1)
	c.ok(&nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{})
	return c, b
}

// backSession is CREATE_SESSION with a backchannel of one slot.
func (c *client) backSession(seq uint32) {
	c.t.Helper()
	res := c.raw(2, &nfsv4.NfsArgop4_OP_CREATE_SESSION{OpcreateSession: nfsv4.CreateSession4args{
		CsaClientid: c.id, CsaSequence: seq, CsaFlags: nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN,
		CsaForeChanAttrs: nfsv4.ChannelAttrs4{CaMaxrequestsize: 2 << 20, CaMaxresponsesize: 2 << 20, CaMaxoperations: 64, CaMaxrequests: 4},
		CsaBackChanAttrs: nfsv4.ChannelAttrs4{CaMaxrequestsize: 4096, CaMaxresponsesize: 4096, CaMaxoperations: 2, CaMaxrequests: 1},
		CsaCbProgram:     callbackProgram,
		CsaSecParms:      []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_SYS{CbspSysCred: rpcv2.AuthsysParms{Stamp: 5, Machinename: "me", Uid: 7, Gid: 8}}},
	}})
	c.want(res, nfsv4.NFS4_OK)
	c.session = res.Resarray[0].(*nfsv4.NfsResop4_OP_CREATE_SESSION).OpcreateSession.(*nfsv4.CreateSession4res_NFS4_OK).CsrResok4.CsrSessionid
	c.seq = 0
}

// gatedFS lets reads pass one by one.
type gatedFS struct {
	*memfs.FS
	gate chan struct{} // closed: open
}

func (g *gatedFS) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
	select {
	case <-g.gate:
	case <-ctx.Done():
		return 0, false, vfs.Wrap("read", ctx.Err())
	}
	return g.FS.Read(ctx, ino, off, p)
}

// background is a world with a copy of 8 MiB that goes on in the background after a MiB.
type background struct {
	*world
	*client
	b     *backchannel
	other *memfs.FS
	gate  chan struct{}
	data  []byte
	id    nfsv4.Stateid4
	dst   []byte
}

func startCopy(t *testing.T) *background {
	t.Helper()
	x := &background{gate: make(chan struct{}, 100)}
	x.world, x.other = copyWorld(t, func(m *memfs.FS) vfs.FS { return &gatedFS{m, x.gate} })
	t.Cleanup(func() { x.v4.Shutdown(context.Background()) })
	x.v4.SetCopyBound(1 << 20)
	x.client, x.b = x.connectBack("copier")
	f, id := x.openIn("default", rw, "src")
	g, gid := x.openIn("other", rw, "dst")
	x.data, x.dst = pattern(8<<20), g
	for at := 0; at < len(x.data); at += 1 << 20 {
		x.ok(putFH(f), write(id, uint64(at), nfsv4.FILE_SYNC4, x.data[at:at+1<<20]))
	}
	x.gate <- struct{}{}
	res := copyOK(last(x.ok(ops(pair(f, g), copyArgs(id, gid, 0, 0, 0, false))...)))
	if res.CrRequirements.CrSynchronous || len(res.CrResponse.WrCallbackId) != 1 {
		t.Fatalf("not in the background: %+v", res)
	}
	x.id = res.CrResponse.WrCallbackId[0]
	x.ok(putFH(f), closeFile(id))
	x.ok(putFH(g), closeFile(gid))
	return x
}

func (x *background) status() (n uint64, done []nfsv4.Nfsstat4) {
	x.client.t.Helper()
	r := last(x.ok(putFH(x.dst), offloadStatus(x.id))).(*nfsv4.NfsResop4_OP_OFFLOAD_STATUS).OpoffloadStatus.(*nfsv4.OffloadStatus4res_NFS4_OK).OsrResok4
	return r.OsrCount, r.OsrComplete
}

// waitFor waits for the end that the client is told.
func (x *background) waitFor() *nfsv4.CbOffload4args {
	x.client.t.Helper()
	select {
	case got := <-x.b.got:
		return got
	case <-time.After(5 * time.Minute):
		x.client.t.Fatal("no CB_OFFLOAD")
		return nil
	}
}

func (x *background) complete(t *testing.T, got *nfsv4.CbOffload4args) {
	t.Helper()
	ok, is := got.CoaOffloadInfo.(*nfsv4.OffloadInfo4_NFS4_OK)
	if !is || got.CoaStateid != x.id || !bytes.Equal(got.CoaFh, x.dst) || ok.CoaResok4.WrCount != uint64(len(x.data)) || ok.CoaResok4.WrCommitted != nfsv4.FILE_SYNC4 || len(ok.CoaResok4.WrCallbackId) != 0 {
		t.Fatalf("%+v of %+v", ok, got)
	}
	if !bytes.Equal(contentOf(t, x.other, "dst", 16<<20), x.data) {
		t.Fatal("other bytes")
	}
}

func TestCopyInTheBackground(t *testing.T) {
	x := startCopy(t)
	if n, done := x.status(); n != 1<<20 || len(done) > 0 {
		t.Fatalf("at the beginning: %d bytes, %v", n, done)
	}
	stranger := x.connect("stranger", 2)
	stranger.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(x.dst), offloadStatus(x.id))
	stranger.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(x.dst), offloadCancel(x.id))
	x.b.mu.Lock()
	x.b.answer = append(x.b.answer, func(*nfsv4.CbCompound4args) (nfsv4.Nfsstat4, bool) { return nfsv4.NFS4ERR_DELAY, true })
	x.b.mu.Unlock()
	close(x.gate)
	x.complete(t, x.waitFor())
	if n, done := x.status(); n != 8<<20 || len(done) != 1 || done[0] != nfsv4.NFS4_OK {
		t.Fatalf("at the end: %d bytes, %v", n, done)
	}
	x.b.mu.Lock()
	defer x.b.mu.Unlock()
	if x.b.calls != 2 {
		t.Errorf("%d calls", x.b.calls)
	}
	for _, c := range x.b.creds {
		if c.UID != 7 || c.GID != 8 {
			t.Errorf("called as %+v", c)
		}
	}
}

func TestCopyIsCancelled(t *testing.T) {
	x := startCopy(t)
	x.ok(putFH(x.dst), offloadCancel(x.id))
	limit := time.Now().Add(5 * time.Minute)
	for done := []nfsv4.Nfsstat4(nil); len(done) == 0; _, done = x.status() {
		if time.Now().After(limit) {
			t.Fatal("it goes on")
		}
	}
	if n, _ := x.status(); n != 1<<20 {
		t.Errorf("%d bytes", n)
	}
	x.ok(putFH(x.dst), offloadCancel(x.id)) // and is forgotten
	x.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(x.dst), offloadStatus(x.id))
	x.v4.Shutdown(context.Background())
	if len(x.b.got) > 0 {
		t.Error("a callback for what was cancelled")
	}
	// Nothing keeps the files.
	for _, fs := range []*memfs.FS{x.world.fs, x.other} {
		name := map[bool]string{true: "src", false: "dst"}[fs == x.world.fs]
		ino := lookupIno(t, fs, name)
		if err := fs.Close(t.Context(), ino, vfs.OpenRead); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s is still open: %v", name, err)
		}
	}
}

// A server that ends tells how far its copies came.
func TestCopyAtShutdown(t *testing.T) {
	x := startCopy(t)
	x.v4.Shutdown(context.Background())
	ok, is := x.waitFor().CoaOffloadInfo.(*nfsv4.OffloadInfo4_NFS4_OK)
	if !is || ok.CoaResok4.WrCount != 1<<20 {
		t.Fatalf("%+v", ok)
	}
}

// The connection breaks under a callback: it is made again over the next one, in the slot's order.
func TestCallbackOverAnotherConnection(t *testing.T) {
	x := startCopy(t)
	second := x.dialBack(x.b, 2)
	x.b.mu.Lock()
	x.b.answer = append(x.b.answer, func(*nfsv4.CbCompound4args) (nfsv4.Nfsstat4, bool) { return 0, false })
	x.b.mu.Unlock()
	close(x.gate)
	<-x.conn.Done()
	res := second.raw(2, &nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: nfsv4.BindConnToSession4args{
		BctsaSessid: x.session, BctsaDir: nfsv4.CDFC4_FORE_OR_BOTH,
	}})
	second.want(res, nfsv4.NFS4_OK)
	x.complete(t, x.waitFor())
}

var (
	_ rpc.Program = (*backchannel)(nil)
)
