package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// rig is block servers on real sockets and a cluster map that the test changes.
type rig struct {
	t      testing.TB
	stores map[uint32]*store.Store
	srv    map[uint32]*wire.Server
	asked  atomic.Int32

	mu  sync.Mutex
	raw *metapb.ClusterMapR

	dialled map[string]int // by address
	live    *liveMap
	blocks  *blocks
}

const testPool = 1

func newRig(t testing.TB, stores int) *rig {
	r := &rig{t: t, stores: map[uint32]*store.Store{}, srv: map[uint32]*wire.Server{}, dialled: map[string]int{}, raw: &metapb.ClusterMapR{Version: 1}}
	for i := range stores {
		id := uint32(i + 1)
		s, err := store.Open(t.Context(), store.Options{Dir: t.TempDir(), Cluster: segment.ID{1}, Create: true, SegmentSize: 8 << 20, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		r.stores[id] = s
		r.raw.Stores = append(r.raw.Stores, &metapb.Store{Id: id, Node: name(id), Address: r.serve(id)})
	}
	r.raw.Pools = []*metapb.Pool{{Id: testPool, K: 4, M: 2}}
	return r
}

func name(id uint32) string { return "n" + string(rune('0'+id)) }

// serve starts (again) the block server of a store and returns its address.
func (r *rig) serve(id uint32) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	sec := wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name(id), Roles: []string{blockstore.RoleBlock}}}
	h := server.New(map[uint32]*store.Store{id: r.stores[id]}, server.Options{Logger: slog.New(slog.DiscardHandler)})
	srv := wire.NewServer(h.Handle, wire.ServerOptions{Security: sec, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	r.srv[id] = srv
	r.t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().String()
}

func (r *rig) start() {
	var err error
	r.live, err = newLiveMap(r.t.Context(), r.ask, func(node, addr string) *wire.Client {
		r.mu.Lock()
		r.dialled[addr]++
		r.mu.Unlock()
		sec := wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: "gw", Roles: []string{blockstore.RoleGateway}}}
		return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Security: sec})
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	r.blocks = &blocks{client: stripe.New(stripe.Options{Probed: true, Logger: slog.New(slog.DiscardHandler)}), cmap: r.live, pool: testPool}
	r.t.Cleanup(r.live.close)
}

func (r *rig) ask(_ context.Context, known uint64) (*metapb.ClusterMapR, error) {
	r.asked.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if known == r.raw.Version {
		return &metapb.ClusterMapR{Version: known, Unchanged: true}, nil
	}
	return proto.Clone(r.raw).(*metapb.ClusterMapR), nil
}

// change makes a new version of the map.
func (r *rig) change(f func(m *metapb.ClusterMapR)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.raw)
	r.raw.Version++
}

