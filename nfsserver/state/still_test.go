package state_test

import (
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// A server that was paused for longer than a lease has not heard its clients, who may have sent all the while. Nobody's lock is given to another one
// for that, whoever comes first when it goes on. A client that is silent after that loses it a lease later.
func TestServerStoodStill(t *testing.T) {
	for _, first := range []string{"a request", "a tick", "a wish"} {
		t.Run(first, func(t *testing.T) {
			w := newWorld(t)
			w.s = state.New(state.Config{Lease: lease, Boot: 7, Still: 4 * time.Second}, w.now)
			w.s.AddIDs([]state.ClientID{1, 2, 3, 4})
			a, b := w.client("a"), w.client("b")
			open := a.open(fileA, both, none, ok)
			a.lock(fileA, open, "l", wr, 0, 10, ok)
			theirs := b.open(fileA, both, none, ok)
			tick := func(n int, who ...*peer) {
				t.Helper()
				for range n {
					w.now = w.now.Add(time.Second)
					for _, p := range who {
						p.renew()
					}
					w.tick()
				}
			}
			tick(3, a, b)

			w.now = w.now.Add(lease + 5*time.Second) // nothing runs
			switch first {
			case "a tick":
				w.tick()
			case "a wish":
				if eff := w.s.InTheWay(w.now, a.id); !eff.Empty() {
					t.Errorf("ended: %+v", eff)
				}
			}
			b.lock(fileA, theirs, "m", wr, 5, 1, nfsv4.NFS4ERR_DENIED)
			tick(1)
			b.lock(fileA, theirs, "m", wr, 5, 1, nfsv4.NFS4ERR_DENIED)
			a.io(fileA, open, vfs.OpenWrite, ok)

			tick(int(lease/time.Second)-4, b) // three seconds had passed before
			b.lock(fileA, theirs, "m", wr, 5, 1, nfsv4.NFS4ERR_DENIED)
			tick(5, b)
			b.lock(fileA, theirs, "m", wr, 5, 1, ok)
		})
	}
}

// So it is with a server that was cut off, and registers anew: the clients that it goes on to serve could not reach it.
func TestWhoStaysHasAWholeLease(t *testing.T) {
	w := newKeptWorld(t)
	a, b := w.keptClient("a"), w.keptClient("b")
	w.now = w.now.Add(lease + 5*time.Second)
	if eff := w.s.EndExcept(w.now, func(id state.ClientID) bool { return id != b.id }); len(eff.Forget) != 0 {
		t.Errorf("removed: %+v", eff.Forget)
	}
	if eff := w.s.InTheWay(w.now, a.id); !eff.Empty() {
		t.Errorf("ended: %+v", eff)
	}
	w.now = w.now.Add(lease + time.Second)
	if eff := w.s.InTheWay(w.now, a.id); len(eff.Forget) != 1 {
		t.Errorf("a lease later: %+v", eff)
	}
}

// What was recalled has the time, too: what its client returned waits to be read.
func TestRecalledWhileItStoodStill(t *testing.T) {
	for _, first := range []string{"a reader", "a beat", "a new registration"} {
		t.Run(first, func(t *testing.T) {
			now := newWorld(t).now
			s := state.New(state.Config{Lease: lease, Boot: 2, Kept: true, Delegations: state.DelegateWrite, Still: 4 * time.Second}, now)
			for id := range state.ClientID(2) {
				s.Adopt(now, state.Adoption{ClientState: state.ClientState{Client: state.ClientRecord{Owner: []byte{byte(id)}, ClientID: 5 + id, Reclaimed: true}}})
			}
			id, _, _, _, given := s.Delegate(now, state.DelegateArgs{Client: 5, File: fileA, Handle: []byte("handle"), Write: true, Kept: true, Tail: 77, Held: vfsBoth})
			if !given {
				t.Fatal("no delegation")
			}
			if _, st := s.BeginRead(now, 6, fileA); st != nfsv4.NFS4ERR_DELAY || !s.Recalled(5, id) {
				t.Fatalf("a read of what another one may have written: %v", st)
			}
			now = now.Add(lease + 5*time.Second)
			switch first {
			case "a beat":
				s.Beat(now)
			case "a new registration":
				s.Beat(now)
				now = now.Add(lease - time.Second)
				s.EndExcept(now, func(state.ClientID) bool { return true })
				now = now.Add(2 * time.Second)
			}
			if eff, st := s.BeginRead(now, 6, fileA); st != nfsv4.NFS4ERR_DELAY || len(eff.Unshare) != 0 {
				t.Errorf("a read when it goes on: %v, %+v", st, eff)
			}
			if _, st := s.ReturnDelegation(5, fileA, id); st != ok {
				t.Errorf("DELEGRETURN: %v", st)
			}
		})
	}
}
