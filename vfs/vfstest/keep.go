package vfstest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// Kept is a vfs.Keeper whose front end can die.
type Kept struct {
	FS      func() vfs.Keeper   // as it is now
	Restart func()              // the front end dies and comes back
	Release func(client uint64) // the client's record ends
}

// RunKeeper checks every rule of vfs.Keeper. fresh returns one whose clients were never seen before.
func RunKeeper(t *testing.T, fresh func(t *testing.T) Kept) {
	for _, c := range []struct {
		name string
		test func(*keptEnv)
	}{
		{"Locks", testKeptLocks},
		{"LocksOutliveTheFrontEnd", testKeptLocksResume},
		{"Shares", testKeptShares},
		{"SharesOutliveTheFrontEnd", testKeptSharesResume},
		{"SharesThatComeBack", testKeptSharesAgain},
		{"Unlinked", testKeptUnlinked},
		{"Calls", testCalls},
		{"CallOfCreate", testCallOfCreate},
		{"CallOfOpen", testCallOfOpen},
		{"Release", testRelease},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			e := &keptEnv{T: t, Kept: fresh(t), ctx: ctx}
			c.test(e)
		})
	}
}

type keptEnv struct {
	*testing.T
	Kept
	ctx context.Context
}

func (e *keptEnv) want(what string, err error, k vfs.Kind) {
	e.Helper()
	if vfs.KindOf(err) != k {
		e.Fatalf("%s: %v, want kind %v", what, err, k)
	}
}

func stateID(n byte) vfs.StateID { return vfs.StateID{1, 11: n} }

func shareOf(client uint64, n byte, access, deny vfs.OpenFlags) vfs.Share {
	return vfs.Share{Client: client, State: stateID(n), Owner: []byte{'o', n}, Access: access, Deny: deny}
}

// create makes a file and keeps s of it.
func (e *keptEnv) create(name string, s vfs.Share) vfs.Ino {
	e.Helper()
	mode := uint32(0o644)
	r, err := e.FS().Create(e.ctx, &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: s.Access, Share: &s})
	e.want("create", err, vfs.KindOK)
	if r.State != s.State {
		e.Fatalf("kept under %x, want %x", r.State, s.State)
	}
	return r.Attr.Ino
}

func (e *keptEnv) open(ino vfs.Ino, s vfs.Share, k vfs.Kind) {
	e.Helper()
	_, err := e.FS().OpenShared(e.ctx, &vfs.Root, ino, s.Access, false, s)
	e.want("open", err, k)
}

func (e *keptEnv) close(ino vfs.Ino, s vfs.Share) {
	e.Helper()
	e.want("unshare", e.FS().Unshare(e.ctx, ino, vfs.Closing{Share: s, Now: s.Deny != 0}), vfs.KindOK)
	e.want("close", e.FS().Close(e.ctx, ino, s.Access), vfs.KindOK)
}

// wantGone waits for a file without links to go.
func (e *keptEnv) wantGone(ino vfs.Ino) {
	e.Helper()
	for {
		_, err := e.FS().GetAttr(e.ctx, ino)
		if vfs.KindOf(err) == vfs.KindStale {
			return
		}
		e.want("getattr", err, vfs.KindOK)
		select {
		case <-time.After(time.Millisecond):
		case <-e.ctx.Done():
			e.Fatal("the file stays")
		}
	}
}

func lock(first, last uint64, write bool) byterange.Range {
	return byterange.Range{First: first, Last: last, Write: write}
}

const toEnd = ^uint64(0)

