package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// origin0 is one gateway's client of a shard 0.
type origin0 struct {
	*shard0
	id uint64
}

// gateway registers a gateway. One of the same name ends the former one.
func (s *shard0) gateway(name string, incarnation byte) *origin0 {
	s.t.Helper()
	inc := make([]byte, 16)
	inc[0] = incarnation
	s.origin = 0
	r, err := s.Apply(s.t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: inc,
	}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return &origin0{s, r.GetOrigin().GetOrigin()}
}

func (o *origin0) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if shard != clusterShard { // no namespace shard is there to have anything
		return &metapb.Result{}, nil
	}
	o.origin = o.id
	return o.shard0.Apply(ctx, shard, cmd)
}

func (o *origin0) NewNFSClients(ctx context.Context, n uint32) (uint64, error) {
	r, err := o.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{Count: n}}})
	return r.GetClients().GetFirst(), err
}

func (o *origin0) TakeNFSClients(ctx context.Context, ids []uint64) ([]uint64, error) {
	r, err := o.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_TakeClients{TakeClients: &metapb.TakeClients{Clients: ids}}})
	return r.GetClients().GetClients(), err
}

func (o *origin0) NFSClients(ctx context.Context, gateway string) ([]*metapb.ClientSessions, error) {
	r, err := o.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Clients{Clients: &metapb.ClientsQ{Gateway: gateway}}})
	return r.GetClients().GetClients(), err
}

func (o *origin0) NFSClientOf(ctx context.Context, session []byte) (*metapb.ClientSessions, error) {
	return o.client(ctx, &metapb.ClientQ{Session: session})
}

func (o *origin0) client(ctx context.Context, q *metapb.ClientQ) (*metapb.ClientSessions, error) {
	r, err := o.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Client{Client: q}})
	if err != nil {
		return nil, err
	}
	return r.GetClients().GetClients()[0], nil
}

func (o *origin0) NFSClientOfOwner(ctx context.Context, owner []byte) (*metapb.ClientSessions, error) {
	return o.client(ctx, &metapb.ClientQ{Owner: owner})
}

func (o *origin0) NFSClient(ctx context.Context, id uint64) (*metapb.ClientSessions, error) {
	return o.client(ctx, &metapb.ClientQ{Client: id})
}

// WishNFSClient has nobody to ask.
func (o *origin0) WishNFSClient(context.Context, uint64) error {
	return vfs.KindNotSupported.Err("wish")
}

func (o *origin0) GiveNFSClients(ctx context.Context, clients []*metapb.GivenClient) ([]uint64, error) {
	r, err := o.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_GiveClients{GiveClients: &metapb.GiveClients{Clients: clients}}})
	return r.GetClients().GetClients(), err
}

// Settle has nothing to wait for: Apply returns when all is done.
func (o *origin0) Settle(context.Context, uint16) error { return nil }

func (o *origin0) ReleaseNFSClient(ctx context.Context, id uint64) error {
	_, err := o.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveClient{RemoveClient: &metapb.RemoveClient{Client: id}}})
	if err == nil {
		_, err = o.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_ForgetClients{ForgetClients: &metapb.ForgetClients{Clients: []uint64{id}}}})
	}
	return err
}

