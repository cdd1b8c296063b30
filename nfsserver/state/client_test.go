package state_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
)

const update = nfsv4.EXCHGID4_FLAG_UPD_CONFIRMED_REC_A

func confirmed(r state.ExchangeIDResult) bool { return r.Flags&nfsv4.EXCHGID4_FLAG_CONFIRMED_R != 0 }

// The cases of RFC 8881, 18.35.4, in its order.
func TestExchangeID(t *testing.T) {
	t.Run("1 new owner", func(t *testing.T) {
		a, b := newWorld(t).peer("a"), (*peer)(nil)
		r := a.exchange(0, ok)
		b = a.w.peer("b")
		if r2 := b.exchange(0, ok); confirmed(r) || confirmed(r2) || r.ClientID == r2.ClientID {
			t.Errorf("%+v and %+v", r, r2)
		}
	})
	t.Run("2 non-update on existing client id", func(t *testing.T) {
		a := newWorld(t).client("a")
		if r := a.exchange(0, ok); !confirmed(r) || r.ClientID != a.id {
			t.Errorf("%+v, want client %x", r, a.id)
		}
	})
	t.Run("3 client collision", func(t *testing.T) {
		w := newWorld(t)
		a := w.client("a")
		stranger := w.peer("a")
		stranger.who = "stranger"
		a.open(fileA, read, none, ok)
		stranger.exchange(0, nfsv4.NFS4ERR_CLID_INUSE)
		w.now = w.now.Add(lease + time.Second)
		if r := stranger.exchange(0, ok); confirmed(r) || r.ClientID == a.id {
			t.Errorf("%+v", r)
		}
		w.wantOpen()   // the old client is gone with all it had
		w.wantStored() // and may not come back
	})
	t.Run("3 client collision without state", func(t *testing.T) {
		w := newWorld(t)
		w.client("a")
		stranger := w.peer("a")
		stranger.who = "stranger"
		stranger.exchange(0, ok)
	})
	t.Run("4 replacement of unconfirmed record", func(t *testing.T) {
		w := newWorld(t)
		a := w.peer("a")
		first := a.exchange(0, ok)
		if second := a.exchange(0, ok); second.ClientID == first.ClientID {
			t.Error("the same client id twice")
		}
		a.id = first.ClientID
		a.create(first.Sequence, nfsv4.NFS4ERR_STALE_CLIENTID)
	})
	t.Run("5 client restart", func(t *testing.T) {
		w := newWorld(t)
		a := w.client("a")
		a.open(fileA, write, both, ok)
		old := *a
		a.verf++
		r := a.exchange(0, ok)
		if confirmed(r) || r.ClientID == old.id {
			t.Fatalf("%+v", r)
		}
		old.renew() // the old incarnation lives until the new one is confirmed
		w.wantOpen("10:2")
		a.id = r.ClientID
		a.create(r.Sequence, ok)
		w.wantOpen()
		w.wantStored()
		old.sequence(0, 2, 0, nfsv4.NFS4ERR_BADSESSION)
	})
	t.Run("6 update", func(t *testing.T) {
		a := newWorld(t).client("a")
		if r := a.exchange(update, ok); !confirmed(r) || r.ClientID != a.id {
			t.Errorf("%+v", r)
		}
	})
	t.Run("7 update but no confirmed record", func(t *testing.T) {
		a := newWorld(t).peer("a")
		a.exchange(update, nfsv4.NFS4ERR_NOENT)
		a.exchange(0, ok)
		a.exchange(update, nfsv4.NFS4ERR_NOENT)
	})
	t.Run("8 update but wrong verifier", func(t *testing.T) {
		a := newWorld(t).client("a")
		a.verf++
		a.exchange(update, nfsv4.NFS4ERR_NOT_SAME)
	})
	t.Run("9 update but wrong principal", func(t *testing.T) {
		a := newWorld(t).client("a")
		a.who = "stranger"
		a.exchange(update, nfsv4.NFS4ERR_PERM)
	})
	t.Run("unknown flags", func(t *testing.T) {
		a := newWorld(t).peer("a")
		a.exchange(nfsv4.EXCHGID4_FLAG_CONFIRMED_R, nfsv4.NFS4ERR_INVAL)
		a.exchange(4<<5, nfsv4.NFS4ERR_INVAL)
	})
	t.Run("client restart while a call runs", func(t *testing.T) {
		w := newWorld(t)
		a := w.client("a")
		call := a.sequence(0, 1, 0, ok).Call
		again := w.peer("a")
		again.verf = 2
		r := again.exchange(0, ok)
		again.id = r.ClientID
		again.create(r.Sequence, nfsv4.NFS4ERR_DELAY)
		w.s.Finish(w.now, call, nil)
		again.create(r.Sequence, ok)
	})
}

