package state_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
)

// await is a blocking LOCK of the first n bytes of fileA that is denied.
func (p *peer) await(open state.Stateid, owner string, t nfsv4.NfsLockType4, n uint64) {
	p.w.t.Helper()
	a := state.LockArgs{Client: p.id, File: fileA, Type: t, Length: n, New: true, Stateid: open, Owner: []byte(owner)}
	p.doLock(a, nfsv4.NFS4ERR_DENIED)
	if p.w.s.AwaitLock(p.w.now, a, []byte("handle"), 0) {
		p.w.t.Fatal("free, although denied")
	}
}

// wantNotified compares whom the state wants to tell: "client/owner".
func (w *world) wantNotified(list []state.NotifyLock, want ...string) {
	w.t.Helper()
	var got []string
	for _, n := range list {
		got = append(got, fmt.Sprintf("%s/%s", w.names[n.Client], n.Owner))
		if string(n.Handle) != "handle" {
			w.t.Errorf("handle %q", n.Handle)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("told %v, want %v", got, want)
	}
}

func newWaitingWorld(t *testing.T) (w *world, a, b, c *peer, held, aOpen, bOpen, cOpen state.Stateid) {
	w = newWorld(t)
	a, b, c = w.client("a"), w.client("b"), w.client("c")
	w.names = map[state.ClientID]string{a.id: "a", b.id: "b", c.id: "c"}
	aOpen, bOpen, cOpen = a.open(fileA, both, none, ok), b.open(fileA, both, none, ok), c.open(fileA, both, none, ok)
	return w, a, b, c, a.lock(fileA, aOpen, "x", nfsv4.WRITE_LT, 0, 100, ok), aOpen, bOpen, cOpen
}

// Those who wait are told in their order when what they want is free, once.
func TestWaitersAreTold(t *testing.T) {
	w, a, b, c, held, _, bOpen, cOpen := newWaitingWorld(t)
	b.await(bOpen, "small", nfsv4.READW_LT, 10)
	c.await(cOpen, "large", nfsv4.WRITEW_LT, 100)
	c.await(cOpen, "small", nfsv4.READW_LT, 10)
	b.await(bOpen, "small", nfsv4.READW_LT, 10) // again: to the end of the queue
	w.wantNotified(w.s.TakeFreed(w.now))
	held = a.unlock(fileA, held, 50, 50, ok)
	w.wantNotified(w.s.TakeFreed(w.now)) // not what they want
	held = a.unlock(fileA, held, 0, 20, ok)
	w.wantNotified(w.s.TakeFreed(w.now), "c/small", "b/small")
	w.wantNotified(w.s.TakeFreed(w.now))
	a.unlock(fileA, held, 0, toEOF, ok)
	w.wantNotified(w.s.TakeFreed(w.now), "c/large")
	w.wantNotified(w.s.TickWaiters(w.now))
}

// Every way in which a lock ends tells.
func TestWhatFreesLocks(t *testing.T) {
	for name, free := range map[string]func(w *world, a *peer, held, open state.Stateid){
		"LOCKU": func(_ *world, a *peer, held, _ state.Stateid) { a.unlock(fileA, held, 0, toEOF, ok) },
		"CLOSE": func(_ *world, a *peer, _, open state.Stateid) { a.close(fileA, open, ok) },
		"LOCK for reading": func(w *world, a *peer, held, _ state.Stateid) {
			a.doLock(state.LockArgs{File: fileA, Type: nfsv4.READ_LT, Length: 100, Stateid: held}, ok)
		},
		"the end of the client": func(w *world, a *peer, _, _ state.Stateid) {
			again := w.peer("a")
			again.verf = 2
			again.connect()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, b, _, held, aOpen, bOpen, _ := newWaitingWorld(t)
			b.await(bOpen, "o", nfsv4.READW_LT, 10)
			free(w, a, held, aOpen)
			w.wantNotified(w.s.TakeFreed(w.now), "b/o")
		})
	}
}

// A lock that is freed between the denial and the wait is seen.
func TestFreedBeforeTheWait(t *testing.T) {
	w, a, b, _, held, _, bOpen, _ := newWaitingWorld(t)
	args := state.LockArgs{Client: b.id, File: fileA, Type: nfsv4.WRITEW_LT, Length: 10, New: true, Stateid: bOpen, Owner: []byte("o")}
	b.doLock(args, nfsv4.NFS4ERR_DENIED)
	a.unlock(fileA, held, 0, toEOF, ok)
	if !w.s.AwaitLock(w.now, args, []byte("handle"), 0) {
		t.Fatal("not seen to be free")
	}
	b.doLock(args, ok)
	w.wantNotified(w.s.TickWaiters(w.now)) // who has it waits no more
}

// A holder whose lease is over does not keep others waiting, and a waiter whose lease is over is forgotten.
func TestWaitersAndLeases(t *testing.T) {
	w, _, b, c, _, _, bOpen, cOpen := newWaitingWorld(t)
	b.await(bOpen, "o", nfsv4.WRITEW_LT, 10)
	c.await(cOpen, "o", nfsv4.WRITEW_LT, 10)
	w.wantNotified(w.s.TickWaiters(w.now))
	w.now = w.now.Add(lease + time.Second)
	b.renew()
	w.wantNotified(w.s.TickWaiters(w.now), "b/o")
	b.lock(fileA, bOpen, "o", nfsv4.WRITEW_LT, 0, 10, ok)
	c.renew()
	w.wantNotified(w.s.TickWaiters(w.now))
}

