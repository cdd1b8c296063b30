package nfsserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// After a restart clients go on: sessions, opens and locks are those from before, nobody waits, and nobody gets what
// others hold.
func TestGoesOnAfterRestart(t *testing.T) {
	in := newKeptInstance(t)
	a, b := in.dial("a"), in.dial("b")
	fa := a.file("f")
	_, err := a.Write(in.ctx, fa, 0, nfsv4.FILE_SYNC4, []byte("before"))
	want(t, "write", err, nfsv4.NFS4_OK)
	la, unused := &nfsclient.Lock{Owner: "l"}, &nfsclient.Lock{Owner: "unused"}
	_, err = a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 10, 10)
	want(t, "lock", err, nfsv4.NFS4_OK)
	_, err = a.LockRange(in.ctx, fa, unused, nfsv4.READ_LT, 100, 10)
	want(t, "lock", err, nfsv4.NFS4_OK)
	want(t, "unlock", a.Unlock(in.ctx, fa, unused, 100, 10), nfsv4.NFS4_OK)
	reader := b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
	rb := b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
	lb := &nfsclient.Lock{Owner: "l"}
	_, err = b.LockRange(in.ctx, rb, lb, nfsv4.READ_LT, 0, 10) // an open for reading, with a lock
	want(t, "read lock", err, nfsv4.NFS4_OK)
	denier := b.file("g")
	want(t, "close", b.CloseFile(in.ctx, denier), nfsv4.NFS4_OK)
	denier = b.open("g", nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_WRITE, nfsv4.NFS4_OK)
	ida := a.ID()

	for range 2 { // also once more, from what was taken over
		in.restart()
		if n := in.srv.State(); n.Grace || n.Clients != 2 || n.Sessions != 2 {
			t.Fatalf("after the restart: %+v", n)
		}
		late := in.dial("late") // nobody has to wait
		fl := late.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
		late.open("g", nfsv4.OPEN4_SHARE_ACCESS_WRITE, 0, nfsv4.NFS4ERR_SHARE_DENIED)
		denied, err := late.TestLock(in.ctx, fa.FH, nfsv4.READ_LT, 0, toEOF, "l")
		if err != nil || denied == nil || denied.Offset != 10 || denied.Length != 10 || denied.Type != nfsv4.WRITE_LT || denied.Client != ida || denied.Owner != "l" {
			t.Errorf("the lock in the way: %+v, %v", denied, err)
		}
		denied, err = late.TestLock(in.ctx, fa.FH, nfsv4.WRITE_LT, 0, 10, "l")
		if err != nil || denied == nil || denied.Length != 10 || denied.Type != nfsv4.READ_LT {
			t.Errorf("the read lock in the way: %+v, %v", denied, err)
		}
		want(t, "close", late.CloseFile(in.ctx, fl), nfsv4.NFS4_OK)
		want(t, "close", late.Close(in.ctx), nfsv4.NFS4_OK)

		_, err = a.Write(in.ctx, fa, 0, nfsv4.FILE_SYNC4, []byte("behind"))
		want(t, "write", err, nfsv4.NFS4_OK)
		_, _, err = b.Read(in.ctx, reader, 0, make([]byte, 10))
		want(t, "read", err, nfsv4.NFS4_OK)
	}
	_, err = a.LockRange(in.ctx, fa, unused, nfsv4.WRITE_LT, 100, 10)
	want(t, "lock of an owner that held nothing", err, nfsv4.NFS4_OK)
	_, err = a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 0, 10)
	want(t, "lock over b's", err, nfsv4.NFS4ERR_DENIED)
	want(t, "close with a lock", b.CloseFile(in.ctx, rb), nfsv4.NFS4_OK)
	_, err = a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 0, 10)
	want(t, "lock what b had", err, nfsv4.NFS4_OK)
	want(t, "unlock", a.Unlock(in.ctx, fa, la, 0, toEOF), nfsv4.NFS4_OK)
	want(t, "close", a.CloseFile(in.ctx, fa), nfsv4.NFS4_OK)
	want(t, "close", b.CloseFile(in.ctx, denier), nfsv4.NFS4_OK)
	a.open("g", nfsv4.OPEN4_SHARE_ACCESS_WRITE, 0, nfsv4.NFS4_OK)
}