func TestClientLimit(t *testing.T) {
	w := newWorld(t)
	w.limit.Clients = 2
	w.restart()
	w.client("a")
	w.now = w.now.Add(time.Second)
	w.client("b")
	c := w.peer("c")
	c.exchange(0, nfsv4.NFS4ERR_DELAY)
	w.now = w.now.Add(lease)
	c.exchange(0, ok) // a, whose lease is over, makes room; b's is not over yet
	w.wantStored("b")
}

// RFC 8881, 18.36.4: sequence and replay of CREATE_SESSION.
func TestCreateSession(t *testing.T) {
	w := newWorld(t)
	a := w.peer("a")
	a.id = 12345
	a.create(1, nfsv4.NFS4ERR_STALE_CLIENTID)
	r := a.exchange(0, ok)
	a.id = r.ClientID
	a.create(r.Sequence-1, nfsv4.NFS4ERR_SEQ_MISORDERED)
	a.create(r.Sequence+1, nfsv4.NFS4ERR_SEQ_MISORDERED)

	a.who = "stranger"
	a.create(r.Sequence, nfsv4.NFS4ERR_CLID_INUSE) // cannot confirm another's client
	a.who = "root"
	first := a.create(r.Sequence, ok)
	if again := a.create(r.Sequence, ok); again != first {
		t.Errorf("replay gave %+v, the original %+v", again, first)
	}
	if n := w.s.Stats().Sessions; n != 1 {
		t.Fatalf("%d sessions after a replay, want 1", n)
	}
	if second := a.create(r.Sequence+1, ok); second.SessionID == first.SessionID {
		t.Error("two sessions with one id")
	}

	small := state.CreateSessionArgs{ClientID: a.id, Sequence: r.Sequence + 2, Fore: chan4k(4), Principal: a.who}
	small.Fore.MaxRequest = 20
	_, _, st := w.s.CreateSession(w.now, small)
	w.wantStatus("small request", st, nfsv4.NFS4ERR_TOOSMALL)
	small.Fore, small.Back = chan4k(4), chan4k(1)
	small.Back.MaxOps = 1 // no room for anything after CB_SEQUENCE
	_, _, st = w.s.CreateSession(w.now, small)
	w.wantStatus("small backchannel", st, nfsv4.NFS4ERR_TOOSMALL)
	flags := state.CreateSessionArgs{ClientID: a.id, Sequence: r.Sequence + 2, Fore: chan4k(4), Principal: a.who, Flags: 8}
	for range 2 { // an error that used the sequence is replayed too
		_, _, st := w.s.CreateSession(w.now, flags)
		w.wantStatus("unknown flag", st, nfsv4.NFS4ERR_INVAL)
	}

	large := state.CreateSessionArgs{ClientID: a.id, Sequence: r.Sequence + 3, Principal: a.who,
		Fore: state.ChannelAttrs{MaxRequest: 1 << 30, MaxResponse: 1 << 30, MaxCachedResponse: 1 << 30, MaxOps: 1 << 30, MaxSlots: 1 << 30}}
	res, _, st := w.s.CreateSession(w.now, large)
	w.wantStatus("large channel", st, ok)
	if want := (state.ChannelAttrs{MaxRequest: 1<<20 + 64<<10, MaxResponse: 1<<20 + 64<<10, MaxCachedResponse: 8 << 10, MaxOps: 128, MaxSlots: 64}); res.Fore != want {
		t.Errorf("negotiated %+v, want %+v", res.Fore, want)
	}
}

func TestSessionLimit(t *testing.T) {
	w := newWorld(t)
	w.limit.SessionsPerClient = 2
	w.restart()
	a := w.client("a")
	a.create(2, ok)
	a.create(3, nfsv4.NFS4ERR_NOSPC)
}

