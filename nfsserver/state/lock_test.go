package state_test

import (
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
)

const (
	rd = nfsv4.READ_LT
	wr = nfsv4.WRITE_LT
)

// RFC 8881, 18.10: who is in the way, and that it is told completely.
func TestLockConflict(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	oa, ob := a.open(fileA, both, none, ok), b.open(fileA, both, none, ok)
	a.lock(fileA, oa, "a1", wr, 10, 10, ok)
	_, denied := b.doLock(state.LockArgs{File: fileA, Type: rd, Offset: 19, Length: 1, New: true, Stateid: ob, Owner: []byte("b1")}, nfsv4.NFS4ERR_DENIED)
	if denied.Offset != 10 || denied.Length != 10 || denied.Type != wr || denied.Client != a.id || string(denied.Owner) != "a1" {
		t.Errorf("denied by %+v", denied)
	}
	b.lock(fileA, ob, "b1", wr, 20, toEOF, ok)
	_, denied = a.doLock(state.LockArgs{File: fileA, Type: nfsv4.READW_LT, Offset: 5, Length: toEOF, New: true, Stateid: oa, Owner: []byte("a1")}, nfsv4.NFS4ERR_DENIED)
	if denied.Offset != 20 || denied.Length != toEOF {
		t.Errorf("denied by %+v", denied)
	}
	// Two owners of one client are as strange to each other as two clients.
	a.lock(fileA, oa, "a2", rd, 10, 1, nfsv4.NFS4ERR_DENIED)
	a.lock(fileA, oa, "a2", rd, 0, 10, ok)
	b.lock(fileA, ob, "b2", rd, 0, 10, ok) // readers share
	b.lock(fileA, ob, "b2", nfsv4.WRITEW_LT, 0, 1, nfsv4.NFS4ERR_DENIED)
	if n := w.s.Stats().Locks; n != 4 {
		t.Errorf("%d locks, want 4", n)
	}
}

func TestLockStateid(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	open := a.open(fileA, read, none, ok)
	a.lock(fileA, open, "l", wr, 0, 1, nfsv4.NFS4ERR_OPENMODE)
	id := a.lock(fileA, open, "l", rd, 0, 10, ok)
	if id.Seqid != 1 || id.Other == open.Other {
		t.Errorf("lock stateid %v, open %v", id, open)
	}
	second, _ := a.doLock(state.LockArgs{File: fileA, Type: rd, Offset: 20, Length: 5, Stateid: id}, ok)
	if second.Other != id.Other || second.Seqid != 2 {
		t.Errorf("second lock %v", second)
	}
	a.doLock(state.LockArgs{File: fileA, Type: rd, Offset: 30, Length: 5, Stateid: id}, nfsv4.NFS4ERR_OLD_STATEID)
	a.doLock(state.LockArgs{File: fileA, Type: rd, Offset: 30, Length: 5, Stateid: open}, nfsv4.NFS4ERR_BAD_STATEID)
	a.lock(fileA, second, "l", rd, 30, 5, nfsv4.NFS4ERR_BAD_STATEID) // a lock stateid is no open
	if again := a.lock(fileA, open, "l", rd, 40, 5, ok); again.Other != id.Other || again.Seqid != 3 {
		t.Errorf("the same owner got %v", again)
	}
	a.doLock(state.LockArgs{File: fileA, Type: rd, Offset: 1, Length: 0, Stateid: second}, nfsv4.NFS4ERR_INVAL)
	a.doLock(state.LockArgs{File: fileA, Type: 9, Offset: 1, Length: 1, Stateid: second}, nfsv4.NFS4ERR_INVAL)
	a.doLock(state.LockArgs{File: fileA, Type: rd, Offset: toEOF, Length: 2, Stateid: second}, nfsv4.NFS4ERR_INVAL)
	id.Seqid = 0
	a.io(fileA, id, 1, ok) // I/O with a lock stateid has the open's access
	a.io(fileA, id, 2, nfsv4.NFS4ERR_OPENMODE)
	a.close(fileA, id, nfsv4.NFS4ERR_BAD_STATEID)
}

