package state_test

import (
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const vfsBoth = vfs.OpenRead | vfs.OpenWrite

func newWritingWorld(t *testing.T) *world {
	w := newWorld(t)
	w.deleg = state.DelegateWrite
	w.restart()
	return w
}

// giveWriting opens fileA for both and asks for it for writing, and expects it if why is nil.
func (p *peer) giveWriting(why ...nfsv4.WhyNoDelegation4) (open, id state.Stateid) {
	p.w.t.Helper()
	open = p.open(fileA, both, none, ok)
	id, _, eff, got, given := p.w.s.Delegate(p.w.now, state.DelegateArgs{Client: p.id, File: fileA, Handle: []byte("handle"), Write: true})
	p.w.must(eff)
	switch {
	case len(why) == 0 && !given:
		p.w.t.Fatalf("no delegation: %v", nfsv4.WhyNoDelegation4_name[got])
	case len(why) > 0 && (given || got != why[0]):
		p.w.t.Fatalf("delegation %v, why not: %v, want %v", given, nfsv4.WhyNoDelegation4_name[got], nfsv4.WhyNoDelegation4_name[why[0]])
	}
	return open, id
}

// look reads f without an open if it may be read.
func (p *peer) look(f state.File, want state.Status) {
	p.w.t.Helper()
	eff, st := p.w.s.BeginRead(p.w.now, p.id, f)
	p.w.must(eff)
	p.w.wantStatus("a look", st, want)
	if st == ok {
		p.w.s.EndChange(f)
	}
}

// Whatever another client does with the file waits for the delegation; what the own one does, does not.
func TestWriteDelegationIsRecalled(t *testing.T) {
	for name, conflict := range map[string]func(p *peer, want state.Status){
		"a change":     func(p *peer, want state.Status) { p.change(fileA, want) },
		"a look":       func(p *peer, want state.Status) { p.look(fileA, want) },
		"a read open":  func(p *peer, want state.Status) { p.open(fileA, read, none, want) },
		"a write open": func(p *peer, want state.Status) { p.open(fileA, write, none, want) },
		"a denying open": func(p *peer, want state.Status) {
			p.open(fileA, read, nfsv4.OPEN4_SHARE_DENY_WRITE, want)
		},
		"names": func(p *peer, want state.Status) {
			p.w.s.BeginNaming(fileA.FS)
			eff, st := p.w.s.BreakDelegations(p.w.now, p.id, fileA)
			p.w.must(eff)
			p.w.s.EndNaming(fileA.FS)
			p.w.wantStatus("a change of names", st, want)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWritingWorld(t)
			a, b := w.client("a"), w.client("b")
			open, id := a.giveWriting()
			conflict(a, ok)
			w.wantRecalls()
			open.Seqid = 0 // whatever it is by now
			a.close(fileA, open, ok)
			conflict(b, nfsv4.NFS4ERR_DELAY)
			w.wantRecalls(id)
			conflict(b, nfsv4.NFS4ERR_DELAY)
			w.wantRecalls()
			b.look(fileB, ok)
			a.io(fileA, id, vfs.OpenWrite, ok)
			a.io(fileA, id, vfs.OpenRead, ok)
			w.wantStatus("claim", w.s.CheckDelegation(a.id, fileA, id, both), ok)
			a.giveBack(fileA, id, ok)
			conflict(b, ok)
		})
	}
}

