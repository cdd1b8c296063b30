package state_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// slotWorld is a server with the store that outlives it, and one client of it that follows RFC 8881, 2.10.6.1.
type slotWorld struct {
	t   *testing.T
	rng *rand.Rand
	now time.Time
	s   *state.State

	// The store, and what file systems remember of mutations: of each slot the newest.
	clients  map[state.ClientID]state.ClientRecord
	sessions map[state.SessionID]state.SessionRecord
	outcomes map[uint32]outcome
	handed   map[state.ClientID][]state.SlotReply
	ids      state.ClientID
	failing  bool
	pending  []state.Effects // of Tick, to be applied later

	// The client. It drops its own slots when it is told of fewer, as Linux does, or keeps them.
	session         state.SessionID
	client          state.ClientID
	drops           bool
	highest, target uint32
	slots           map[uint32]*clientSlot
	requests        int
	answers         []answer // on their way, in order
	ballast         []state.SessionID
	peer            state.ClientID
	peerSequence    uint32

	done  map[int]int  // how often each request was carried out
	again map[int]bool // those that were done by a server that is dead, and left no trace
	late  []copied     // requests that were given up with their connection, and may arrive all the same

	moves, refused                 int
	freed, grown, replayed, resent int
}

type outcome struct {
	seq     uint64
	request int
}

// clientSlot is a slot as the client knows it.
type clientSlot struct {
	seq     uint32
	request int    // 0: none is outstanding
	bare    bool   // a WRITE: nothing remembers that the request was carried out
	changes bool   // as far as its server knows
	highest uint32 // sa_highest_slotid of the request, which may arrive late
	arrived *state.Call
	carried bool
	kept    bool // its reply is kept by a server that lives, or went with the client
	maybe   bool // it was, before a crash
}

// copied is a request that is on its way twice.
type copied struct {
	slot, seq, highest uint32
	request            int
}

type answer struct {
	slot, seq, highest, target uint32
}

var slotLimits = state.Limits{Slots: 8, MaxSlots: 16, ReplyCache: 40 * (160 + 1024), SessionsPerClient: 64}

func (w *slotWorld) start() {
	w.s = state.New(state.Config{Lease: lease, Boot: 7, Kept: true, Limits: slotLimits}, w.now)
	w.ids += 8
	for i := range state.ClientID(8) {
		w.s.AddIDs([]state.ClientID{w.ids - i})
	}
	for _, c := range w.clients {
		a := state.Adoption{ClientState: state.ClientState{Client: c, Replies: w.handed[c.ClientID]}, Removals: w.s.Removals(), Slots: map[state.SessionID][]vfs.SlotSeq{}}
		for id, ss := range w.sessions {
			ss.Version = 0 // is not kept
			w.sessions[id] = ss
			if ss.Client == c.ClientID {
				a.Sessions = append(a.Sessions, ss)
			}
		}
		for n, o := range w.outcomes {
			a.Slots[w.session] = append(a.Slots[w.session], vfs.SlotSeq{Slot: n, Seq: o.seq})
		}
		if _, again := w.s.Adopt(w.now, a); again {
			w.t.Fatal("adopt again")
		}
	}
}

// num is a random number of lo to hi. what says what for.
func (w *slotWorld) num(what string, lo, hi int) int { return lo + w.rng.IntN(hi-lo+1) }

var errStore = errors.New("store is down")

func (w *slotWorld) fails() bool { return w.failing && w.num("store fails", 0, 2) == 0 }

func (w *slotWorld) PutClient(_ context.Context, r state.ClientRecord) error {
	w.clients[r.ClientID] = r
	return nil
}
func (w *slotWorld) RemoveClient(_ context.Context, r state.ClientRecord) error {
	w.t.Fatalf("client %d ended", r.ClientID)
	return nil
}
func (w *slotWorld) Clients(context.Context) ([]state.ClientRecord, error)  { return nil, nil }
func (w *slotWorld) NewClientIDs(context.Context) ([]state.ClientID, error) { return nil, nil }
func (w *slotWorld) Load(context.Context) ([]state.ClientState, error)      { return nil, nil }
func (w *slotWorld) CloseFile(context.Context, state.FileClose)             {}
func (w *slotWorld) Share(context.Context, state.FileShare) error           { return nil }
func (w *slotWorld) Unshare(context.Context, state.FileClosing) error       { return nil }
func (w *slotWorld) ClientOf(context.Context, state.SessionID) (state.ClientID, error) {
	return 0, errStore
}
func (w *slotWorld) ClientOfOwner(context.Context, []byte) (state.ClientID, error) {
	return 0, errStore
}
func (w *slotWorld) Take(context.Context, state.ClientID) (state.ClientState, error) {
	return state.ClientState{}, errStore
}
func (w *slotWorld) Wish(context.Context, state.ClientID) error { return errStore }
func (w *slotWorld) Give(context.Context, state.ClientID, state.Handed) (bool, error) {
	return false, errStore
}