// newShard0At is a shard 0 of the newest feature level.
func newShard0At(t *testing.T) *shard0 {
	s := newShard0(t)
	for level := s.fsm.Level() + 1; level <= fsm.Level; level++ {
		if _, err := s.Apply(t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level}}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newStore(o *origin0, name string) *sessionStore {
	return newSessionStore(o, name, []uint16{1}, slog.New(slog.DiscardHandler))
}

// find takes over the client that has a session.
func find(ctx context.Context, s *sessionStore, id state.SessionID) (state.ClientState, error) {
	c, err := s.ClientOf(ctx, id)
	if err != nil {
		return state.ClientState{}, err
	}
	return s.Take(ctx, c)
}

// Everything that a gateway was told of its clients is found by its next incarnation, and by others only when it is gone.
func TestSessionRecords(t *testing.T) {
	ctx := t.Context()
	meta := newShard0At(t)
	a := newStore(meta.gateway("gateway-1", 1), "gateway-1")
	must := func(err error, want vfs.Kind) {
		t.Helper()
		if vfs.KindOf(err) != want {
			t.Fatalf("%v, want kind %v", err, want)
		}
	}
	ids, err := a.NewClientIDs(ctx)
	must(err, vfs.KindOK)
	more, err := a.NewClientIDs(ctx)
	must(err, vfs.KindOK)
	if all := slices.Concat(ids, more); len(all) != 2*clientIDs || len(slices.Compact(slices.Sorted(slices.Values(all)))) != 2*clientIDs {
		t.Fatalf("client ids %v", all)
	}
	rec := state.ClientRecord{Owner: []byte("host \x00"), Verifier: [8]byte{1, 2}, Principal: "sys/0", ClientID: ids[0], Sequence: 3, Reclaimed: true}
	rec.Copies = []state.CopyRecord{{ID: vfs.StateID{1, 2}, Handle: []byte("handle")}, {ID: vfs.StateID{3}, Handle: []byte{0},
		CopyTarget:  state.CopyTarget{FS: 1 << 30, Ino: 1 << 60, Off: 7, Before: 0, Count: 1 << 50},
		CopyRequest: state.CopyRequest{Session: state.SessionID{9, 8}, Slot: 1023, Seq: 1<<40 + 5, Op: 3}}}
	chans := state.ChannelAttrs{MaxRequest: 1, MaxResponse: 2, MaxCachedResponse: 3, MaxOps: 4, MaxSlots: 5}
	s1 := state.SessionRecord{ID: state.SessionID{1}, Client: ids[0], Sequence: 2, Flags: 2, Fore: chans, Back: chans, CallbackProgram: 1 << 30}
	s1.Back.MaxSlots = 1
	s2 := s1
	s2.ID, s2.Sequence = state.SessionID{2}, 3
	first := rec
	first.Sequence, first.Reclaimed = 2, false
	must(a.PutSession(ctx, state.SessionPut{Client: first, Session: s1}), vfs.KindOK)
	newest := rec
	newest.CopiesVersion = 3
	must(a.PutClient(ctx, newest), vfs.KindOK)
	late := first // was made before RECLAIM_COMPLETE and two copies, and comes after them
	late.Copies, late.CopiesVersion = []state.CopyRecord{{ID: vfs.StateID{9}}}, 2
	late.Sequence = 3
	must(a.PutSession(ctx, state.SessionPut{Client: late, Session: s2}), vfs.KindOK)
	grown := s2 // what is older comes after it
	grown.Slots, grown.Version = 9, 5
	must(a.PutSession(ctx, state.SessionPut{Client: rec, Session: grown}), vfs.KindOK)
	s2.Slots, s2.Version = 7, 4
	must(a.PutSession(ctx, state.SessionPut{Client: rec, Session: s2}), vfs.KindOK)
	s2.Slots, s2.Version = 9, 0
	want := state.ClientState{Client: rec, Sessions: []state.SessionRecord{s1, s2}}

	b := newStore(meta.gateway("gateway-2", 1), "gateway-2")
	_, err = find(ctx, b, s1.ID)
	must(err, vfs.KindBusy)
	must(b.PutClient(ctx, rec), vfs.KindBusy)
	if got, err := b.Load(ctx); err != nil || len(got) != 0 {
		t.Fatalf("another gateway loads %+v, %v", got, err)
	}

	a = newStore(meta.gateway("gateway-1", 2), "gateway-1")
	got, err := a.Load(ctx)
	must(err, vfs.KindOK)
	if !reflect.DeepEqual(got, []state.ClientState{want}) {
		t.Fatalf("loaded %+v, want %+v", got, want)
	}
	// Any id may have been told to a client that has not come back yet.
	third, err := a.NewClientIDs(ctx)
	must(err, vfs.KindOK)
	for _, id := range third {
		if slices.Contains(ids, id) || slices.Contains(more, id) {
			t.Errorf("id %d is given out again", id)
		}
	}
	must(a.RemoveSession(ctx, s1), vfs.KindOK)
	must(a.RemoveSession(ctx, s1), vfs.KindOK)
	_, err = find(ctx, a, s1.ID)
	must(err, vfs.KindNotFound)
	want.Sessions = want.Sessions[1:]

	// The gateway ends; another one is asked for the session.
	if _, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: a.meta.(*origin0).id}}}); err != nil {
		t.Fatal(err)
	}
	found, err := find(ctx, b, s2.ID)
	must(err, vfs.KindOK)
	if !reflect.DeepEqual(found, want) {
		t.Fatalf("found %+v, want %+v", found, want)
	}
	must(b.PutClient(ctx, rec), vfs.KindOK)
	again := newStore(meta.gateway("gateway-1", 3), "gateway-1")
	if served, err := again.Retake(ctx); err != nil || served[ids[0]] || !served[third[0]] {
		t.Errorf("served after the other took the client: %v, %v", served, err)
	}
	must(again.RemoveClient(ctx, rec), vfs.KindOK) // not its own: nothing happens
	_, err = find(ctx, b, s2.ID)
	must(err, vfs.KindOK)
	must(b.RemoveClient(ctx, rec), vfs.KindOK)
	must(b.RemoveClient(ctx, rec), vfs.KindOK)
	_, err = find(ctx, b, s2.ID)
	must(err, vfs.KindNotFound)
	must(b.PutClient(ctx, rec), vfs.KindExpired)
}