func renew(t *testing.T, cs ...*conn) {
	t.Helper()
	for _, c := range cs {
		_, err := c.Getattr(c.in.ctx, c.root)
		want(t, "getattr", err, nfsv4.NFS4_OK)
	}
}

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
			if what == "truncating open" {
				// The client may have closed the open that was one with this one, so after a restart it is a new one (decision 88).
				for i, seqid := range []uint32{2, 1, 1} {
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
	if n := in.srv.State(); n.Clients != 1 || n.Opens != 1 {
		t.Errorf("%d clients, %d opens", n.Clients, n.Opens)
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

// A file without a name stays while clients have it open, whatever restarts, and goes with the last of them.
func TestUnlinkedFileSurvivesRestart(t *testing.T) {
	for what, open := range map[string]func(c *conn) *nfsclient.File{
		"open for writing": func(c *conn) *nfsclient.File { return c.open("f", nfsv4.OPEN4_SHARE_ACCESS_BOTH, 0, nfsv4.NFS4_OK) },
		"open for reading": func(c *conn) *nfsclient.File { return c.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK) },
	} {
		t.Run(what, func(t *testing.T) {
			in := newKeptInstance(t)
			a, b, late := in.dial("a"), in.dial("b"), in.dial("late")
			made := a.file("f")
			_, err := a.Write(in.ctx, made, 0, nfsv4.FILE_SYNC4, []byte("content"))
			want(t, "write", err, nfsv4.NFS4_OK)
			want(t, "close", a.CloseFile(in.ctx, made), nfsv4.NFS4_OK)
			fa, fb := open(a), open(b)
			want(t, "remove", a.Remove(in.ctx, a.root, "f"), nfsv4.NFS4_OK)
			// Who opens it now by the handle takes its name, from his cache, to be there still. Who has it open may open it again.
			opens := func() {
				t.Helper()
				_, err := late.Open(in.ctx, made.FH, nfsclient.OpenArgs{})
				want(t, "open of a removed file by its handle", err, nfsv4.NFS4ERR_STALE)
				again, err := a.Open(in.ctx, made.FH, nfsclient.OpenArgs{Owner: "another one of the same client"})
				want(t, "another open by who has it open", err, nfsv4.NFS4_OK)
				want(t, "its close", a.CloseFile(in.ctx, again), nfsv4.NFS4_OK)
			}
			opens()
			in.restart()
			opens()
			p := make([]byte, 10)
			n, _, err := a.Read(in.ctx, fa, 0, p)
			if err != nil || string(p[:n]) != "content" {
				t.Fatalf("read %q, %v", p[:n], err)
			}
			want(t, "close", a.CloseFile(in.ctx, fa), nfsv4.NFS4_OK)
			in.restart()
			_, _, err = b.Read(in.ctx, fb, 0, p)
			want(t, "read of the other client", err, nfsv4.NFS4_OK)
			_, err = a.Getattr(in.ctx, fb.FH)
			want(t, "getattr while one has it open", err, nfsv4.NFS4_OK)
			// b dies: its lease ends, and with it the file.
			b.Disconnect()
			late.Disconnect()
			in.advance(25 * time.Hour)
			renew(t, a)
			in.srv.Tick(in.ctx)
			_, err = a.Getattr(in.ctx, fb.FH)
			want(t, "getattr after the last close", err, nfsv4.NFS4ERR_STALE)
			if got := in.store.(*keptStore).owners(); !slices.Equal(got, []string{"a"}) {
				t.Errorf("recorded clients: %q", got)
			}
		})
	}
}

// An open for reading leaves no trace; its stateid is enough, and the permission of whoever uses it.
func TestReadOnlyOpenAfterRestart(t *testing.T) {
	in := newKeptInstance(t)
	root := in.dial("root")
	f := root.file("f")
	_, err := root.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("x"))
	want(t, "write", err, nfsv4.NFS4_OK)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Cred = vfs.Cred{UID: 7, GID: 7} })
	before := in.kept.Commands()
	open := func() *nfsclient.File { return c.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK) }
	first := open()
	if n := in.kept.Commands() - before; n != 0 {
		t.Errorf("an open for reading costs %d commands", n)
	}
	in.restart()
	p := make([]byte, 4)
	_, _, err = c.Read(in.ctx, first, 0, p)
	want(t, "read", err, nfsv4.NFS4_OK)
	_, err = c.Write(in.ctx, first, 0, nfsv4.FILE_SYNC4, []byte("y"))
	want(t, "write through an open for reading", err, nfsv4.NFS4ERR_OPENMODE)
	// The same owner opens it again: it is the same open.
	second := open()
	if second.Stateid.Other != first.Stateid.Other || second.Stateid.Seqid != first.Stateid.Seqid+1 {
		t.Errorf("opened again: %v after %v", second.Stateid, first.Stateid)
	}
	if n := in.srv.State().Opens; n != 2 {
		t.Errorf("%d opens, want root's and c's", n)
	}
	want(t, "close", c.CloseFile(in.ctx, second), nfsv4.NFS4_OK)
	_, _, err = c.Read(in.ctx, second, 0, p)
	want(t, "read of what is closed", err, nfsv4.NFS4ERR_BAD_STATEID)

	third := open()
	in.restart()
	want(t, "close of what nobody knows", c.CloseFile(in.ctx, third), nfsv4.NFS4_OK)
	fourth := open()
	want(t, "chmod", root.Setattr(in.ctx, f.FH, nfsclient.Stateid{}, attr.Mode(0o600)), nfsv4.NFS4_OK)
	in.restart()
	_, _, err = c.Read(in.ctx, fourth, 0, p)
	want(t, "read without permission", err, nfsv4.NFS4ERR_ACCESS)
	other := in.dial("other")
	_, _, err = other.Read(in.ctx, fourth, 0, p)
	if st := nfsclient.StatusOf(err); st != nfsv4.NFS4ERR_BAD_STATEID {
		t.Errorf("read with another client's stateid: %v", err)
	}
}