func (w *slotWorld) PutSession(_ context.Context, p state.SessionPut) error {
	if w.fails() {
		return errStore
	}
	if old, ok := w.sessions[p.Session.ID]; !ok || old.Version <= p.Session.Version {
		w.sessions[p.Session.ID] = p.Session
		w.clients[p.Client.ClientID] = p.Client
	}
	if w.fails() { // it was stored, but nobody was told
		return errStore
	}
	return nil
}

func (w *slotWorld) RemoveSession(_ context.Context, r state.SessionRecord) error {
	delete(w.sessions, r.ID)
	return nil
}

func (w *slotWorld) ReleaseSlots(_ context.Context, g state.SlotsGone) error {
	if g.Session != w.session {
		return nil
	}
	if w.fails() {
		return vfs.KindNotSupported.Err("release slots")
	}
	maps.DeleteFunc(w.outcomes, func(n uint32, o outcome) bool { return n >= g.First && o.seq < g.Below })
	if w.fails() {
		return errStore
	}
	return nil
}

func (w *slotWorld) must(eff state.Effects) {
	failing := w.failing
	w.failing = false
	if err := eff.Apply(context.Background(), w, w); err != nil {
		w.t.Fatal(err)
	}
	w.failing = failing
}

// connect makes a client with a session.
func (w *slotWorld) connect(owner string) (state.ClientID, state.SessionID) {
	r, eff, st := w.s.ExchangeID(w.now, state.ExchangeIDArgs{Owner: []byte(owner), Principal: "root"})
	w.must(eff)
	if st != ok {
		w.t.Fatal(st)
	}
	made, eff, st := w.s.CreateSession(w.now, state.CreateSessionArgs{ClientID: r.ClientID, Sequence: r.Sequence, Fore: chan4k(64), Principal: "root"})
	w.must(eff)
	if st != ok {
		w.t.Fatal(st)
	}
	w.highest = made.Fore.MaxSlots - 1
	return r.ClientID, made.SessionID
}

func (w *slotWorld) highestUsed() (n uint32) {
	for i, sl := range w.slots {
		if sl.request != 0 {
			n = max(n, i)
		}
	}
	return n
}

// send begins a request on a slot that is free.
func (w *slotWorld) send() {
	var free []uint32
	for i := range w.target + 1 {
		if w.slots[i] == nil {
			w.slots[i] = &clientSlot{}
		}
		if w.slots[i].request == 0 {
			free = append(free, i)
		}
	}
	if len(free) == 0 {
		return
	}
	n := free[0]
	if w.num("not the lowest", 0, 3) == 0 {
		n = free[w.num("slot", 0, len(free)-1)]
	}
	sl := w.slots[n]
	w.requests++
	sl.seq++
	sl.request, sl.arrived, sl.carried, sl.kept, sl.maybe = w.requests, nil, false, false, false
	sl.bare = w.num("bare", 0, 2) == 0
	sl.changes = sl.bare || w.num("changes", 0, 1) == 0
	sl.highest = w.highestUsed()
	if w.num("more than in use", 0, 3) == 0 {
		sl.highest = uint32(w.num("highest", int(sl.highest), int(max(sl.highest, w.target))))
	}
}

// outstanding is a slot with a request that ok says.
func (w *slotWorld) outstanding(which string, ok func(*clientSlot) bool) (uint32, *clientSlot) {
	var list []uint32
	for n, sl := range w.slots {
		if sl.request != 0 && ok(sl) {
			list = append(list, n)
		}
	}
	if len(list) == 0 {
		return 0, nil
	}
	slices.Sort(list)
	n := list[w.num(which, 0, len(list)-1)]
	return n, w.slots[n]
}