// A gateway that gives a client up has it no more, and the next one finds what was given.
func TestGive(t *testing.T) {
	ctx := t.Context()
	meta := newShard0At(t)
	a, b := newStore(meta.gateway("a", 1), "a"), newStore(meta.gateway("b", 1), "b")
	ids, err := a.NewClientIDs(ctx)
	must := func(err error, want vfs.Kind) {
		t.Helper()
		if vfs.KindOf(err) != want {
			t.Fatalf("%v, want kind %v", err, want)
		}
	}
	must(err, vfs.KindOK)
	_, err = b.Take(ctx, ids[0]) // it is reserved only
	must(err, vfs.KindNotFound)
	rec := state.ClientRecord{Owner: []byte("host"), ClientID: ids[0], Sequence: 1, Reclaimed: true}
	s := state.SessionRecord{ID: state.SessionID{1}, Client: ids[0], Sequence: 1, Fore: state.ChannelAttrs{MaxSlots: 9}}
	must(a.PutSession(ctx, state.SessionPut{Client: rec, Session: s}), vfs.KindOK)
	for round := range 3 {
		_, err = b.Take(ctx, ids[0])
		must(err, vfs.KindBusy)
		if given, err := b.Give(ctx, ids[0], state.Handed{}); given || err != nil {
			t.Fatalf("another one gives it: %v, %v", given, err)
		}
		s.Last = []state.SlotRecord{{Slot: 0, Seq: 1<<32 + uint64(round), Final: true}, {Slot: 1, Seq: 1}, {Slot: 300, Seq: 1 << 62, Final: round == 1}}
		seqids := []state.StateSeqid{{State: vfs.StateID{1, 2}, Seqid: 7}, {State: vfs.StateID{11: 3}, Seqid: 1 << 31}}[:round]
		replies := []state.SlotReply{{Session: s.ID, Slot: 300, Seq: 1 << 62, Digest: 1 << 63, Reply: []byte("reply")}, {Session: s.ID, Reply: []byte{}}}[:round]
		unknown := s
		unknown.ID = state.SessionID{2}
		if given, err := a.Give(ctx, ids[0], state.Handed{Sessions: []state.SessionRecord{s, unknown}, Seqids: seqids, Replies: replies}); !given || err != nil {
			t.Fatalf("%v, %v", given, err)
		}
		must(a.PutSession(ctx, state.SessionPut{Client: rec, Session: s}), vfs.KindBusy)
		id, err := b.ClientOfOwner(ctx, rec.Owner)
		must(err, vfs.KindOK)
		got, err := b.Take(ctx, id)
		must(err, vfs.KindOK)
		if want := (state.ClientState{Client: rec, Sessions: []state.SessionRecord{s}, Seqids: got.Seqids, Replies: got.Replies}); !slices.Equal(got.Seqids, seqids) || len(replies) > 0 && !reflect.DeepEqual(got.Replies, replies) || !reflect.DeepEqual(got, want) {
			t.Fatalf("taken %+v, want %+v", got, want)
		}
		a, b = b, a
	}
}

// lateMeta does not know what became of the next hand-over, which is carried out when somebody waits for it.
type lateMeta struct {
	*origin0
	late func()
}

func (m *lateMeta) GiveNFSClients(ctx context.Context, clients []*metapb.GivenClient) ([]uint64, error) {
	m.late = func() {
		if given, err := m.origin0.GiveNFSClients(context.WithoutCancel(ctx), clients); err != nil || len(given) != len(clients) {
			panic(fmt.Sprint(given, err))
		}
	}
	return nil, vfs.KindUnknown.Err("give clients")
}

func (m *lateMeta) Settle(context.Context, uint16) error {
	if m.late != nil {
		m.late()
		m.late = nil
	}
	return nil
}

