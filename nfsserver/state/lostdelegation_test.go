package state_test

import (
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
)

// goneOn are two clients of a server that was restarted, of which reader had a delegation.
type goneOn struct {
	t              *testing.T
	s              *state.State
	now            time.Time
	reader, writer state.ClientID
	seq            map[state.ClientID]uint32
	lost           state.Stateid // the reader's
}

const adoptedSlots = 4

func sessionOf(id state.ClientID) state.SessionID { return state.SessionID{1, byte(id)} }

func newGoneOn(t *testing.T) *goneOn {
	w := &goneOn{t: t, now: time.Unix(1e9, 0), reader: 7, writer: 8, seq: map[state.ClientID]uint32{}}
	cfg := state.Config{Lease: lease, Boot: 1, Kept: true, Delegations: state.DelegateRead}
	adopt := func(delegated ...state.ClientID) {
		w.s = state.New(cfg, w.now)
		for _, id := range []state.ClientID{w.reader, w.writer} {
			rec := state.ClientRecord{ClientID: id, Owner: []byte{byte(id)}, Reclaimed: true}
			for _, d := range delegated {
				rec.Delegated = rec.Delegated || d == id
			}
			eff, again := w.s.Adopt(w.now, state.Adoption{ClientState: state.ClientState{Client: rec, Sessions: []state.SessionRecord{
				{ID: sessionOf(id), Client: id, Fore: chan4k(adoptedSlots)},
			}}})
			if again || !eff.Empty() {
				t.Fatalf("adopted: %+v, %v", eff, again)
			}
		}
	}
	adopt()
	id, _, eff, why, ok := w.s.Delegate(w.now, state.DelegateArgs{Client: w.reader, File: fileA})
	if !ok {
		t.Fatalf("no delegation: %v", why)
	}
	if len(eff.Record) != 1 || !eff.Record[0].Delegated {
		t.Fatalf("the store does not hear of the first delegation: %+v", eff)
	}
	w.lost = id
	cfg.Boot++
	adopt(w.reader)
	return w
}

// call is a SEQUENCE of a client and returns its status flags.
func (w *goneOn) call(id state.ClientID) uint32 {
	w.t.Helper()
	w.seq[id]++
	res, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: sessionOf(id), Sequence: w.seq[id], HighestSlot: adoptedSlots - 1})
	if st != ok {
		w.t.Fatalf("SEQUENCE: %s", nfsv4.Nfsstat4_name[st])
	}
	w.s.Finish(w.now, res.Call, nil)
	return res.StatusFlags
}

func (w *goneOn) wantFlags(id state.ClientID, want uint32) {
	w.t.Helper()
	if got := w.call(id); got != want {
		w.t.Errorf("client %d: flags %#x, want %#x", id, got, want)
	}
}

func (w *goneOn) wantChange(id state.ClientID, f state.File, want state.Status) {
	w.t.Helper()
	_, st := w.s.BeginChange(w.now, id, f)
	if st != want {
		w.t.Fatalf("a change by client %d: %s, want %s", id, nfsv4.Nfsstat4_name[st], nfsv4.Nfsstat4_name[want])
	}
	if st == ok {
		w.s.EndChange(f)
	}
}