// RFC 8881, 2.10.6.1: the reply cache of a slot.
func TestSequence(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	a.sequence(0, 0, 0, nfsv4.NFS4ERR_SEQ_MISORDERED) // never used
	a.sequence(0, 2, 0, nfsv4.NFS4ERR_SEQ_MISORDERED)
	a.sequence(4, 1, 0, nfsv4.NFS4ERR_BADSLOT)
	call := a.sequence(0, 1, 77, ok).Call
	a.sequence(0, 1, 77, nfsv4.NFS4ERR_DELAY)          // a retry while it runs
	a.sequence(0, 1, 99, nfsv4.NFS4ERR_DELAY)          // a probe while it runs
	a.sequence(0, 2, 78, nfsv4.NFS4ERR_SEQ_MISORDERED) // the client may not go on
	other := a.sequence(1, 1, 0, ok).Call              // slots are independent
	w.s.Finish(w.now, other, nil)
	w.s.Finish(w.now, call, []byte("reply one"))

	replay := a.sequence(0, 1, 77, ok)
	if string(replay.Replay) != "reply one" || replay.Call != nil {
		t.Fatalf("replay %+v", replay)
	}
	a.sequence(0, 1, 78, nfsv4.NFS4ERR_SEQ_FALSE_RETRY)
	a.sequence(0, 3, 0, nfsv4.NFS4ERR_SEQ_MISORDERED)

	w.s.Finish(w.now, a.sequence(0, 2, 79, ok).Call, []byte("reply two"))
	if string(replay.Replay) != "reply one" {
		t.Errorf("a replay under way changed to %q", replay.Replay)
	}
	a.sequence(0, 1, 77, nfsv4.NFS4ERR_SEQ_MISORDERED)
	if got := a.sequence(0, 2, 79, ok).Replay; string(got) != "reply two" {
		t.Errorf("replay %q", got)
	}

	// Not cached: SEQUENCE succeeds, what follows is NFS4ERR_RETRY_UNCACHED_REP.
	w.s.Finish(w.now, a.sequence(0, 3, 80, ok).Call, nil)
	if r := a.sequence(0, 3, 80, ok); !r.Uncached || r.Call != nil || r.Replay != nil {
		t.Errorf("uncached retry %+v", r)
	}
	// A reply over the negotiated size is not cached either.
	w.s.Finish(w.now, a.sequence(0, 4, 81, ok).Call, bytes.Repeat([]byte("x"), 1025))
	if r := a.sequence(0, 4, 81, ok); !r.Uncached {
		t.Errorf("a reply that is too large was cached: %+v", r)
	}

	tiny := w.client("tiny")
	fore := chan4k(1)
	fore.MaxCachedResponse = 10
	made, eff, st := w.s.CreateSession(w.now, state.CreateSessionArgs{ClientID: tiny.id, Sequence: 2, Fore: fore, Principal: tiny.who})
	w.must(eff)
	w.wantStatus("CREATE_SESSION", st, ok)
	_, st = w.s.Sequence(w.now, state.SequenceArgs{SessionID: made.SessionID, Sequence: 1, CacheThis: true})
	w.wantStatus("no room to cache SEQUENCE itself", st, nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE)
	_, st = w.s.Sequence(w.now, state.SequenceArgs{SessionID: made.SessionID, Sequence: 1})
	w.wantStatus("not cached", st, ok)

	res, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: a.session, Slot: 0, Sequence: 5, HighestSlot: 4})
	w.wantStatus("highest slot", st, nfsv4.NFS4ERR_BAD_HIGH_SLOT)
	if res.Call != nil {
		t.Error("a refused SEQUENCE began a call")
	}
	a.session[0]++
	a.sequence(0, 5, 0, nfsv4.NFS4ERR_BADSESSION)
}

func TestReplyCacheIsBoundedAndFreed(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	for seq := uint32(1); seq <= 100; seq++ {
		for slot := range uint32(4) {
			w.s.Finish(w.now, a.sequence(slot, seq, 0, ok).Call, bytes.Repeat([]byte("x"), int(seq*10)))
			if seq%7 == 0 {
				a.sequence(slot, seq, 0, ok) // a replay takes the buffer away
			}
		}
	}
	if n := w.s.Stats().CachedBytes; n < 4*1000 || n > 4*2*1024 {
		t.Errorf("%d bytes cached by 4 slots of 1024", n)
	}
	a.destroy("DESTROY_SESSION", nil, ok)
	if n := w.s.Stats().CachedBytes; n != 0 {
		t.Errorf("%d bytes cached without a session", n)
	}
}

// RFC 8881, 18.37 and 18.50.
func TestDestroy(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	destroy := func(p state.Principal, want state.Status) {
		t.Helper()
		eff, st := w.s.DestroyClientID(w.now, a.id, p)
		w.must(eff)
		w.wantStatus("DESTROY_CLIENTID", st, want)
	}
	destroy("root", nfsv4.NFS4ERR_CLIENTID_BUSY)
	own := a.sequence(0, 1, 0, ok).Call
	foreign := a.sequence(1, 1, 0, ok).Call
	a.destroy("with another call running", own, nfsv4.NFS4ERR_DELAY)
	w.s.Finish(w.now, foreign, nil)
	a.destroy("from within", own, ok)
	w.s.Finish(w.now, own, []byte("late"))
	a.destroy("twice", nil, nfsv4.NFS4ERR_BADSESSION)

	destroy("stranger", nfsv4.NFS4ERR_WRONG_CRED)
	w.wantStored("a")
	destroy("root", ok)
	w.wantStored()
	destroy("root", nfsv4.NFS4ERR_STALE_CLIENTID)
}

