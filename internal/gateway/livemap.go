package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// defaultMapInterval is how often the cluster map is asked for. An unchanged one is answered
	// with its version alone.
	defaultMapInterval = time.Second
	// mapPatience bounds how long a call waits for a newer map before it goes on with the one it has.
	mapPatience = 2 * time.Second
)

// liveMap is the cluster map as this gateway knows it. Calls work with
// a snapshot; a newer map makes a new snapshot, and the connections to nodes
// that only older ones know are closed when the last call with such a one has ended.
type liveMap struct {
	ask     func(ctx context.Context, known uint64) (*metapb.ClusterMapR, error)
	connect func(node, addr string) *wire.Client
	log     *slog.Logger
	traffic *traffic // nil: not counted

	mu      sync.Mutex // guards the following, and the refs of snapshots and nodes
	current *snapshot
	asking  chan struct{} // closed when the query under way has ended; nil: none
	err     error         // of the last query
}

// snapshot is one version of the map. It does not change.
type snapshot struct {
	*stripe.Static
	raw   *metapb.ClusterMapR
	nodes map[string]*node
	far   map[string]stripe.Distance
	refs  int // calls, and one while it is current
}

// has reports whether the map has a group.
func (s *snapshot) has(pg uint32) bool {
	_, ok := s.PG(pg)
	return ok
}

var _ stripe.Located = (*snapshot)(nil)

// Distance implements stripe.Located.
func (s *snapshot) Distance(node string) stripe.Distance {
	if d, ok := s.far[node]; ok {
		return d
	}
	return stripe.Elsewhere
}

// known reports whether a target is a store of the map that was not replaced, or stands for one that the map does not tell of.
func (s *snapshot) known(t placement.Target) bool {
	return t.Node == unknownNode || slices.ContainsFunc(s.raw.GetStores(), func(st *metapb.Store) bool {
		return st.Id == t.Disk && st.Node == t.Node && st.State != metapb.StoreState_STORE_LOST
	})
}

// node is the way to a block server at one address.
type node struct {
	addr   string
	client *wire.Client
	refs   int // snapshots
}

// newLiveMap reads the map once. What is measured counts the bytes of calls.
func newLiveMap(ctx context.Context, ask func(context.Context, uint64) (*metapb.ClusterMapR, error), connect func(node, addr string) *wire.Client, log *slog.Logger, measured ...*traffic) (*liveMap, error) {
	l := &liveMap{ask: ask, connect: connect, log: log}
	for _, t := range measured {
		l.traffic = t
	}
	if err := l.refresh(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// run keeps the map new until ctx ends, and has the client look after targets that failed.
func (l *liveMap) run(ctx context.Context, interval time.Duration, client *stripe.Client) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		actx, cancel := context.WithTimeout(ctx, max(interval, mapPatience))
		err := l.refresh(actx)
		cancel()
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				l.log.Warn("the cluster map cannot be refreshed; the last one stays in use", "err", err)
			} else {
				l.log.Info("the cluster map is refreshed again")
			}
		}
		s := l.acquire()
		client.Retain(s.known)
		client.Probe(ctx, s)
		l.release(s)
	}
}

// acquire returns the newest snapshot. The caller releases it.
func (l *liveMap) acquire() *snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current.refs++
	return l.current
}

func (l *liveMap) release(s *snapshot) {
	l.mu.Lock()
	unused := l.unref(s)
	l.mu.Unlock()
	closeAll(unused)
}

// unref drops a reference and returns the clients that nobody needs any more. l.mu is held.
func (l *liveMap) unref(s *snapshot) (unused []*wire.Client) {
	if s.refs--; s.refs > 0 {
		return nil
	}
	for _, n := range s.nodes {
		if n.refs--; n.refs == 0 {
			unused = append(unused, n.client)
		}
	}
	return unused
}

func closeAll(clients []*wire.Client) {
	for _, c := range clients {
		c.Close()
	}
}

// close ends the map's connections. No call may be under way.
func (l *liveMap) close() {
	if l != nil {
		l.release(l.current)
	}
}

// refresh asks for the map, or waits for who is asking.
func (l *liveMap) refresh(ctx context.Context) error {
	l.mu.Lock()
	if wait := l.asking; wait != nil {
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return vfs.Wrap("gateway.cluster map", context.Cause(ctx))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.err
	}
	done := make(chan struct{})
	l.asking = done
	old := l.current
	l.mu.Unlock()

	var known uint64
	if old != nil {
		known = old.raw.Version
	}
	raw, err := l.ask(ctx, known)
	var fresh *snapshot
	if err == nil && !raw.Unchanged && (old == nil || !sameMap(raw, old.raw)) {
		fresh, err = l.build(raw, old)
	}
	var unused []*wire.Client
	l.mu.Lock()
	l.err, l.asking = err, nil
	close(done)
	if fresh != nil {
		l.current = fresh
		if old != nil {
			unused = l.unref(old)
		}
	}
	l.mu.Unlock()
	closeAll(unused)
	return vfs.Wrap("gateway.cluster map", err)
}

// sameMap compares maps of a state machine that gives them no version yet.
func sameMap(a, b *metapb.ClusterMapR) bool { return a.Version == b.Version && proto.Equal(a, b) }