// arrive has a request come to the server, for the first time or again.
func (w *slotWorld) arrive() {
	n, sl := w.outstanding("arrives", func(sl *clientSlot) bool { return sl.arrived == nil })
	if sl == nil {
		return
	}
	res, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: w.session, Slot: n, Sequence: sl.seq, HighestSlot: sl.highest,
		CacheThis: w.num("cached", 0, 1) == 0, Digest: uint64(sl.request)})
	switch {
	case st == nfsv4.NFS4ERR_DELAY:
		return
	case st != ok:
		w.t.Fatalf("request %d on slot %d, seq %d, of %d, told %d and %d: %s", sl.request, n, sl.seq, sl.highest, w.highest, w.target, nfsv4.Nfsstat4_name[st])
	case res.Call == nil && res.Uncached && sl.bare:
		w.t.Fatalf("request %d on slot %d is answered that its reply is not kept: a client in a kernel makes another call of it, which undoes what others have written since", sl.request, n)
	case res.Call == nil: // of a retry
		if got := string(res.Replay); got == "" && sl.kept || got != "" && (!sl.kept && !sl.maybe || got != reply(sl.request)) {
			w.t.Fatalf("request %d on slot %d is answered %q, kept: %v", sl.request, n, got, sl.kept)
		}
		w.replayed++
		w.answers = append(w.answers, answer{n, sl.seq, res.HighestSlot, res.TargetHighestSlot})
		return
	}
	if sl.kept {
		w.t.Fatalf("request %d on slot %d, whose reply is kept, is carried out again", sl.request, n)
	}
	sl.arrived, sl.carried = res.Call, false
}

func reply(request int) string { return fmt.Sprint("reply of ", request) }

// carryOut makes the mutation of a request, unless its outcome is remembered.
func (w *slotWorld) carryOut(n uint32, sl *clientSlot) {
	if sl.carried {
		return
	}
	sl.carried = true
	seq := sl.arrived.Sequence
	switch o, known := w.outcomes[n]; {
	case known && seq < o.seq:
		w.t.Fatalf("request %d on slot %d has seq %x, request %d had %x", sl.request, n, seq, o.request, o.seq)
	case known && seq == o.seq && o.request != sl.request:
		w.t.Fatalf("request %d on slot %d has the seq of request %d", sl.request, n, o.request)
	case known && seq == o.seq:
		return
	}
	if sl.bare {
		sl.arrived.Final = true
	} else {
		w.outcomes[n] = outcome{seq, sl.request}
	}
	if w.again[sl.request] {
		delete(w.again, sl.request)
		return
	}
	if w.done[sl.request]++; w.done[sl.request] > 1 {
		w.t.Fatalf("request %d was carried out twice", sl.request)
	}
}

// finish answers a request.
func (w *slotWorld) finish() {
	n, sl := w.outstanding("finishes", func(sl *clientSlot) bool { return sl.arrived != nil })
	if sl == nil {
		return
	}
	w.finishOn(n, sl)
}

func (w *slotWorld) finishOn(n uint32, sl *clientSlot) {
	w.carryOut(n, sl)
	highest, target := w.s.Slots(sl.arrived)
	sl.arrived.Changes = sl.changes
	sl.kept = sl.arrived.CacheThis || sl.changes
	w.s.Finish(w.now, sl.arrived, []byte(reply(sl.request)))
	w.answers = append(w.answers, answer{n, sl.seq, highest, target})
	sl.arrived = nil
}

// receive is the client's turn with the first answer.
func (w *slotWorld) receive() {
	if len(w.answers) == 0 {
		return
	}
	a := w.answers[0]
	w.answers = w.answers[1:]
	sl := w.slots[a.slot]
	if sl == nil || sl.request == 0 || sl.seq != a.seq { // of a second try
		return
	}
	if w.done[sl.request] != 1 {
		w.t.Fatalf("request %d is answered and was carried out %d times", sl.request, w.done[sl.request])
	}
	if sl.arrived != nil { // a copy that came late is being carried out again
		w.carryOut(a.slot, sl)
		w.s.Finish(w.now, sl.arrived, nil)
		sl.arrived = nil
	}
	sl.request = 0
	if a.highest > w.highest {
		w.grown++
	}
	if a.highest < w.highest && w.highestUsed() <= a.highest {
		w.freed++
		w.late = slices.DeleteFunc(w.late, func(c copied) bool { return c.slot > a.highest }) // the slot begins anew
		if w.drops {
			maps.DeleteFunc(w.slots, func(n uint32, _ *clientSlot) bool { return n > a.highest })
		}
	}
	w.highest, w.target = a.highest, a.target
}