// A client that goes on after a restart has lost its delegations: nobody changes anything before it has tested its stateids.
func TestLostDelegations(t *testing.T) {
	w := newGoneOn(t)
	w.wantChange(w.writer, fileA, nfsv4.NFS4ERR_DELAY)
	w.wantChange(w.writer, fileB, nfsv4.NFS4ERR_DELAY)
	w.wantChange(w.reader, fileA, ok)
	if !w.s.BeginNaming(fileA.FS) {
		t.Error("no delegation to look for")
	}
	w.s.EndNaming(fileA.FS)
	if _, _, st := w.s.Open(w.now, state.OpenArgs{Client: w.writer, Owner: []byte("o"), File: fileB, Access: write}); st != nfsv4.NFS4ERR_DELAY {
		t.Errorf("OPEN for writing: %s", nfsv4.Nfsstat4_name[st])
	}
	if _, _, st := w.s.Open(w.now, state.OpenArgs{Client: w.writer, Owner: []byte("o"), File: fileB, Access: write, New: true}); st != ok {
		t.Errorf("OPEN of a new file: %s", nfsv4.Nfsstat4_name[st])
	}
	w.now = w.now.Add(time.Minute / 10)
	w.wantFlags(w.writer, 0)
	w.wantFlags(w.reader, nfsv4.SEQ4_STATUS_RECALLABLE_STATE_REVOKED)
	if _, _, _, why, given := w.s.Delegate(w.now, state.DelegateArgs{Client: w.reader, File: fileB}); given || why != nfsv4.WND4_RESOURCE {
		t.Errorf("a delegation before the lost ones are known: %v", why)
	}
	// It tests one after the other, a moment apart.
	for range 3 {
		w.now = w.now.Add(900 * time.Millisecond)
		w.wantFlags(w.reader, nfsv4.SEQ4_STATUS_RECALLABLE_STATE_REVOKED)
		if st := w.s.TestStateid(w.reader, w.lost); st != nfsv4.NFS4ERR_DELEG_REVOKED {
			t.Fatalf("TEST_STATEID: %s", nfsv4.Nfsstat4_name[st])
		}
		w.wantChange(w.writer, fileA, nfsv4.NFS4ERR_DELAY)
	}
	if _, st := w.s.FreeStateid(w.now, w.writer, w.lost); st == ok {
		t.Error("another frees it")
	}
	if _, st := w.s.FreeStateid(w.now, w.reader, w.lost); st != ok {
		t.Errorf("FREE_STATEID: %s", nfsv4.Nfsstat4_name[st])
	}
	w.now = w.now.Add(2 * time.Second)
	w.wantChange(w.writer, fileA, nfsv4.NFS4ERR_DELAY) // it may have been cut off
	w.call(w.reader)
	w.wantChange(w.writer, fileA, ok)
	w.wantFlags(w.reader, 0)
}

// A client that is silent after its tests is asked by a callback.
func TestLostDelegationsAreAskedFor(t *testing.T) {
	w := newGoneOn(t)
	if d := w.s.Doubtful(w.now); len(d) != 0 {
		t.Errorf("doubtful before it came: %v", d)
	}
	w.call(w.reader)
	w.now = w.now.Add(900 * time.Millisecond)
	w.s.TestStateid(w.reader, w.lost) // at the time of its call
	w.call(w.reader)
	w.s.TestStateid(w.reader, w.lost)
	asked := w.now
	w.now = w.now.Add(500 * time.Millisecond)
	if d := w.s.Doubtful(w.now); len(d) != 0 {
		t.Errorf("doubtful while it tests: %v", d)
	}
	w.now = w.now.Add(500 * time.Millisecond)
	if d := w.s.Doubtful(w.now); len(d) != 1 || d[0] != w.reader {
		t.Errorf("doubtful: %v", d)
	}
	w.s.Answered(w.reader, asked) // too early
	w.wantChange(w.writer, fileA, nfsv4.NFS4ERR_DELAY)
	w.s.Answered(w.reader, w.now)
	w.wantChange(w.writer, fileA, ok)
	w.wantFlags(w.reader, 0)
}

// One that does not come back is waited for for a lease, and told if it comes later.
func TestLostDelegationsEndWithTheLease(t *testing.T) {
	w := newGoneOn(t)
	w.now = w.now.Add(lease - time.Second)
	w.call(w.writer)
	w.wantChange(w.writer, fileA, nfsv4.NFS4ERR_DELAY)
	w.now = w.now.Add(time.Second)
	w.call(w.writer)
	w.wantChange(w.writer, fileA, ok)
	w.wantFlags(w.reader, nfsv4.SEQ4_STATUS_RECALLABLE_STATE_REVOKED)
	w.wantChange(w.writer, fileA, ok)
}