// A hand-over that is carried out late does not take away a client that came back meanwhile.
func TestTakenBackBeforeItWasGiven(t *testing.T) {
	ctx := t.Context()
	meta := newShard0At(t)
	late := &lateMeta{origin0: meta.gateway("a", 1)}
	a, b := newSessionStore(late, "a", []uint16{1}, slog.New(slog.DiscardHandler)), newStore(meta.gateway("b", 1), "b")
	ids, err := a.NewClientIDs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rec := state.ClientRecord{Owner: []byte("host"), ClientID: ids[0], Sequence: 1, Reclaimed: true}
	s := state.SessionRecord{ID: state.SessionID{1}, Client: ids[0], Sequence: 1, Fore: state.ChannelAttrs{MaxSlots: 9}}
	if err := a.PutSession(ctx, state.SessionPut{Client: rec, Session: s}); err != nil {
		t.Fatal(err)
	}
	if given, err := a.Give(ctx, ids[0], state.Handed{}); given || vfs.KindOf(err) != vfs.KindUnknown {
		t.Fatalf("given: %v, %v", given, err)
	}
	if _, err := a.Take(ctx, ids[0]); err != nil {
		t.Fatal(err)
	}
	_ = late.Settle(ctx, 0)
	if _, err := b.Take(ctx, ids[0]); vfs.KindOf(err) != vfs.KindBusy {
		t.Errorf("another one takes a client that is served: %v", err)
	}
}

// betweenMeta has something happen between a look at clients and their being taken.
type betweenMeta struct {
	*origin0
	between func()
}

func (m *betweenMeta) TakeNFSClients(ctx context.Context, ids []uint64) ([]uint64, error) {
	m.between()
	return m.origin0.TakeNFSClients(ctx, ids)
}

// A client that another gateway had while this one was away, and gave up before this one asks for it, is not as it is remembered here.
func TestRetakeOfWhatWasElsewhere(t *testing.T) {
	ctx := t.Context()
	meta := newShard0At(t)
	former := newStore(meta.gateway("a", 1), "a")
	ids, err := former.NewClientIDs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		rec := state.ClientRecord{Owner: []byte{byte(i)}, ClientID: ids[i], Sequence: 1, Reclaimed: true}
		s := state.SessionRecord{ID: state.SessionID{byte(i)}, Client: ids[i], Sequence: 1, Fore: state.ChannelAttrs{MaxSlots: 9}}
		if err := former.PutSession(ctx, state.SessionPut{Client: rec, Session: s}); err != nil {
			t.Fatal(err)
		}
	}
	m := &betweenMeta{origin0: meta.gateway("a", 2)} // its origin ends the former one
	b := newStore(meta.gateway("b", 1), "b")
	m.between = func() {
		got, err := b.Take(ctx, ids[0])
		if err != nil {
			t.Fatal(err)
		}
		got.Sessions[0].Last = []state.SlotRecord{{Slot: 0, Seq: 7, Final: true}}
		if given, err := b.Give(ctx, ids[0], state.Handed{Sessions: got.Sessions}); !given || err != nil {
			t.Fatal(given, err)
		}
	}
	served, err := newSessionStore(m, "a", []uint16{1}, slog.New(slog.DiscardHandler)).Retake(ctx)
	if err != nil || served[ids[0]] || !served[ids[1]] {
		t.Errorf("served: %v, %v", served, err)
	}
}

// slowMeta answers nothing about one client before it is let.
type slowMeta struct {
	*origin0
	slow uint64
	let  chan struct{}
}

func (m *slowMeta) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if cmd.GetPutClient().GetClient().GetId() == m.slow {
		<-m.let
	}
	return m.origin0.Apply(ctx, shard, cmd)
}

