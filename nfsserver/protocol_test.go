package nfsserver_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/nfsserver/state"
)

// RFC 8881, 2.10.6.1: a retry gets the original's reply, byte for byte, and
// nothing happens twice.
func TestReplayCache(t *testing.T) {
	in := newInstance(t)
	c := in.dial("c")
	sl, err := c.Session(0).Slot(in.ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(seq uint32, cp *nfsclient.Compound) *nfsclient.Reply {
		t.Helper()
		r, err := sl.Send(in.ctx, seq, cp)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Release)
		return r
	}
	base := sl.Sequence()
	mkdir := nfsclient.NewCompound().PutFH(c.root).Mkdir("d", attr.Mode(0o755)).GetFH().Getattr(attr.Stat())
	mkdir.CacheThis = true
	first := send(base+1, mkdir)
	want(t, "mkdir", statusErr(first), nfsv4.NFS4_OK)
	for range 3 {
		c.Session(0).BreakConnection() // the reply cache is the session's, not the connection's
		if again := send(base+1, mkdir); !bytes.Equal(again.Body(), first.Body()) {
			t.Fatalf("replay %x, original %x", again.Body(), first.Body())
		}
	}
	other := nfsclient.NewCompound().PutFH(c.root).Mkdir("e", attr.Mode(0o755))
	other.CacheThis = true
	want(t, "another request with the same sequence", statusErr(send(base+1, other)), nfsv4.NFS4ERR_SEQ_FALSE_RETRY)
	want(t, "sequence too high", statusErr(send(base+3, other)), nfsv4.NFS4ERR_SEQ_MISORDERED)
	want(t, "sequence too low", statusErr(send(base, other)), nfsv4.NFS4ERR_SEQ_MISORDERED)

	// What changes nothing is kept if the client asks for it, and what does if its reply is small.
	big := c.file("big")
	_, err = c.Write(in.ctx, big, 0, nfsv4.FILE_SYNC4, make([]byte, 2*state.MaxKept))
	want(t, "write", err, nfsv4.NFS4_OK)
	seq := base + 1
	for _, unasked := range []struct {
		what string
		cp   *nfsclient.Compound
		kept bool
	}{
		{"read", nfsclient.NewCompound().PutFH(c.root).Getattr(attr.Stat()), false},
		{"change", nfsclient.NewCompound().PutFH(c.root).Mkdir("f", attr.Mode(0o755)).GetFH().Getattr(attr.Stat()), true},
		{"write", nfsclient.NewCompound().PutFH(big.FH).Write(big.Stateid, 0, nfsv4.UNSTABLE4, make([]byte, 8<<10)).Getattr(attr.Stat()), true},
		{"change with a large reply", nfsclient.NewCompound().PutFH(c.root).Mkdir("g", attr.Mode(0o755)).PutFH(big.FH).Read(big.Stateid, 0, state.MaxKept), false},
		{"refused change", nfsclient.NewCompound().Mkdir("h", attr.Mode(0o755)), false},
	} {
		seq++
		first := send(seq, unasked.cp)
		r := send(seq, unasked.cp)
		if unasked.kept {
			if !bytes.Equal(r.Body(), first.Body()) || first.Status != nfsv4.NFS4_OK {
				t.Errorf("%s: replay %x, original %x", unasked.what, r.Body(), first.Body())
			}
			continue
		}
		if _, err := r.Sequence(); err != nil {
			t.Fatalf("%s: SEQUENCE of an uncached retry: %v", unasked.what, err)
		}
		if r.Status != nfsv4.NFS4ERR_RETRY_UNCACHED_REP {
			t.Errorf("%s: uncached retry: %s", unasked.what, nfsv4.Nfsstat4_name[r.Status])
		}
	}

	// An error is a reply too.
	exist := nfsclient.NewCompound().PutFH(c.root).Mkdir("d", attr.Mode(0o755))
	exist.CacheThis = true
	first = send(seq+1, exist)
	want(t, "mkdir of what exists", statusErr(first), nfsv4.NFS4ERR_EXIST)
	want(t, "remove", c.Remove(in.ctx, c.root, "d"), nfsv4.NFS4_OK)
	if again := send(seq+1, exist); !bytes.Equal(again.Body(), first.Body()) {
		t.Error("the error was not replayed")
	}
	want(t, "lookup", lookupErr(c, "d"), nfsv4.NFS4ERR_NOENT)
}

