package nodegroup

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// metadata is the state machines of shards 0 and 1 without replication.
type metadata struct {
	mu     sync.Mutex
	store  [2]*fsm.MemStore
	m      [2]*fsm.Machine
	index  uint64
	origin uint64
	seq    uint64
	// before, if set, is called with each command before it is applied.
	before func(*metapb.Command)
	// asked, if set, is called with each query before it is answered.
	asked func(*metapb.Query)
}

const (
	fsID  = 1
	shard = 1
)

func newMetadata(t testing.TB) *metadata {
	m := &metadata{}
	for i := range m.m {
		m.store[i] = fsm.NewMemStore()
		var err error
		if m.m[i], err = fsm.Open(m.store[i], fsm.Options{Shard: uint16(i), Cluster: []byte("test cluster id.")}); err != nil {
			t.Fatal(err)
		}
		m.must(t, uint16(i), &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: 2}}})
	}
	m.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_PutFileSystem{PutFileSystem: &metapb.PutFileSystem{Fs: &metapb.FileSystem{
		Id: fsID, Name: "default", Workspace: "default", Kind: "shared", Shard: shard, Pool: 1, State: metapb.FileSystemState_FS_ACTIVE, HashKey: make([]byte, 16)}}}})
	m.must(t, shard, &metapb.Command{Fs: fsID, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{RootMode: 0o777, HashKey: make([]byte, 16)}}})
	m.origin = m.must(t, shard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "gw", Incarnation: make([]byte, 16)}}}).GetOrigin().Origin
	return m
}

func (m *metadata) must(t testing.TB, shard uint16, c *metapb.Command) *metapb.Result {
	t.Helper()
	r, err := m.Apply(context.Background(), shard, c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *metadata) Apply(_ context.Context, shard uint16, c *metapb.Command) (*metapb.Result, error) {
	if m.before != nil {
		m.before(c)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index++
	c.Time = &metapb.Time{Sec: int64(m.index)}
	if m.origin != 0 && shard != clusterShard {
		m.seq++
		c.Id = &metapb.Identity{Origin: m.origin, Seq: m.seq}
	}
	enc, err := (&metapb.Entry{Format: 1, Commands: []*metapb.Command{c}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	r, err := m.m[shard].Apply(m.index, enc, m.store[shard])
	if err != nil {
		return nil, err
	}
	m.m[shard].Flushed()
	if k := vfs.Kind(r[0].Kind); k != vfs.KindOK {
		return nil, &vfs.Error{Kind: k, Op: "apply", Text: r[0].Text}
	}
	return r[0], nil
}

func (m *metadata) Query(_ context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	if m.asked != nil {
		m.asked(q)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := fsm.Query(m.store[shard], nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, &vfs.Error{Kind: k, Op: "query", Text: r.Text}
	}
	return r, nil
}

// rig is block servers on real sockets, state machines, and a manager whose clock the test owns.
type rig struct {
	t      *testing.T
	meta   *metadata
	stores map[uint32]*store.Store
	srv    map[uint32]*wire.Server
	done   map[uint32]chan struct{}
	now    time.Time
	retire time.Time // when it is next looked for groups to remove
	m      *Manager
	// hinted, if set, is what a store's hints are given to.
	hinted func(store uint32, keys []segment.Key)
}

// hints is the upkeep of a store, of which only hints are looked at.
type hints struct {
	server.Upkeep
	r  *rig
	id uint32
}

func (h hints) Hint(keys []segment.Key) { h.r.hinted(h.id, keys) }

// run runs a hinter until the test ends.
func run(t *testing.T, h *Hinter) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { h.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func newRig(t *testing.T, n, k, m, groups int) *rig { return newSizedRig(t, n, k, m, groups, nil) }

// newSizedRig bounds the capacity of some stores.
func newSizedRig(t *testing.T, n, k, m, groups int, capacity map[uint32]int64) *rig {
	r := &rig{t: t, meta: newMetadata(t), stores: map[uint32]*store.Store{}, srv: map[uint32]*wire.Server{}, done: map[uint32]chan struct{}{}, now: time.Now()}
	targets := make([]placement.Target, n)
	for i := range targets {
		id := uint32(i + 1)
		targets[i].Disk = id
		s, err := store.Open(t.Context(), store.Options{Dir: t.TempDir(), Cluster: segment.ID{1}, Create: true, SegmentSize: 4 << 20, Capacity: capacity[id], Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		r.stores[id] = s
		r.start(id)
	}
	pgs, err := placement.Static(targets, k, m, groups)
	if err != nil {
		t.Fatal(err)
	}
	pool := &metapb.Pool{Id: 1, Name: "default", K: uint32(k), M: uint32(m)}
	for _, pg := range pgs {
		g := &metapb.PlacementGroup{Id: pg.ID, Epoch: 1}
		for _, s := range pg.Slots {
			g.Slots = append(g.Slots, &metapb.Slot{Store: s.Target.Disk})
		}
		pool.Pgs = append(pool.Pgs, g)
	}
	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: pool}}})
	r.m = r.manager()
	r.retire = r.now.Add(r.m.o.RetireEvery)
	t.Cleanup(func() {
		r.m.reset()
		for id, s := range r.stores {
			r.stop(id)
			s.Close()
		}
	})
	return r
}

func (r *rig) manager() *Manager {
	return New(Options{
		Leads: func() bool { return true }, Meta: r.meta, Logger: quiet(), Now: func() time.Time { return r.now },
		ProbeTimeout: 10 * time.Second, RetireEvery: time.Minute, RetirePause: time.Microsecond,
		Connect: func(node, addr string) Conn { return dial(addr, blockstore.RoleMeta) },
	})
}

func dial(addr, role string) *wire.Client {
	sec := wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: "test", Roles: []string{role}}}
	return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Security: sec, Logger: quiet()})
}