// A file is given for writing to nobody while another client has anything to do with it.
func TestWriteDelegationIsRefused(t *testing.T) {
	w := newWritingWorld(t)
	a, b := w.client("a"), w.client("b")
	try := func(why ...nfsv4.WhyNoDelegation4) {
		t.Helper()
		open, id := a.giveWriting(why...)
		if len(why) == 0 {
			a.giveBack(fileA, id, ok)
		}
		a.close(fileA, open, ok)
	}
	other := b.open(fileA, read, none, ok)
	try(nfsv4.WND4_CONTENTION)
	b.close(fileA, other, ok)
	try()
	eff, st := w.s.BeginRead(w.now, b.id, fileA)
	w.must(eff)
	w.wantStatus("a look", st, ok)
	try(nfsv4.WND4_CONTENTION)
	w.s.EndChange(fileA)
	try()
	// A file that b has just made, and b's OPEN is not known yet.
	w.s.BeginCreate(fileA.FS)
	try(nfsv4.WND4_CONTENTION)
	w.s.EndCreate(fileA.FS)
	try()
	open, _ := a.giveWriting()
	a.delegate(fileA, nfsv4.WND4_RESOURCE)
	a.close(fileA, open, ok)

	// With delegations for reading only there are none for writing, and readers are in nobody's way.
	w = newDelegatingWorld(t)
	w.client("a").giveWriting(nfsv4.WND4_WRITE_DELEG_NOT_SUPP_FTYPE)
	b = w.client("b")
	b.delegate(fileB)
	c := w.client("c")
	c.look(fileB, ok)
	c.open(fileB, read, none, ok)
	w.wantRecalls()
}

// The vfs open for both goes on with the delegation, whether it ends by CLOSE or OPEN_DOWNGRADE, and ends with it.
func TestWriteDelegationTakesOverTheOpen(t *testing.T) {
	w := newWritingWorld(t)
	a := w.client("a")
	open, id := a.giveWriting()
	a.close(fileA, open, ok)
	w.wantOpen(openName(fileA, vfsBoth))
	a.giveBack(fileA, id, ok)
	w.wantOpen()

	reader := a.open(fileA, read, none, ok)
	open, id = a.giveWriting() // the same open-owner
	if open.Other != reader.Other {
		t.Fatal("two opens of one owner")
	}
	a.downgrade(fileA, open, read, none, ok)
	w.wantOpen(openName(fileA, vfs.OpenRead), openName(fileA, vfsBoth))
	a.giveBack(fileA, id, ok)
	w.wantOpen(openName(fileA, vfs.OpenRead))
}

// Who asks for attributes is told what the holder knows: nothing new as long as it knows the file by the change value that it was given with.
func TestAttributesOfDelegatedFile(t *testing.T) {
	w := newWritingWorld(t)
	a, b := w.client("a"), w.client("b")
	_, id := a.giveWriting()
	if _, _, has := w.s.BeginGetAttr(w.now, a.id, fileA); has {
		t.Error("the holder is asked for what it asks")
	}
	ask := func() state.WriteHolder {
		t.Helper()
		h, eff, has := w.s.BeginGetAttr(w.now, b.id, fileA)
		w.must(eff)
		if !has || h.Client != a.id || h.Stateid != id || string(h.Handle) != "handle" {
			t.Fatalf("%v %+v", has, h)
		}
		return h
	}
	told := func(h state.WriteHolder, change uint64, modified, held bool) {
		t.Helper()
		if m, is := w.s.Told(h, change); m != modified || is != held {
			t.Errorf("modified %v, held %v; want %v, %v", m, is, modified, held)
		}
		w.s.EndChange(fileA)
	}
	told(ask(), 7, true, true) // what it was given with is not known
	w.s.Seen(b.id, id, 7)
	told(ask(), 7, true, true)
	w.s.Seen(a.id, id, 7)
	told(ask(), 7, false, true)
	told(ask(), 8, true, true)
	w.wantRecalls()
	h := ask()
	a.giveBack(fileA, id, ok)
	b.look(fileA, ok)
	a.giveWriting(nfsv4.WND4_CONTENTION) // until the question is answered
	told(h, 7, false, false)
	if _, _, has := w.s.BeginGetAttr(w.now, b.id, fileB); has {
		t.Error("a file that nobody has")
	}
	_, id = a.giveWriting()
	w.s.CalledBack(w.now, a.id, false)
	if h := ask(); !h.Down {
		t.Error("it is to be called though it does not answer")
	}
	w.s.EndChange(fileA)

	// One whose lease is over is not asked.
	w = newWritingWorld(t)
	a, b = w.client("a"), w.client("b")
	open, id := a.giveWriting()
	a.close(fileA, open, ok)
	w.now = w.now.Add(lease + 1)
	b.renew()
	_, eff, has := w.s.BeginGetAttr(w.now, b.id, fileA)
	w.must(eff)
	w.wantStatus("TEST_STATEID", w.s.TestStateid(a.id, id), nfsv4.NFS4ERR_DELEG_REVOKED)
	if has {
		t.Error("asked")
	}
	w.wantOpen()
}

