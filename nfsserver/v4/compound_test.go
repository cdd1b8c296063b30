package v4_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

func TestMinorVersions(t *testing.T) {
	w := newWorld(t)
	c := w.dial(1)
	for _, minor := range []uint32{0, 3, 99} {
		res := c.raw(minor, &nfsv4.NfsArgop4_OP_PUTROOTFH{})
		if res.Status != nfsv4.NFS4ERR_MINOR_VERS_MISMATCH || len(res.Resarray) != 0 || res.Tag != "t" {
			t.Errorf("minor version %d: %+v", minor, res)
		}
	}
	for _, minor := range []uint32{1, 2} {
		if res := c.raw(minor); res.Status != nfsv4.NFS4_OK || len(res.Resarray) != 0 {
			t.Errorf("empty COMPOUND of minor version %d: %+v", minor, res)
		}
	}
}

// RFC 8881, 2.10.2: what may stand where.
func TestPositions(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	bind := &nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: nfsv4.BindConnToSession4args{
		BctsaSessid: c.session, BctsaDir: nfsv4.CDFC4_FORE,
	}}
	destroy := &nfsv4.NfsArgop4_OP_DESTROY_SESSION{OpdestroySession: nfsv4.DestroySession4args{DsaSessionid: c.session}}
	putroot := &nfsv4.NfsArgop4_OP_PUTROOTFH{}

	if res := c.raw(1, putroot); res.Status != nfsv4.NFS4ERR_OP_NOT_IN_SESSION || len(res.Resarray) != 1 {
		t.Errorf("without a session: %+v", res)
	}
	if res := c.raw(1, setAttr(anonymous, attrs())); res.Status != nfsv4.NFS4ERR_OP_NOT_IN_SESSION {
		t.Errorf("SETATTR, whose result always has a body, without a session: %+v", res)
	}
	if res := c.raw(1, bind, putroot); res.Status != nfsv4.NFS4ERR_NOT_ONLY_OP {
		t.Errorf("BIND_CONN_TO_SESSION and more: %v", res.Status)
	}
	if res := c.raw(1, bind); res.Status != nfsv4.NFS4_OK {
		t.Errorf("BIND_CONN_TO_SESSION alone: %v", res.Status)
	}
	c.fails(nfsv4.NFS4ERR_NOT_ONLY_OP, bind)
	c.fails(nfsv4.NFS4ERR_SEQUENCE_POS, putroot, c.sequenceAgain())
	res := c.do(destroy, putroot)
	if res.Status != nfsv4.NFS4ERR_NOT_ONLY_OP || len(res.Resarray) != 1 {
		t.Errorf("DESTROY_SESSION of the own session, not last: %v", res.Status)
	}
	c.ok(putroot)
	c.ok(destroy)
	if res := c.do(putroot); res.Status != nfsv4.NFS4ERR_BADSESSION {
		t.Errorf("after DESTROY_SESSION: %v", res.Status)
	}
}

// rawOps is a COMPOUND of hand-made operations.
func rawOps(minor uint32, n int, body ...[]byte) []byte {
	b := xdr.AppendString(nil, "raw")
	b = xdr.AppendUint32(b, minor)
	b = xdr.AppendUint32(b, uint32(n))
	return append(b, bytes.Join(body, nil)...)
}

