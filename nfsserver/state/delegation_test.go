package state_test

import (
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

func newDelegatingWorld(t *testing.T) *world {
	w := newWorld(t)
	w.deleg = state.DelegateRead
	w.restart()
	return w
}

// delegate asks for a delegation of f, and expects one if why is nil.
func (p *peer) delegate(f state.File, why ...nfsv4.WhyNoDelegation4) state.Stateid {
	p.w.t.Helper()
	return p.doDelegate(state.DelegateArgs{File: f}, why...)
}

func (p *peer) doDelegate(a state.DelegateArgs, why ...nfsv4.WhyNoDelegation4) state.Stateid {
	p.w.t.Helper()
	a.Client, a.Handle, a.Held = p.id, []byte{byte(a.File.Ino)}, vfs.OpenRead
	p.w.open[openName(a.File, a.Held)]++
	id, _, eff, got, given := p.w.s.Delegate(p.w.now, a)
	p.w.must(eff)
	switch {
	case len(why) == 0 && !given:
		p.w.t.Fatalf("no delegation: %v", nfsv4.WhyNoDelegation4_name[got])
	case len(why) > 0 && (given || got != why[0]):
		p.w.t.Fatalf("delegation %v, why not: %v, want %v", given, nfsv4.WhyNoDelegation4_name[got], nfsv4.WhyNoDelegation4_name[why[0]])
	}
	return id
}

// change makes a change of f if it may be made.
func (p *peer) change(f state.File, want state.Status) {
	p.w.t.Helper()
	eff, st := p.w.s.BeginChange(p.w.now, p.id, f)
	p.w.must(eff)
	p.w.wantStatus("a change", st, want)
	if st == ok {
		p.w.s.EndChange(f)
	}
}

func (p *peer) giveBack(f state.File, id state.Stateid, want state.Status) {
	p.w.t.Helper()
	eff, st := p.w.s.ReturnDelegation(p.id, f, id)
	p.w.must(eff)
	p.w.wantStatus("DELEGRETURN", st, want)
}

// flags are the status flags of a SEQUENCE.
func (p *peer) flags() uint32 {
	p.w.t.Helper()
	p.seq[1]++
	res := p.sequence(1, p.seq[1], 0, ok)
	p.w.s.Finish(p.w.now, res.Call, nil)
	return res.StatusFlags
}

func (w *world) wantRecalls(want ...state.Stateid) {
	w.t.Helper()
	if len(w.recalls) != len(want) {
		w.t.Fatalf("recalls %+v, want %v", w.recalls, want)
	}
	for i, r := range w.recalls {
		if r.Stateid != want[i] {
			w.t.Fatalf("recall %+v, want %v", r, want[i])
		}
	}
	w.recalls = nil
}

// Another client's change waits for the delegation; the own one does not.
func TestDelegationIsRecalled(t *testing.T) {
	for name, conflict := range map[string]func(p *peer, want state.Status){
		"a change":       func(p *peer, want state.Status) { p.change(fileA, want) },
		"a write open":   func(p *peer, want state.Status) { p.open(fileA, write, none, want) },
		"a deny of read": func(p *peer, want state.Status) { p.open(fileA, read, nfsv4.OPEN4_SHARE_DENY_READ, want) },
		"a name": func(p *peer, want state.Status) {
			if !p.w.s.BeginNaming(fileA.FS) && want != ok {
				p.w.t.Fatal("no delegation to look for")
			}
			eff, st := p.w.s.BreakDelegations(p.w.now, p.id, fileA)
			p.w.must(eff)
			p.w.s.EndNaming(fileA.FS)
			p.w.wantStatus("a change of names", st, want)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDelegatingWorld(t)
			a, b, c := w.client("a"), w.client("b"), w.client("c")
			ida, idb := a.delegate(fileA), b.delegate(fileA)
			b.open(fileA, read, nfsv4.OPEN4_SHARE_DENY_WRITE, ok) // no conflict with readers
			b.close(fileA, b.open(fileA, read, none, ok), ok)
			b.giveBack(fileA, idb, ok)
			w.wantRecalls()
			conflict(c, nfsv4.NFS4ERR_DELAY)
			w.wantRecalls(ida)
			conflict(c, nfsv4.NFS4ERR_DELAY)
			w.wantRecalls() // once
			c.delegate(fileA, nfsv4.WND4_CONTENTION)
			b.change(fileB, ok) // other files are free
			a.io(fileA, ida, vfs.OpenRead, ok)
			a.io(fileA, ida, vfs.OpenWrite, nfsv4.NFS4ERR_OPENMODE)
			a.io(fileB, ida, vfs.OpenRead, nfsv4.NFS4ERR_BAD_STATEID)
			w.wantStatus("claim", w.s.CheckDelegation(a.id, fileA, ida, read), ok)
			w.wantStatus("claim for writing", w.s.CheckDelegation(a.id, fileA, ida, write), nfsv4.NFS4ERR_INVAL)
			w.wantStatus("claim by another", w.s.CheckDelegation(b.id, fileA, ida, read), nfsv4.NFS4ERR_BAD_STATEID)
			b.giveBack(fileA, ida, nfsv4.NFS4ERR_BAD_STATEID)
			a.giveBack(fileB, ida, nfsv4.NFS4ERR_BAD_STATEID)
			a.giveBack(fileA, ida, ok)
			conflict(c, ok)
			a.giveBack(fileA, ida, nfsv4.NFS4ERR_BAD_STATEID)
		})
	}
}

