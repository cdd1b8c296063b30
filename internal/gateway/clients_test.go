package gateway

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// shard0 is the real state machine of shard 0 on a store in memory, and one
// registered origin's client of it.
type shard0 struct {
	t      testing.TB
	store  *fsm.MemStore
	fsm    *fsm.Machine
	index  uint64
	seq    uint64
	origin uint64
}

func newShard0(t testing.TB) *shard0 {
	s := &shard0{t: t, store: fsm.NewMemStore()}
	var err error
	if s.fsm, err = fsm.Open(s.store, fsm.Options{Cluster: []byte("0123456789abcdef")}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Apply(t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "g", Incarnation: make([]byte, 16),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	s.origin = r.GetOrigin().GetOrigin()
	return s
}

func (s *shard0) Apply(ctx context.Context, _ uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.seq++
	s.index++
	cmd.Time = &metapb.Time{Sec: time.Now().Unix()}
	if s.origin != 0 {
		cmd.Id = &metapb.Identity{Origin: s.origin, Seq: s.seq}
	}
	entry, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	rs, err := s.fsm.Apply(s.index, entry, s.store)
	if err != nil {
		return nil, err
	}
	s.fsm.Flushed()
	if k := vfs.Kind(rs[0].Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "apply", "%s", rs[0].Text)
	}
	return rs[0], nil
}

func (s *shard0) Query(_ context.Context, _ uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	r := fsm.Query(s.store, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "query", "%s", r.Text)
	}
	return r, nil
}

func TestClientRecords(t *testing.T) {
	meta := newShard0(t)
	ctx := t.Context()
	store := newClientStore(meta, "gateway-1")
	a1 := state.ClientRecord{Owner: []byte("host a"), Verifier: [8]byte{1, 2}, Principal: "sys:0", ClientID: 7}
	b := state.ClientRecord{Owner: []byte("host b\x00"), Verifier: [8]byte{3}, ClientID: 1<<63 + 8}
	for _, rec := range []state.ClientRecord{a1, b} {
		if err := store.PutClient(ctx, rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := newClientStore(meta, "gateway-2").PutClient(ctx, state.ClientRecord{Owner: []byte("elsewhere")}); err != nil {
		t.Fatal(err)
	}

	// The next incarnation of the gateway finds its own clients, whole.
	store = newClientStore(meta, "gateway-1")
	got, err := store.Clients(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want := []state.ClientRecord{a1, b}; !reflect.DeepEqual(got, want) {
		t.Fatalf("recorded %+v, want %+v", got, want)
	}

	// A client that came back is not forgotten because its former self is.
	a2 := a1
	a2.ClientID = 9
	if err := store.PutClient(ctx, a2); err != nil {
		t.Fatal(err)
	}
	for _, rec := range []state.ClientRecord{a1, b, b} {
		if err := store.RemoveClient(ctx, rec); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = store.Clients(ctx); err != nil || !reflect.DeepEqual(got, []state.ClientRecord{a2}) {
		t.Fatalf("recorded %+v (%v), want only %+v", got, err, a2)
	}

	// A change does not end with the call that asked for it.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := store.RemoveClient(gone, a2); err != nil {
		t.Fatal(err)
	}
	if got, err = store.Clients(ctx); err != nil || len(got) != 0 {
		t.Fatalf("recorded %+v (%v), want none", got, err)
	}
}

func TestUnknownClientRecord(t *testing.T) {
	for _, raw := range [][]byte{nil, {1}, make([]byte, 17), append([]byte{2}, make([]byte, 16)...)} {
		if _, err := decodeClient(&metapb.NFSClient{Owner: []byte("x"), Record: raw}); vfs.KindOf(err) != vfs.KindIncompatible {
			t.Errorf("record %x: %v, want an error of kind incompatible", raw, err)
		}
	}
}