// The end of a client, its sessions and of what it had is final, also after a restart.
func TestEndedClientStaysEnded(t *testing.T) {
	in := newKeptInstance(t)
	gone, restarted, c := in.dial("gone"), in.dial("restarted"), in.dial("c")
	f := gone.file("f")
	_, err := gone.LockRange(in.ctx, f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, toEOF)
	want(t, "lock", err, nfsv4.NFS4_OK)
	restarted.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_WRITE, nfsv4.NFS4ERR_SHARE_DENIED)
	second := in.dial("restarted", func(cfg *nfsclient.Config) { cfg.Verifier = [8]byte{2} }) // ends the first
	gone.Disconnect()
	in.restart()
	in.advance(leaseTime + time.Second)
	renew(t, c, second)
	_, err = restarted.Getattr(in.ctx, restarted.root)
	want(t, "getattr of an earlier life", err, nfsv4.NFS4ERR_BADSESSION)
	fc := c.open("f", nfsv4.OPEN4_SHARE_ACCESS_BOTH, 0, nfsv4.NFS4_OK)
	_, err = c.LockRange(in.ctx, fc, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 1)
	want(t, "lock against a dead client", err, nfsv4.NFS4_OK)
	in.restart()
	_, err = gone.Getattr(in.ctx, gone.root)
	want(t, "getattr of the dead client", err, nfsv4.NFS4ERR_BADSESSION)
	want(t, "recover", gone.Recover(in.ctx), nfsv4.NFS4_OK)
	want(t, "reclaim complete", gone.ReclaimComplete(in.ctx), nfsv4.NFS4_OK)
	_, err = gone.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("late"))
	want(t, "write with the old stateid", err, nfsv4.NFS4ERR_EXPIRED)
	want(t, "close", c.CloseFile(in.ctx, fc), nfsv4.NFS4_OK)
	want(t, "close", errors.Join(second.Close(in.ctx)), nfsv4.NFS4_OK)
	in.restart()
	if got := in.store.(*keptStore).owners(); !slices.Equal(got, []string{"c", "gone"}) {
		t.Errorf("recorded clients: %q", got)
	}
}