func name(id uint32) string { return "n" + string(rune('0'+id)) }

// start brings the server of a store up, at a new address, and records it.
func (r *rig) start(id uint32) {
	r.t.Helper()
	addr := r.serveOnly(id)
	uuid := r.stores[id].Info().Store
	r.record(&metapb.Store{Id: id, Uuid: uuid[:], Node: name(id), Address: addr})
}

func (r *rig) serveOnly(id uint32) string {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	sec := wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name(id), Roles: []string{blockstore.RoleBlock}}}
	srv := wire.NewServer(server.New(map[uint32]*store.Store{id: r.stores[id]}, server.Options{Logger: quiet(), Upkeep: func(uint32) server.Upkeep {
		if r.hinted == nil {
			return nil
		}
		return hints{r: r, id: id}
	}}).Handle, wire.ServerOptions{Security: sec, Logger: quiet()})
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	r.srv[id], r.done[id] = srv, done
	return ln.Addr().String()
}

func (r *rig) record(s *metapb.Store) {
	r.t.Helper()
	r.meta.must(r.t, clusterShard, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: s}}})
}

func (r *rig) stop(id uint32) {
	if r.srv[id] != nil {
		r.srv[id].Close()
		<-r.done[id]
		r.srv[id] = nil
	}
}

// pass lets time pass, probe by probe.
func (r *rig) pass(d time.Duration) {
	for end := r.now.Add(d); r.now.Before(end); {
		r.now = r.now.Add(DefaultProbeEvery)
		r.m.step(r.t.Context())
		if !r.now.Before(r.retire) {
			r.retire = r.now.Add(r.m.o.RetireEvery)
			if err := r.m.retireGroups(r.t.Context()); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func (r *rig) pool() *metapb.Pool { return r.cluster().Pools[0] }

func (r *rig) cluster() *metapb.ClusterMapR {
	r.t.Helper()
	q, err := r.meta.Query(r.t.Context(), clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err != nil {
		r.t.Fatal(err)
	}
	return q.GetClusterMap()
}

// filled ends all filling, as the stores' upkeep does.
func (r *rig) filled() {
	r.t.Helper()
	c := &metapb.ChangePGs{Pool: 1}
	for _, g := range r.pool().Pgs {
		done := g.CloneVT()
		for _, s := range done.Slots {
			s.Filling, s.Previous = false, 0
		}
		if !proto.Equal(done, g) {
			c.Changes = append(c.Changes, &metapb.PGChange{ExpectEpoch: g.Epoch, Pg: done})
		}
	}
	if len(c.Changes) > 0 {
		r.meta.must(r.t, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: c}})
	}
}

// fallback counts the fallback groups by k, open and closed.
func (r *rig) fallback() (open, closed map[uint32]int) {
	open, closed = map[uint32]int{}, map[uint32]int{}
	for _, g := range r.pool().Pgs {
		switch {
		case g.K == 0:
		case g.State == metapb.PGState_PG_OPEN:
			open[g.K]++
		default:
			closed[g.K]++
		}
	}
	return open, closed
}
