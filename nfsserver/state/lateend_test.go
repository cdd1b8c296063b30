package state_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// lateShard is what a vfs.Keeper has of one file: opens by their stateid, locks by their owner, as the metadata does.
type lateShard struct {
	opens map[vfs.StateID]vfs.Share
	locks map[string]vfs.HeldLocks
}

func (m *lateShard) end(c state.FileClosing) {
	if c.Released {
		return
	}
	delete(m.opens, c.Share.State)
	for _, l := range c.Locks {
		if m.locks[l.Owner.Owner].State == l.State {
			delete(m.locks, l.Owner.Owner)
		}
	}
}

// lateLock is what the client knows of a lock-owner.
type lateLock struct {
	id    state.Stateid
	known bool // the client has id
	held  bool
}

// How far a server comes with a call.
const (
	lateAnswers  = iota
	lateUnheard  // the Keeper does it, then the server dies, or loses the client
	lateNotBegun // it dies before
)

// lateRun is a client with one file, which goes from server to server.
type lateRun struct {
	rt     *rapid.T
	now    time.Time
	shard  lateShard
	s      *state.State       // the server that it is at
	handed []state.StateSeqid // by the last one that gave it up
	boot   uint32
	late   []state.FileClosing // ends of opens and locks that former servers, and this one, have not sent yet
	tail   uint32

	open   *state.Stateid
	former []state.Stateid // in whose place open came
	access uint32
	locks  map[string]*lateLock
	moved  int // late ends that came when another server had the client
	was    []bool
}

func (r *lateRun) num(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(r.rt, label) }

func (r *lateRun) want(what string, st state.Status, in ...state.Status) {
	for _, w := range in {
		if st == w {
			return
		}
	}
	r.rt.Fatalf("%s: %v, not one of %v", what, st, in)
}

func (r *lateRun) nextTail() uint32 {
	r.tail++
	return r.tail
}

// take has the next server take the client over.
func (r *lateRun) take() {
	r.boot++
	r.s = state.New(state.Config{Lease: lease, Boot: r.boot, Kept: true}, r.now)
	a := state.Adoption{Removals: r.s.Removals()}
	a.Seqids = r.handed
	a.ClientState.Client = state.ClientRecord{Owner: []byte("x"), Principal: "root", ClientID: 9, Sequence: 1, Reclaimed: true}
	a.ClientState.Sessions = []state.SessionRecord{{ID: state.SessionID{5}, Client: 9, Sequence: 1, Fore: chan4k(3)}}
	for _, id := range slices.SortedFunc(maps.Keys(r.shard.opens), func(a, b vfs.StateID) int { return bytes.Compare(a[:], b[:]) }) {
		a.Opens = append(a.Opens, state.AdoptedOpen{FS: fileA.FS, HeldOpen: vfs.HeldOpen{Ino: fileA.Ino, Share: r.shard.opens[id]}})
	}
	for _, owner := range slices.Sorted(maps.Keys(r.shard.locks)) {
		a.Locks = append(a.Locks, state.AdoptedLocks{FS: fileA.FS, HeldLocks: r.shard.locks[owner]})
	}
	eff, again := r.s.Adopt(r.now, a)
	if again {
		r.rt.Fatal("not adopted")
	}
	for i := range r.was {
		r.was[i] = true
	}
	r.effects(eff)
}

// give has its server give the client up, after it has sent all that it has queued.
func (r *lateRun) give() {
	for i, c := range r.late {
		if !r.was[i] {
			r.shard.end(c)
		}
	}
	still := r.late[:0]
	for i, c := range r.late {
		if r.was[i] { // another one's
			still = append(still, c)
		}
	}
	r.late, r.was = still, slices.Repeat([]bool{true}, len(still))
	r.handed = r.s.Leaving(9).Seqids
	r.take()
}

func (r *lateRun) effects(eff state.Effects) {
	for _, s := range eff.Share {
		r.shard.opens[s.Share.State] = s.Share
	}
	for _, c := range eff.Unshare {
		if c.Now {
			r.shard.end(c)
			continue
		}
		r.late, r.was = append(r.late, c), append(r.was, false)
	}
}

// comes has a queued end arrive, or be lost with its server.
func (r *lateRun) comes() {
	if len(r.late) == 0 {
		return
	}
	i := r.num("which", 0, len(r.late)-1)
	if !r.was[i] || r.num("lost", 0, 3) > 0 {
		r.shard.end(r.late[i])
		if r.was[i] {
			r.moved++
		}
	}
	r.late, r.was = append(r.late[:i], r.late[i+1:]...), append(r.was[:i], r.was[i+1:]...)
}