func TestOwnChangesDoNotRecall(t *testing.T) {
	w := newDelegatingWorld(t)
	a := w.client("a")
	id := a.delegate(fileA)
	a.change(fileA, ok)
	a.open(fileA, both, nfsv4.OPEN4_SHARE_DENY_READ, ok)
	w.wantRecalls()
	a.io(fileA, id, vfs.OpenRead, ok)
}

// A delegation goes on with the vfs open of the open that it came with.
func TestDelegationTakesOverTheOpen(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	give := func(changes uint64, current bool) state.Stateid {
		t.Helper()
		id, now, eff, why, given := w.s.Delegate(w.now, state.DelegateArgs{Client: a.id, File: fileA, Changes: changes})
		w.must(eff)
		if !given || now != current {
			t.Fatalf("given %v (%v), attributes from before still true: %v, want %v", given, why, now, current)
		}
		return id
	}
	before := w.s.Changes()
	first, second := a.open(fileA, read, none, ok), a.doOpen(state.OpenArgs{Client: a.id, Owner: []byte("p"), File: fileA, Access: read, Held: vfs.OpenRead}, ok)
	id := give(before, true)
	a.close(fileA, first, ok)
	w.wantOpen(openName(fileA, vfs.OpenRead) + openName(fileA, vfs.OpenRead))
	a.close(fileA, second, ok)
	w.wantOpen(openName(fileA, vfs.OpenRead))
	a.giveBack(fileA, id, ok)
	w.wantOpen()

	// What may have changed something since the attributes were read.
	for name, change := range map[string]func(){
		"a change":     func() { b.change(fileB, ok) },
		"names":        func() { w.s.BeginNaming(1); w.s.EndNaming(1) },
		"a write open": func() { b.open(fileB, write, none, ok) },
		"its end":      func() { b.close(fileB, b.open(fileB, both, none, ok), ok) },
	} {
		before := w.s.Changes()
		change()
		t.Log(name)
		a.giveBack(fileA, give(before, false), ok)
	}
}