// statusErr is the status of a whole reply as an error.
func statusErr(r *nfsclient.Reply) error {
	if r.Status == nfsv4.NFS4_OK {
		return nil
	}
	return &nfsclient.Error{Status: r.Status}
}

func lookupErr(c *conn, name string) error {
	_, _, err := c.Lookup(c.in.ctx, c.root, name)
	return err
}

// Mutations whose connections break under them all the time happen exactly
// once: a second execution would be seen as EXIST or NOENT.
func TestExactlyOnceOverBrokenConnections(t *testing.T) {
	in := newInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 2 })
	stop := make(chan struct{})
	var breaker, workers sync.WaitGroup
	breaker.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rnd.IntN(3000)) * time.Microsecond):
				c.Session(rnd.IntN(2)).BreakConnection()
			}
		}
	})
	for w := range 8 {
		workers.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("%d-%d", w, i)
				dir, _, err := c.Mkdir(in.ctx, c.root, name, 0o755)
				if err != nil {
					t.Errorf("mkdir %s: %v", name, err)
					return
				}
				steps := []func() error{
					func() error { return c.Rename(in.ctx, c.root, name, c.root, name+"r") },
					func() error { _, _, err := c.Symlink(in.ctx, dir, "l", "target"); return err },
					func() error { return c.Remove(in.ctx, dir, "l") },
					func() error { return c.Remove(in.ctx, c.root, name+"r") },
				}
				for n, step := range steps {
					if err := step(); err != nil {
						t.Errorf("step %d of %s: %v", n, name, err)
						return
					}
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	breaker.Wait()
	if n := c.Session(0).Dials() + c.Session(1).Dials(); n < 10 {
		t.Errorf("only %d connections were made: nothing was tested", n)
	}
	if in.srv.State().Replays == 0 {
		t.Error("no reply came from the cache: nothing was tested")
	}
	left, err := c.Readdir(in.ctx, c.root, attr.Stat())
	if err != nil || len(left) != 0 {
		t.Errorf("%d entries are left, %v", len(left), err)
	}
}

// RFC 8881, 18.16.3: the create modes, and exclusive ones sent again.
func TestCreateModes(t *testing.T) {
	in := newInstance(t)
	c, other := in.dial("c"), in.dial("other")
	create := func(name string, mode nfsclient.CreateMode, verifier byte, st nfsclient.Status) *nfsclient.File {
		t.Helper()
		a := nfsclient.OpenArgs{Name: name, Create: mode, Verifier: [8]byte{verifier}}
		if mode != nfsclient.Exclusive {
			a.Attr = *attr.Mode(0o640)
		}
		f, err := c.Open(in.ctx, c.root, a)
		want(t, fmt.Sprintf("create %s in mode %d", name, mode), err, st)
		return f
	}
	for _, mode := range []nfsclient.CreateMode{nfsclient.Exclusive, nfsclient.Exclusive41} {
		name := fmt.Sprint("x", mode)
		first := create(name, mode, 5, nfsv4.NFS4_OK)
		if again := create(name, mode, 5, nfsv4.NFS4_OK); again.FH != first.FH {
			t.Error("the same verifier made another file")
		}
		create(name, mode, 6, nfsv4.NFS4ERR_EXIST)
		_, err := other.Open(in.ctx, other.root, nfsclient.OpenArgs{Name: name, Create: mode, Verifier: [8]byte{5}})
		want(t, "the same verifier from another client", err, nfsv4.NFS4ERR_EXIST)
	}
	guarded := create("g", nfsclient.Guarded, 0, nfsv4.NFS4_OK)
	if guarded.Attr.Mode != 0o640 {
		t.Errorf("mode %o", guarded.Attr.Mode)
	}
	create("g", nfsclient.Guarded, 0, nfsv4.NFS4ERR_EXIST)
	if f := create("g", nfsclient.Unchecked, 0, nfsv4.NFS4_OK); f.FH != guarded.FH {
		t.Error("UNCHECKED made another file")
	}
	create("x3", nfsclient.Exclusive, 5, nfsv4.NFS4_OK) // the verifier of Exclusive41 above counts the same
	c.open("nothing", 0, 0, nfsv4.NFS4ERR_NOENT)
}

func TestReadWriteCommit(t *testing.T) {
	in := newInstance(t)
	c := in.dial("c")
	f := c.file("f")
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(i * 31 >> 3)
	}
	var verf [8]byte
	for off := 0; off < len(data); {
		n := min(1<<20, len(data)-off)
		w, err := c.Write(in.ctx, f, uint64(off), nfsv4.UNSTABLE4, data[off:off+n])
		want(t, "write", err, nfsv4.NFS4_OK)
		if off > 0 && w.Verifier != verf {
			t.Error("the verifier changed between two writes")
		}
		verf = w.Verifier
		off += int(w.Count)
	}
	got, err := c.Commit(in.ctx, f.FH, 0, 0)
	want(t, "commit", err, nfsv4.NFS4_OK)
	if got != verf {
		t.Errorf("COMMIT's verifier %x, WRITE's %x", got, verf)
	}
	w, err := c.Write(in.ctx, f, 5, nfsv4.FILE_SYNC4, []byte("xyz"))
	want(t, "write", err, nfsv4.NFS4_OK)
	if w.Stable != nfsv4.FILE_SYNC4 {
		t.Errorf("FILE_SYNC was answered with %v", w.Stable)
	}
	copy(data[5:], "xyz")
	back := make([]byte, 0, len(data))
	buf := make([]byte, 1<<20)
	for eof := false; !eof; {
		var n int
		n, eof, err = c.Read(in.ctx, f, uint64(len(back)), buf)
		want(t, "read", err, nfsv4.NFS4_OK)
		if n == 0 && !eof {
			t.Fatal("neither data nor the end")
		}
		back = append(back, buf[:n]...)
	}
	if !bytes.Equal(back, data) {
		t.Error("other bytes were read than written")
	}
	if a, err := c.Getattr(in.ctx, f.FH); err != nil || a.Size != uint64(len(data)) {
		t.Errorf("size %d, %v", a.Size, err)
	}
	// Unlinked while open: readable until the last close.
	want(t, "remove", c.Remove(in.ctx, c.root, "f"), nfsv4.NFS4_OK)
	n, _, err := c.Read(in.ctx, f, 5, buf[:3])
	if string(buf[:n]) != "xyz" || err != nil {
		t.Errorf("read of an unlinked file: %q, %v", buf[:n], err)
	}
	want(t, "close", c.CloseFile(in.ctx, f), nfsv4.NFS4_OK)
	_, err = c.Getattr(in.ctx, f.FH)
	want(t, "getattr after the last close", err, nfsv4.NFS4ERR_STALE)
}