// Sessions are made and destroyed; what is left of it after a restart is what the client was told.
func TestSessionsAfterRestart(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 3; cfg.Slots = 5 })
	sessions := []nfsclient.SessionID{c.Session(0).ID(), c.Session(1).ID(), c.Session(2).ID()}
	destroy := func(id nfsclient.SessionID) error {
		r, err := c.Raw(in.ctx, nfsclient.NewRaw().DestroySession(id))
		if err != nil {
			return err
		}
		defer r.Release()
		return r.Next(nfsv4.OP_DESTROY_SESSION)
	}
	want(t, "destroy", destroy(sessions[2]), nfsv4.NFS4_OK)
	in.restart()
	want(t, "destroy what is destroyed", destroy(sessions[2]), nfsv4.NFS4ERR_BADSESSION)
	want(t, "destroy after the restart", destroy(sessions[1]), nfsv4.NFS4_OK)
	in.restart()
	want(t, "destroy what is destroyed", destroy(sessions[1]), nfsv4.NFS4ERR_BADSESSION)
	for slot, st := range map[uint32]nfsclient.Status{4: nfsv4.NFS4_OK, 5: nfsv4.NFS4ERR_BADSLOT} {
		if got := sequence(t, c, sessions[0], slot, 77); got != st {
			t.Errorf("SEQUENCE on slot %d: %v, want %v", slot, got, st)
		}
	}
	// The client id is still the one that EXCHANGE_ID gives.
	id := c.ID()
	want(t, "exchange id", c.ExchangeID(in.ctx, 0), nfsv4.NFS4_OK)
	if c.ID() != id {
		t.Errorf("client id %x after %x", c.ID(), id)
	}
	r, err := c.Session(0).Do(in.ctx, nfsclient.NewCompound().ReclaimComplete())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	want(t, "reclaim complete", statusErr(r), nfsv4.NFS4ERR_COMPLETE_ALREADY)
}

