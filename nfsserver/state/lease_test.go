package state_test

import (
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// A client whose lease is over keeps everything while nobody wants it.
func TestCourtesy(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	id := a.open(fileA, both, both, ok)
	w.now = w.now.Add(10 * lease)
	w.tick()
	if st := w.s.Stats(); st.Courteous != 1 || st.Opens != 1 {
		t.Errorf("%+v", st)
	}
	a.renew()
	w.tick()
	a.io(fileA, id, vfs.OpenWrite, ok)
	if st := w.s.Stats(); st.Courteous != 0 || st.Expired != 0 {
		t.Errorf("%+v", st)
	}
	b := w.client("b")
	b.open(fileA, read, none, nfsv4.NFS4ERR_SHARE_DENIED) // its lease is good again
}

// A conflict ends the client whose lease is over, and only that: first its
// record goes, then its files are closed, then the request succeeds.
func TestConflictEndsExpiredClient(t *testing.T) {
	for name, conflict := range map[string]func(b *peer){
		"open against a deny mode": func(b *peer) { b.open(fileA, write, none, ok) },
		"open that denies":         func(b *peer) { b.open(fileA, read, both, ok) },
		"asked before the open": func(b *peer) {
			eff, st := b.w.s.OpenAllowed(b.w.now, b.openArgs(fileA, write, none))
			b.w.must(eff)
			b.w.wantStatus("OpenAllowed", st, ok)
		},
		"write without an open": func(b *peer) { b.io(fileA, state.Anonymous, vfs.OpenWrite, ok) },
		"lock": func(b *peer) {
			b.lock(fileA, b.open(fileA, read, none, ok), "l", nfsv4.READ_LT, 0, toEOF, ok)
		},
		"lock test": func(b *peer) {
			denied, eff, st := b.w.s.TestLock(b.w.now, b.id, fileA, []byte("l"), nfsv4.WRITE_LT, 5, 1)
			b.w.must(eff)
			if denied != nil {
				b.w.t.Fatalf("denied by %+v", denied)
			}
			b.w.wantStatus("LOCKT", st, ok)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.client("a")
			a.lock(fileA, a.open(fileA, both, nfsv4.OPEN4_SHARE_DENY_WRITE, ok), "l", nfsv4.WRITE_LT, 0, 10, ok)
			idle := w.client("idle") // its lease is over too, but it is in nobody's way
			idle.open(fileB, read, none, ok)
			w.now = w.now.Add(lease + time.Second)
			b := w.client("b")
			conflict(b)
			w.wantStored("b", "idle")
			if w.open["10:3"] != 0 || w.open["11:1"] != 1 {
				t.Errorf("vfs opens %v", w.open)
			}
			if st := w.s.Stats(); st.Expired != 1 || st.Locks > 1 {
				t.Errorf("%+v", st)
			}
			a.sequence(0, 1, 0, nfsv4.NFS4ERR_BADSESSION)
			idle.renew()
		})
	}
}

// While a call runs, the lease cannot end.
func TestRunningCallKeepsLease(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	a.open(fileA, both, both, ok)
	b.open(fileB, read, none, ok)
	call := a.sequence(0, 1, 0, ok).Call
	w.now = w.now.Add(10 * lease)
	w.tick()
	b.open(fileA, read, none, nfsv4.NFS4ERR_SHARE_DENIED)
	w.s.Finish(w.now, call, nil)
	w.now = w.now.Add(lease)
	b.open(fileA, read, none, nfsv4.NFS4ERR_SHARE_DENIED)
	w.now = w.now.Add(time.Second)
	b.open(fileA, read, none, ok)
}