// group adds a group over stores with k data shards.
func group(m *metapb.ClusterMapR, id, k uint32, stores ...uint32) *metapb.PlacementGroup {
	g := &metapb.PlacementGroup{Id: id, Epoch: 1}
	if k != m.Pools[0].K {
		g.K = k
	}
	for _, s := range stores {
		g.Slots = append(g.Slots, &metapb.Slot{Store: s})
	}
	m.Pools[0].Pgs = append(m.Pools[0].Pgs, g)
	return g
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

func (r *rig) read(b volume.Block, want []byte) {
	r.t.Helper()
	p := make([]byte, len(want))
	if err := r.blocks.Read(r.t.Context(), b, 0, p); err != nil || !bytes.Equal(p, want) {
		r.t.Fatalf("block %+v: %v", b, err)
	}
}

// Two stores die. The write that finds no group asks for the map, and is done in the
// smaller group that it has by then; that group's k is the block's.
func TestWriteFindsNewGroups(t *testing.T) {
	r := newRig(t, 6)
	group(r.raw, 1, 4, 1, 2, 3, 4, 5, 6)
	r.start()
	ctx := t.Context()
	first := random(1 << 20)
	b1, err := r.blocks.Write(ctx, 1, volume.Owner{FS: 1, Ino: 1}, first)
	if err != nil || b1.PG != 1 || b1.K != 4 || b1.M != 2 {
		t.Fatal(b1, err)
	}
	r.srv[5].Close()
	r.srv[6].Close()
	if _, err := r.blocks.Write(ctx, 2, volume.Owner{}, first); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatal(err)
	}
	r.change(func(m *metapb.ClusterMapR) { group(m, 2, 2, 4, 3, 2, 1) })
	second := random(1 << 20)
	b2, err := r.blocks.Write(ctx, 2, volume.Owner{FS: 1, Ino: 1}, second)
	if err != nil || b2 != (volume.Block{ID: 2, PG: 2, K: 2, M: 2, Len: 1 << 20}) {
		t.Fatal(b2, err)
	}
	r.read(b1, first)
	r.read(b2, second)
	// The rewriter is not served by a small group.
	if _, err := r.blocks.write(ctx, 3, volume.Owner{}, second, 4); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatal(err)
	}
	// A gateway that was away does not know the group of a block that another wrote.
	r.change(func(m *metapb.ClusterMapR) { group(m, 3, 2, 1, 2, 3, 4) })
	other := &liveMap{ask: r.ask, connect: r.live.connect, log: r.live.log}
	if err := other.refresh(ctx); err != nil {
		t.Fatal(err)
	}
	defer other.close()
	b3, err := (&blocks{client: stripe.New(stripe.Options{}), cmap: other, pool: testPool}).Write(ctx, 4, volume.Owner{}, second)
	if err != nil {
		t.Fatal(err)
	}
	r.read(b3, second)
	// Extents that name a group which was removed since are old; without an answer it is not known whether they are.
	r.change(func(m *metapb.ClusterMapR) { m.Pools[0].Pgs = m.Pools[0].Pgs[:2] })
	if err := r.live.refresh(ctx); err != nil {
		t.Fatal(err)
	}
	b3.PG = 3
	if err := r.blocks.Read(ctx, b3, 0, second); vfs.KindOf(err) != vfs.KindNotFound {
		t.Fatal(err)
	}
	r.live.ask = func(context.Context, uint64) (*metapb.ClusterMapR, error) {
		return nil, vfs.KindUnavailable.Err("test")
	}
	if err := r.blocks.Read(ctx, b3, 0, second); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatal(err)
	}
}

// All groups are at a new epoch, which the stores know and the gateway does not yet.
func TestWriteAfterEpochs(t *testing.T) {
	r := newRig(t, 6)
	for i := range uint32(8) {
		group(r.raw, i+1, 4, 1, 2, 3, 4, 5, 6)
	}
	r.start()
	var epochs []segment.Epoch
	r.change(func(m *metapb.ClusterMapR) {
		for _, g := range m.Pools[0].Pgs {
			g.Epoch = 2
			epochs = append(epochs, segment.Epoch{PG: g.Id, Epoch: 2})
		}
	})
	for _, s := range r.stores {
		if err := s.Fence(t.Context(), epochs); err != nil {
			t.Fatal(err)
		}
	}
	data := random(300 << 10)
	b, err := r.blocks.Write(t.Context(), 1, volume.Owner{}, data)
	if err != nil {
		t.Fatal(err)
	}
	r.read(b, data)
	if n := r.asked.Load(); n > 3 {
		t.Errorf("the map was asked for %d times", n)
	}
}