func (r *lateRun) doOpen(tail uint32, access uint32, how int) bool {
	a := state.OpenArgs{Client: 9, Owner: []byte("o"), File: fileA, Access: access, Held: vfs.OpenFlags(access), Tail: tail}
	if how == lateNotBegun {
		return false
	}
	if r.num("by name", 0, 3) == 0 { // the file is not known yet
		a.File.Ino = 0
	}
	r.want("PlanOpen", r.s.PlanOpen(&a), ok)
	a.File = fileA
	r.shard.opens[a.Plan.Share.State] = a.Plan.Share
	if how == lateUnheard {
		return false
	}
	if r.num("put off", 0, 9) == 0 { // NFS4ERR_DELAY, which the client may not hear
		r.effects(r.s.Abandon(a))
		if r.num("heard", 0, 1) == 0 {
			return false
		}
		return r.doOpen(r.nextTail(), access, lateAnswers)
	}
	if r.open != nil && r.num("reads meanwhile", 0, 9) == 0 {
		r.read()
	}
	id, eff, st := r.s.Open(r.now, a)
	r.want("OPEN", st, ok)
	r.effects(eff)
	// What has Linux wait for 5 s: a seqid that is not the next one it knows.
	switch before := r.open; {
	case before == nil && id.Seqid != 1:
		r.rt.Fatalf("the client has closed the file, and is told %v", id)
	case before != nil && before.Other != id.Other:
		if id.Seqid != 1 {
			r.rt.Fatalf("the client has %v, and is told %v", before, id)
		}
		r.former = append(r.former, *before)
		if r.num("tests the former", 0, 1) == 1 {
			r.s.TestStateid(9, *before)
		}
		if r.num("frees the former", 0, 2) == 1 {
			eff, st := r.s.FreeStateid(r.now, 9, *before)
			r.want("FREE_STATEID", st, ok, nfsv4.NFS4ERR_LOCKS_HELD)
			r.effects(eff)
		}
	case before != nil && before.Other == id.Other && id.Seqid != before.Seqid+1:
		r.rt.Fatalf("the client has %v, and is told %v", before, id)
	}
	r.open, r.access = &id, r.access|access
	return true
}

// read is I/O as of Linux, whose stateid has no seqid.
func (r *lateRun) read() {
	_, _, st := r.s.CheckIO(r.now, 9, fileA, state.Stateid{Other: r.open.Other}, vfs.OpenFlags(r.access))
	r.want("I/O", st, ok)
}

func (r *lateRun) doLock(tail uint32, owner string, how int) bool {
	l := r.locks[owner]
	a := state.LockArgs{Client: 9, File: fileA, Type: wr, Offset: uint64(owner[0]), Length: 1, Tail: tail}
	if l.known {
		a.Stateid = l.id
	} else {
		a.New, a.Stateid, a.Owner = true, *r.open, []byte(owner)
	}
	if r.access&write == 0 {
		a.Type = rd
	}
	if how == lateNotBegun {
		return false
	}
	plan, st := r.s.BeginLock(r.now, a)
	r.want("LOCK", st, ok)
	if plan.Share != nil {
		r.shard.opens[plan.Share.State] = *plan.Share
	}
	answer := r.num("answer", 0, 5)
	if answer != 0 { // else it does not come, and the lock is not made
		r.shard.locks[owner] = vfs.HeldLocks{Ino: fileA.Ino, Owner: plan.Owner, LockState: plan.State, Ranges: []byterange.Range{plan.Range}}
	}
	if how == lateUnheard {
		return false
	}
	id, _, eff, st := r.s.EndLock(r.now, plan, nil, answer < 2)
	r.effects(eff)
	if answer < 2 {
		r.want("LOCK", st, nfsv4.NFS4ERR_DELAY)
		return r.doLock(r.nextTail(), owner, lateAnswers) // as another call
	}
	r.want("LOCK", st, ok)
	*l = lateLock{id: id, known: true, held: true}
	return true
}

func (r *lateRun) doUnlock(owner string, how int) bool {
	l := r.locks[owner]
	if how == lateNotBegun {
		return false
	}
	plan, st := r.s.BeginUnlock(9, fileA, l.id, uint64(owner[0]), 1)
	r.want("LOCKU", st, ok)
	if h, there := r.shard.locks[owner]; there {
		h.Ranges = nil
		r.shard.locks[owner] = h
	}
	if how == lateUnheard {
		return false
	}
	id, st := r.s.EndUnlock(plan, false)
	r.want("LOCKU", st, ok)
	l.id, l.held = id, false
	return true
}

func (r *lateRun) doFree(owner string, how int) bool {
	if how == lateNotBegun {
		return false
	}
	eff, st := r.s.FreeStateid(r.now, 9, r.locks[owner].id)
	r.want("FREE_STATEID", st, ok, nfsv4.NFS4ERR_BAD_STATEID) // the latter if it comes again
	r.effects(eff)
	if how == lateUnheard {
		return false
	}
	r.locks[owner].known = false
	return true
}