func TestCourtesyEnds(t *testing.T) {
	w := newWorld(t)
	w.peer("unconfirmed").exchange(0, ok)
	w.client("stateless")
	a := w.client("a")
	a.open(fileA, read, none, ok)
	for _, step := range []struct {
		idle    time.Duration
		clients int
	}{{lease, 3}, {lease + time.Second, 2}, {5 * lease, 1}, {24 * time.Hour, 1}, {24*time.Hour + time.Second, 0}} {
		start := w.now
		w.now = w.now.Add(step.idle)
		w.tick()
		if n := w.s.Stats().Clients; n != step.clients {
			t.Errorf("%d clients after %v, want %d", n, step.idle, step.clients)
		}
		w.now = start
	}
	w.wantOpen()
	w.wantStored()
}

// RFC 8881, 18.51: no state before RECLAIM_COMPLETE, which comes once.
func TestReclaimComplete(t *testing.T) {
	w := newWorld(t)
	a := w.peer("a")
	a.connect()
	w.wantStored()
	a.open(fileA, read, none, nfsv4.NFS4ERR_GRACE)
	w.wantOpen()
	eff, st := w.s.ReclaimComplete(w.now, a.id, true)
	w.must(eff)
	w.wantStatus("one file system", st, ok)
	a.open(fileA, read, none, nfsv4.NFS4ERR_GRACE)
	a.reclaimComplete(ok)
	w.wantStored("a")
	a.open(fileA, read, none, ok)
	a.reclaimComplete(nfsv4.NFS4ERR_COMPLETE_ALREADY)
	args := a.openArgs(fileB, read, none)
	args.Reclaim = true
	a.doOpen(args, nfsv4.NFS4ERR_NO_GRACE)
}

// RFC 8881, 8.4.2: the life of a server restart.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	id := a.open(fileA, both, nfsv4.OPEN4_SHARE_DENY_WRITE, ok)
	a.lock(fileA, id, "l", nfsv4.WRITE_LT, 0, 10, ok)
	w.restart()

	if !w.s.InGrace(w.now) {
		t.Fatal("no grace although clients are recorded")
	}
	a.sequence(0, 1, 0, nfsv4.NFS4ERR_BADSESSION)
	a.connect()
	a.io(fileA, id, vfs.OpenRead, nfsv4.NFS4ERR_STALE_STATEID)
	stranger := w.client("stranger")
	stranger.open(fileA, read, none, nfsv4.NFS4ERR_GRACE)
	stranger.io(fileA, state.Anonymous, vfs.OpenWrite, nfsv4.NFS4ERR_GRACE)
	stranger.io(fileA, state.Bypass, vfs.OpenRead, ok)
	args := stranger.openArgs(fileA, read, none)
	args.Reclaim = true
	stranger.doOpen(args, nfsv4.NFS4ERR_NO_GRACE)
	_, eff, st := w.s.TestLock(w.now, stranger.id, fileA, nil, nfsv4.READ_LT, 0, 1)
	w.must(eff)
	w.wantStatus("LOCKT", st, nfsv4.NFS4ERR_GRACE)

	args = a.openArgs(fileA, both, nfsv4.OPEN4_SHARE_DENY_WRITE)
	args.Reclaim = true
	id = a.doOpen(args, ok)
	lock := state.LockArgs{File: fileA, Type: nfsv4.WRITE_LT, Length: 10, New: true, Stateid: id, Owner: []byte("l")}
	a.doLock(lock, nfsv4.NFS4ERR_GRACE)
	lock.Reclaim = true
	a.doLock(lock, ok)
	a.io(fileA, id, vfs.OpenWrite, ok)
	a.open(fileB, read, none, nfsv4.NFS4ERR_GRACE)
	a.reclaimComplete(ok)
	a.doOpen(args, nfsv4.NFS4ERR_NO_GRACE)
	a.open(fileB, read, none, nfsv4.NFS4ERR_GRACE) // b may still come

	b.connect()
	b.reclaimComplete(ok)
	if w.s.InGrace(w.now) {
		t.Fatal("grace although all recorded clients have returned")
	}
	a.open(fileB, read, none, ok)
	b.open(fileA, write, none, nfsv4.NFS4ERR_SHARE_DENIED)
	w.wantStored("a", "b", "stranger")
}