func testKeptLocks(e *keptEnv) {
	ino := e.create("f", shareOf(1, 1, vfs.OpenRead|vfs.OpenWrite, 0))
	a, a2, b := vfs.LockOwner{Client: 1, Owner: "l"}, vfs.LockOwner{Client: 1, Owner: "m"}, vfs.LockOwner{Client: 2, Owner: "l"}
	st := vfs.LockState{State: stateID(2), Open: stateID(1)}
	set := func(o vfs.LockOwner, r byterange.Range, inTheWay *vfs.LockConflict) {
		e.Helper()
		c, err := e.FS().TestLock(e.ctx, ino, o, r)
		e.want("test", err, vfs.KindOK)
		if (c == nil) != (inTheWay == nil) || c != nil && *c != *inTheWay {
			e.Fatalf("test of %+v by %+v: %+v, want %+v", r, o, c, inTheWay)
		}
		c, err = e.FS().Lock(e.ctx, ino, o, st, r)
		e.want("lock", err, vfs.KindOK)
		if (c == nil) != (inTheWay == nil) || c != nil && *c != *inTheWay {
			e.Fatalf("lock of %+v by %+v: %+v, want %+v", r, o, c, inTheWay)
		}
	}
	set(a, lock(10, 19, true), nil)
	set(b, lock(19, 19, false), &vfs.LockConflict{Owner: a, Range: lock(10, 19, true)})
	set(a2, lock(0, toEnd, false), &vfs.LockConflict{Owner: a, Range: lock(10, 19, true)})
	set(b, lock(20, toEnd, true), nil)
	set(a, lock(0, 20, true), &vfs.LockConflict{Owner: b, Range: lock(20, toEnd, true)})
	set(a, lock(0, 19, false), nil) // upgrade of one, downgrade of the other
	set(b, lock(0, 19, false), nil)
	set(a, lock(5, 5, true), &vfs.LockConflict{Owner: b, Range: lock(0, 19, false)})
	e.want("unlock", e.FS().Unlock(e.ctx, ino, b, 0, 9), vfs.KindOK)
	set(a, lock(5, 5, true), nil)
	e.want("unlock of nothing", e.FS().Unlock(e.ctx, ino, a2, 0, toEnd), vfs.KindOK)
	e.want("end of an owner", e.FS().Unshare(e.ctx, ino, vfs.Closing{Locks: []vfs.HeldLocks{{Owner: b, LockState: st}}, Now: true}), vfs.KindOK)
	set(a, lock(0, toEnd, true), nil)
}

func testKeptLocksResume(e *keptEnv) {
	s := shareOf(1, 1, vfs.OpenRead|vfs.OpenWrite, 0)
	ino := e.create("f", s)
	o, idle := vfs.LockOwner{Client: 1, Owner: "l\x00"}, vfs.LockOwner{Client: 1, Owner: "idle"}
	st := vfs.LockState{State: stateID(2), Open: s.State}
	for _, r := range []byterange.Range{lock(0, 9, true), lock(20, toEnd, false)} {
		_, err := e.FS().Lock(e.ctx, ino, o, st, r)
		e.want("lock", err, vfs.KindOK)
	}
	_, err := e.FS().Lock(e.ctx, ino, idle, vfs.LockState{State: stateID(3), Open: s.State}, lock(15, 15, true))
	e.want("lock", err, vfs.KindOK)
	e.want("unlock", e.FS().Unlock(e.ctx, ino, idle, 15, 15), vfs.KindOK)
	e.Restart()
	c, err := e.FS().TestLock(e.ctx, ino, vfs.LockOwner{Client: 2}, lock(0, toEnd, true))
	if err != nil || c == nil || c.Owner != o {
		e.Fatalf("in the way after the restart: %+v, %v", c, err)
	}
	_, locks, err := e.FS().Resume(e.ctx, 1)
	e.want("resume", err, vfs.KindOK)
	slices.SortFunc(locks, func(a, b vfs.HeldLocks) int { return len(b.Ranges) - len(a.Ranges) })
	if len(locks) != 2 || locks[0].Ino != ino || locks[0].Owner != o || locks[0].LockState != st ||
		!slices.Equal(locks[0].Ranges, byterange.Set{lock(0, 9, true), lock(20, toEnd, false)}) ||
		locks[1].Owner != idle || len(locks[1].Ranges) != 0 || locks[1].State != stateID(3) {
		e.Fatalf("resumed %+v", locks)
	}
}