// RFC 8881, 18.10 to 18.12, between two clients.
func TestLocksBetweenClients(t *testing.T) {
	in := newInstance(t)
	a, b := in.dial("a"), in.dial("b")
	fa := a.file("f")
	fb := b.open("f", 0, 0, nfsv4.NFS4_OK)
	la, lb := &nfsclient.Lock{Owner: "process 1"}, &nfsclient.Lock{Owner: "process 2"}
	_, err := a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 100, 50)
	want(t, "lock", err, nfsv4.NFS4_OK)
	denied, err := b.LockRange(in.ctx, fb, lb, nfsv4.READW_LT, 0, toEOF)
	want(t, "conflicting lock", err, nfsv4.NFS4ERR_DENIED)
	if expect := (nfsclient.Denied{Offset: 100, Length: 50, Type: nfsv4.WRITE_LT, Client: a.ID(), Owner: "process 1"}); *denied != expect {
		t.Errorf("denied by %+v, want %+v", *denied, expect)
	}
	denied, err = b.TestLock(in.ctx, fb.FH, nfsv4.READ_LT, 149, 1, "process 2")
	if err != nil || denied == nil || denied.Offset != 100 {
		t.Errorf("LOCKT: %+v, %v", denied, err)
	}
	if denied, err = b.TestLock(in.ctx, fb.FH, nfsv4.WRITE_LT, 150, toEOF, "process 2"); err != nil || denied != nil {
		t.Errorf("LOCKT beside the lock: %+v, %v", denied, err)
	}
	want(t, "unlock the middle", a.Unlock(in.ctx, fa, la, 110, 10), nfsv4.NFS4_OK)
	_, err = b.LockRange(in.ctx, fb, lb, nfsv4.WRITE_LT, 110, 10)
	want(t, "lock the middle", err, nfsv4.NFS4_OK)
	_, err = a.LockRange(in.ctx, fa, la, nfsv4.READ_LT, 100, 10)
	want(t, "downgrade", err, nfsv4.NFS4_OK)
	_, err = b.LockRange(in.ctx, fb, lb, nfsv4.READ_LT, 100, 10)
	want(t, "shared lock", err, nfsv4.NFS4_OK)
	_, err = a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 105, 1)
	want(t, "upgrade against a reader", err, nfsv4.NFS4ERR_DENIED)
	want(t, "close", b.CloseFile(in.ctx, fb), nfsv4.NFS4_OK) // releases b's locks
	_, err = a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 0, toEOF)
	want(t, "lock everything", err, nfsv4.NFS4_OK)
}