func TestGraceEnds(t *testing.T) {
	t.Run("after a lease: who stayed away is forgotten (RFC 8881, 8.4.3)", func(t *testing.T) {
		w := newWorld(t)
		w.client("a")
		w.client("b")
		w.restart()
		a := w.peer("a")
		a.connect()
		w.now = w.now.Add(lease - time.Second)
		w.tick()
		if !w.s.InGrace(w.now) {
			t.Fatal("too early")
		}
		w.now = w.now.Add(time.Second)
		w.tick()
		w.wantStored() // a came back but did not say that it is done
		args := a.openArgs(fileA, read, none)
		args.Reclaim = true
		a.doOpen(args, nfsv4.NFS4ERR_NO_GRACE)
		a.reclaimComplete(ok)
		w.wantStored("a")
	})
	t.Run("at once without recorded clients", func(t *testing.T) {
		w := newWorld(t)
		if w.s.InGrace(w.now) {
			t.Error("in grace")
		}
	})
	t.Run("when the last recorded client restarted too", func(t *testing.T) {
		w := newWorld(t)
		w.client("a")
		w.restart()
		a := w.peer("a")
		a.verf = 2
		a.connect()
		w.wantStored()
		if w.s.InGrace(w.now) {
			t.Error("in grace for nobody")
		}
	})
	t.Run("a stranger cannot end it with a recorded owner", func(t *testing.T) {
		w := newWorld(t)
		w.client("a")
		w.restart()
		s := w.peer("a")
		s.who, s.verf = "stranger", 2
		s.exchange(0, nfsv4.NFS4ERR_CLID_INUSE)
	})
	t.Run("it survives another restart", func(t *testing.T) {
		w := newWorld(t)
		w.client("a")
		w.restart()
		w.now = w.now.Add(lease / 2)
		w.restart()
		a := w.peer("a")
		a.connect()
		args := a.openArgs(fileA, read, none)
		args.Reclaim = true
		a.doOpen(args, ok)
	})
}

// Nothing that an ended client might reclaim is given away before the store
// has forgotten the client, also when the first attempt fails.
func TestForgettingIsRetried(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	a.open(fileA, both, both, ok)
	b := w.client("b")
	w.now = w.now.Add(lease + time.Second)
	b.renew()

	w.fail = true
	w.open["10:1"]++
	_, eff, st := w.s.Open(w.now, b.openArgs(fileA, read, none))
	w.wantStatus("OPEN", st, ok)
	if w.apply(eff) == nil {
		t.Fatal("the store did not fail")
	}
	// Another request must not be answered either.
	_, eff, _ = w.s.Open(w.now, b.openArgs(fileB, read, none))
	if len(eff.Forget) != 1 || string(eff.Forget[0].Owner) != "a" {
		t.Fatalf("the next grant forgets %+v", eff.Forget)
	}
	w.fail = false
	w.open["11:1"]++
	w.must(eff)
	w.wantStored("b")
	w.tick() // closes what the failed effects still owed
	w.wantOpen("10:1", "11:1")
	if eff := w.s.Tick(w.now); !eff.Empty() {
		t.Errorf("still owed: %+v", eff)
	}
}

// RECLAIM_COMPLETE whose record could not be stored is not done.
func TestRecordingIsRetried(t *testing.T) {
	w := newWorld(t)
	a := w.peer("a")
	a.connect()
	w.fail = true
	eff, st := w.s.ReclaimComplete(w.now, a.id, false)
	w.wantStatus("RECLAIM_COMPLETE", st, ok)
	if w.apply(eff) == nil {
		t.Fatal("the store did not fail")
	}
	w.fail = false
	a.reclaimComplete(ok)
	w.wantStored("a")
	a.reclaimComplete(nfsv4.NFS4ERR_COMPLETE_ALREADY)
}