// A record that takes long is in the way of no other client, and what is stored of one client after another comes in order.
func TestRecordsWaitForTheirClient(t *testing.T) {
	ctx := t.Context()
	o := newShard0At(t).gateway("gateway-1", 1)
	first, err := o.NewNFSClients(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	m := &slowMeta{o, first, make(chan struct{})}
	s := newSessionStore(m, "gateway-1", []uint16{1}, slog.New(slog.DiscardHandler))
	slow := state.ClientRecord{Owner: []byte("slow"), Principal: "sys/0", ClientID: state.ClientID(first), Sequence: 1}
	other := state.ClientRecord{Owner: []byte("other"), Principal: "sys/0", ClientID: state.ClientID(first + 1), Sequence: 1}
	done := make(chan error, 3)
	for seq := range uint32(3) {
		rec := slow
		rec.Sequence += seq
		go func() { done <- s.PutClient(ctx, rec) }()
	}
	if err := s.PutClient(ctx, other); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewClientIDs(ctx); err != nil {
		t.Fatal(err)
	}
	close(m.let)
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	got, err := newStore(o.shard0.gateway("gateway-1", 2), "gateway-1").Load(ctx)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, c := range got {
		if c.Client.ClientID == slow.ClientID && c.Client.Sequence != 3 {
			t.Errorf("sequence %d is stored, want 3", c.Client.Sequence)
		}
	}
}

// Clients that were recorded before there were sessions in the store may reclaim, and are forgotten as they were recorded.
func TestRecordsFromBelow(t *testing.T) {
	ctx := t.Context()
	meta := newShard0At(t)
	o := meta.gateway("gateway-1", 1)
	rec := state.ClientRecord{Owner: []byte("old"), Verifier: [8]byte{1}, Principal: "sys/0", ClientID: 7<<32 | 1}
	if err := newClientStore(o, "gateway-1").PutClient(ctx, rec); err != nil {
		t.Fatal(err)
	}
	s := newStore(o, "gateway-1")
	got, err := s.Clients(ctx)
	if err != nil || !reflect.DeepEqual(got, []state.ClientRecord{rec}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := s.RemoveClient(ctx, rec); err != nil {
		t.Fatal(err)
	}
	if got, err := newStore(o, "gateway-1").Clients(ctx); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestKeepingNeedsTheLevel(t *testing.T) {
	old := newShard0(t)
	if ok, err := keeping(t.Context(), old, []uint16{1}); ok || err != nil {
		t.Errorf("below the level: %v, %v", ok, err)
	}
	if ok, err := keeping(t.Context(), newShard0At(t).gateway("g", 1), []uint16{1}); !ok || err != nil {
		t.Errorf("at the level: %v, %v", ok, err)
	}
}

func FuzzClientState(f *testing.F) {
	rec := state.ClientRecord{Owner: []byte("o"), ClientID: 5, Sequence: 9, Copies: []state.CopyRecord{{ID: vfs.StateID{1}, Handle: []byte("h")}}}
	p := pbClient(&rec)
	f.Add(p.Record, p.Verifier, encodeSession(&state.SessionRecord{ID: state.SessionID{1}, Client: 5}), make([]byte, 16))
	f.Add(p.Record, p.Verifier, encodeSession(&state.SessionRecord{ID: state.SessionID{1}, Client: 5, Slots: 14}), make([]byte, 16))
	f.Add(p.Record, p.Verifier, encodeSession(&state.SessionRecord{ID: state.SessionID{1}, Client: 5, Slots: 14, Last: []state.SlotRecord{{Slot: 1, Seq: 300, Final: true}, {Slot: 3, Seq: 1}}}), make([]byte, 16))
	f.Add([]byte{1}, []byte{}, []byte{1}, []byte{2})
	f.Fuzz(func(t *testing.T, record, verifier, session, id []byte) {
		cs, err := clientState(&metapb.ClientSessions{
			Client:   &metapb.ClientRecord{Id: 5, Record: record, Verifier: verifier},
			Sessions: []*metapb.SessionRecord{{Id: id, Client: 5, Record: session}},
		})
		if err != nil {
			if vfs.KindOf(err) != vfs.KindIncompatible {
				t.Fatal(err)
			}
			return
		}
		back, again := pbClient(&cs.Client), encodeSession(&cs.Sessions[0]) // with slots it is longer than without
		if !slices.Equal(back.Record[:clientRecordLen-1], record[:clientRecordLen-1]) || !slices.Equal(back.Record[clientRecordLen:], record[clientRecordLen:]) ||
			len(again) < sessionRecordLen || !slices.Equal(again[:sessionRecordLen], session[:sessionRecordLen]) {
			t.Errorf("%+v is not what it was made from", cs)
		}
		// What follows may have been written otherwise, with numbers longer than they need to be, and means the same.
		same, err := clientState(&metapb.ClientSessions{
			Client:   &metapb.ClientRecord{Id: 5, Record: record, Verifier: verifier},
			Sessions: []*metapb.SessionRecord{{Id: id, Client: 5, Record: again}},
		})
		if err != nil || !reflect.DeepEqual(same, cs) {
			t.Errorf("%+v becomes %+v, %v", cs, same, err)
		}
	})
}
