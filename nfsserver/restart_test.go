package nfsserver_test

import (
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