func testKeptShares(e *keptEnv) {
	const r, w = vfs.OpenRead, vfs.OpenWrite
	ino := e.create("f", shareOf(1, 1, r, w))
	e.open(ino, shareOf(2, 2, w, 0), vfs.KindShareDenied)
	_, err := e.FS().Create(e.ctx, &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Open: w, Share: &vfs.Share{Client: 2, State: stateID(3), Access: w}})
	e.want("create", err, vfs.KindShareDenied)
	e.open(ino, shareOf(2, 4, r, 0), vfs.KindOK)
	same := shareOf(1, 5, r|w, 0)
	same.Owner = shareOf(1, 1, 0, 0).Owner
	e.open(ino, same, vfs.KindOK) // an owner does not deny itself
	e.close(ino, same)
	// A downgrade, then an upgrade.
	e.want("share", e.FS().Share(e.ctx, ino, shareOf(1, 1, r, 0)), vfs.KindOK)
	e.open(ino, shareOf(2, 2, w, 0), vfs.KindOK)
	e.want("share against a writer", e.FS().Share(e.ctx, ino, shareOf(1, 1, r, w)), vfs.KindShareDenied)
	e.close(ino, shareOf(2, 2, w, r)) // as if it denied something: then it is over when it is answered
	e.want("share", e.FS().Share(e.ctx, ino, shareOf(1, 1, r, w)), vfs.KindOK)
	e.open(ino, shareOf(2, 2, w, 0), vfs.KindShareDenied)
	e.close(ino, shareOf(1, 1, r, w))
	e.open(ino, shareOf(2, 2, w, 0), vfs.KindOK)
	_, err = e.FS().OpenShared(e.ctx, &vfs.Root, ino, r, false, shareOf(3, 3, r, w))
	var by *vfs.DeniedBy
	if !errors.As(err, &by) || by.Client != 2 {
		e.Errorf("denied: %v, want by client 2", err)
	}
}

func testKeptSharesResume(e *keptEnv) {
	const r, w = vfs.OpenRead, vfs.OpenWrite
	lasting := []vfs.Share{shareOf(1, 1, r|w, 0), shareOf(1, 2, r, w), shareOf(1, 3, w, 0)}
	inos := []vfs.Ino{e.create("a", lasting[0]), e.create("b", lasting[1]), e.create("c", shareOf(3, 4, r, 0))}
	e.open(inos[2], lasting[2], vfs.KindOK)
	e.open(inos[0], shareOf(1, 5, r, 0), vfs.KindOK) // leaves no trace
	e.open(inos[0], shareOf(2, 6, w, 0), vfs.KindOK) // another client's
	for range 2 {
		e.Restart()
		opens, _, err := e.FS().Resume(e.ctx, 1)
		e.want("resume", err, vfs.KindOK)
		if len(opens) != len(lasting) {
			e.Fatalf("resumed %+v", opens)
		}
		for _, o := range opens {
			i := slices.IndexFunc(lasting, func(s vfs.Share) bool { return s.State == o.State })
			if i < 0 || o.Ino != inos[i] || o.Access != lasting[i].Access || o.Deny != lasting[i].Deny || !slices.Equal(o.Owner, lasting[i].Owner) {
				e.Fatalf("resumed %+v", o)
			}
		}
		e.open(inos[1], shareOf(2, 7, w, 0), vfs.KindShareDenied)
	}
	for i, s := range lasting {
		e.close(inos[i], s)
	}
	e.open(inos[1], shareOf(2, 7, w, 0), vfs.KindOK)
	e.want("close of what is not open", e.FS().Close(e.ctx, inos[0], lasting[0].Access), vfs.KindInvalid)
}

