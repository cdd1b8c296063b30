package nfsserver_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/vfs"
)

// forgetStateid makes the stateid in the answer to an OPEN zero, and returns its seqid.
func forgetStateid(t *testing.T, body []byte) (seqid uint32) {
	t.Helper()
	before, _, ok := bytes.Cut(body, []byte{0, 0, 0, byte(nfsv4.OP_OPEN), 0, 0, 0, 0}) // and NFS4_OK
	at := len(before) + 8
	if !ok || len(body) < at+16 {
		t.Fatalf("no answer to an OPEN: %x", body)
	}
	seqid = binary.BigEndian.Uint32(body[at:])
	clear(body[at : at+16])
	return seqid
}

// A mutation that the client sends again after a restart, because the answer was lost, is not done twice: it gets the
// answer of the first.
func TestRetransmissionAfterRestart(t *testing.T) {
	name := func(s string) func(*nfsclient.Compound) { return func(cp *nfsclient.Compound) { cp.Remove(s) } }
	size := uint64(0)
	for what, x := range map[string]struct {
		prepare func(c *conn)
		send    func(c *conn, cp *nfsclient.Compound)
		st      nfsclient.Status
	}{
		"remove":                    {func(c *conn) { c.file("x") }, func(c *conn, cp *nfsclient.Compound) { name("x")(cp) }, nfsv4.NFS4_OK},
		"remove of what is missing": {func(c *conn) {}, func(c *conn, cp *nfsclient.Compound) { name("x")(cp) }, nfsv4.NFS4ERR_NOENT},
		"rename": {func(c *conn) { c.file("x") }, func(c *conn, cp *nfsclient.Compound) {
			cp.SaveFH().Rename("x", "y")
		}, nfsv4.NFS4_OK},
		"link": {func(c *conn) { c.file("x") }, func(c *conn, cp *nfsclient.Compound) {
			cp.Lookup("x").SaveFH().PutFH(c.root).Link("y")
		}, nfsv4.NFS4_OK},
		"mkdir": {func(c *conn) {}, func(c *conn, cp *nfsclient.Compound) { cp.Mkdir("d", attr.Mode(0o755)).GetFH() }, nfsv4.NFS4_OK},
		"create": {func(c *conn) {}, func(c *conn, cp *nfsclient.Compound) {
			cp.Open(c.ID(), &nfsclient.OpenArgs{Name: "x", Create: nfsclient.Guarded, Attr: *attr.Mode(0o600)}).GetFH().Getattr(attr.Stat())
		}, nfsv4.NFS4_OK},
		"two removes in one": {func(c *conn) { c.file("x"); c.file("y") }, func(c *conn, cp *nfsclient.Compound) { cp.Remove("x").Remove("y") }, nfsv4.NFS4_OK},
		"truncating open": {func(c *conn) {
			f := c.file("x")
			_, err := c.Write(c.in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("data"))
			want(c.t, "write", err, nfsv4.NFS4_OK)
		}, func(c *conn, cp *nfsclient.Compound) {
			cp.Open(c.ID(), &nfsclient.OpenArgs{Name: "x", Create: nfsclient.Unchecked, Attr: attr.Set{Size: &size}}).GetFH().Getattr(attr.Stat())
		}, nfsv4.NFS4_OK},
	} {
		t.Run(what, func(t *testing.T) {
			in := newKeptInstance(t)
			c := in.dial("c")
			c.t = t
			x.prepare(c)
			sl, err := c.Session(0).Slot(in.ctx)
			if err != nil {
				t.Fatal(err)
			}
			cp := nfsclient.NewCompound().PutFH(c.root)
			x.send(c, cp)
			cp.CacheThis = true
			seq := sl.Sequence() + 1
			var bodies [][]byte
			for range 3 {
				r := resend(t, in, sl, seq, cp)
				want(t, what, statusErr(r), x.st)
				bodies = append(bodies, slices.Clone(r.Body()))
				r.Release()
				in.restart()
			}
			// Whoever made the open may have ended it, and the client may have closed the one that it was one with: after a restart it is a new one (decision 88).
			if seqids := map[string][]uint32{"truncating open": {2, 1, 1}, "create": {1, 1, 1}}[what]; seqids != nil {
				for i, seqid := range seqids {
					if got := forgetStateid(t, bodies[i]); got != seqid {
						t.Errorf("answer %d has seqid %d", i+1, got)
					}
				}
			}
			for i, b := range bodies[1:] {
				if !slices.Equal(b, bodies[0]) {
					t.Errorf("answer %d\n%x, the first was\n%x", i+2, b, bodies[0])
				}
			}
			// The slot goes on with the next sequence, and not with an earlier one.
			for seq, st := range map[uint32]nfsclient.Status{seq - 1: nfsv4.NFS4ERR_SEQ_MISORDERED, seq + 1: nfsv4.NFS4_OK} {
				r := resend(t, in, sl, seq, nfsclient.NewCompound().PutFH(c.root))
				want(t, "another sequence", statusErr(r), st)
				r.Release()
			}
		})
	}
}