// A node that moves to another address gets a new connection; a call that began with the old map
// goes on with the old one, which is closed after it.
func TestConnectionsFollowTheMap(t *testing.T) {
	r := newRig(t, 6)
	group(r.raw, 1, 4, 1, 2, 3, 4, 5, 6)
	r.start()
	data := random(1 << 20)
	b, err := r.blocks.Write(t.Context(), 1, volume.Owner{}, data)
	if err != nil {
		t.Fatal(err)
	}
	old := r.live.acquire()
	before := old.nodes[name(2)].client
	if err := r.live.refresh(t.Context()); err != nil || r.live.current != old {
		t.Fatalf("an unchanged map made a new snapshot (%v)", err)
	}
	r.change(func(m *metapb.ClusterMapR) { m.Stores[1].Address = r.serve(2) })
	if err := r.live.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.live.current.nodes[name(2)].client == before || r.live.current.nodes[name(1)] != old.nodes[name(1)] {
		t.Fatal("the node that moved keeps its connection, or another one lost it")
	}
	info := blockstore.DiskRequest{Disk: 2}
	call := func() error {
		reply, err := before.Call(t.Context(), blockstore.OpInfo, info.Append(nil), nil, nil)
		reply.Release()
		return err
	}
	if err := call(); err != nil {
		t.Fatalf("the connection of a map in use: %v", err)
	}
	r.live.release(old)
	if err := call(); vfs.KindOf(err) != vfs.KindCanceled {
		t.Fatalf("the connection of a map that nobody uses is open: %v", err)
	}
	r.read(b, data)
	for addr, n := range r.dialled {
		if n != 1 {
			t.Errorf("%d clients were made for %s", n, addr)
		}
	}
}

// A store that is lost is nobody's target, its address no node's; a group that still names it is read without it.
func TestLostStore(t *testing.T) {
	r := newRig(t, 7)
	group(r.raw, 1, 4, 1, 2, 3, 4, 5, 6)
	r.start()
	data := random(1 << 20)
	b, err := r.blocks.Write(t.Context(), 1, volume.Owner{}, data)
	if err != nil {
		t.Fatal(err)
	}
	r.change(func(m *metapb.ClusterMapR) {
		m.Stores[0].State = metapb.StoreState_STORE_LOST
		m.Stores[6].Node = m.Stores[0].Node // the same node with a new disk
	})
	if err := r.live.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.read(b, data)
	r.change(func(m *metapb.ClusterMapR) {
		*m.Pools[0].Pgs[0].Slots[0] = metapb.Slot{Store: 7, Filling: true}
		m.Pools[0].Pgs[0].Epoch = 2
	})
	if err := r.live.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.read(b, data)
	pg, _ := r.live.current.PG(1)
	if got := pg.Slots[0]; got.Target != (placement.Target{Node: name(1), Disk: 7}) || !got.Filling {
		t.Fatalf("slot %+v", got)
	}
	// A map that makes no sense changes nothing.
	r.change(func(m *metapb.ClusterMapR) { m.Pools[0].Pgs[0].Slots = m.Pools[0].Pgs[0].Slots[:2] })
	if err := r.live.refresh(t.Context()); vfs.KindOf(err) != vfs.KindInvalid {
		t.Fatal(err)
	}
	r.read(b, data)
}

// Maps change while calls run: every call works with some map as a whole, and nothing leaks or breaks.
func TestMapChangesUnderCalls(t *testing.T) {
	r := newRig(t, 6)
	group(r.raw, 1, 4, 1, 2, 3, 4, 5, 6)
	r.start()
	ctx, cancel := context.WithCancel(t.Context())
	var bg, wg sync.WaitGroup
	bg.Go(func() { r.live.run(ctx, time.Millisecond, r.blocks.client) })
	var next atomic.Uint64
	for range 4 {
		wg.Go(func() {
			for range 30 {
				data := random(100 << 10)
				b, err := r.blocks.Write(ctx, next.Add(1), volume.Owner{}, data)
				if err != nil {
					t.Error(err)
					return
				}
				p := make([]byte, len(data))
				if err := r.blocks.Read(ctx, b, 0, p); err != nil || !bytes.Equal(p, data) {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 20 {
		// The old server of the address goes on: a call under way may be with it.
		addr := r.serve(uint32(i%6 + 1))
		r.change(func(m *metapb.ClusterMapR) { m.Stores[i%6].Address = addr })
		time.Sleep(2 * time.Millisecond)
	}
	wg.Wait()
	cancel()
	bg.Wait()
}
