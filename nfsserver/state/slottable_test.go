package state_test

import (
	"context"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

func newSlotWorld(t *testing.T) *slotWorld {
	w := &slotWorld{t: t, now: time.Unix(1e9, 0), clients: map[state.ClientID]state.ClientRecord{}, sessions: map[state.SessionID]state.SessionRecord{},
		outcomes: map[uint32]outcome{}, handed: map[state.ClientID][]state.SlotReply{}, slots: map[uint32]*clientSlot{}, done: map[int]int{}, again: map[int]bool{}}
	w.start()
	return w
}

func (w *slotWorld) adopt(a state.Adoption) {
	w.t.Helper()
	a.Removals = w.s.Removals()
	if _, again := w.s.Adopt(w.now, a); again {
		w.t.Fatal("adopt again")
	}
}

// Of two clients with one owner, which came from two servers, none takes the place of the other: what both have counts, and one does not wait for the other.
func TestSlotsOfTwoClientsOfAnOwner(t *testing.T) {
	w := newSlotWorld(t)
	for id := range state.ClientID(2) {
		w.adopt(state.Adoption{ClientState: state.ClientState{Client: state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: 50 + id, Sequence: 1, Reclaimed: true}}})
	}
	create := func(id state.ClientID, seq uint32) (state.SessionID, state.Status) {
		made, eff, st := w.s.CreateSession(w.now, state.CreateSessionArgs{ClientID: id, Sequence: seq, Fore: chan4k(64), Principal: "root"})
		w.must(eff)
		if n := w.s.Stats().SlotBytes; n > slotLimits.ReplyCache {
			t.Fatalf("session %d of client %d: %d bytes for slots, of %d", seq, id, n, slotLimits.ReplyCache)
		}
		return made.SessionID, st
	}
	session, st := create(50, 2)
	if st != ok {
		t.Fatal(nfsv4.Nfsstat4_name[st])
	}
	res, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: session, Sequence: 1})
	if st != ok {
		t.Fatal(nfsv4.Nfsstat4_name[st])
	}
	if _, st = create(51, 2); st != ok {
		t.Errorf("while the other one has a request in progress: %s", nfsv4.Nfsstat4_name[st])
	}
	w.s.Finish(w.now, res.Call, nil)
	for id, seq := state.ClientID(50), uint32(3); id < 52; seq++ {
		switch _, st := create(id, seq); st {
		case ok:
		case nfsv4.NFS4ERR_DELAY:
			id, seq = id+1, 2
		default:
			t.Fatal(nfsv4.Nfsstat4_name[st])
		}
	}
}

// A record of a session that is stored when the session was ended and removed does not stay.
func TestSessionThatIsStoredLate(t *testing.T) {
	w := newSlotWorld(t)
	_, id := w.connect("client")
	late, st := w.s.BackchannelCtl(w.now, id, 5)
	ended, st2 := w.s.DestroySession(w.now, id, nil)
	if st != ok || st2 != ok {
		t.Fatal(st, st2)
	}
	w.must(ended)
	w.must(late)
	if len(w.sessions) != 1 {
		t.Fatalf("stored: %v", w.sessions)
	}
	w.must(w.s.Tick(w.now))
	if len(w.sessions) != 0 {
		t.Errorf("left: %v", w.sessions)
	}
	if eff := w.s.Tick(w.now); !eff.Empty() {
		t.Errorf("still to be done: %+v", eff)
	}
}

// awayWorld is a store of which a shard is away, and counts closes.
type awayWorld struct {
	*slotWorld
	closed int
}

func (w *awayWorld) ReleaseSlots(context.Context, state.SlotsGone) error { return errStore }
func (w *awayWorld) CloseFile(context.Context, state.FileClose)          { w.closed++ }

// What is left of slots that are gone holds up nothing else, and is forgotten later.
func TestSlotsThatCannotBeReleased(t *testing.T) {
	w := newSlotWorld(t)
	w.session = state.SessionID{5}
	w.outcomes[7] = outcome{seq: 3}
	w.adopt(state.Adoption{
		ClientState: state.ClientState{
			Client:   state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: 50, Sequence: 1, Reclaimed: true},
			Sessions: []state.SessionRecord{{ID: w.session, Client: 50, Sequence: 1, Fore: chan4k(8), Slots: 4}},
		},
		Slots: map[state.SessionID][]vfs.SlotSeq{w.session: {{Slot: 7, Seq: 3}}},
	})
	w.s.Retry(state.Effects{Close: []state.FileClose{{File: fileA, Flags: vfs.OpenRead}}})
	away := &awayWorld{slotWorld: w}
	eff := w.s.Tick(w.now)
	if err := eff.Apply(context.Background(), away, away); err == nil || away.closed != 1 {
		t.Errorf("%v, %d files are closed", err, away.closed)
	}
	w.must(w.s.Tick(w.now))
	if len(w.outcomes) != 0 {
		t.Errorf("left: %v", w.outcomes)
	}
}