// One client's waits are bounded; those beyond ask by themselves.
func TestWaitersAreBounded(t *testing.T) {
	w, a, b, c, held, _, bOpen, cOpen := newWaitingWorld(t)
	for i := range 300 {
		b.await(bOpen, fmt.Sprint(i), nfsv4.READW_LT, 10)
	}
	c.await(cOpen, "o", nfsv4.READW_LT, 10)
	a.unlock(fileA, held, 0, toEOF, ok)
	if got := w.s.TakeFreed(w.now); len(got) != 256 {
		t.Errorf("%d are told", len(got))
	}
}

// Who waits for a client of another server is told when that has fewer locks of the file, in the order of all who wait, and else only after a while.
func TestWaitersForClientsElsewhere(t *testing.T) {
	w, a, b, c, held, _, bOpen, cOpen := newWaitingWorld(t)
	const elsewhere = state.ClientID(1 << 40)
	await := func(p *peer, open state.Stateid, owner string, by state.ClientID) {
		t.Helper()
		args := state.LockArgs{Client: p.id, File: fileA, Type: nfsv4.WRITEW_LT, Offset: 200, Length: 10, New: true, Stateid: open, Owner: []byte(owner)}
		if w.s.AwaitLock(w.now, args, []byte("handle"), by) != (by != elsewhere) {
			t.Fatalf("%s: by %#x is free: %v", owner, by, by == elsewhere)
		}
	}
	wantAwaited := func(want ...state.ClientID) <-chan struct{} {
		t.Helper()
		files, by, changed := w.s.AwaitedElsewhere(w.now)
		if !slices.Equal(by, want) || (len(files) == 1 && files[0] == fileA) != (len(want) > 0) {
			t.Fatalf("files %v of %v, want clients %v", files, by, want)
		}
		return changed
	}
	of := func(want state.File) func(state.File) bool { return func(f state.File) bool { return f == want } }
	changed := wantAwaited()
	await(b, bOpen, "b", elsewhere)
	select {
	case <-changed:
	default:
		t.Fatal("who follows the list does not hear of the first")
	}
	await(c, cOpen, "c", elsewhere)
	await(b, bOpen, "here", a.id) // in the way is a client of this server, with another lock
	wantAwaited(elsewhere)
	w.wantNotified(w.s.TakeFreed(w.now))
	w.wantNotified(w.s.FreedElsewhere(w.now, of(fileB)))
	w.wantNotified(w.s.TickWaiters(w.now), "b/here")
	w.wantNotified(w.s.FreedElsewhere(w.now, of(fileA)), "b/b", "c/c")
	wantAwaited()
	w.wantNotified(w.s.FreedElsewhere(w.now, of(fileA)))

	// Nobody tells.
	await(b, bOpen, "b", elsewhere)
	w.now = w.now.Add(9 * time.Second)
	w.wantNotified(w.s.TickWaiters(w.now))
	w.now = w.now.Add(time.Second)
	w.wantNotified(w.s.TickWaiters(w.now), "b/b")
	wantAwaited()

	// One that ends waits no more.
	await(c, cOpen, "c", elsewhere)
	again := w.peer("c")
	again.verf = 2
	again.connect()
	wantAwaited()
	a.unlock(fileA, held, 0, toEOF, ok)
}

// A client whose lease is over and that is in another server's way is ended, one whose lease is not over stays; and who denied an open here and is served elsewhere is told of, for a while.
func TestInTheWay(t *testing.T) {
	w, a, b, _, _, _, _, _ := newWaitingWorld(t)
	none := func(what string, eff state.Effects) {
		t.Helper()
		if len(eff.Forget) > 0 {
			t.Fatalf("%s: %+v", what, eff)
		}
	}
	none("a client that is alive", w.s.InTheWay(w.now, a.id))
	none("one that is not known", w.s.InTheWay(w.now, 1<<40))
	w.now = w.now.Add(lease + time.Second)
	b.renew()
	if eff := w.s.InTheWay(w.now, a.id); eff.Empty() || w.s.Serves(a.id) {
		t.Fatalf("a client whose lease is over stays: %+v", eff)
	}
	if w.s.InTheWay(w.now, b.id); !w.s.Serves(b.id) {
		t.Fatal("a client whose lease was renewed is ended")
	}

	_, _, changed := w.s.AwaitedElsewhere(w.now)
	w.s.DeniedElsewhere(w.now, 1<<40)
	<-changed
	told := func(want ...state.ClientID) {
		t.Helper()
		if _, by, _ := w.s.AwaitedElsewhere(w.now); !slices.Equal(by, want) {
			t.Fatalf("told of %v, want %v", by, want)
		}
	}
	told(1 << 40)
	w.now = w.now.Add(5 * time.Second)
	told()
}