// RFC 8881, 18.34 and 18.46.3 (status flags).
func TestBackchannelBinding(t *testing.T) {
	w := newWorld(t)
	a := w.peer("a")
	r := a.exchange(0, ok)
	res, _, st := w.s.CreateSession(w.now, state.CreateSessionArgs{ClientID: r.ClientID, Sequence: r.Sequence, Fore: chan4k(1), Back: chan4k(1),
		Principal: "root", Conn: 7, Flags: nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN})
	w.wantStatus("CREATE_SESSION", st, ok)
	if res.Flags != nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN {
		t.Errorf("flags %x", res.Flags)
	}
	seq := uint32(0)
	flags := func() uint32 {
		seq++
		r, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: res.SessionID, Sequence: seq})
		w.wantStatus("SEQUENCE", st, ok)
		w.s.Finish(w.now, r.Call, nil)
		return r.StatusFlags
	}
	const down = nfsv4.SEQ4_STATUS_CB_PATH_DOWN | nfsv4.SEQ4_STATUS_CB_PATH_DOWN_SESSION
	for _, step := range []struct {
		what string
		do   func()
		want uint32
	}{
		{"bound by CREATE_SESSION", func() {}, 0},
		{"another connection closed", func() { w.s.ConnClosed(8) }, 0},
		{"its connection closed", func() { w.s.ConnClosed(7) }, down},
		{"bound again", func() {
			dir, _, st := w.s.BindConn(w.now, res.SessionID, 9, "", nfsv4.CDFC4_FORE_OR_BOTH)
			if dir != nfsv4.CDFS4_BOTH || st != ok {
				t.Errorf("BIND_CONN_TO_SESSION: %v, %v", dir, st)
			}
		}, 0},
		{"bound to the fore channel only", func() {
			dir, _, st := w.s.BindConn(w.now, res.SessionID, 9, "", nfsv4.CDFC4_FORE)
			if dir != nfsv4.CDFS4_FORE || st != ok {
				t.Errorf("BIND_CONN_TO_SESSION: %v, %v", dir, st)
			}
		}, down},
	} {
		step.do()
		if got := flags(); got != step.want {
			t.Errorf("%s: status flags %x, want %x", step.what, got, step.want)
		}
	}
	if _, _, st := w.s.BindConn(w.now, res.SessionID, 9, "", 5); st != nfsv4.NFS4ERR_INVAL {
		t.Errorf("a direction that does not exist: %v", st)
	}
	if _, _, st := w.s.BindConn(w.now, state.SessionID{}, 9, "", nfsv4.CDFC4_FORE); st != nfsv4.NFS4ERR_BADSESSION {
		t.Errorf("a session that does not exist: %v", st)
	}
}

func TestDigest(t *testing.T) {
	request := func(tag string, seq, highest uint32, ops string) []byte {
		b := xdr.AppendString(nil, tag)
		b = xdr.AppendUint32(b, 1) // minor version
		b = xdr.AppendUint32(b, 3)
		b = xdr.AppendInt32(b, int32(nfsv4.OP_SEQUENCE))
		b = append(b, make([]byte, 16)...)
		for _, w := range []uint32{seq, 0, highest, 1} {
			b = xdr.AppendUint32(b, w)
		}
		return append(b, ops...)
	}
	ops := strings.Repeat("operations", 100)
	d := state.Digest(request("", 5, 0, ops), 5)
	for what, same := range map[string][]byte{
		"the same":             request("", 5, 0, ops),
		"another highest slot": request("", 5, 9, ops),
		"another tag":          request("retry", 5, 0, ops),
	} {
		if state.Digest(same, 5) != d {
			t.Errorf("%s: another digest", what)
		}
	}
	if state.Digest(request("", 5, 0, ops), 6) == d || state.Digest(request("", 5, 0, ops[1:]+"x"), 5) == d ||
		state.Digest(request("", 5, 0, ops[:999]), 5) == d || d == 0 {
		t.Error("different requests, same digest")
	}
	for n := range request("t", 5, 0, "") { // of requests that are cut off, only that it answers
		if state.Digest(request("t", 5, 0, "")[:n], 5) == 0 {
			t.Error("0 means unknown")
		}
	}
}