func encodeOp(t testing.TB, op nfsv4.NfsArgop4) []byte {
	var buf bytes.Buffer
	if _, err := op.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func u32(vs ...uint32) (b []byte) {
	for _, v := range vs {
		b = xdr.AppendUint32(b, v)
	}
	return b
}

// Numbers that no operation has, and those of the next minor version.
func TestIllegalAndUnsupported(t *testing.T) {
	w := newWorld(t)
	for _, minor := range []uint32{1, 2} {
		c := w.connect(fmt.Sprint("minor ", minor), minor)
		for op := range uint32(100) {
			def := nfsv4.NfsOpnum4(op)
			body, err := c.send(rawOps(minor, 2, encodeOp(t, c.sequence()), u32(op)))
			if err != nil {
				t.Fatal(err)
			}
			// Only the head: results of operations of RFC 8276 are unknown to the generated types.
			d := xdr.NewDecoder(body)
			st := nfsv4.Nfsstat4(d.Uint32())
			d.Opaque(100)
			if n := d.Uint32(); n != 2 {
				t.Fatalf("minor %d, operation %d: %d results", minor, op, n)
			}
			d.Skip(44) // SEQUENCE
			gotOp, gotSt := d.Uint32(), nfsv4.Nfsstat4(d.Uint32())
			exists := op >= 3 && (op <= 58 || minor == 2 && op <= 75)
			switch {
			case gotSt != st:
				t.Errorf("minor %d, operation %d: %v at the top, %v below", minor, op, st, gotSt)
			case !exists && (gotOp != uint32(nfsv4.OP_ILLEGAL) || st != nfsv4.NFS4ERR_OP_ILLEGAL):
				t.Errorf("minor %d, operation %d: operation %d, %v", minor, op, gotOp, st)
			case exists && (gotOp != op || st == nfsv4.NFS4ERR_OP_ILLEGAL):
				t.Errorf("minor %d, %v: operation %d, %v", minor, nfsv4.NfsOpnum4_name[def], gotOp, st)
			}
			switch def {
			case nfsv4.OP_SETCLIENTID, nfsv4.OP_SETCLIENTID_CONFIRM, nfsv4.OP_OPEN_CONFIRM, nfsv4.OP_RENEW, nfsv4.OP_RELEASE_LOCKOWNER,
				nfsv4.OP_GETDEVICEINFO, nfsv4.OP_GETDEVICELIST, nfsv4.OP_LAYOUTGET, nfsv4.OP_LAYOUTCOMMIT, nfsv4.OP_LAYOUTRETURN,
				nfsv4.OP_WANT_DELEGATION, nfsv4.OP_GET_DIR_DELEGATION, nfsv4.OP_DELEGPURGE:
				if st != nfsv4.NFS4ERR_NOTSUPP {
					t.Errorf("minor %d, %v: %v, want NOTSUPP", minor, nfsv4.NfsOpnum4_name[def], st)
				}
			}
		}
	}
}

// Arguments that end early are BADXDR at that operation, after the ones before
// it were carried out.
func TestTruncatedArguments(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 2)
	for _, op := range everyOp(c) {
		full := encodeOp(t, op)
		if len(full) == 4 {
			continue
		}
		for _, n := range []int{4, len(full) - 4} {
			prefix := [][]byte{encodeOp(t, c.sequence())}
			for _, p := range at("f") {
				prefix = append(prefix, encodeOp(t, p))
			}
			count := len(prefix) + 1
			body, err := c.send(rawOps(2, count, append(prefix, full[:n])...))
			if err != nil {
				t.Fatal(err)
			}
			res := decodeReply(t, body)
			switch op.(type) {
			case *nfsv4.NfsArgop4_OP_SEQUENCE, *nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION:
				continue // refused for their position before they are decoded
			}
			if res.Status == nfsv4.NFS4ERR_NOTSUPP {
				continue // neither are unsupported ones
			}
			if res.Status != nfsv4.NFS4ERR_BADXDR || len(res.Resarray) != count {
				t.Errorf("%v cut to %d of %d bytes: %v after %d results", op.GetArgop(), n, len(full), res.Status, len(res.Resarray))
			}
		}
	}
	c.ok(root()...) // the session is fine
}

func TestReplyCache(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	c.cache = true
	request := func() []byte {
		seq := c.sequence()
		seq.Opsequence.SaCachethis = c.cache
		return encodeCompound(t, 1, append([]nfsv4.NfsArgop4{seq}, append(root(), createDir("d", attrs(nfsv4.FATTR4_MODE, uint32(0o755))))...)...)
	}
	first := request()
	a, err := c.send(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.send(first) // retransmitted
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) || decodeReply(t, a).Status != nfsv4.NFS4_OK {
		t.Fatalf("the retry was answered differently:\n%x\n%x", a, b)
	}
	if res := c.do(append(root(), createDir("d", attrs()))...); res.Status != nfsv4.NFS4ERR_EXIST {
		t.Fatalf("the same under a new sequence id: %v", res.Status)
	}

	c.cache = false
	uncached := encodeCompound(t, 1, c.sequence(), &nfsv4.NfsArgop4_OP_PUTROOTFH{}, getAttr(nfsv4.FATTR4_TYPE))
	if _, err := c.send(uncached); err != nil {
		t.Fatal(err)
	}
	again, err := c.send(uncached)
	if err != nil {
		t.Fatal(err)
	}
	res := decodeReply(t, again)
	// A server may keep small replies anyway; it must not run the request again.
	if res.Status != nfsv4.NFS4_OK && (res.Status != nfsv4.NFS4ERR_RETRY_UNCACHED_REP || len(res.Resarray) != 2) {
		t.Fatalf("retry of an uncached request: %v, %d results", res.Status, len(res.Resarray))
	}
	c.ok(root()...)
}