// A CREATE_SESSION that fails counts, and leaves no trace: the client goes on with the next sequence after a restart, too.
func TestCreateSessionAfterRestart(t *testing.T) {
	in := startInstanceWith(t, state.Limits{SessionsPerClient: 2})
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 2 })
	create := func(seq uint32) (nfsclient.SessionID, error) {
		chans := nfsclient.ChannelAttrs{MaxRequest: 1 << 16, MaxResponse: 1 << 16, MaxCachedResponse: 1 << 10, MaxOps: 16, MaxSlots: 4}
		r, err := c.Raw(in.ctx, nfsclient.NewRaw().CreateSession(c.ID(), seq, 0, chans, chans, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		id, _, _, err := r.CreateSession()
		return id, err
	}
	for seq := uint32(3); seq < 5; seq++ {
		_, err := create(seq)
		want(t, "a session too many", err, nfsv4.NFS4ERR_NOSPC)
	}
	in.restart()
	r, err := c.Raw(in.ctx, nfsclient.NewRaw().DestroySession(c.Session(1).ID()))
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	_, err = create(1)
	want(t, "a sequence that was before", err, nfsv4.NFS4ERR_SEQ_MISORDERED)
	first, err := create(5)
	want(t, "the next sequence", err, nfsv4.NFS4_OK)
	in.restart()
	again, err := create(5)
	if want(t, "the same again", err, nfsv4.NFS4_OK); again != first {
		t.Errorf("another session: %x after %x", again, first)
	}
	in.restart()
	_, err = create(4)
	want(t, "a sequence that was before", err, nfsv4.NFS4ERR_SEQ_MISORDERED)
}

// startInstanceWith is newKeptInstance with limits.
func startInstanceWith(t *testing.T, l state.Limits) *instance {
	k := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	return startInstance(t, &instance{fs: k, kept: k, store: newKeptStore(k), limits: l})
}

// sequence sends a compound of SEQUENCE alone.
func sequence(t *testing.T, c *conn, id nfsclient.SessionID, slot, seq uint32) nfsclient.Status {
	t.Helper()
	cp := nfsclient.NewRaw().Op(nfsv4.OP_SEQUENCE).Raw(id[:]).Words(seq, slot, slot, 0)
	r, err := c.Raw(c.in.ctx, cp)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	return r.Status
}

// Another server takes clients over when they come to it: nobody told it before.
func TestTakeover(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c")
	f := c.file("f")
	_, err := c.LockRange(in.ctx, f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	want(t, "lock", err, nfsv4.NFS4_OK)
	in.stop()
	in.kept.Restart()
	in.store = &stranger{in.store.(*keptStore)}
	in.start()
	if n := in.srv.State().Clients; n != 0 {
		t.Fatalf("%d clients before one came", n)
	}
	_, err = c.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("x"))
	want(t, "write", err, nfsv4.NFS4_OK)
	d := in.dial("d")
	denied, err := d.TestLock(in.ctx, f.FH, nfsv4.READ_LT, 0, 1, "l")
	if err != nil || denied == nil {
		t.Errorf("the lock is gone: %v, %v", denied, err)
	}
	if got := sequence(t, d, nfsclient.SessionID{1, 2, 3}, 0, 1); got != nfsv4.NFS4ERR_BADSESSION {
		t.Errorf("SEQUENCE of a session that nobody has: %v", got)
	}
}

// resuming counts how often what is kept is read, and holds it up until it is read for the second time, or a while.
type resuming struct {
	*memfs.Kept
	times atomic.Int32
	twice chan struct{}
}

func (r *resuming) Resume(ctx context.Context, client uint64) ([]vfs.HeldOpen, []vfs.HeldLocks, error) {
	if r.times.Add(1) == 2 {
		close(r.twice)
	}
	select {
	case <-r.twice:
	case <-time.After(200 * time.Millisecond):
	}
	return r.Kept.Resume(ctx, client)
}

// Requests of a client that come at once take it over once.
func TestTakeoverByManyRequests(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 3 })
	f := c.file("f")
	in.stop()
	in.kept.Restart()
	in.store = &stranger{in.store.(*keptStore)}
	fs := &resuming{Kept: in.kept, twice: make(chan struct{})}
	in.fs = fs
	in.start()
	errs := make(chan error)
	for i := range 9 {
		go func() {
			r, err := c.Session(i%3).Do(in.ctx, nfsclient.NewCompound().PutFH(f.FH).Write(f.Stateid, 0, nfsv4.FILE_SYNC4, []byte("x")))
			if err == nil {
				err = statusErr(r)
				r.Release()
			}
			errs <- err
		}()
	}
	for range 9 {
		want(t, "write", <-errs, nfsv4.NFS4_OK)
	}
	if n := fs.times.Load(); n != 1 {
		t.Errorf("taken over %d times", n)
	}
}

// stranger is the store of a server that served nobody yet.
type stranger struct{ *keptStore }

func (s *stranger) Load(ctx context.Context) ([]state.ClientState, error) { return nil, nil }