// disconnect loses what is on its way; the client sends again what has no answer.
func (w *slotWorld) disconnect() {
	w.answers = nil
	for _, n := range slices.Sorted(maps.Keys(w.slots)) {
		sl := w.slots[n]
		if sl.request != 0 {
			w.late = append(w.late, copied{n, sl.seq, sl.highest, sl.request})
		}
		if sl.request != 0 && sl.arrived == nil {
			w.resent++
			sl.highest = w.highestUsed() // it is encoded again
		}
	}
}

// crash starts the server again.
func (w *slotWorld) crash() {
	w.pending = nil
	for _, n := range slices.Sorted(maps.Keys(w.slots)) {
		sl := w.slots[n]
		if sl.arrived != nil && w.num("was done", 0, 1) == 0 {
			w.carryOut(n, sl)
		}
		sl.arrived = nil
		sl.kept, sl.maybe = false, sl.kept || sl.maybe
		if sl.request != 0 && sl.bare && w.done[sl.request] > 0 { // what it did may be lost, and is done again
			w.again[sl.request] = true
		}
	}
	w.disconnect()
	w.late = nil // they went with the connections to that server
	w.start()
}

// move has another server go on with the clients, or nearly.
func (w *slotWorld) move() {
	for _, id := range []state.ClientID{w.peer, w.client} {
		quiet, going := w.s.BeginLeave(id)
		if !going {
			w.t.Fatalf("client %d cannot leave", id)
		}
		if _, twice := w.s.BeginLeave(id); twice {
			w.t.Fatalf("client %d leaves twice", id)
		}
		if id == w.client {
			res, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: w.session, Sequence: 1 << 30})
			if res.Leaving == nil || st != nfsv4.NFS4ERR_DELAY {
				w.t.Fatalf("a request of a client that leaves: %v, %v", st, res.Leaving)
			}
		}
		for {
			n, sl := w.outstanding("ends", func(sl *clientSlot) bool { return sl.arrived != nil })
			if sl == nil || id == w.peer {
				break
			}
			select {
			case <-quiet:
				w.t.Fatal("the client is quiet, and a call runs")
			default:
			}
			w.finishOn(n, sl)
		}
		select {
		case <-quiet:
		default:
			w.t.Fatal("no call runs, and the client is not quiet")
		}
		if w.num("stays", 0, 3) == 0 {
			over := w.s.LeavingClient(id)
			w.s.Stay(w.peer)
			w.s.Stay(id)
			<-over
			return
		}
	}
	for i := range w.pending { // what was begun ends before
		_ = w.pending[i].Apply(context.Background(), w, w)
	}
	w.pending = nil
	for _, id := range []state.ClientID{w.peer, w.client} {
		h := w.s.Leaving(id)
		w.handed[id] = h.Replies
		for _, r := range h.Sessions {
			if _, ok := w.sessions[r.ID]; ok {
				w.sessions[r.ID] = r
			}
		}
		eff := w.s.Left(id)
		if w.s.Serves(id) || len(eff.Forget)+len(eff.Ended)+len(eff.Record) > 0 {
			w.t.Fatalf("client %d has left: %+v", id, eff)
		}
	}
	w.moves++
	if w.num("address", 0, 1) == 0 {
		w.disconnect()
	}
	w.start()
}

// arriveLate has a request come that was sent again since.
func (w *slotWorld) arriveLate() {
	if len(w.late) == 0 {
		return
	}
	i := w.num("late", 0, len(w.late)-1)
	c := w.late[i]
	w.late = slices.Delete(w.late, i, i+1)
	res, _ := w.s.Sequence(w.now, state.SequenceArgs{SessionID: w.session, Slot: c.slot, Sequence: c.seq, HighestSlot: c.highest, Digest: uint64(c.request)})
	if res.Call == nil {
		w.refused++
		return
	}
	sl := w.slots[c.slot]
	if o := w.outcomes[c.slot]; sl != nil && sl.request != c.request && o.request == c.request && o.seq == res.Call.Sequence { // only tells its outcome again
		w.s.Finish(w.now, res.Call, nil)
		return
	}
	if sl == nil || sl.request != c.request {
		w.t.Fatalf("request %d on slot %d came late, after its answer, and is carried out", c.request, c.slot)
	}
	sl.arrived, sl.carried = res.Call, false
}

