package state_test

import (
	"context"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// newKeptWorld is a world whose store keeps sessions and whose files are a vfs.Keeper's, as far as package state can see.
func newKeptWorld(t *testing.T) *world {
	w := newWorld(t)
	w.s = state.New(state.Config{Lease: lease, Boot: 7, Kept: true}, w.now)
	w.s.AddIDs([]state.ClientID{1, 2, 3, 4})
	return w
}

// keptClient is a client that is ready, whose effects are not carried out.
func (w *world) keptClient(owner string) *peer {
	w.t.Helper()
	p := w.peer(owner)
	r, _, st := w.s.ExchangeID(w.now, state.ExchangeIDArgs{Owner: []byte(owner), Principal: p.who})
	w.wantStatus("EXCHANGE_ID", st, ok)
	p.id = r.ClientID
	made, eff, st := w.s.CreateSession(w.now, state.CreateSessionArgs{ClientID: p.id, Sequence: r.Sequence, Fore: chan4k(4), Principal: p.who})
	w.wantStatus("CREATE_SESSION", st, ok)
	if len(eff.Sessions) != 1 || eff.Sessions[0].Session.ID != made.SessionID || eff.Sessions[0].Client.ClientID != p.id {
		w.t.Fatalf("to be stored: %+v", eff.Sessions)
	}
	p.session = made.SessionID
	_, st = w.s.ReclaimComplete(w.now, p.id, false)
	w.wantStatus("RECLAIM_COMPLETE", st, ok)
	return p
}

// plan begins an OPEN at a Keeper.
func (p *peer) plan(f state.File, access, deny uint32) state.OpenArgs {
	p.w.t.Helper()
	a := p.openArgs(f, access, deny)
	p.w.wantStatus("PlanOpen", p.w.s.PlanOpen(&a), ok)
	return a
}

// An OPEN is planned before its file is opened and recorded. What other OPENs and CLOSEs of its owner do meanwhile makes no
// record that belongs to nobody and none that says too little.
func TestPlannedOpens(t *testing.T) {
	t.Run("two first opens", func(t *testing.T) {
		w := newKeptWorld(t)
		a := w.keptClient("a")
		one, two := a.plan(fileA, read, none), a.plan(fileA, write, none)
		if one.Plan.Share.State == two.Plan.Share.State {
			t.Fatal("two plans of a new open have one name")
		}
		id, eff, st := w.s.Open(w.now, one)
		w.wantStatus("OPEN", st, ok)
		if id.Other != one.Plan.Share.State || len(eff.Share)+len(eff.Unshare) != 0 {
			t.Fatalf("opened %x, planned %x, %+v", id.Other, one.Plan.Share.State, eff)
		}
		second, eff, st := w.s.Open(w.now, two)
		w.wantStatus("OPEN", st, ok)
		if second.Other != id.Other || second.Seqid != 2 {
			t.Errorf("the same owner's open is %v after %v", second, id)
		}
		if len(eff.Unshare) != 1 || eff.Unshare[0].Share.State != two.Plan.Share.State {
			t.Errorf("ended: %+v", eff.Unshare)
		}
		if len(eff.Share) != 1 || eff.Share[0].Share.State != id.Other || eff.Share[0].Share.Access != vfs.OpenRead|vfs.OpenWrite {
			t.Errorf("kept: %+v", eff.Share)
		}
	})
	t.Run("an upgrade", func(t *testing.T) {
		w := newKeptWorld(t)
		a := w.keptClient("a")
		id, _, _ := w.s.Open(w.now, a.plan(fileA, read, none))
		up := a.plan(fileA, write, write)
		if s := up.Plan.Share; s.State != id.Other || s.Access != vfs.OpenRead|vfs.OpenWrite || s.Deny != vfs.OpenWrite {
			t.Fatalf("planned %+v", s)
		}
		_, eff, st := w.s.Open(w.now, up)
		w.wantStatus("OPEN", st, ok)
		if len(eff.Share)+len(eff.Unshare) != 0 {
			t.Errorf("after it came as planned: %+v", eff)
		}
	})
	t.Run("an upgrade of what is closed meanwhile", func(t *testing.T) {
		w := newKeptWorld(t)
		a := w.keptClient("a")
		id, _, _ := w.s.Open(w.now, a.plan(fileA, read, none))
		up := a.plan(fileA, write, none)
		_, _, st := w.s.Close(w.now, a.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		now, eff, st := w.s.Open(w.now, up)
		w.wantStatus("OPEN", st, ok)
		if now.Other == id.Other {
			t.Error("the closed stateid is back: its end may still be on its way")
		}
		if len(eff.Unshare) != 1 || eff.Unshare[0].Share.State != id.Other || len(eff.Share) != 1 || eff.Share[0].Share.State != now.Other {
			t.Errorf("kept %+v, ended %+v", eff.Share, eff.Unshare)
		}
	})
	t.Run("an upgrade that is refused", func(t *testing.T) {
		w := newKeptWorld(t)
		a, b := w.keptClient("a"), w.keptClient("b")
		id, _, _ := w.s.Open(w.now, a.plan(fileA, read, none))
		up := a.plan(fileA, write, none)
		_, _, st := w.s.Open(w.now, b.plan(fileA, read, write))
		w.wantStatus("OPEN of another", st, ok)
		_, eff, st := w.s.Open(w.now, up)
		w.wantStatus("OPEN", st, nfsv4.NFS4ERR_SHARE_DENIED)
		if len(eff.Unshare) != 0 || len(eff.Share) != 1 || eff.Share[0].Share.State != id.Other || eff.Share[0].Share.Access != vfs.OpenRead {
			t.Errorf("kept %+v, ended %+v; want what was before", eff.Share, eff.Unshare)
		}
	})
	t.Run("a downgrade and the end of the client", func(t *testing.T) {
		w := newKeptWorld(t)
		a := w.keptClient("a")
		first, _, _ := w.s.Open(w.now, a.plan(fileA, read, none))
		id, _, _ := w.s.Open(w.now, a.plan(fileA, both, none))
		_, eff, st := w.s.OpenDowngrade(w.now, a.id, fileA, id, read, none)
		w.wantStatus("OPEN_DOWNGRADE", st, ok)
		if len(eff.Share) != 1 || eff.Share[0].Share.State != first.Other || eff.Share[0].Share.Lasting() {
			t.Errorf("kept %+v", eff.Share)
		}
		w.now = w.now.Add(25 * time.Hour)
		eff = w.s.Tick(w.now)
		if len(eff.Forget) != 1 || len(eff.Unshare) != 1 || !eff.Unshare[0].Released {
			t.Errorf("at the end: %+v", eff)
		}
	})
}

func keptLock(open state.Stateid, owner string) state.LockArgs {
	return state.LockArgs{File: fileA, Type: wr, Offset: 0, Length: 10, New: true, Stateid: open, Owner: []byte(owner)}
}

// A LOCK is decided elsewhere; what happens to its open meanwhile leaves no lock that nobody would end.
func TestPlannedLocks(t *testing.T) {
	w := newKeptWorld(t)
	a, b := w.keptClient("a"), w.keptClient("b")
	begin := func(p *peer, args state.LockArgs, want state.Status) *state.LockPlan {
		t.Helper()
		args.Client = p.id
		plan, st := w.s.BeginLock(w.now, args)
		w.wantStatus("LOCK", st, want)
		return plan
	}
	open, _, _ := w.s.Open(w.now, a.plan(fileA, both, none))
	one := begin(a, keptLock(open, "l"), ok)
	if one.Share != nil || one.Owner != (vfs.LockOwner{Client: uint64(a.id), Owner: "l"}) || one.State.Open != open.Other {
		t.Errorf("planned %+v", one)
	}
	begin(a, keptLock(open, "l"), nfsv4.NFS4ERR_DELAY) // one at a time
	other := begin(a, keptLock(open, "m"), ok)
	id, _, _, st := w.s.EndLock(w.now, one, nil, false)
	w.wantStatus("LOCK", st, ok)
	if id.Other != one.State.State || id.Seqid != 1 {
		t.Errorf("locked %v, planned %x", id, one.State.State)
	}
	_, denied, _, st := w.s.EndLock(w.now, other, &vfs.LockConflict{Owner: vfs.LockOwner{Client: 99, Owner: "x"}, Range: byterange.Range{First: 5, Last: 6, Write: true}}, false)
	w.wantStatus("LOCK", st, nfsv4.NFS4ERR_DENIED)
	if denied == nil || denied.Offset != 5 || denied.Length != 2 || denied.Type != wr || denied.Client != 99 || string(denied.Owner) != "x" {
		t.Errorf("denied by %+v", denied)
	}

	// The first lock through an open for reading makes that one to be kept.
	reader, _, _ := w.s.Open(w.now, b.plan(fileA, read, none))
	args := keptLock(reader, "r")
	args.Type = rd
	plan := begin(b, args, ok)
	if plan.Share == nil || !plan.Share.Lasting() || plan.Share.State != reader.Other {
		t.Errorf("to be kept first: %+v", plan.Share)
	}
	// No answer: it may have been granted, so CLOSE ends it, at once.
	_, _, _, st = w.s.EndLock(w.now, plan, nil, true)
	w.wantStatus("LOCK", st, nfsv4.NFS4ERR_DELAY)
	_, eff, st := w.s.Close(w.now, b.id, fileA, reader)
	w.wantStatus("CLOSE", st, ok)
	if len(eff.Unshare) != 1 || !eff.Unshare[0].Now || len(eff.Unshare[0].Locks) != 1 || eff.Unshare[0].Locks[0].Owner.Owner != "r" {
		t.Errorf("ended %+v", eff.Unshare)
	}

	// Closed while it was under way.
	late := begin(a, keptLock(open, "late"), ok)
	_, eff, st = w.s.Close(w.now, a.id, fileA, open)
	w.wantStatus("CLOSE", st, ok)
	if len(eff.Unshare) != 1 || !eff.Unshare[0].Now || len(eff.Unshare[0].Locks) != 1 || eff.Unshare[0].Locks[0].State != id.Other {
		t.Errorf("ended %+v", eff.Unshare)
	}
	_, _, eff, st = w.s.EndLock(w.now, late, nil, false)
	w.wantStatus("LOCK", st, nfsv4.NFS4ERR_BAD_STATEID)
	if len(eff.Unshare) != 1 || !eff.Unshare[0].Now || eff.Unshare[0].Locks[0].Owner.Owner != "late" {
		t.Errorf("ended %+v", eff.Unshare)
	}

	// In the way is a client whose lease is over: it ends, and the LOCK begins again.
	open, _, _ = w.s.Open(w.now, a.plan(fileA, both, none))
	w.now = w.now.Add(lease + time.Second)
	a.seq[0] = 0
	a.renew()
	plan = begin(a, keptLock(open, "l"), ok)
	_, denied, eff, st = w.s.EndLock(w.now, plan, &vfs.LockConflict{Owner: vfs.LockOwner{Client: uint64(b.id)}}, false)
	w.wantStatus("LOCK", st, nfsv4.NFS4ERR_DENIED)
	if denied != nil || len(eff.Forget) != 1 || eff.Forget[0].ClientID != b.id {
		t.Errorf("denied by %+v, ended %+v", denied, eff.Forget)
	}
}

// A client is taken over whole, once, and not if its end was decided or something was removed while it was read.
func TestAdopt(t *testing.T) {
	w := newKeptWorld(t)
	session := state.SessionRecord{ID: state.SessionID{5}, Client: 9, Sequence: 1, Fore: chan4k(3)}
	adoption := func(id state.ClientID) state.Adoption {
		s := session
		s.Client = id
		return state.Adoption{
			ClientState: state.ClientState{
				Client:   state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: id, Sequence: 1, Reclaimed: true},
				Sessions: []state.SessionRecord{s},
			},
			Removals: w.s.Removals(),
			Slots:    map[state.SessionID][]vfs.SlotSeq{session.ID: {{Slot: 1, Seq: 1<<32 + 10}, {Slot: 1, Seq: 7}, {Slot: 50, Seq: 1}}},
			Opens:    []state.AdoptedOpen{{FS: 1, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: vfs.Share{Client: uint64(id), State: vfs.StateID{1, 2}, Owner: []byte("o"), Access: vfs.OpenWrite}}}},
		}
	}
	old := adoption(9)
	old.Removals--
	eff, again := w.s.Adopt(w.now, old)
	if !again || len(eff.Close) != 1 || w.s.Stats().Clients != 0 {
		t.Fatalf("of something old: %v, %+v", again, eff)
	}
	eff, again = w.s.Adopt(w.now, adoption(9))
	if again || !eff.Empty() || w.s.Stats().Clients != 1 || w.s.Stats().Opens != 1 {
		t.Fatalf("%v, %+v, %+v", again, eff, w.s.Stats())
	}
	eff, _ = w.s.Adopt(w.now, adoption(9))
	if len(eff.Close) != 1 || w.s.Stats().Opens != 1 {
		t.Errorf("the second time: %+v", eff)
	}
	p := &peer{w: w, owner: "x", who: "root", id: 9, session: session.ID}
	seq := func(slot, seq uint32, want state.Status) *state.Call {
		t.Helper()
		r, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: p.session, Slot: slot, Sequence: seq, CacheThis: true})
		w.wantStatus("SEQUENCE", st, want)
		return r.Call
	}
	seq(1, 9, nfsv4.NFS4ERR_SEQ_MISORDERED)
	call := seq(1, 12, ok) // the answer to 11 left no trace
	if call.Sequence != 1<<32+12 {
		t.Errorf("sequence %x", call.Sequence)
	}
	w.s.Finish(w.now, call, nil)
	seq(1, 14, nfsv4.NFS4ERR_SEQ_MISORDERED)
	if call := seq(2, 1<<31+5, ok); call.Sequence != 1<<31+5 {
		t.Errorf("sequence of a slot without a trace: %x", call.Sequence)
	} else {
		w.s.Finish(w.now, call, nil)
	}
	// A seqid that only the client knows is believed, and then counts.
	id := state.Stateid{Seqid: 5, Other: vfs.StateID{1, 2}}
	p.io(fileA, id, vfs.OpenWrite, ok)
	id.Seqid = 4
	p.io(fileA, id, vfs.OpenWrite, nfsv4.NFS4ERR_OLD_STATEID)
	a := p.plan(fileA, write, none)
	if a.Plan.Share.State != id.Other {
		t.Errorf("the next open of its owner is %x", a.Plan.Share.State)
	}

	// It ends; while the store does not know that yet, nobody brings it back.
	w.now = w.now.Add(25 * time.Hour)
	eff = w.s.Tick(w.now)
	if len(eff.Forget) != 1 {
		t.Fatalf("%+v", eff)
	}
	w.s.Adopt(w.now, adoption(9))
	before := adoption(9)
	if err := eff.Apply(context.Background(), w, noFiles{}); err != nil {
		t.Fatal(err)
	}
	if _, again := w.s.Adopt(w.now, before); !again || w.s.Stats().Clients != 0 {
		t.Errorf("what was read before the end was adopted: %+v", w.s.Stats())
	}

	// Others' clients end here without a trace in the store.
	w.s.Adopt(w.now, adoption(10))
	mine := w.keptClient("mine")
	eff = w.s.EndExcept(w.now, func(id state.ClientID) bool { return id == mine.id })
	if len(eff.Forget) != 0 || len(eff.Close) != 1 || w.s.Stats().Clients != 1 {
		t.Errorf("%+v, %+v", eff, w.s.Stats())
	}
}