// A client uses more slots and fewer again as it likes, up to what the session has, and is told how many it may.
func TestSlotsGrowAndShrink(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Slots = 6 })
	id := c.Session(0).ID()
	seqs := map[uint32]uint32{}
	send := func(slot, highest uint32, want nfsclient.Status) {
		t.Helper()
		seqs[slot]++
		r, err := c.Raw(in.ctx, nfsclient.NewRaw().Op(nfsv4.OP_SEQUENCE).Raw(id[:]).Words(seqs[slot], slot, highest, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		if r.Status != want {
			t.Fatalf("slot %d of %d: %s, want %s", slot, highest, nfsv4.Nfsstat4_name[r.Status], nfsv4.Nfsstat4_name[want])
		}
		if want != nfsv4.NFS4_OK {
			return
		}
		if err := r.Next(nfsv4.OP_SEQUENCE); err != nil {
			t.Fatal(err)
		}
		d := r.D()
		d.Skip(16 + 4 + 4)
		if highest, target := d.Uint32(), d.Uint32(); highest != 5 || target != 5 || d.Err() != nil {
			t.Errorf("highest slot %d, target %d, want 5", highest, target)
		}
	}
	for range 2 {
		for _, highest := range []uint32{2, 5, 3, 4} {
			for slot := uint32(2); slot <= highest; slot++ {
				send(slot, highest, nfsv4.NFS4_OK)
			}
		}
		in.restart()
	}
	send(6, 5, nfsv4.NFS4ERR_BADSLOT)
	send(5, 6, nfsv4.NFS4ERR_BAD_HIGH_SLOT)
}

// Clients work while the server is restarted again and again: everything happens once, locks exclude, and what was closed leaves nothing.
func TestWorkOverRestarts(t *testing.T) {
	in := newKeptInstance(t)
	in.dial("maker").file("shared")
	var holders, restarts atomic.Int32
	const workers, enough = 6, 10
	var wg sync.WaitGroup
	for w := range workers {
		c := in.dial(fmt.Sprintf("worker %d", w), func(cfg *nfsclient.Config) { cfg.Patient = true })
		f := c.open("shared", nfsv4.OPEN4_SHARE_ACCESS_BOTH, 0, nfsv4.NFS4_OK)
		wg.Go(func() {
			fail := func(what string, err error) bool {
				if err != nil {
					t.Errorf("worker %d: %s: %v", w, what, err)
				}
				return err != nil
			}
			lock := &nfsclient.Lock{Owner: "l"}
			for i := 0; restarts.Load() < enough; i++ {
				name := fmt.Sprintf("%d-%d", w, i)
				made, err := c.Open(in.ctx, c.root, nfsclient.OpenArgs{Name: name, Create: nfsclient.Guarded, Attr: *attr.Mode(0o600)})
				if fail("create", err) {
					return
				}
				data := []byte(name)
				if _, err := c.Write(in.ctx, made, 0, nfsv4.FILE_SYNC4, data); fail("write", err) {
					return
				}
				if fail("rename", c.Rename(in.ctx, c.root, name, c.root, name+"r")) || fail("close", c.CloseFile(in.ctx, made)) {
					return
				}
				reader, err := c.Open(in.ctx, c.root, nfsclient.OpenArgs{Name: name + "r"}) // for both: that is kept, whatever restarts
				if fail("open", err) {
					return
				}
				for {
					_, err := c.LockRange(in.ctx, f, lock, nfsv4.WRITE_LT, 0, 10)
					if err == nil {
						break
					}
					if nfsclient.StatusOf(err) != nfsv4.NFS4ERR_DENIED {
						fail("lock", err)
						return
					}
					time.Sleep(time.Millisecond)
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d clients hold one lock", n)
				}
				holders.Add(-1)
				if fail("unlock", c.Unlock(in.ctx, f, lock, 0, 10)) || fail("remove", c.Remove(in.ctx, c.root, name+"r")) {
					return
				}
				got := make([]byte, 20)
				n, _, err := c.Read(in.ctx, reader, 0, got)
				if fail("read of what is removed", err) {
					return
				}
				if !slices.Equal(got[:n], data) {
					t.Errorf("read %q of %q", got[:n], data)
				}
				if fail("close", c.CloseFile(in.ctx, reader)) {
					return
				}
			}
			fail("close", c.CloseFile(in.ctx, f))
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	for running := true; running; restarts.Add(1) {
		in.restart()
		select {
		case <-done:
			running = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	in.restart()
	opens, owners := in.kept.Holding()
	if opens != 1 || owners != 0 {
		t.Errorf("%d opens and %d lock-owners are kept, want the maker's open", opens, owners)
	}
	if st, err := in.kept.StatFS(in.ctx, vfs.RootIno); err != nil || st.UsedFiles != 2 {
		t.Errorf("%d inodes are left, want the root and the shared file (%v)", st.UsedFiles, err)
	}
}