func (r *lateRun) doClose(how int) bool {
	if how == lateNotBegun {
		return false
	}
	_, eff, st := r.s.Close(r.now, 9, fileA, *r.open)
	r.want("CLOSE", st, ok, nfsv4.NFS4ERR_BAD_STATEID)
	r.effects(eff)
	if how == lateUnheard {
		return false
	}
	r.open, r.access, r.former = nil, 0, nil
	for _, l := range r.locks {
		*l = lateLock{}
	}
	return true
}

// call does what the client may do now, at as many servers as it takes.
func (r *lateRun) call() {
	tail, owner := r.nextTail(), string(rune('a'+r.num("owner", 0, 1)))
	var do func(how int) bool
	if len(r.former) > 0 && r.num("asks", 0, 9) == 0 {
		r.s.TestStateid(9, r.former[r.num("former", 0, len(r.former)-1)])
	}
	if r.open != nil && r.num("reads", 0, 5) == 0 {
		r.read()
	}
	switch what := r.num("call", 0, 9); {
	case r.open == nil || what < 2:
		access := uint32(r.num("access", 1, 3))
		do = func(how int) bool { return r.doOpen(tail, access, how) }
	case what < 5 && !r.locks[owner].held:
		do = func(how int) bool { return r.doLock(tail, owner, how) }
	case r.locks[owner].held:
		do = func(how int) bool { return r.doUnlock(owner, how) }
	case what < 7 && r.locks[owner].known:
		do = func(how int) bool { return r.doFree(owner, how) }
	default:
		for _, l := range r.locks {
			if l.held { // Linux unlocks before
				return
			}
		}
		do = r.doClose
	}
	for {
		how := lateAnswers
		if r.num("answered", 0, 9) == 0 {
			how = r.num("how", lateUnheard, lateNotBegun)
		}
		if do(how) {
			return
		}
		r.take()
	}
}

// check compares the shard with what the client has been told.
func (r *lateRun) check(when string) {
	r.rt.Helper()
	if r.open != nil {
		if s := r.shard.opens[r.open.Other]; uint32(s.Access)&r.access != r.access {
			r.rt.Fatalf("%s: the open %v of access %d has no record of that: %v", when, r.open, r.access, r.shard.opens)
		}
	}
	for owner, l := range r.locks {
		if h, there := r.shard.locks[owner]; l.held && (!there || len(h.Ranges) == 0 || h.State != l.id.Other) {
			r.rt.Fatalf("%s: the lock %v of %s is %+v, %v", when, l.id, owner, h, there)
		}
	}
}

// A client goes from server to server, which die under its calls, or are cut off. What a server had queued to end comes whenever it likes, when the client has opened and locked
// the file at another one. It ends nothing that the client was told it has, and when the client has closed the file nothing is left of it.
func TestLateEnds(t *testing.T) {
	moved := 0
	rapid.Check(t, func(rt *rapid.T) {
		r := &lateRun{rt: rt, now: time.Unix(1000, 0), locks: map[string]*lateLock{"a": {}, "b": {}}, boot: 1,
			shard: lateShard{opens: make(map[vfs.StateID]vfs.Share), locks: make(map[string]vfs.HeldLocks)}}
		r.take()
		for i := range r.num("steps", 1, 60) {
			switch what := r.num("step", 0, 9); {
			case what == 0:
				if r.num("planned", 0, 1) == 1 {
					r.give()
				} else {
					r.take()
				}
			case what == 1 && r.num("a lease passes", 0, 1) == 1:
				r.now = r.now.Add(lease + time.Second)
				r.s.Heard(r.now, state.SessionID{5})
				r.effects(r.s.Tick(r.now))
			case what < 3:
				r.comes()
			default:
				r.call()
			}
			r.check(fmt.Sprint("step ", i))
		}
		for len(r.late) > 0 {
			r.comes()
			r.check("at the end")
		}
		for owner, l := range r.locks {
			if l.held {
				r.doUnlock(owner, lateAnswers)
			}
		}
		for range 1 + len(r.shard.opens) { // each that kept its record goes when its owner has closed the file once more
			if r.open == nil {
				for !r.doOpen(r.nextTail(), write, lateAnswers) {
				}
			}
			r.doClose(lateAnswers)
			for len(r.late) > 0 {
				r.shard.end(r.late[0])
				r.late, r.was = r.late[1:], r.was[1:]
			}
		}
		if len(r.shard.opens)+len(r.shard.locks) > 0 {
			rt.Fatalf("left: %+v, %+v", r.shard.opens, r.shard.locks)
		}
		moved += r.moved
	})
	if moved == 0 {
		t.Fatal("no end came late")
	}
	t.Logf("%d ends came late", moved)
}