// A file that was closed and opened again right before the end of a gateway has two records of one open-owner, and nothing tells which of
// them the client closed. Whichever of them comes first, the client's I/O goes on; and in the end nothing is left of either.
func TestAdoptTwoOpensOfAnOwner(t *testing.T) {
	for _, live := range []int{0, 1} {
		w := newKeptWorld(t)
		session := state.SessionRecord{ID: state.SessionID{5}, Client: 9, Sequence: 1, Fore: chan4k(3)}
		p := &peer{w: w, owner: "x", who: "root", id: 9, session: session.ID}
		a := state.Adoption{
			ClientState: state.ClientState{
				Client:   state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: 9, Sequence: 1, Reclaimed: true},
				Sessions: []state.SessionRecord{session},
			},
			Removals: w.s.Removals(),
		}
		plan := w.keptClient("mine").plan(fileB, write, none) // as the earlier instance made its stateids
		ids := make([]state.Stateid, 2)
		for i := range ids {
			ids[i].Other = plan.Plan.Share.State
			ids[i].Other[1], ids[i].Other[11] = 77, byte(i)
			a.Opens = append(a.Opens, state.AdoptedOpen{FS: fileA.FS, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino,
				Share: vfs.Share{Client: 9, State: ids[i].Other, Owner: plan.Owner, Access: vfs.OpenWrite}}})
		}
		if eff, again := w.s.Adopt(w.now, a); again || !eff.Empty() || w.s.Stats().Opens != 2 {
			t.Fatalf("%v, %+v, %+v", again, eff, w.s.Stats())
		}
		p.io(fileA, ids[live], vfs.OpenWrite, ok)
		_, _, st := w.s.Close(w.now, p.id, fileA, ids[live])
		w.wantStatus("CLOSE", st, ok)
		p.io(fileA, ids[live], vfs.OpenWrite, nfsv4.NFS4ERR_BAD_STATEID)
		next := p.plan(fileA, write, none)
		id, _, st := w.s.Open(w.now, next)
		w.wantStatus("OPEN", st, ok)
		if id.Other == ids[0].Other || id.Other == ids[1].Other || id.Seqid != 1 {
			t.Errorf("the next open of the owner is %v", id)
		}
		_, _, st = w.s.Close(w.now, p.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		if n := w.s.Stats().Opens; n != 0 {
			t.Errorf("%d opens are left", n)
		}
	}
}