// RFC 8881, 9.7.
func TestShareDeny(t *testing.T) {
	in := newInstance(t)
	a, b := in.dial("a"), in.dial("b")
	f := a.file("f")
	_, err := a.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("keep"))
	want(t, "write", err, nfsv4.NFS4_OK)
	want(t, "close", a.CloseFile(in.ctx, f), nfsv4.NFS4_OK)
	f = a.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_WRITE, nfsv4.NFS4_OK)
	b.open("f", nfsv4.OPEN4_SHARE_ACCESS_WRITE, 0, nfsv4.NFS4ERR_SHARE_DENIED)
	size := uint64(0)
	_, err = b.Open(in.ctx, b.root, nfsclient.OpenArgs{Name: "f", Create: nfsclient.Unchecked, Attr: attr.Set{Size: &size}})
	want(t, "truncating open", err, nfsv4.NFS4ERR_SHARE_DENIED)
	want(t, "truncate without an open", b.Setattr(in.ctx, f.FH, nfsclient.Stateid{}, attr.Size(0)), nfsv4.NFS4ERR_LOCKED)
	if at, err := b.Getattr(in.ctx, f.FH); err != nil || at.Size != 4 {
		t.Errorf("size %d (%v): a refused open truncated", at.Size, err)
	}
	reader := b.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
	a.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_READ, nfsv4.NFS4ERR_SHARE_DENIED)
	_, err = b.Write(in.ctx, reader, 0, nfsv4.FILE_SYNC4, []byte("no"))
	want(t, "write through an open for reading", err, nfsv4.NFS4ERR_OPENMODE)
	want(t, "close", a.CloseFile(in.ctx, f), nfsv4.NFS4_OK)
	b.open("f", nfsv4.OPEN4_SHARE_ACCESS_WRITE, 0, nfsv4.NFS4_OK)
}

// A client that is silent for more than a lease loses what others want.
func TestLeaseExpiry(t *testing.T) {
	in := newInstance(t)
	a, b := in.dial("a"), in.dial("b")
	f := a.file("f")
	l := &nfsclient.Lock{Owner: "l"}
	_, err := a.LockRange(in.ctx, f, l, nfsv4.WRITE_LT, 0, toEOF)
	want(t, "lock", err, nfsv4.NFS4_OK)
	a.Disconnect()
	in.advance(leaseTime)
	fb := b.open("f", 0, 0, nfsv4.NFS4_OK)
	lb := &nfsclient.Lock{Owner: "l"}
	_, err = b.LockRange(in.ctx, fb, lb, nfsv4.WRITE_LT, 0, 1)
	want(t, "lock within the lease", err, nfsv4.NFS4ERR_DENIED)
	in.advance(time.Second)
	_, err = b.LockRange(in.ctx, fb, lb, nfsv4.WRITE_LT, 0, 1)
	want(t, "lock after the lease", err, nfsv4.NFS4_OK)

	_, err = a.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("late"))
	want(t, "write of the client that was away", err, nfsv4.NFS4ERR_BADSESSION)
	want(t, "recover", a.Recover(in.ctx), nfsv4.NFS4_OK)
	_, err = a.Open(in.ctx, f.FH, nfsclient.OpenArgs{Reclaim: true})
	want(t, "reclaim of what was lost", err, nfsv4.NFS4ERR_NO_GRACE)
	want(t, "reclaim complete", a.ReclaimComplete(in.ctx), nfsv4.NFS4_OK)
	_, err = a.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("late"))
	want(t, "write with the old stateid", err, nfsv4.NFS4ERR_EXPIRED)
}