// A file is not given while somebody writes or changes it, nor twice, nor without grounds.
func TestDelegationIsRefused(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	id := b.open(fileA, write, none, ok)
	a.delegate(fileA, nfsv4.WND4_CONTENTION)
	b.close(fileA, id, ok)
	id = b.open(fileA, read, nfsv4.OPEN4_SHARE_DENY_READ, ok)
	a.delegate(fileA, nfsv4.WND4_CONTENTION)
	b.close(fileA, id, ok)

	eff, st := w.s.BeginChange(w.now, b.id, fileA)
	w.must(eff)
	w.wantStatus("a change", st, ok)
	a.delegate(fileA, nfsv4.WND4_CONTENTION)
	a.delegate(fileB)
	w.s.EndChange(fileA)
	w.s.BeginNaming(fileA.FS)
	a.delegate(fileA, nfsv4.WND4_CONTENTION)
	w.s.EndNaming(fileA.FS)

	w.s.CalledBack(w.now, a.id, false)
	a.delegate(fileA, nfsv4.WND4_RESOURCE)
	if f := a.flags(); f != nfsv4.SEQ4_STATUS_CB_PATH_DOWN {
		t.Errorf("flags %#x", f)
	}
	w.s.CalledBack(w.now, a.id, true)
	if f := a.flags(); f != 0 {
		t.Errorf("flags %#x", f)
	}
	a.delegate(fileA)
	a.delegate(fileA, nfsv4.WND4_RESOURCE)
	w.wantOpen(openName(fileA, vfs.OpenRead), openName(fileB, vfs.OpenRead))
}

