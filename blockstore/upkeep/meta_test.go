package upkeep

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// machine is a shard without replicas: the real state machine on a store in memory.
type machine struct {
	store *fsm.MemStore
	fsm   *fsm.Machine
	index uint64
}

// metadata is shard 0 and one namespace shard.
type metadata struct {
	mu     sync.Mutex // guards the following
	shards map[uint16]*machine

	// onQuery, if set, is called before each query; an error is its answer.
	onQuery func(shard uint16, q *metapb.Query) error
	// amend, if set, may change what a query answered.
	amend func(shard uint16, q *metapb.Query, r *metapb.QueryResult)
}

func newMetadata(t testing.TB, newest uint32) *metadata {
	m := &metadata{shards: map[uint16]*machine{}}
	for _, id := range []uint16{clusterShard, testShard} {
		x := &machine{store: fsm.NewMemStore()}
		var err error
		if x.fsm, err = fsm.Open(x.store, fsm.Options{Shard: id, Cluster: testCluster[:]}); err != nil {
			t.Fatal(err)
		}
		m.shards[id] = x
		for level := uint32(2); level <= newest; level++ {
			m.must(t, id, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level}}})
		}
	}
	m.must(t, testShard, &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o777, HashKey: bytes.Repeat([]byte{9}, 16),
	}}})
	return m
}

func (m *metadata) must(t testing.TB, shard uint16, cmd *metapb.Command) *metapb.Result {
	t.Helper()
	r, err := m.Apply(context.Background(), shard, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Apply implements Metadata.
func (m *metadata) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.shards[shard]
	cmd.Time = &metapb.Time{Sec: 1}
	enc, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	x.index++
	rs, err := x.fsm.Apply(x.index, enc, x.store)
	if err != nil {
		return nil, err
	}
	x.fsm.Flushed()
	if k := vfs.Kind(rs[0].Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "meta", "%s", rs[0].Text)
	}
	return rs[0], nil
}

// Query implements Metadata. A shard that does not exist does not answer.
func (m *metadata) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	m.mu.Lock()
	hook, amend, x := m.onQuery, m.amend, m.shards[shard]
	m.mu.Unlock()
	if hook != nil {
		if err := hook(shard, q); err != nil {
			return nil, err
		}
	}
	if x == nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, "meta", "shard %d does not answer", shard)
	}
	m.mu.Lock()
	snap := x.store.Snapshot()
	m.mu.Unlock()
	r := fsm.Query(snap, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "meta", "%s", r.Text)
	}
	if amend != nil {
		amend(shard, q, r)
	}
	return r, nil
}

func (m *metadata) hook(f func(shard uint16, q *metapb.Query) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onQuery = f
}

func (m *metadata) setAmend(f func(shard uint16, q *metapb.Query, r *metapb.QueryResult)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.amend = f
}
