package upkeep

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testFS    = 7
	testShard = 3 // the namespace shard
	testPool  = 1
)

var testCluster = segment.ID{0xc1}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// node is a block server with one store and its keeper.
type node struct {
	r      *rig
	id     uint32
	name   string
	o      store.Options
	store  *store.Store
	server *wire.Server
	addr   string
	done   chan error
	keeper *Keeper

	mu  sync.Mutex
	cut func(call *wire.Call) error // if set, is asked before each call
}

// rig is a cluster: real state machines, stores, servers and sockets.
type rig struct {
	t     testing.TB
	ctx   context.Context
	meta  *metadata
	nodes []*node // store ids count from 1
	m, k  int

	gateway *stripe.Client
	peers   *peers // of the gateway
	origin  uint64
	ids     []uint64 // leased and not used
	seq     uint64
	gen     int

	files map[string]*file
}

// file is a file of one block.
type file struct {
	name string
	ino  uint64
	b    stripe.Block
	data []byte
}

type rigOptions struct {
	stores, k, m, pgs int
	budget            int64 // of each disk; 0: none
	capacity          int64
	level             uint32 // of the metadata; 0: the newest
	keeper            func(*Options)
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	r := &rig{t: t, ctx: ctx, meta: newMetadata(t, cmp.Or(o.level, fsm.Level)), k: o.k, m: o.m, files: map[string]*file{}}
	if o.capacity == 0 {
		o.capacity = 256 << 20
	}
	var targets []placement.Target
	for i := range o.stores {
		n := &node{r: r, id: uint32(i + 1), name: fmt.Sprintf("n%d", i+1), done: make(chan error, 1)}
		r.nodes = append(r.nodes, n)
		n.fresh(o.capacity)
		if o.budget != 0 {
			n.o.Budget, n.o.CompactPercent = budget.New(o.budget), -1 // compaction is paid for, too
		}
		n.open(o.keeper)
		targets = append(targets, placement.Target{Node: n.name, Disk: n.id})
	}
	groups, err := placement.Static(targets, o.k, o.m, o.pgs)
	if err != nil {
		t.Fatal(err)
	}
	pool := &metapb.Pool{Id: testPool, Name: "p", K: uint32(o.k), M: uint32(o.m)}
	for _, g := range groups {
		pg := &metapb.PlacementGroup{Id: g.ID, Epoch: g.Epoch}
		for _, s := range g.Slots {
			pg.Slots = append(pg.Slots, &metapb.Slot{Store: s.Target.Disk})
		}
		pool.Pgs = append(pool.Pgs, pg)
	}
	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: pool}}})
	r.gateway = stripe.New(stripe.Options{Logger: quiet(), BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
	r.peers = newPeers(func(node, address string) Conn { return dialAs("gw", blockstore.RoleGateway, address) })
	r.register()
	t.Cleanup(func() {
		r.peers.close()
		for _, n := range r.nodes {
			n.close()
		}
		cancel()
	})
	return r
}

func dialAs(name, role, address string) Conn {
	return wire.NewClient(wire.Dialer("tcp", address), wire.ClientOptions{
		Security: wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name, Roles: []string{role}}}, Logger: quiet(),
		BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond,
	})
}

// fresh gives the node an empty disk.
func (n *node) fresh(capacity int64) {
	mem := vfile.NewMem(capacity)
	if err := mem.MkdirAll("/s"); err != nil {
		n.r.t.Fatal(err)
	}
	n.o = store.Options{
		Dir: "/s", Cluster: testCluster, Create: true, MetadataIncarnation: fsm.FirstIncarnation, SegmentSize: 2 << 20, ReserveBytes: 4096,
		FS: mem, IndexFS: pvfs.NewMem(), Logger: quiet(), MemTableBytes: 64 << 10,
	}
}

func (n *node) open(change func(*Options)) {
	t := n.r.t
	t.Helper()
	var err error
	if n.store, err = store.Open(n.r.ctx, n.o); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Store: n.store, ID: n.id, Meta: n.r.meta, Logger: quiet(), Budget: n.store.Budget(),
		Dial: func(node, address string) Conn { return dialAs(n.name, blockstore.RoleBlock, address) },
	}
	if change != nil {
		change(&o)
	}
	if n.keeper, err = New(o); err != nil {
		t.Fatal(err)
	}
	k := n.keeper
	h := server.New(map[uint32]*store.Store{n.id: n.store}, server.Options{Logger: quiet(), Upkeep: func(uint32) server.Upkeep { return k }})
	n.server = wire.NewServer(func(ctx context.Context, call *wire.Call) error {
		n.mu.Lock()
		cut := n.cut
		n.mu.Unlock()
		if cut != nil {
			if err := cut(call); err != nil {
				return err
			}
		}
		return h.Handle(ctx, call)
	}, wire.ServerOptions{Security: wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: n.name, Roles: []string{blockstore.RoleBlock}}}, Logger: quiet()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	srv := n.server
	go func() { n.done <- srv.Serve(l) }()
	n.record()
}