// testKeptSharesAgain checks that an open which did not have to last for a while lasts again: its end may still be queued.
func testKeptSharesAgain(e *keptEnv) {
	const both = vfs.OpenRead | vfs.OpenWrite
	s, less, denier := shareOf(1, 1, both, 0), shareOf(1, 1, vfs.OpenRead, 0), shareOf(1, 2, both, both)
	ino, other := e.create("f", s), e.create("g", denier)
	e.want("downgrade", e.FS().Share(e.ctx, ino, less), vfs.KindOK)
	e.open(ino, s, vfs.KindOK)
	e.open(other, shareOf(2, 3, both, 0), vfs.KindShareDenied) // what is queued is done before it is denied
	e.Restart()
	opens, _, err := e.FS().Resume(e.ctx, 1)
	e.want("resume", err, vfs.KindOK)
	if i := slices.IndexFunc(opens, func(o vfs.HeldOpen) bool { return o.Ino == ino }); i < 0 || opens[i].Access != both || opens[i].State != s.State {
		e.Errorf("kept %+v, want %+v", opens, s)
	}
}

func testKeptUnlinked(e *keptEnv) {
	const r, w = vfs.OpenRead, vfs.OpenWrite
	write, read := shareOf(1, 1, r|w, 0), shareOf(1, 2, r, 0)
	a, b := e.create("a", write), e.create("b", shareOf(2, 3, w, 0))
	_, _, err := e.FS().Write(e.ctx, &vfs.Root, a, 0, []byte("data"), vfs.FileSync)
	e.want("write", err, vfs.KindOK)
	e.open(b, read, vfs.KindOK)
	e.close(b, shareOf(2, 3, w, 0))
	down := shareOf(1, 4, r|w, 0)
	c := e.create("c", down)
	down.Access = r
	e.want("downgrade", e.FS().Share(e.ctx, c, down), vfs.KindOK)
	for _, name := range []string{"a", "b", "c"} {
		_, err := e.FS().Remove(e.ctx, &vfs.Root, vfs.RootIno, name, vfs.RemoveAny)
		e.want("remove", err, vfs.KindOK)
	}
	for range 2 {
		e.Restart()
		opens, _, err := e.FS().Resume(e.ctx, 1)
		if err != nil || len(opens) != 3 {
			e.Fatalf("resumed %+v, %v", opens, err)
		}
		p := make([]byte, 10)
		if n, _, err := e.FS().Read(e.ctx, a, 0, p); err != nil || string(p[:n]) != "data" {
			e.Fatalf("read %q, %v", p[:n], err)
		}
	}
	e.close(a, write)
	e.wantGone(a)
	e.close(c, down)
	e.wantGone(c)
	_, err = e.FS().GetAttr(e.ctx, b)
	e.want("getattr", err, vfs.KindOK)
	e.Release(2) // its close may not have been written down when the front end died
	e.Release(1)
	e.want("unshare", e.FS().Unshare(e.ctx, b, vfs.Closing{Share: read, Released: true}), vfs.KindOK)
	e.want("close", e.FS().Close(e.ctx, b, read.Access), vfs.KindOK)
	e.wantGone(b)
}

// call is the context of operation op of a call.
func (e *keptEnv) call(client uint64, slot uint32, seq uint64, op uint32) context.Context {
	return vfs.WithCall(e.ctx, &vfs.Call{Client: client, Session: [16]byte{7}, Slot: slot, Seq: seq, Op: op})
}

