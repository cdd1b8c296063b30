package state_test

import (
	"testing"
	"time"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// adopted is a State that took over a client with an open for reading and writing of fileA.
func adopted(t *testing.T) (*state.State, time.Time, state.Stateid) {
	t.Helper()
	now := time.Unix(1e9, 0)
	s := state.New(state.Config{Lease: lease, Boot: 2, Kept: true}, now)
	id := state.Stateid{Seqid: 1, Other: vfs.StateID{1, 0, 0, 1, 0, 0, 0, 0, 9}}
	_, again := s.Adopt(now, state.Adoption{
		ClientState: state.ClientState{Client: state.ClientRecord{Owner: []byte("c"), ClientID: 5, Reclaimed: true}},
		Opens: []state.AdoptedOpen{{FS: fileA.FS, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: vfs.Share{
			Client: 5, State: id.Other, Owner: []byte("o"), Access: vfs.OpenRead | vfs.OpenWrite,
		}}}},
	})
	if again || !s.Serves(5) {
		t.Fatal("not adopted")
	}
	return s, now, id
}

// What was under way for a client when another server took it over takes nothing from it: the other server may have told the client of it.
func TestNothingIsEndedElsewhere(t *testing.T) {
	s, now, id := adopted(t)
	open := state.OpenArgs{Client: 5, Owner: []byte("p"), File: fileB, Access: both, Held: vfs.OpenRead | vfs.OpenWrite}
	if st := s.PlanOpen(&open); st != ok {
		t.Fatal(st)
	}
	lock, st := s.BeginLock(now, state.LockArgs{Client: 5, File: fileA, New: true, Stateid: id, Owner: []byte("l"), Type: 2, Length: 1})
	if st != ok {
		t.Fatal(st)
	}
	check := func(what string, eff state.Effects) {
		t.Helper()
		for _, u := range eff.Unshare {
			if !u.Released {
				t.Errorf("%s ends %+v", what, u)
			}
		}
	}
	check("the end here", s.EndExcept(now, func(state.ClientID) bool { return false }))
	_, eff, st := s.Open(now, open)
	if st == ok || len(eff.Close) != 1 {
		t.Fatalf("open: %v, %+v", st, eff)
	}
	check("open", eff)
	_, _, eff, st = s.EndLock(now, lock, nil, false)
	if st == ok {
		t.Fatal("the lock was granted here")
	}
	check("lock", eff)
}

// A lock that was granted after its file was closed is ended: its client is here.
func TestLockAfterCloseIsEnded(t *testing.T) {
	s, now, id := adopted(t)
	p, st := s.BeginLock(now, state.LockArgs{Client: 5, File: fileA, New: true, Stateid: id, Owner: []byte("l"), Type: 2, Length: 1})
	if st != ok {
		t.Fatal(st)
	}
	if _, _, st := s.Close(now, 5, fileA, id); st != ok {
		t.Fatal(st)
	}
	_, _, eff, st := s.EndLock(now, p, nil, false)
	if st == ok || len(eff.Unshare) != 1 || eff.Unshare[0].Released || len(eff.Unshare[0].Locks) != 1 {
		t.Errorf("%v, %+v", st, eff)
	}
}

// A change of an open that could not be carried out is tried again as the open is by then, and not if there is none.
func TestOwedShareOfWhatWasClosed(t *testing.T) {
	for _, closed := range []bool{false, true} {
		s, now, id := adopted(t)
		id, eff, st := s.OpenDowngrade(now, 5, fileA, id, read, none)
		if st != ok || len(eff.Share) != 1 {
			t.Fatalf("%v, %+v", st, eff)
		}
		s.Retry(eff)
		if closed {
			if _, _, st := s.Close(now, 5, fileA, id); st != ok {
				t.Fatal(st)
			}
		}
		eff = s.Tick(now)
		if closed != (len(eff.Share) == 0) || !closed && eff.Share[0].Share.Access != vfs.OpenRead {
			t.Errorf("closed %v: owed %+v", closed, eff.Share)
		}
		if eff := s.Tick(now); len(eff.Share) > 0 {
			t.Errorf("owed twice: %+v", eff.Share)
		}
	}
}