// RFC 8881, 2.10.6.4: limits that were negotiated are obeyed before anything is done.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	c := w.dial(1)
	c.exchangeID("small")
	c.createSession(nfsv4.ChannelAttrs4{
		CaMaxrequestsize: 2048, CaMaxresponsesize: 1024, CaMaxresponsesizeCached: 512, CaMaxoperations: 8, CaMaxrequests: 1,
	})
	c.ok(&nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{})
	putroot := &nfsv4.NfsArgop4_OP_PUTROOTFH{}

	many := ops(root())
	for len(many) <= int(c.fore.CaMaxoperations) {
		many = append(many, putroot)
	}
	if res := c.do(many...); res.Status != nfsv4.NFS4ERR_TOO_MANY_OPS {
		t.Errorf("%d operations of %d: %v", len(many), c.fore.CaMaxoperations, res.Status)
	}
	big := createDir("big", nfsv4.Fattr4{Attrmask: mask(nfsv4.FATTR4_OWNER), AttrVals: make([]byte, c.fore.CaMaxrequestsize)})
	if res := c.do(ops(root(), big)...); res.Status != nfsv4.NFS4ERR_REQ_TOO_BIG {
		t.Errorf("a request over %d bytes: %v", c.fore.CaMaxrequestsize, res.Status)
	}

	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	if res := c.do(ops(at("f"), read(anonymous, 0, 4096))...); res.Status != nfsv4.NFS4ERR_REP_TOO_BIG {
		t.Errorf("a READ over %d bytes: %v", c.fore.CaMaxresponsesize, res.Status)
	}
	c.cache = true
	if res := c.do(ops(at("f"), read(anonymous, 0, 700))...); res.Status != nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE {
		t.Errorf("a READ over the %d bytes that can be cached: %v", c.fore.CaMaxresponsesizeCached, res.Status)
	}
	// CREATE must not be carried out when its result would not fit behind what
	// was already answered.
	pad := []nfsv4.NfsArgop4{&nfsv4.NfsArgop4_OP_GETFH{}, &nfsv4.NfsArgop4_OP_GETFH{}, &nfsv4.NfsArgop4_OP_GETFH{}, getAttr(0, 1, 3, 4, 8, 19, 20, 33, 35, 36, 37, 45, 47, 52, 53, 55)}
	res := c.do(ops(root(), pad, createDir("d", attrs()))...)
	if res.Status != nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE {
		t.Errorf("CREATE without room: %v", res.Status)
	}
	c.cache = false
	if res := c.do(at("d")...); res.Status != nfsv4.NFS4ERR_NOENT {
		t.Errorf("the CREATE was carried out: %v", res.Status)
	}
}

func TestNoFilehandle(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 2)
	for _, op := range everyOp(c) {
		switch op.(type) {
		case *nfsv4.NfsArgop4_OP_GETATTR, *nfsv4.NfsArgop4_OP_READ, *nfsv4.NfsArgop4_OP_WRITE, *nfsv4.NfsArgop4_OP_OPEN, *nfsv4.NfsArgop4_OP_SETATTR,
			*nfsv4.NfsArgop4_OP_READDIR, *nfsv4.NfsArgop4_OP_LINK, *nfsv4.NfsArgop4_OP_RENAME, *nfsv4.NfsArgop4_OP_LOCK, *nfsv4.NfsArgop4_OP_GETFH,
			*nfsv4.NfsArgop4_OP_SAVEFH, *nfsv4.NfsArgop4_OP_RESTOREFH, *nfsv4.NfsArgop4_OP_LOOKUPP, *nfsv4.NfsArgop4_OP_SECINFO:
			c.fails(nfsv4.NFS4ERR_NOFILEHANDLE, op)
		}
	}
	c.fails(nfsv4.NFS4ERR_NOFILEHANDLE, ops(root(), link("x"))...) // no saved filehandle
	c.fails(nfsv4.NFS4ERR_NOFILEHANDLE, ops(root(), rename("x", "y"))...)
}