// record puts the store's record.
func (n *node) record() {
	info := n.store.Info()
	n.r.meta.must(n.r.t, clusterShard, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{
		Id: n.id, Node: n.name, Address: n.addr, Uuid: info.Store[:],
	}}}})
}

func (n *node) setCut(f func(call *wire.Call) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = f
}

// unreachable lets nobody call the node until the function it returns is called.
func (n *node) unreachable() (back func()) {
	n.setCut(func(*wire.Call) error { return vfs.Errorf(vfs.KindUnavailable, "test", "cut off") })
	return func() { n.setCut(nil) }
}

func (n *node) close() {
	if n.server == nil {
		return
	}
	n.keeper.Close()
	if err := n.server.Close(); err != nil {
		n.r.t.Error(err)
	}
	<-n.done
	n.server = nil
	if err := n.store.Close(); err != nil {
		n.r.t.Error(err)
	}
}

// register makes the gateway a new incarnation: what its former one leased and did not use is dead.
func (r *rig) register() {
	r.t.Helper()
	r.gen++
	inc := make([]byte, 16)
	inc[0] = byte(r.gen)
	inc[1] = byte(r.gen >> 8)
	res := r.meta.must(r.t, testShard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "gw", Incarnation: inc,
	}}})
	r.origin, r.ids = res.GetOrigin().GetOrigin(), nil
}

// apply runs a command of the gateway.
func (r *rig) apply(cmd *metapb.Command) (*metapb.Result, error) {
	r.seq++
	cmd.Fs = testFS
	cmd.Id = &metapb.Identity{Origin: r.origin, Slot: 1, Seq: r.seq}
	return r.meta.Apply(r.ctx, testShard, cmd)
}

func (r *rig) mustApply(cmd *metapb.Command) *metapb.Result {
	r.t.Helper()
	res, err := r.apply(cmd)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

// id takes a block id.
func (r *rig) id() uint64 {
	r.t.Helper()
	if len(r.ids) == 0 {
		b := r.mustApply(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 64}}}).GetBlocks()
		for i := range b.Count {
			r.ids = append(r.ids, b.First+uint64(i))
		}
	}
	id := r.ids[0]
	r.ids = r.ids[1:]
	return id
}

// gatewayMap is the map as a gateway sees it.
type gatewayMap struct {
	view
	only uint32 // if set, the one group that takes blocks
}

func (g gatewayMap) Writable(uint32) []*placement.PG {
	var out []*placement.PG
	for id, pg := range g.groups {
		if g.only == 0 || g.only == id {
			out = append(out, g.placementGroup(pg))
		}
	}
	return out
}

func (r *rig) cluster() *metapb.ClusterMapR {
	r.t.Helper()
	res, err := r.meta.Query(r.ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetClusterMap()
}

func (r *rig) gatewayMap() gatewayMap {
	return gatewayMap{view: view{newClusterMap(r.cluster()), r.peers}}
}

func content(seed uint64, n int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	p := make([]byte, n)
	_, _ = rng.Read(p)
	return p
}

// put writes a block that no file has, with the map m.
func (r *rig) put(m gatewayMap, n int) (*file, error) {
	f := &file{}
	f.b.ID = r.id()
	f.data = content(f.b.ID, n)
	f.b.Len = uint32(n)
	f.ino = 1000 + f.b.ID&0xffff
	pg, err := r.gateway.Write(r.ctx, m, &stripe.Write{Pool: testPool, Block: f.b.ID, Owner: blockstore.Owner{FS: testFS, Ino: f.ino}, Data: bytes.Clone(f.data)})
	if err == nil {
		f.b.PG = pg.ID
	}
	return f, err
}

// commit makes a block that was written a file.
func (r *rig) commit(f *file) error {
	f.name = fmt.Sprintf("f%x", f.b.ID)
	res, err := r.apply(&metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(vfs.RootIno), Name: []byte(f.name), Type: uint32(vfs.TypeFile), Open: uint32(vfs.OpenWrite), Attr: &metapb.AttrSet{},
	}}})
	if err != nil {
		return err
	}
	c := res.GetCreate()
	f.ino = c.Attr.Ino
	_, err = r.apply(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
		Ino: f.ino, Epoch: c.Lease.Epoch, Size: uint64(f.b.Len),
		Extents: []*metapb.NewExtent{{Length: f.b.Len, Block: f.b.ID, Pg: f.b.PG, ProfileK: uint32(r.k), ProfileM: uint32(r.m)}},
	}}})
	if err == nil {
		r.files[f.name] = f
	}
	return err
}