// other uses and ends other sessions, so that memory is short or not.
func (w *slotWorld) other() {
	if len(w.ballast) > 0 && w.num("less", 0, 2) == 0 {
		i := w.num("which", 0, len(w.ballast)-1)
		eff, st := w.s.DestroySession(w.now, w.ballast[i], nil)
		w.must(eff)
		if st == ok {
			w.ballast = slices.Delete(w.ballast, i, i+1)
		}
		return
	}
	made, eff, st := w.s.CreateSession(w.now, state.CreateSessionArgs{ClientID: w.peer, Sequence: w.peerSequence + 1, Fore: chan4k(64), Principal: "root"})
	w.must(eff)
	switch st {
	case ok:
		w.peerSequence++
		w.ballast = append(w.ballast, made.SessionID)
	case nfsv4.NFS4ERR_DELAY: // no memory: the sequence does not count
	default:
		w.t.Fatal(nfsv4.Nfsstat4_name[st])
	}
}

// TestSlotsModel: a client that follows the rules is never refused whatever the server does about its slots, however both are interrupted and whichever server goes on; each of its
// requests is carried out once, and none after its answer. Others, that give nothing back, do not have more memory than there is.
func TestSlotsModel(t *testing.T) {
	var freed, grown, replayed, resent, crashes, moves, refused int
	for seed := range uint64(slotSeeds) {
		w := newSlotWorld(t)
		w.rng = rand.New(rand.NewPCG(seed, 0))
		crashes += w.run(seed)
		freed, grown, replayed, resent = freed+w.freed, grown+w.grown, replayed+w.replayed, resent+w.resent
		moves, refused = moves+w.moves, refused+w.refused
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d times fewer slots, %d times more, %d replays, %d sent again, %d crashes, %d moves, %d came late", freed, grown, replayed, resent, crashes, moves, refused)
	if freed == 0 || grown == 0 || replayed == 0 || resent == 0 || crashes == 0 || moves == 0 || refused == 0 {
		t.Error("not everything happened")
	}
}

const (
	slotSeeds = 300
	slotSteps = 1500
)

func (w *slotWorld) run(seed uint64) (crashes int) {
	defer func() {
		if w.t.Failed() {
			w.t.Logf("seed %d", seed)
		}
	}()
	w.drops = seed%2 == 1
	w.failing = seed%4 >= 2
	w.peer, _ = w.connect("others")
	w.peerSequence = 1
	w.client, w.session = w.connect("client")
	w.target = w.highest
	for range slotSteps {
		switch k := w.num("step", 0, 99); {
		case k < 30:
			w.send()
		case k < 50:
			w.arrive()
		case k < 65:
			w.finish()
		case k < 80:
			w.receive()
		case k < 85:
			w.other()
		case k < 90:
			w.pending = append(w.pending, w.s.Tick(w.now))
		case k < 95:
			for i := range w.pending {
				_ = w.pending[i].Apply(context.Background(), w, w)
			}
			w.pending = nil
		case k < 97:
			w.disconnect()
			w.arriveLate()
		case k == 98:
			w.arriveLate()
		case k == 99 && w.num("move", 0, 1) == 0:
			w.move()
		case k == 97 && w.num("crash", 0, 2) == 0:
			crashes++
			w.crash()
		}
		if st := w.s.Stats(); st.SlotBytes > slotLimits.ReplyCache || st.SlotBytes < st.CachedBytes {
			w.t.Fatalf("%d bytes for slots, %d for replies, of %d", st.SlotBytes, st.CachedBytes, slotLimits.ReplyCache)
		}
	}
	// All is answered in the end.
	w.failing = false
	for range 200 {
		for range w.slots {
			w.arrive()
			w.finish()
			w.receive()
		}
		w.must(w.s.Tick(w.now))
		if _, sl := w.outstanding("left", func(*clientSlot) bool { return true }); sl == nil {
			return crashes
		}
		w.disconnect()
	}
	w.t.Fatal("requests are never answered")
	return crashes
}