// renewed gets a map that is newer than s, if there is one. It is for calls that failed with s.
func (l *liveMap) renewed(ctx context.Context, s *snapshot) bool {
	ctx, cancel := context.WithTimeout(ctx, mapPatience)
	defer cancel()
	for range 2 { // a query that was under way may be older than the failure
		l.mu.Lock()
		newer := l.current != s
		l.mu.Unlock()
		if newer {
			return true
		}
		if l.refresh(ctx) != nil {
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current != s
}

// confirm makes the map one that was read after the call began.
func (l *liveMap) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mapPatience)
	defer cancel()
	for range 2 { // the first may have begun before
		if err := l.refresh(ctx); err != nil {
			return err
		}
	}
	return nil
}

// build makes a snapshot of raw. Nodes at the same address keep their connections.
func (l *liveMap) build(raw *metapb.ClusterMapR, old *snapshot) (*snapshot, error) {
	s := &snapshot{raw: raw, nodes: map[string]*node{}, refs: 1}
	stores := slices.Clone(raw.GetStores())
	slices.SortFunc(stores, func(a, b *metapb.Store) int { return cmp.Compare(a.Id, b.Id) })
	for _, st := range stores {
		// A node's stores have one address. A lost store's record keeps the last one it had.
		if st.State != metapb.StoreState_STORE_LOST {
			s.nodes[st.Node] = &node{addr: st.Address}
		}
	}
	callers := map[string]stripe.Caller{unknownNode: noWay{}}
	for name, n := range s.nodes {
		if old != nil && old.nodes[name] != nil && old.nodes[name].addr == n.addr {
			s.nodes[name] = old.nodes[name]
		} else {
			n.client = l.connect(name, n.addr)
		}
		callers[name] = s.nodes[name].client
	}
	s.far = l.traffic.callers(raw, callers)
	var err error
	if s.Static, err = stripe.NewStatic(groups(raw), callers); err != nil {
		for name, n := range s.nodes {
			if old == nil || old.nodes[name] != n {
				n.client.Close()
			}
		}
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range s.nodes {
		n.refs++
	}
	return s, nil
}

// unknownNode stands for the node of a store that the map does not list, or lists as lost.
const unknownNode = ""

// noWay is the caller of unknownNode.
type noWay struct{}

func (noWay) Call(context.Context, wire.Op, []byte, net.Buffers, []byte) (*wire.Reply, error) {
	return nil, vfs.Errorf(vfs.KindUnavailable, "gateway.cluster map", "the store is not in the cluster map, or lost")
}

// groups are the placement groups of a map, by pool. The disk of a target is the store's id.
func groups(raw *metapb.ClusterMapR) map[uint32][]placement.PG {
	targets := map[uint32]placement.Target{}
	for _, s := range raw.GetStores() {
		if s.State != metapb.StoreState_STORE_LOST {
			targets[s.Id] = placement.Target{Node: s.Node, Disk: s.Id}
		}
	}
	pools := map[uint32][]placement.PG{}
	for _, p := range raw.GetPools() {
		for _, g := range p.GetPgs() {
			pg := placement.PG{ID: g.Id, Epoch: g.Epoch, K: int(cmp.Or(g.K, p.K)), M: int(p.M), Closed: g.State != metapb.PGState_PG_OPEN}
			for _, slot := range g.GetSlots() {
				out := placement.Slot{Filling: slot.Filling}
				var ok bool
				if out.Target, ok = targets[slot.Store]; !ok {
					out.Target = placement.Target{Node: unknownNode, Disk: slot.Store}
				}
				if prev, ok := targets[slot.Previous]; ok && slot.Previous != 0 {
					out.Previous = &prev
				}
				pg.Slots = append(pg.Slots, out)
			}
			pools[p.Id] = append(pools[p.Id], pg)
		}
	}
	return pools
}

// view is the map of one write: the newest one at each attempt. What an attempt began
// with stays valid to its end.
type view struct {
	l    *liveMap
	ctx  context.Context
	held []*snapshot // oldest first
}

func (l *liveMap) view(ctx context.Context) *view {
	return &view{l: l, ctx: ctx, held: []*snapshot{l.acquire()}}
}

func (v *view) release() {
	for _, s := range v.held {
		v.l.release(s)
	}
}

func (v *view) last() *snapshot { return v.held[len(v.held)-1] }

// retry makes the newest map the one of the next attempt.
func (v *view) retry() bool {
	if !v.l.renewed(v.ctx, v.last()) {
		return false
	}
	v.held = append(v.held, v.l.acquire())
	return true
}

// newest is the map of now, for who makes single calls at leisure: the connection of
// a node may be closed under it.
type newest struct{ l *liveMap }

func (n newest) snapshot() *snapshot {
	n.l.mu.Lock()
	defer n.l.mu.Unlock()
	return n.l.current
}

// PG implements stripe.Map.
func (n newest) PG(id uint32) (*placement.PG, bool) { return n.snapshot().PG(id) }

// Writable implements stripe.Map.
func (n newest) Writable(pool uint32) []*placement.PG { return n.snapshot().Writable(pool) }

// Caller implements stripe.Map.
func (n newest) Caller(node string) (stripe.Caller, error) { return n.snapshot().Caller(node) }

// attempt is a view as a stripe.Map.
type attempt struct {
	*view
	asked bool
}

// PG implements stripe.Map.
func (a *attempt) PG(id uint32) (*placement.PG, bool) { return a.last().PG(id) }

// Writable implements stripe.Map. It is called once for each attempt, none of which runs meanwhile;
// from the second on, one has failed, perhaps because the map is old.
func (a *attempt) Writable(pool uint32) []*placement.PG {
	if a.asked {
		a.retry()
	}
	a.asked = true
	return a.last().Writable(pool)
}

// Caller implements stripe.Map.
func (a *attempt) Caller(node string) (stripe.Caller, error) { return a.last().Caller(node) }