// newKeeping is a State that keeps clients, with a client 5, which had opens before, and 6. The effects are those of taking over 5.
func newKeeping(t *testing.T, boot uint32, d state.Delegating, opens ...state.AdoptedOpen) (*state.State, state.Effects) {
	t.Helper()
	now := newWorld(t).now
	s := state.New(state.Config{Lease: lease, Boot: boot, Kept: true, Delegations: d}, now)
	adopt := func(id state.ClientID, opens []state.AdoptedOpen) state.Effects {
		t.Helper()
		eff, again := s.Adopt(now, state.Adoption{Opens: opens, ClientState: state.ClientState{
			Client: state.ClientRecord{Owner: []byte{byte(id)}, ClientID: id, Reclaimed: true},
		}})
		if again || !s.Serves(id) {
			t.Fatal("not adopted")
		}
		return eff
	}
	eff := adopt(5, opens)
	adopt(6, nil)
	return s, eff
}

// A delegation for writing outlives the server: it is kept under its stateid, and goes on from there.
func TestWriteDelegationIsKept(t *testing.T) {
	now := newWorld(t).now
	s, _ := newKeeping(t, 1, state.DelegateWrite)
	args := state.DelegateArgs{Client: 5, File: fileA, Handle: []byte("handle"), Write: true, Kept: true, Tail: 77, Held: vfsBoth}
	id, _, eff, why, given := s.Delegate(now, args)
	if !given || len(eff.Share) != 1 {
		t.Fatalf("given %v (%v), %+v", given, why, eff)
	}
	sh := eff.Share[0].Share
	if sh.State != id.Other || string(sh.Owner) != "handle" || sh.Access != vfsBoth || sh.Deny != 0 || sh.Client != 5 || !sh.Lasting() || len(eff.Record) != 0 {
		t.Fatalf("kept as %+v, client %+v", sh, eff.Record)
	}

	held := state.AdoptedOpen{FS: fileA.FS, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: sh}}
	for _, d := range []state.Delegating{state.DelegateWrite, state.DelegateRead, state.DelegateNone} {
		s, eff = newKeeping(t, 2, d, held)
		if d == state.DelegateWrite && !eff.Empty() || d != state.DelegateWrite && len(eff.Recall) != 1 {
			t.Fatalf("adopted with %v: %+v", d, eff)
		}
		if !s.Delegates() || !s.WritesDelegated() {
			t.Error("nobody asks")
		}
		if st := s.TestStateid(5, id); st != ok {
			t.Errorf("TEST_STATEID: %v", st)
		}
		io, _, st := s.CheckIO(now, 5, fileA, id, vfs.OpenWrite)
		if st != ok || io.Access != vfsBoth {
			t.Errorf("I/O: %v, %+v", st, io)
		}
		if d == state.DelegateWrite {
			// The OPEN that it came with is sent again: it is the same. Another one gets none.
			again := args
			if got, _, eff, _, given := s.Delegate(now, again); !given || got != id || len(eff.Close) != 1 || len(eff.Share) != 0 {
				t.Errorf("the same OPEN again: %v %v, %+v", given, got, eff)
			}
			again.Tail++
			if _, _, _, _, given := s.Delegate(now, again); given {
				t.Error("given twice")
			}
		}
		eff, st = s.BeginRead(now, 6, fileA)
		if st != nfsv4.NFS4ERR_DELAY {
			t.Errorf("a look by another: %v", st)
		}
		if d == state.DelegateWrite && (len(eff.Recall) != 1 || string(eff.Recall[0].Handle) != "handle" || eff.Recall[0].Stateid.Other != id.Other) {
			t.Errorf("recall %+v", eff.Recall)
		}
		eff, st = s.ReturnDelegation(5, fileA, id)
		if st != ok || len(eff.Unshare) != 1 || !eff.Unshare[0].Now || eff.Unshare[0].Released || eff.Unshare[0].Share.State != id.Other || len(eff.Close) != 1 || eff.Close[0].Flags != vfsBoth {
			t.Errorf("DELEGRETURN: %v, %+v", st, eff)
		}
		if eff, st = s.BeginRead(now, 6, fileA); st != ok {
			t.Errorf("a look after that: %v, %+v", st, eff)
		}
	}

	// Revoked, the record ends before anybody else has the file; with the client, it ends with the client's record.
	s, _ = newKeeping(t, 2, state.DelegateWrite, held)
	eff, st := s.BeginRead(now.Add(lease+1), 6, fileA)
	if st != ok || len(eff.Unshare) != 1 || !eff.Unshare[0].Now || eff.Unshare[0].Released {
		t.Errorf("a look when the lease is over: %v, %+v", st, eff)
	}
	s, _ = newKeeping(t, 2, state.DelegateWrite, held)
	eff = s.EndExcept(now, func(state.ClientID) bool { return false })
	if len(eff.Unshare) != 1 || !eff.Unshare[0].Released {
		t.Errorf("the end of the client: %+v", eff)
	}
}