// write makes a file of one block of n bytes.
func (r *rig) write(n int) *file {
	r.t.Helper()
	f, err := r.put(r.gatewayMap(), n)
	if err == nil {
		err = r.commit(f)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// remove drops the file: its block is dying.
func (r *rig) remove(f *file) {
	r.t.Helper()
	r.mustApply(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: uint64(vfs.RootIno), Name: []byte(f.name)}}})
	delete(r.files, f.name)
}

// reap makes dying blocks dead.
func (r *rig) reap() {
	r.t.Helper()
	r.meta.must(r.t, testShard, &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: 1 << 62}}})
}

// readAll reads every file.
func (r *rig) readAll() {
	r.t.Helper()
	m := r.gatewayMap()
	for _, f := range r.files {
		p := make([]byte, f.b.Len)
		if err := r.gateway.Read(r.ctx, m, f.b, 0, p); err != nil {
			r.t.Fatalf("block %+v: %v", f.b, err)
		}
		if !bytes.Equal(p, f.data) {
			r.t.Fatalf("block %+v has other content", f.b)
		}
	}
}

// whole fails unless every shard of a block is where the map says and reads back.
func (r *rig) whole(f *file) {
	r.t.Helper()
	if lost := r.lost(f); len(lost) > 0 {
		r.t.Fatalf("block %+v lacks %s", f.b, strings.Join(lost, "; "))
	}
}

func (r *rig) lost(f *file) (lost []string) {
	r.t.Helper()
	g := newClusterMap(r.cluster()).groups[f.b.PG]
	shape, err := blockstore.ShapeOf(int(f.b.Len), g.k, g.m)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, s := range g.pg.Slots {
		if !shape.Stored(i) {
			continue
		}
		if err := r.nodes[s.Store-1].has(f, i, shape.ShardLen); err != nil {
			lost = append(lost, fmt.Sprintf("shard %d at store %d: %v", i, s.Store, err))
		}
	}
	return lost
}

func (n *node) has(f *file, i, length int) error {
	g, err := n.store.Get(n.r.ctx, keyOf(f.b.PG, f.b.ID, i), 0, length)
	if err != nil {
		return err
	}
	g.Release()
	return nil
}

// shards counts what a store lists of a block, in all groups.
func (r *rig) shards(id uint64) (n int) {
	r.t.Helper()
	for _, nd := range r.nodes {
		for pg := range newClusterMap(r.cluster()).groups {
			es, err := nd.keeper.shardsOf(r.ctx, pg, id)
			if err != nil {
				r.t.Fatal(err)
			}
			n += len(es)
		}
	}
	return n
}

func (r *rig) collect() (c Collected) {
	r.t.Helper()
	for _, n := range r.nodes {
		d, err := n.keeper.Collect(r.ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		c.add(d)
	}
	return c
}

func (n *node) heal() Status {
	n.r.t.Helper()
	n.keeper.repeat(time.Now().Add(time.Hour))
	n.keeper.suspects.restore()
	n.keeper.markAll()
	if err := n.keeper.Heal(n.r.ctx); err != nil {
		n.r.t.Fatal(err)
	}
	return n.keeper.Status()
}

// change applies a change to groups that mention does; change returns whether it changed one.
func (r *rig) change(change func(pg *metapb.PlacementGroup) bool) {
	r.t.Helper()
	var cs []*metapb.PGChange
	for _, pg := range r.cluster().Pools[0].Pgs {
		epoch := pg.Epoch
		if change(pg) {
			cs = append(cs, &metapb.PGChange{ExpectEpoch: epoch, Pg: pg})
		}
	}
	r.meta.must(r.t, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: testPool, Changes: cs}}})
}

// replace has a new store with the next id take the place of one that is gone.
func (r *rig) replace(n *node) *node {
	r.t.Helper()
	n.close()
	return r.supersede(n)
}

// supersede does the same while the old one still answers.
func (r *rig) supersede(n *node) *node {
	r.t.Helper()
	fresh := &node{r: r, id: uint32(len(r.nodes) + 1), name: fmt.Sprintf("n%d", len(r.nodes)+1), done: make(chan error, 1)}
	fresh.fresh(256 << 20)
	return r.join(n.id, fresh)
}

func (r *rig) join(old uint32, n *node) *node {
	r.t.Helper()
	// open puts the record, which ReplaceStore wants to do itself.
	st, err := store.Open(r.ctx, n.o)
	if err != nil {
		r.t.Fatal(err)
	}
	uuid := st.Info().Store
	if err := st.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.meta.must(r.t, clusterShard, &metapb.Command{Op: &metapb.Command_ReplaceStore{ReplaceStore: &metapb.ReplaceStore{
		Old: old, New: &metapb.Store{Id: n.id, Node: n.name, Address: "127.0.0.1:1", Uuid: uuid[:]},
	}}})
	r.nodes = append(r.nodes, n)
	n.open(nil)
	return n
}