// RFC 8881, 8.4.2: after a restart clients get back what they had before
// anybody else gets anything.
func TestReclaimAfterRestart(t *testing.T) {
	in := newInstance(t)
	a, b := in.dial("a"), in.dial("b")
	fa := a.file("f")
	la := &nfsclient.Lock{Owner: "l"}
	_, err := a.LockRange(in.ctx, fa, la, nfsv4.WRITE_LT, 10, 10)
	want(t, "lock", err, nfsv4.NFS4_OK)
	b.file("g")
	in.restart()

	// The handle is still good, the session is not.
	_, err = a.Getattr(in.ctx, fa.FH)
	want(t, "getattr", err, nfsv4.NFS4ERR_BADSESSION)
	want(t, "recover a", a.Recover(in.ctx), nfsv4.NFS4_OK)
	late := in.dial("new", func(c *nfsclient.Config) { c.NoReclaimComplete = true })
	want(t, "reclaim complete", late.ReclaimComplete(in.ctx), nfsv4.NFS4_OK)
	late.open("f", 0, 0, nfsv4.NFS4ERR_GRACE)
	want(t, "remove in grace", late.Remove(in.ctx, late.root, "f"), nfsv4.NFS4ERR_GRACE)
	_, err = late.Open(in.ctx, fa.FH, nfsclient.OpenArgs{Reclaim: true})
	want(t, "reclaim of a stranger", err, nfsv4.NFS4ERR_NO_GRACE)

	_, err = a.Write(in.ctx, fa, 0, nfsv4.FILE_SYNC4, []byte("x"))
	want(t, "stateid of the earlier instance", err, nfsv4.NFS4ERR_STALE_STATEID)
	fa, err = a.Open(in.ctx, fa.FH, nfsclient.OpenArgs{Reclaim: true})
	want(t, "reclaim open", err, nfsv4.NFS4_OK)
	r, err := a.Do(in.ctx, nfsclient.NewCompound().PutFH(fa.FH).Lock(a.ID(), &nfsclient.LockArgs{
		Type: nfsv4.WRITE_LT, Offset: 10, Length: 10, Reclaim: true, New: true, Stateid: fa.Stateid, Owner: "l"}))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "reclaim lock", statusErr(r), nfsv4.NFS4_OK)
	r.Release()
	want(t, "reclaim complete", a.ReclaimComplete(in.ctx), nfsv4.NFS4_OK)
	_, err = a.Write(in.ctx, fa, 0, nfsv4.FILE_SYNC4, []byte("x"))
	want(t, "write", err, nfsv4.NFS4_OK)
	late.open("f", 0, 0, nfsv4.NFS4ERR_GRACE) // b may still come

	want(t, "recover b", b.Recover(in.ctx), nfsv4.NFS4_OK)
	want(t, "reclaim complete", b.ReclaimComplete(in.ctx), nfsv4.NFS4_OK)
	f := late.open("f", 0, 0, nfsv4.NFS4_OK)
	_, err = late.LockRange(in.ctx, f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, toEOF)
	want(t, "lock against the reclaimed one", err, nfsv4.NFS4ERR_DENIED)
}

// A recorded client that does not return delays others for one lease.
func TestGraceEndsByTime(t *testing.T) {
	in := newInstance(t)
	in.dial("gone")
	in.restart()
	c := in.dial("c")
	_, err := c.Create(in.ctx, c.root, "f", 0o644)
	want(t, "create in grace", err, nfsv4.NFS4ERR_GRACE)
	in.advance(leaseTime)
	in.srv.Tick(in.ctx)
	c.file("f")
	if recs, err := in.store.Clients(in.ctx); err != nil || len(recs) != 1 || string(recs[0].Owner) != "c" {
		t.Errorf("recorded: %v, %v", recs, err)
	}
}

// A patient client waits for the end of grace.
func TestPatientClient(t *testing.T) {
	in := newInstance(t)
	in.dial("gone")
	in.restart()
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Patient = true })
	var create sync.WaitGroup
	create.Go(func() {
		_, err := c.Create(in.ctx, c.root, "f", 0o644)
		if err != nil {
			t.Errorf("create: %v", err)
		}
	})
	for in.srv.State().GraceRefusals == 0 && in.ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	in.advance(leaseTime)
	in.srv.Tick(in.ctx)
	create.Wait()
}