// A client that comes back after a restart of the server when its delegation has been asked for has a lease from then on to return it.
func TestRecallOfQuietClient(t *testing.T) {
	now := newWorld(t).now
	held := state.AdoptedOpen{FS: fileA.FS, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: vfs.Share{
		Client: 5, State: vfs.StateID{3, 0, 0, 1}, Owner: []byte("handle"), Access: vfsBoth,
	}}}
	session := state.SessionID{1}
	s := state.New(state.Config{Lease: lease, Boot: 2, Kept: true, Delegations: state.DelegateWrite}, now)
	for _, id := range []state.ClientID{5, 6} {
		a := state.Adoption{ClientState: state.ClientState{Client: state.ClientRecord{Owner: []byte{byte(id)}, ClientID: id, Reclaimed: true}}}
		if id == 5 {
			a.Opens = []state.AdoptedOpen{held}
			a.Sessions = []state.SessionRecord{{ID: session, Client: id, Sequence: 1, Fore: state.ChannelAttrs{MaxSlots: 1, MaxRequest: 4096, MaxResponse: 4096, MaxOps: 8}}}
		}
		if _, again := s.Adopt(now, a); again {
			t.Fatal("not adopted")
		}
	}
	look := func(want state.Status) state.Effects {
		t.Helper()
		eff, st := s.BeginRead(now, 6, fileA)
		if st != want {
			t.Fatalf("%v, want %v", nfsv4.Nfsstat4_name[st], nfsv4.Nfsstat4_name[want])
		}
		return eff
	}
	if r := look(nfsv4.NFS4ERR_DELAY).Recall; len(r) != 1 || !r[0].Until.Equal(now.Add(2*lease)) {
		t.Fatalf("recall %+v", r)
	}
	now = now.Add(lease - 1)
	look(nfsv4.NFS4ERR_DELAY)
	if !s.Lost() {
		t.Error("nobody waits for it")
	}
	renew := func(seq uint32) {
		t.Helper()
		res, st := s.Sequence(now, state.SequenceArgs{SessionID: session, Sequence: seq, Digest: uint64(seq)})
		if st != ok {
			t.Fatal(st)
		}
		s.Finish(now, res.Call, nil)
	}
	renew(1)
	if s.Lost() {
		t.Error("it is here")
	}
	now = now.Add(lease - 1)
	renew(2)
	look(nfsv4.NFS4ERR_DELAY)
	now = now.Add(1)
	if eff := look(ok); len(eff.Unshare) != 1 {
		t.Errorf("revoked with %+v", eff)
	}
}