// A mutation that went past several clients whose leases were over goes the same way when it is sent again.
func TestRetransmissionPastTheDead(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c")
	want(t, "close", c.CloseFile(in.ctx, c.file("x")), nfsv4.NFS4_OK)
	const dead = 20
	for i := range dead {
		d := in.dial(string(rune('A' + i)))
		d.open("x", nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_WRITE, nfsv4.NFS4_OK)
		d.Disconnect()
	}
	in.advance(leaseTime + time.Second)
	renew(t, c)
	sl, err := c.Session(0).Slot(in.ctx)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(0)
	cp := nfsclient.NewCompound().PutFH(c.root).Open(c.ID(), &nfsclient.OpenArgs{Name: "x", Access: nfsv4.OPEN4_SHARE_ACCESS_WRITE,
		Create: nfsclient.Unchecked, Attr: attr.Set{Size: &size}})
	cp.CacheThis = true
	for range 3 {
		r := resend(t, in, sl, sl.Sequence()+1, cp)
		want(t, "open", statusErr(r), nfsv4.NFS4_OK)
		r.Release()
		in.restart()
	}
	want(t, "close", c.CloseFile(in.ctx, c.open("x", nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_NONE, nfsv4.NFS4_OK)), nfsv4.NFS4_OK)
	if n := in.srv.State(); n.Clients != 1 || n.Opens != 0 {
		t.Errorf("%d clients, %d opens when the file is closed", n.Clients, n.Opens)
	}
}

// So does a LOCK that was denied first by locks of clients whose leases were over: its client is told that it has the lock.
func TestLockPastTheDead(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c")
	want(t, "close", c.CloseFile(in.ctx, c.file("x")), nfsv4.NFS4_OK)
	f := c.open("x", nfsv4.OPEN4_SHARE_ACCESS_BOTH, 0, nfsv4.NFS4_OK)
	for i := range 5 {
		d := in.dial(string(rune('A' + i)))
		_, err := d.LockRange(in.ctx, d.open("x", nfsv4.OPEN4_SHARE_ACCESS_BOTH, 0, nfsv4.NFS4_OK), &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, uint64(i), 1)
		want(t, "lock", err, nfsv4.NFS4_OK)
		d.Disconnect()
	}
	in.advance(leaseTime + time.Second)
	renew(t, c)
	sl, err := c.Session(0).Slot(in.ctx)
	if err != nil {
		t.Fatal(err)
	}
	cp := nfsclient.NewCompound().PutFH(f.FH).Lock(c.ID(), &nfsclient.LockArgs{Type: nfsv4.WRITE_LT, Length: toEOF, New: true, Stateid: f.Stateid, Owner: "l"})
	cp.CacheThis = true
	for range 3 {
		r := resend(t, in, sl, sl.Sequence()+1, cp)
		want(t, "lock", statusErr(r), nfsv4.NFS4_OK)
		r.Release()
		in.restart()
	}
	if n := in.srv.State(); n.Clients != 1 || n.Locks != 1 {
		t.Errorf("%d clients, %d locks", n.Clients, n.Locks)
	}
}

// A LOCK of an open for reading makes a record of that, too: whoever is told of it later finds the record, and does not make one.
func TestLockOfReaderOverRestarts(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c")
	want(t, "close", c.CloseFile(in.ctx, c.file("x")), nfsv4.NFS4_OK)
	f := c.open("x", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
	in.restart() // the open is presented with the LOCK
	sl, err := c.Session(0).Slot(in.ctx)
	if err != nil {
		t.Fatal(err)
	}
	cp := nfsclient.NewCompound().PutFH(f.FH).Lock(c.ID(), &nfsclient.LockArgs{Type: nfsv4.READ_LT, Length: toEOF, New: true, Stateid: f.Stateid, Owner: "l"})
	cp.CacheThis = true
	for range 3 {
		r := resend(t, in, sl, sl.Sequence()+1, cp)
		want(t, "lock", statusErr(r), nfsv4.NFS4_OK)
		r.Release()
		in.restart()
	}
	if n := in.srv.State(); n.Clients != 1 || n.Locks != 1 {
		t.Errorf("%d clients, %d locks", n.Clients, n.Locks)
	}
}

// resend sends cp with a sequence until it is answered.
func resend(t *testing.T, in *instance, sl *nfsclient.Slot, seq uint32, cp *nfsclient.Compound) *nfsclient.Reply {
	t.Helper()
	for {
		r, err := sl.Send(in.ctx, seq, cp)
		if err == nil {
			return r
		}
		if vfs.KindOf(err) != vfs.KindUnavailable {
			t.Fatal(err)
		}
	}
}