func testCalls(e *keptEnv) {
	mkdir := func(ctx context.Context, name string) error {
		mode := uint32(0o755)
		_, err := e.FS().MakeNode(ctx, &vfs.Root, vfs.RootIno, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
		return err
	}
	remove := func(ctx context.Context, name string) error {
		_, err := e.FS().Remove(ctx, &vfs.Root, vfs.RootIno, name, vfs.RemoveAny)
		return err
	}
	e.want("mkdir", mkdir(e.call(1, 0, 1, 2), "d"), vfs.KindOK)
	e.want("mkdir of what exists", mkdir(e.call(1, 1, 1, 2), "d"), vfs.KindExists)
	for range 2 {
		e.want("mkdir again", mkdir(e.call(1, 0, 1, 2), "d"), vfs.KindOK)
		e.want("the error again", mkdir(e.call(1, 1, 1, 2), "d"), vfs.KindExists)
		e.Restart()
	}
	e.want("another operation of the call", mkdir(e.call(1, 0, 1, 3), "d"), vfs.KindExists)
	e.want("another command", remove(e.call(1, 0, 1, 2), "d"), vfs.KindChanged)
	e.want("remove", remove(e.call(1, 0, 1<<32+5, 1), "d"), vfs.KindOK)
	e.Restart()
	e.want("remove again", remove(e.call(1, 0, 1<<32+5, 1), "d"), vfs.KindOK)
	e.want("an earlier call", mkdir(e.call(1, 0, 1, 2), "d"), vfs.KindSuperseded)
	e.want("the next one", mkdir(e.call(1, 0, 1<<32+6, 2), "e"), vfs.KindOK)
	slots, err := e.FS().Slots(e.ctx, [16]byte{7})
	slices.SortFunc(slots, func(a, b vfs.SlotSeq) int { return int(a.Slot) - int(b.Slot) })
	if err != nil || !slices.Equal(slots, []vfs.SlotSeq{{Slot: 0, Seq: 1<<32 + 6}, {Slot: 1, Seq: 1}}) {
		e.Errorf("slots %+v, %v", slots, err)
	}
	if slots, err := e.FS().Slots(e.ctx, [16]byte{8}); err != nil || len(slots) != 0 {
		e.Errorf("slots of another session: %+v, %v", slots, err)
	}
}

// A create that is done again opens the file, under the stateid of the first time.
func testCallOfCreate(e *keptEnv) {
	first := shareOf(1, 1, vfs.OpenRead|vfs.OpenWrite, 0)
	create := func(s vfs.Share) vfs.Created {
		r, err := e.FS().Create(e.call(1, 0, 1, 1), &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Exclusive: vfs.Guarded, Open: s.Access, Share: &s})
		e.want("create", err, vfs.KindOK)
		if r.State != first.State || !r.New {
			e.Fatalf("created %+v", r)
		}
		return r
	}
	ino := create(first).Attr.Ino
	e.Restart()
	opens, _, err := e.FS().Resume(e.ctx, 1)
	if err != nil || len(opens) != 1 {
		e.Fatalf("resumed %+v, %v", opens, err)
	}
	e.want("close", e.FS().Close(e.ctx, ino, first.Access), vfs.KindOK)
	again := first
	again.State = stateID(2)
	if r := create(again); r.Attr.Ino != ino {
		e.Fatalf("created %d, then %d", ino, r.Attr.Ino)
	}
	_, _, err = e.FS().Write(e.ctx, &vfs.Root, ino, 0, []byte("x"), vfs.FileSync)
	e.want("write", err, vfs.KindOK)
	e.close(ino, first)
}