// An OPEN of the owner of an open that was adopted, and that the client has not named since, gets a stateid that is new: the client may have closed that
// open, and waits for the first seqid then. If it has not, it goes on with the old one as long as it likes, and frees it. Both end with the new one.
func TestOpenOfWhatMayBeClosed(t *testing.T) {
	session := state.SessionRecord{ID: state.SessionID{5}, Client: 9, Sequence: 1, Fore: chan4k(3)}
	adopt := func(t *testing.T, a state.Adoption) (*world, *peer) {
		w := newKeptWorld(t)
		a.ClientState.Client = state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: 9, Sequence: 1, Reclaimed: true}
		a.ClientState.Sessions = []state.SessionRecord{session}
		a.Removals = w.s.Removals()
		if eff, again := w.s.Adopt(w.now, a); again || !eff.Empty() || w.s.Stats().Opens != len(a.Opens) {
			t.Fatalf("%v, %+v, %+v", again, eff, w.s.Stats())
		}
		return w, &peer{w: w, owner: "x", who: "root", id: 9, session: session.ID}
	}
	_, earlier := adopt(t, state.Adoption{})
	made := earlier.plan(fileA, write, none).Plan.Share
	made.State[1] = 77 // of another instance
	old := state.Stateid{Seqid: 3, Other: made.State}
	with := func(more func(*state.Adoption)) state.Adoption {
		a := state.Adoption{Opens: []state.AdoptedOpen{{FS: fileA.FS, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: made}}}}
		more(&a)
		return a
	}
	plain := with(func(*state.Adoption) {})
	ended := func(eff state.Effects) (all []vfs.StateID) {
		for _, u := range eff.Unshare {
			all = append(all, u.Share.State)
		}
		return all
	}
	t.Run("a new one", func(t *testing.T) {
		w, p := adopt(t, plain)
		next := p.plan(fileA, read, none)
		if s := next.Plan.Share; s.State == old.Other || s.Access != vfs.OpenRead|vfs.OpenWrite {
			t.Fatalf("planned %+v", s)
		}
		next.Held = vfs.OpenRead
		id, eff, st := w.s.Open(w.now, next)
		w.wantStatus("OPEN", st, ok)
		if id.Other != next.Plan.Share.State || id.Seqid != 1 || !eff.Empty() {
			t.Fatalf("opened %v, %+v", id, eff)
		}
		p.io(fileA, old, vfs.OpenWrite, ok) // under way
		p.io(fileA, id, vfs.OpenWrite, ok)  // to the client it is one open of both
		second, _, st := w.s.Open(w.now, p.plan(fileA, write, none))
		w.wantStatus("OPEN", st, ok)
		if second.Other != id.Other || second.Seqid != 2 {
			t.Errorf("the second open of the owner is %v after %v", second, id)
		}
		eff, st = w.s.FreeStateid(w.now, p.id, old)
		w.wantStatus("FREE_STATEID", st, ok)
		if got := ended(eff); len(got) != 1 || got[0] != old.Other || len(eff.Close) != 0 {
			t.Errorf("freed %x, closed %v", got, eff.Close)
		}
		p.io(fileA, old, vfs.OpenWrite, nfsv4.NFS4ERR_BAD_STATEID)
		p.io(fileA, second, vfs.OpenWrite, ok)
		_, eff, st = w.s.Close(w.now, p.id, fileA, second)
		w.wantStatus("CLOSE", st, ok)
		if got := ended(eff); len(got) != 1 || got[0] != id.Other || len(eff.Close) != 2 { // for reading, and for writing of the former one
			t.Errorf("ended %x, closed %v", got, eff.Close)
		}
	})
	t.Run("closed before", func(t *testing.T) {
		w, p := adopt(t, plain)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		_, eff, st := w.s.Close(w.now, p.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		if got := ended(eff); len(got) != 2 || w.s.Stats().Opens != 0 {
			t.Errorf("ended %x, %d opens are left", got, w.s.Stats().Opens)
		}
		p.io(fileA, old, vfs.OpenRead, nfsv4.NFS4ERR_BAD_STATEID)
		if again := p.plan(fileA, read, none); again.Plan.Share.Access != vfs.OpenRead {
			t.Errorf("planned %+v", again.Plan.Share)
		}
	})
	t.Run("the client's own CLOSE of the former one", func(t *testing.T) {
		w, p := adopt(t, plain)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		_, eff, st := w.s.Close(w.now, p.id, fileA, old)
		w.wantStatus("CLOSE", st, ok)
		if got := ended(eff); len(got) != 1 || got[0] != old.Other {
			t.Errorf("ended %x", got)
		}
		p.io(fileA, id, vfs.OpenRead, ok)
		_, eff, st = w.s.Close(w.now, p.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		if got := ended(eff); len(got) != 1 || got[0] != id.Other || w.s.Stats().Opens != 0 {
			t.Errorf("ended %x, %d opens are left", got, w.s.Stats().Opens)
		}
	})
	for name, more := range map[string]func(*state.Adoption){
		"locked": func(a *state.Adoption) {
			a.Locks = []state.AdoptedLocks{{FS: fileA.FS, HeldLocks: vfs.HeldLocks{Ino: fileA.Ino, Owner: vfs.LockOwner{Client: 9, Owner: "l"}, LockState: vfs.LockState{State: vfs.StateID{2, 2}, Open: old.Other},
				Ranges: []byterange.Range{{First: 0, Last: 9, Write: true}}}}}
		},
		"denies": func(a *state.Adoption) { a.Opens[0].Deny = vfs.OpenWrite },
	} {
		t.Run(name, func(t *testing.T) { // it is known to be open, but not with which seqid
			w, p := adopt(t, with(more))
			next := p.plan(fileA, read, none)
			_, st := w.s.OpenAllowed(w.now, next)
			w.wantStatus("OPEN", st, ok)
			id, _, st := w.s.Open(w.now, next)
			w.wantStatus("OPEN", st, ok)
			if id.Other == old.Other || id.Seqid != 1 {
				t.Errorf("opened %v", id)
			}
			if name == "denies" {
				if next.Plan.Share.Deny != vfs.OpenWrite {
					t.Errorf("planned %+v", next.Plan.Share)
				}
				return
			}
			l := state.Stateid{Other: vfs.StateID{2, 2}}
			p.io(fileA, l, vfs.OpenWrite, ok)
			w.now = w.now.Add(lease + time.Second)
			w.s.Heard(w.now, session.ID)
			w.s.Tick(w.now)
			p.io(fileA, old, vfs.OpenWrite, ok)
			_, eff, st := w.s.Close(w.now, p.id, fileA, id)
			w.wantStatus("CLOSE", st, ok)
			if got := ended(eff); len(got) != 2 || !eff.Unshare[0].Now || w.s.Stats().Locks != 0 {
				t.Errorf("ended %+v", eff.Unshare)
			}
		})
	}
	t.Run("a lease later", func(t *testing.T) { // what was sent by it has come
		w, p := adopt(t, plain)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		w.now = w.now.Add(lease + time.Second)
		w.s.Heard(w.now, session.ID)
		if got := ended(w.s.Tick(w.now)); len(got) != 1 || got[0] != old.Other {
			t.Errorf("ended %x", got)
		}
		p.io(fileA, old, vfs.OpenRead, nfsv4.NFS4ERR_BAD_STATEID)
		p.io(fileA, id, vfs.OpenWrite, ok)
		_, eff, st := w.s.Close(w.now, p.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		if got := ended(eff); len(got) != 1 || got[0] != id.Other || w.s.Stats().Opens != 0 {
			t.Errorf("ended %x", got)
		}
	})
	t.Run("made again meanwhile", func(t *testing.T) { // a READ of one that had no record comes after the next OPEN
		w, p := adopt(t, state.Adoption{})
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		_, st = w.s.Revive(w.now, p.id, fileA, old, vfs.OpenRead)
		w.wantStatus("READ", st, ok)
		next, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		if next.Other != id.Other || next.Seqid != 2 {
			t.Errorf("opened %v after %v", next, id)
		}
		_, eff, st := w.s.Close(w.now, p.id, fileA, next)
		w.wantStatus("CLOSE", st, ok)
		if w.s.Stats().Opens != 0 || len(ended(eff)) != 2 {
			t.Errorf("%d opens are left, ended %x", w.s.Stats().Opens, ended(eff))
		}
	})
	// What was handed over stays in the client's record, also when the server that it was handed to has died. So it says nothing of what is open, only which seqid it has.
	handed := with(func(a *state.Adoption) { a.Seqids = []state.StateSeqid{{State: old.Other, Seqid: 3}} })
	t.Run("handed over", func(t *testing.T) {
		w, p := adopt(t, handed)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		if id.Other == old.Other || id.Seqid != 1 {
			t.Errorf("opened %v", id)
		}
		p.io(fileA, old, vfs.OpenWrite, ok)
	})
	t.Run("handed over and named", func(t *testing.T) { // by who does not tell the seqid
		w, p := adopt(t, handed)
		p.io(fileA, state.Stateid{Other: old.Other}, vfs.OpenWrite, ok)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		if id.Other == old.Other || id.Seqid != 1 {
			t.Errorf("opened %v", id)
		}
	})
	t.Run("tested", func(t *testing.T) { // which a client does with what it has another one in place of
		w, p := adopt(t, plain)
		w.wantStatus("TEST_STATEID", w.s.TestStateid(p.id, old), ok)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		if id.Other == old.Other || id.Seqid != 1 {
			t.Errorf("opened %v", id)
		}
	})
	// A lock-owner that was adopted may have been freed: its first LOCK makes a new one. Of one whose answer does not come CLOSE ends what may be there, by both names.
	t.Run("a lock-owner that may be freed", func(t *testing.T) {
		w, p := adopt(t, with(func(a *state.Adoption) {
			a.Locks = []state.AdoptedLocks{{FS: fileA.FS, HeldLocks: vfs.HeldLocks{Ino: fileA.Ino, Owner: vfs.LockOwner{Client: 9, Owner: "l"}, LockState: vfs.LockState{State: vfs.StateID{2, 2}, Open: old.Other}}}}
		}))
		id, _, st := w.s.Open(w.now, p.plan(fileA, write, none))
		w.wantStatus("OPEN", st, ok)
		if id.Other == old.Other || id.Seqid != 1 {
			t.Errorf("opened %v", id)
		}
		args := keptLock(id, "l")
		args.Client = p.id
		plan, st := w.s.BeginLock(w.now, args)
		w.wantStatus("LOCK", st, ok)
		if plan.State.State == (vfs.StateID{2, 2}) {
			t.Errorf("planned %+v", plan)
		}
		_, st = w.s.BeginUnlock(p.id, fileA, state.Stateid{Other: vfs.StateID{2, 2}}, 0, 10)
		w.wantStatus("LOCKU beside it", st, nfsv4.NFS4ERR_DELAY)
		_, _, _, st = w.s.EndLock(w.now, plan, nil, true)
		w.wantStatus("LOCK", st, nfsv4.NFS4ERR_DELAY)
		_, eff, st := w.s.Close(w.now, p.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		got := map[vfs.StateID]bool{}
		for _, u := range eff.Unshare {
			for _, l := range u.Locks {
				got[l.State] = true
			}
		}
		if len(got) != 2 || !got[plan.State.State] || !got[vfs.StateID{2, 2}] {
			t.Errorf("ended the locks %v", got)
		}
	})
	// A LOCK that was prepared with the former one goes with the new one, and a client does not deny itself anything.
	t.Run("locked by the former one", func(t *testing.T) {
		w, p := adopt(t, plain)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		args := keptLock(old, "l")
		args.Client = p.id
		plan, st := w.s.BeginLock(w.now, args)
		w.wantStatus("LOCK", st, ok)
		if plan.State.Open != id.Other {
			t.Errorf("locked by %x", plan.State.Open)
		}
		_, _, _, st = w.s.EndLock(w.now, plan, nil, false)
		w.wantStatus("LOCK", st, ok)
		_, st = w.s.OpenAllowed(w.now, p.openArgs(fileA, read, nfsv4.OPEN4_SHARE_DENY_WRITE))
		w.wantStatus("OPEN", st, ok)
		_, eff, st := w.s.Close(w.now, p.id, fileA, id)
		w.wantStatus("CLOSE", st, ok)
		if len(eff.Unshare) != 2 || len(eff.Unshare[0].Locks)+len(eff.Unshare[1].Locks) != 1 || w.s.Stats().Locks != 0 {
			t.Errorf("ended %+v", eff.Unshare)
		}
	})
	t.Run("named", func(t *testing.T) {
		w, p := adopt(t, plain)
		p.io(fileA, old, vfs.OpenWrite, ok)
		id, _, st := w.s.Open(w.now, p.plan(fileA, read, none))
		w.wantStatus("OPEN", st, ok)
		if id.Other != old.Other || id.Seqid != old.Seqid+1 {
			t.Errorf("opened %v", id)
		}
	})
}

// An open for writing always has a record. So a WRITE by a stateid of an earlier instance that has none is told that the stateid is bad, and
// TEST_STATEID says the same: a client that got NFS4ERR_OPENMODE and a good stateid repeated the WRITE for ever.
func TestWriteByAnOpenWithoutARecord(t *testing.T) {
	w := newKeptWorld(t)
	p := &peer{w: w, owner: "x", who: "root", id: 9, session: state.SessionID{5}}
	w.s.Adopt(w.now, state.Adoption{
		ClientState: state.ClientState{
			Client:   state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: 9, Sequence: 1, Reclaimed: true},
			Sessions: []state.SessionRecord{{ID: state.SessionID{5}, Client: 9, Sequence: 1, Fore: chan4k(3)}},
		},
		Removals: w.s.Removals(),
	})
	id := state.Stateid{Seqid: 1, Other: p.plan(fileB, write, none).Plan.Share.State}
	id.Other[1] = 77
	if st := w.s.TestStateid(p.id, id); st != ok {
		t.Fatalf("a stateid that may be of an open for reading: %v", st)
	}
	p.io(fileA, id, vfs.OpenWrite, nfsv4.NFS4ERR_BAD_STATEID)
	if st := w.s.TestStateid(p.id, id); st != nfsv4.NFS4ERR_BAD_STATEID {
		t.Errorf("TEST_STATEID after it was refused: %v", st)
	}
	p.io(fileA, id, vfs.OpenRead, nfsv4.NFS4ERR_BAD_STATEID)
}

// noFiles does nothing about files.
type noFiles struct{}

func (noFiles) CloseFile(context.Context, state.FileClose)       {}
func (noFiles) Share(context.Context, state.FileShare) error     { return nil }
func (noFiles) Unshare(context.Context, state.FileClosing) error { return nil }

// An open that a request made before a restart may have been ended by then, though nothing is written down of that yet. When the request comes again it is a
// new one, with the first seqid.
func TestRepeatedOpen(t *testing.T) {
	for _, deny := range []uint32{none, nfsv4.OPEN4_SHARE_DENY_WRITE} {
		w := newKeptWorld(t)
		a := w.keptClient("a")
		tail := state.Tail(&vfs.Call{Session: [16]byte{1}, Slot: 2, Seq: 3, Op: 4})
		open := func(tail uint32) (id, planned state.Stateid) {
			args := a.openArgs(fileA, write, deny)
			args.Tail = tail
			w.wantStatus("PlanOpen", w.s.PlanOpen(&args), ok)
			id, _, st := w.s.Open(w.now, args)
			w.wantStatus("OPEN", st, ok)
			return id, state.Stateid{Seqid: 1, Other: args.Plan.Share.State}
		}
		args := a.openArgs(fileA, write, deny)
		args.Tail = tail
		w.wantStatus("PlanOpen", w.s.PlanOpen(&args), ok)
		made := args.Plan.Share

		w.s = state.New(state.Config{Lease: lease, Boot: 8, Kept: true}, w.now)
		w.s.Adopt(w.now, state.Adoption{
			ClientState: state.ClientState{Client: state.ClientRecord{Owner: []byte("a"), Principal: "root", ClientID: a.id, Reclaimed: true}},
			Opens:       []state.AdoptedOpen{{FS: 1, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: made}}},
		})
		id, planned := open(tail)
		if id != planned || id.Other == made.State {
			t.Errorf("deny %d: opened %v, planned %v, made before: %x", deny, id, planned, made.State)
		}
		if id, _ = open(tail + 2); id.Seqid != 2 {
			t.Errorf("deny %d: the next open has seqid %d", deny, id.Seqid)
		}
	}
}