// A client that does not return a delegation keeps it for one lease, however often it renews that.
func TestDelegationIsRevoked(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	id := a.delegate(fileA)
	b.change(fileA, nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(id)
	for range 3 {
		w.now = w.now.Add(lease / 4)
		a.renew()
		b.renew()
		w.tick()
		b.change(fileA, nfsv4.NFS4ERR_DELAY)
	}
	if !w.s.Recalled(a.id, id) {
		t.Error("not recalled")
	}
	w.now = w.now.Add(lease / 4)
	a.renew()
	w.tick()
	b.change(fileA, ok)
	w.wantOpen()
	if w.s.Recalled(a.id, id) {
		t.Error("recalled for ever")
	}
	if f := a.flags(); f != nfsv4.SEQ4_STATUS_RECALLABLE_STATE_REVOKED {
		t.Errorf("flags %#x", f)
	}
	w.wantStatus("TEST_STATEID", w.s.TestStateid(a.id, id), nfsv4.NFS4ERR_DELEG_REVOKED)
	a.io(fileA, id, vfs.OpenRead, nfsv4.NFS4ERR_DELEG_REVOKED)
	a.giveBack(fileA, id, nfsv4.NFS4ERR_DELEG_REVOKED)
	a.delegate(fileB, nfsv4.WND4_RESOURCE)
	eff, st := w.s.FreeStateid(w.now, b.id, id)
	w.must(eff)
	w.wantStatus("FREE_STATEID of another's", st, nfsv4.NFS4ERR_BAD_STATEID)
	eff, st = w.s.FreeStateid(w.now, a.id, id)
	w.must(eff)
	w.wantStatus("FREE_STATEID", st, ok)
	if f := a.flags(); f != 0 {
		t.Errorf("flags %#x", f)
	}
	w.wantStatus("TEST_STATEID", w.s.TestStateid(a.id, id), nfsv4.NFS4ERR_BAD_STATEID)
	a.delegate(fileB)
}

// A client that cannot be called keeps others waiting for one lease, not for one at each file, if it does not bind another backchannel meanwhile that works.
func TestHolderThatCannotBeCalled(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	files := make([]state.File, 6)
	ids := make([]state.Stateid, len(files))
	for i := range files {
		files[i] = state.File{FS: 1, Ino: vfs.Ino(100 + i)}
		ids[i] = a.delegate(files[i])
	}
	pass := func(d time.Duration) {
		w.now = w.now.Add(d)
		a.renew()
		b.renew()
		w.tick()
	}
	wantRebound := func(want int) {
		t.Helper()
		if got := w.s.Rebound(); len(got) != want {
			t.Errorf("%d clients are to be tried", len(got))
		}
	}
	b.change(files[0], nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(ids[0])
	w.s.CalledBack(w.now, a.id, false)
	if !w.s.Unheard(a.id) || w.s.Unheard(b.id) {
		t.Error("who is not heard")
	}
	pass(lease / 2)
	w.s.CalledBack(w.now, a.id, false)
	b.change(files[0], nfsv4.NFS4ERR_DELAY)
	w.now = w.now.Add(time.Second)
	b.change(files[1], nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(ids[1])
	pass(lease / 2)
	b.change(files[0], ok)
	b.change(files[1], nfsv4.NFS4ERR_DELAY) // it was not tried yet
	w.s.CalledBack(w.now, a.id, false)
	b.change(files[1], ok)
	w.now = w.now.Add(time.Second)
	b.change(files[2], nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(ids[2])
	pass(0)
	b.change(files[2], nfsv4.NFS4ERR_DELAY)
	w.s.CalledBack(w.now, a.id, false)
	pass(0)
	b.change(files[2], ok)
	a.io(files[3], ids[3], vfs.OpenRead, ok) // what nobody wants it keeps

	// A new backchannel is tried, and until then the client has as much time as others.
	wantRebound(0)
	bind := func() {
		_, eff, st := w.s.BindConn(w.now, a.session, 1, "", nfsv4.CDFC4_FORE_OR_BOTH)
		w.must(eff)
		w.wantStatus("BIND_CONN_TO_SESSION", st, ok)
	}
	bind()
	w.now = w.now.Add(time.Second)
	wantRebound(1)
	b.change(files[3], nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(ids[3])
	pass(time.Second)
	b.change(files[3], nfsv4.NFS4ERR_DELAY)
	w.s.CalledBack(w.now, a.id, false) // it does not work
	wantRebound(0)
	b.change(files[3], ok)
	bind()
	w.s.CalledBack(w.now, a.id, true)
	wantRebound(0)
	b.change(files[4], nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(ids[4])
	w.s.CalledBack(w.now, a.id, false)
	pass(lease / 2)
	b.change(files[4], nfsv4.NFS4ERR_DELAY) // a lease, as the first time
	a.giveBack(files[4], ids[4], ok)
	b.change(files[4], ok)
	w.now = w.now.Add(25 * time.Hour)
	b.renew()
	w.tick()
	wantRebound(0)
}

// A client whose lease is over keeps nobody waiting, but keeps its opens.
func TestCourteousClientLosesDelegations(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	id := a.delegate(fileA)
	open := a.open(fileB, read, none, ok)
	w.now = w.now.Add(lease + time.Second)
	w.tick()
	b.renew()
	b.open(fileA, write, none, ok)
	w.wantRecalls()
	a.io(fileB, open, vfs.OpenRead, ok)
	w.wantStatus("TEST_STATEID", w.s.TestStateid(a.id, id), nfsv4.NFS4ERR_DELEG_REVOKED)
}

// The client says it knows nothing of a delegation: it is told that it has lost one.
func TestDisclaimedDelegation(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	id := a.delegate(fileA)
	w.must(w.s.Disclaimed(a.id, id)) // not recalled
	b.change(fileA, nfsv4.NFS4ERR_DELAY)
	w.must(w.s.Disclaimed(a.id, id))
	b.change(fileA, ok)
	if f := a.flags(); f != nfsv4.SEQ4_STATUS_RECALLABLE_STATE_REVOKED {
		t.Errorf("flags %#x", f)
	}
}

// A file that is taken from readers again and again is given ever more rarely.
func TestContendedFileIsLeftAlone(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	last := time.Duration(0)
	for range 6 {
		id := a.delegate(fileA)
		b.change(fileA, nfsv4.NFS4ERR_DELAY)
		a.giveBack(fileA, id, ok)
		b.change(fileA, ok)
		wait := time.Duration(0)
		for {
			if _, given := w.s.Delegable(w.now, &state.DelegateArgs{Client: a.id, File: fileA}); given {
				break
			}
			w.now = w.now.Add(time.Second)
			wait += time.Second
			a.renew()
			b.renew()
		}
		if wait < 2*last || wait == 0 {
			t.Errorf("given again after %v; last time %v", wait, last)
		}
		last = wait
	}
}

// Too many: the oldest is recalled to make room, of the client or of all.
func TestDelegationLimits(t *testing.T) {
	w := newWorld(t)
	w.deleg, w.limit = state.DelegateRead, state.Limits{DelegationsPerClient: 2, Delegations: 3}
	w.restart()
	a, b := w.client("a"), w.client("b")
	file := func(n vfs.Ino) state.File { return state.File{FS: 1, Ino: 100 + n} }
	first := a.delegate(file(0))
	a.delegate(file(1))
	a.delegate(file(2), nfsv4.WND4_RESOURCE)
	w.wantRecalls(first)
	a.giveBack(file(0), first, ok)
	second := b.delegate(file(3))
	b.delegate(file(4))
	w.wantRecalls()
	b.giveBack(file(3), second, ok)
	b.delegate(file(5))
	c := w.client("c")
	c.delegate(file(6), nfsv4.WND4_RESOURCE)
	if len(w.recalls) != 1 || w.recalls[0].Client != a.id {
		t.Fatalf("recalls %+v", w.recalls)
	}
	if n := w.s.Stats().Delegations; n != 3 {
		t.Errorf("%d delegations", n)
	}
}

// The end of a client ends its delegations.
func TestDelegationsEndWithTheClient(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	a.delegate(fileA)
	revoked := a.delegate(fileB)
	b.change(fileB, nfsv4.NFS4ERR_DELAY)
	w.must(w.s.Disclaimed(a.id, revoked))
	eff, st := w.s.DestroyClientID(w.now, a.id, "root")
	w.must(eff)
	w.wantStatus("DESTROY_CLIENTID", st, nfsv4.NFS4ERR_CLIENTID_BUSY)
	again := w.peer("a")
	again.verf = 2
	again.connect()
	b.open(fileA, write, none, ok)
	w.wantOpen(openName(fileA, vfs.OpenWrite))
	if st := w.s.Stats(); st.Delegations != 0 {
		t.Errorf("%+v", st)
	}
}

// After a restart of the server a client gets back what it had, and nobody changes a file until it could.
func TestDelegationIsReclaimed(t *testing.T) {
	w := newDelegatingWorld(t)
	a, b := w.client("a"), w.client("b")
	a.delegate(fileA)
	w.restart()
	a.connect()
	b.connect()
	b.change(fileA, nfsv4.NFS4ERR_GRACE)
	a.delegate(fileB, nfsv4.WND4_CONTENTION)
	id := a.doDelegate(state.DelegateArgs{File: fileA, Reclaim: true})
	a.reclaimComplete(ok)
	b.reclaimComplete(ok)
	a.doDelegate(state.DelegateArgs{File: fileB, Reclaim: true}, nfsv4.WND4_CONTENTION)
	b.change(fileA, nfsv4.NFS4ERR_DELAY)
	w.wantRecalls(id)
}

func TestNoDelegations(t *testing.T) {
	w := newWorld(t)
	w.client("a").delegate(fileA, nfsv4.WND4_NOT_SUPP_FTYPE)
	w.wantOpen()
	for s, want := range map[string]state.Delegating{"": state.DelegateRead, "read": state.DelegateRead, "none": state.DelegateNone} {
		if d, err := state.ParseDelegating(s); err != nil || d != want {
			t.Errorf("%q: %v, %v", s, d, err)
		}
	}
	if _, err := state.ParseDelegating("some"); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("%v", err)
	}
}