// RFC 8881, 18.12 and 18.38.
func TestUnlockAndFree(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	open := a.open(fileA, both, none, ok)
	id := a.lock(fileA, open, "l", wr, 0, 100, ok)
	free := func(id state.Stateid, want state.Status) {
		t.Helper()
		eff, st := w.s.FreeStateid(w.now, a.id, id)
		w.must(eff)
		w.wantStatus("FREE_STATEID", st, want)
	}
	free(id, nfsv4.NFS4ERR_LOCKS_HELD)
	free(open, nfsv4.NFS4ERR_LOCKS_HELD)
	id = a.unlock(fileA, id, 10, 10, ok) // splits
	if n := w.s.Stats().Locks; n != 2 {
		t.Errorf("%d ranges after a split", n)
	}
	ob := b.open(fileA, both, none, ok)
	b.lock(fileA, ob, "l", wr, 10, 10, ok)
	b.lock(fileA, ob, "l", wr, 10, 11, nfsv4.NFS4ERR_DENIED)
	id = a.unlock(fileA, id, 10, 10, ok) // not a's: nothing happens
	b.lock(fileA, ob, "l", wr, 10, 10, ok)
	a.unlock(fileA, id, 0, 0, nfsv4.NFS4ERR_INVAL)
	id = a.unlock(fileA, id, 0, toEOF, ok)
	if n := w.s.Stats().Locks; n != 1 {
		t.Errorf("%d ranges are left, want b's", n)
	}
	free(id, ok)
	free(id, nfsv4.NFS4ERR_BAD_STATEID)
	a.unlock(fileA, id, 0, 1, nfsv4.NFS4ERR_BAD_STATEID)
}

func TestLockTest(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	open := a.open(fileA, both, none, ok)
	a.lock(fileA, open, "l", wr, 5, 5, ok)
	for _, tc := range []struct {
		p      *peer
		f      state.File
		owner  string
		t      nfsv4.NfsLockType4
		off, n uint64
		want   state.Status
	}{
		{b, fileA, "l", rd, 0, 5, ok},
		{b, fileA, "l", rd, 0, 6, nfsv4.NFS4ERR_DENIED},
		{a, fileA, "l", wr, 0, toEOF, ok}, // one's own lock is not in the way
		{a, fileA, "m", wr, 0, toEOF, nfsv4.NFS4ERR_DENIED},
		{b, fileB, "l", wr, 0, toEOF, ok},
		{b, fileA, "l", wr, 0, 0, nfsv4.NFS4ERR_INVAL},
	} {
		denied, eff, st := w.s.TestLock(w.now, tc.p.id, tc.f, []byte(tc.owner), tc.t, tc.off, tc.n)
		w.must(eff)
		if st != tc.want || (denied != nil) != (st == nfsv4.NFS4ERR_DENIED) {
			t.Errorf("%+v: %v, %+v", tc, st, denied)
		}
	}
}

// CLOSE releases the locks taken through the open, and only those.
func TestCloseReleasesLocks(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	oa, ob := a.open(fileA, both, none, ok), b.open(fileA, both, none, ok)
	args := a.openArgs(fileA, both, none)
	args.Owner = []byte("second")
	oa2 := a.doOpen(args, ok)
	id := a.lock(fileA, oa, "l", wr, 0, 10, ok)
	a.lock(fileA, oa2, "m", wr, 10, 10, ok)
	a.lock(fileA, oa, "moves", wr, 20, 10, ok)
	a.lock(fileA, oa2, "moves", wr, 30, 10, ok) // goes on through the other open
	a.close(fileA, oa, ok)
	b.lock(fileA, ob, "l", wr, 0, 10, ok)
	b.lock(fileA, ob, "l", wr, 10, 1, nfsv4.NFS4ERR_DENIED)
	b.lock(fileA, ob, "l", wr, 20, 1, nfsv4.NFS4ERR_DENIED)
	a.unlock(fileA, id, 0, 10, nfsv4.NFS4ERR_BAD_STATEID)
	a.close(fileA, oa2, ok)
	b.lock(fileA, ob, "l", wr, 0, toEOF, ok)
	b.close(fileA, ob, ok)
	if st := w.s.Stats(); st.Locks != 0 || st.Opens != 0 {
		t.Errorf("%+v", st)
	}
	w.wantOpen()
}

func TestLockLimit(t *testing.T) {
	w := newWorld(t)
	w.limit.LocksPerClient = 2
	w.restart()
	a, b := w.client("a"), w.client("b")
	open := a.open(fileA, both, none, ok)
	a.lock(fileA, open, "l", wr, 0, 1, ok)
	id := a.lock(fileA, open, "l", wr, 10, 1, ok)
	a.lock(fileA, open, "l", wr, 20, 1, nfsv4.NFS4ERR_DELAY)
	b.lock(fileA, b.open(fileA, both, none, ok), "l", wr, 20, 1, ok)
	a.unlock(fileA, id, 0, 1, ok)
	a.lock(fileA, open, "l", wr, 30, 1, ok)
}