// An open is recorded once for its call, and then as the front end that tells of it knows it. One that is presented, or recorded for a LOCK, is not one of the operation's own steps: who finds it recorded does not do it.
func testCallOfOpen(e *keptEnv) {
	const both = vfs.OpenRead | vfs.OpenWrite
	mine := func(n byte, deny vfs.OpenFlags) vfs.Share {
		return vfs.Share{Client: 1, State: stateID(n), Owner: []byte("o"), Access: both, Deny: deny}
	}
	ino, other := e.create("f", mine(1, 0)), e.create("g", mine(2, 0))
	open := func(ctx context.Context, ino vfs.Ino, s vfs.Share) {
		e.Helper()
		a, err := e.FS().OpenShared(ctx, &vfs.Root, ino, s.Access, false, s)
		e.want("open", err, vfs.KindOK)
		if a.Ino != ino {
			e.Errorf("an open of %d tells of %d", ino, a.Ino)
		}
	}
	again := func(op uint32) context.Context {
		ctx := e.call(1, 0, 1, op)
		vfs.CallOf(ctx).Repeat()
		return ctx
	}
	open(e.call(1, 0, 1, 1), ino, mine(3, vfs.OpenWrite))
	e.Restart()
	second := mine(4, vfs.OpenWrite)
	open(again(1), ino, second)
	e.open(ino, shareOf(2, 5, vfs.OpenWrite, 0), vfs.KindShareDenied)
	e.close(ino, second)
	e.want("settle", e.FS().Settle(e.ctx), vfs.KindOK)
	e.open(ino, shareOf(2, 5, vfs.OpenWrite, 0), vfs.KindOK) // nothing denies it
	open(again(1), other, second)                            // the name is another file's
	e.close(other, second)
	open(again(1), other, second) // that was given up
	e.open(other, shareOf(2, 6, vfs.OpenWrite, 0), vfs.KindShareDenied)
	e.close(other, second)

	mode := uint32(0o700)
	beside := e.call(1, 0, 1, 2)
	read := shareOf(1, 7, vfs.OpenRead, 0)
	read.Locks = true
	_, err := e.FS().OpenShared(vfs.WithCall(beside, vfs.CallOf(beside).Beside()), &vfs.Root, ino, vfs.OpenRead, false, read)
	e.want("open", err, vfs.KindOK)
	e.want("share", e.FS().Share(beside, ino, shareOf(1, 7, vfs.OpenRead, 0)), vfs.KindOK)
	for _, ctx := range []context.Context{beside, again(2)} {
		_, err = e.FS().SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Mode: &mode}, false)
		e.want("setattr", err, vfs.KindOK)
	}
	e.want("an earlier call", e.FS().Share(e.call(1, 0, 0, 1), ino, shareOf(1, 7, both, 0)), vfs.KindSuperseded)
	e.close(ino, read)
}

func testRelease(e *keptEnv) {
	s := shareOf(1, 1, vfs.OpenRead|vfs.OpenWrite, vfs.OpenWrite)
	ino := e.create("f", s)
	o := vfs.LockOwner{Client: 1, Owner: "l"}
	_, err := e.FS().Lock(e.ctx, ino, o, vfs.LockState{State: stateID(2), Open: s.State}, lock(0, toEnd, true))
	e.want("lock", err, vfs.KindOK)
	e.Release(1)
	e.open(ino, shareOf(2, 3, vfs.OpenWrite, vfs.OpenRead), vfs.KindOK)
	c, err := e.FS().Lock(e.ctx, ino, vfs.LockOwner{Client: 2}, vfs.LockState{State: stateID(4)}, lock(0, 1, true))
	if err != nil || c != nil {
		e.Errorf("lock against a released one: %+v, %v", c, err)
	}
	_, err = e.FS().Lock(e.ctx, ino, o, vfs.LockState{State: stateID(2)}, lock(5, 6, false))
	e.want("lock", err, vfs.KindExpired)
	_, err = e.FS().OpenShared(e.ctx, &vfs.Root, ino, vfs.OpenWrite, false, shareOf(1, 9, vfs.OpenWrite, 0))
	e.want("open", err, vfs.KindExpired)
	_, _, err = e.FS().Resume(e.ctx, 1)
	e.want("resume", err, vfs.KindExpired)
	mode := uint32(0o700)
	_, err = e.FS().SetAttr(e.call(1, 0, 1, 0), &vfs.Root, ino, vfs.SetAttr{Mode: &mode}, false)
	e.want("setattr", err, vfs.KindExpired)
	e.want("unshare", e.FS().Unshare(e.ctx, ino, vfs.Closing{Share: s, Released: true}), vfs.KindOK)
	e.want("close", e.FS().Close(e.ctx, ino, s.Access), vfs.KindOK)
}