// RFC 8881, 8.2 and 16.2.3.1.2 (the current stateid).
func TestStateidRules(t *testing.T) {
	in := newInstance(t)
	c, other := in.dial("c"), in.dial("other")
	current := nfsclient.Stateid{Seqid: 1}
	cp := nfsclient.NewCompound().PutFH(c.root).
		Open(c.ID(), &nfsclient.OpenArgs{Name: "f", Create: nfsclient.Unchecked, Attr: *attr.Mode(0o600)}).
		Write(current, 0, nfsv4.FILE_SYNC4, []byte("in one compound")).
		Read(current, 3, 100).
		Close(current)
	r, err := c.Do(in.ctx, cp)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "open, write, read, close by the current stateid", statusErr(r), nfsv4.NFS4_OK)
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		t.Fatal(err)
	}
	closed, _, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if p, eof, err := r.Read(); string(p) != "one compound" || !eof || err != nil {
		t.Errorf("read %q, eof %v, %v", p, eof, err)
	}
	r.Release()

	f := c.file("f")
	first := *f
	second := c.open("f", nfsv4.OPEN4_SHARE_ACCESS_READ, 0, nfsv4.NFS4_OK)
	if second.Stateid.Other != first.Stateid.Other || second.Stateid.Seqid != first.Stateid.Seqid+1 {
		t.Fatalf("the same owner's second open: %v after %v", second.Stateid, first.Stateid)
	}
	read := func(c *conn, id nfsclient.Stateid) error {
		_, _, err := c.Read(in.ctx, &nfsclient.File{FH: f.FH, Stateid: id}, 0, make([]byte, 10))
		return err
	}
	zero, future, unknown := second.Stateid, second.Stateid, second.Stateid
	zero.Seqid, future.Seqid = 0, 99
	unknown.Other[11]++
	for _, tc := range []struct {
		what string
		c    *conn
		id   nfsclient.Stateid
		st   nfsclient.Status
	}{
		{"the latest", c, second.Stateid, nfsv4.NFS4_OK},
		{"seqid 0", c, zero, nfsv4.NFS4_OK},
		{"an older one", c, first.Stateid, nfsv4.NFS4ERR_OLD_STATEID},
		{"a future one", c, future, nfsv4.NFS4ERR_BAD_STATEID},
		{"an unknown one", c, unknown, nfsv4.NFS4ERR_BAD_STATEID},
		{"another client's", other, second.Stateid, nfsv4.NFS4ERR_BAD_STATEID},
		{"a closed one", c, closed, nfsv4.NFS4ERR_BAD_STATEID},
		{"the current one where there is none", c, current, nfsv4.NFS4ERR_BAD_STATEID},
		{"anonymous", other, state.Anonymous, nfsv4.NFS4_OK},
		{"bypass", other, state.Bypass, nfsv4.NFS4_OK},
	} {
		want(t, "read with "+tc.what, read(tc.c, tc.id), tc.st)
	}
	r, err = c.Do(in.ctx, nfsclient.NewCompound().TestStateid(second.Stateid, first.Stateid, unknown))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	sts, err := r.TestStateid()
	if err != nil || !slices.Equal(sts, []nfsclient.Status{nfsv4.NFS4_OK, nfsv4.NFS4ERR_OLD_STATEID, nfsv4.NFS4ERR_BAD_STATEID}) {
		t.Errorf("TEST_STATEID: %v, %v", sts, err)
	}
}

// A large directory is listed completely while entries come and go.
func TestBigReaddir(t *testing.T) {
	in := newInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Slots = 64 })
	dir, _, err := c.Mkdir(in.ctx, c.root, "big", 0o755)
	want(t, "mkdir", err, nfsv4.NFS4_OK)
	const stay = 2000
	var makers sync.WaitGroup
	for w := range 8 {
		makers.Go(func() {
			for i := w; i < stay; i += 8 {
				if _, _, err := c.Mkdir(in.ctx, dir, fmt.Sprintf("stay%05d", i), 0o755); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	makers.Wait()
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("go%d", i)
			if _, _, err := c.Mkdir(in.ctx, dir, name, 0o755); err != nil {
				t.Error(err)
				return
			}
			if err := c.Remove(in.ctx, dir, name); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		entries, err := c.Readdir(in.ctx, dir, attr.Stat())
		want(t, "readdir", err, nfsv4.NFS4_OK)
		seen := map[string]int{}
		for _, e := range entries {
			seen[e.Name]++
			if e.Attr.Type != nfsv4.NF4DIR || e.Attr.Fileid == 0 {
				t.Fatalf("%s: %+v", e.Name, e.Attr)
			}
		}
		for i := range stay {
			if n := seen[fmt.Sprintf("stay%05d", i)]; n != 1 {
				t.Fatalf("stay%05d is listed %d times", i, n)
			}
		}
	}
	close(stop)
	churn.Wait()
}
