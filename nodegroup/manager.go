package nodegroup

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard = 0

	// Defaults of Options.
	DefaultProbeEvery   = 500 * time.Millisecond
	DefaultProbeTimeout = 2 * time.Second
	DefaultRetireEvery  = 10 * time.Second
	// DefaultRetirePause lets a scan look at 200,000 records per second of a shard at most, 20,000 at a time.
	DefaultRetirePause = 100 * time.Millisecond

	// leadPoll is how often it is looked whether this replica leads.
	leadPoll = 100 * time.Millisecond
	// metaTimeout bounds one command or query.
	metaTimeout = 5 * time.Second
	// maxChanges bounds one command.
	maxChanges = 512
	// probeParallel bounds the probes under way.
	probeParallel = 64
	// roomEvery is how often a store is asked what of its room it shares with others.
	roomEvery = 10 * time.Second
)

// Meta is the metadata client.
type Meta interface {
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Conn is a connection to a block server, with the role meta. *wire.Client is one.
type Conn interface {
	Call(ctx context.Context, op wire.Op, meta []byte, payload net.Buffers, into []byte) (*wire.Reply, error)
	Close()
}

// Options of a Manager. Those of the first group are required.
type Options struct {
	Leads   func() bool // whether this process leads shard 0 and serves
	Meta    Meta
	Connect func(node, addr string) Conn

	Timing       Timing        // zero: DefaultTiming
	ProbeEvery   time.Duration // 0: DefaultProbeEvery
	ProbeTimeout time.Duration
	RetireEvery  time.Duration // how often it is looked for groups that can be removed
	RetirePause  time.Duration // between two pages of the scan that this takes
	// Now never runs backward; default time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Manager is the guardian of the cluster map. See the package comment.
type Manager struct {
	o Options

	// Of the leader's run; only the goroutine of Run touches them.
	cmap   *metapb.ClusterMapR
	health map[uint32]*health
	conns  map[string]*conn
	views  map[uint32]*poolView // by pool
	failed string               // the last error of planning that was logged
	moving map[uint32]movement

	hinted chan struct{} // stores are to be looked at now

	mu       sync.Mutex // guards the following
	status   Status
	retiring RetireStatus
	sight    *sight // what is retired by; nil while it is not known how stores and groups are
}

type conn struct {
	addr string
	Conn
}

// New makes a manager.
func New(o Options) *Manager {
	if o.Timing == (Timing{}) {
		o.Timing = DefaultTiming
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.ProbeEvery, DefaultProbeEvery}, {&o.ProbeTimeout, DefaultProbeTimeout}, {&o.RetireEvery, DefaultRetireEvery}, {&o.RetirePause, DefaultRetirePause}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	m := &Manager{o: o, hinted: make(chan struct{}, 1)}
	m.reset()
	return m
}

// Run works whenever this process leads, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	poll := time.NewTicker(leadPoll)
	defer poll.Stop()
	for {
		if m.o.Leads() {
			m.lead(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
	}
}

// lead works until this process does not lead any more.
func (m *Manager) lead(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() {
		defer cancel()
		poll := time.NewTicker(leadPoll)
		defer poll.Stop()
		for m.o.Leads() {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
		}
	})
	others.Go(func() { m.retire(ctx) })
	defer func() {
		cancel()
		others.Wait()
		m.reset()
	}()
	tick := time.NewTicker(m.o.ProbeEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		m.step(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-m.hinted:
		}
	}
}

// Hint makes the leader look at all stores now and not at its next turn: somebody heard that a node died or is back. It never waits. What is thought
// of a store is decided by probes alone.
func (m *Manager) Hint() {
	select {
	case m.hinted <- struct{}{}:
	default:
	}
}

// reset forgets everything: the next leadership begins anew.
func (m *Manager) reset() {
	for _, c := range m.conns {
		c.Close()
	}
	m.cmap, m.health, m.conns, m.views, m.failed = nil, map[uint32]*health{}, map[string]*conn{}, map[uint32]*poolView{}, ""
	m.moving = map[uint32]movement{}
	m.mu.Lock()
	m.status, m.retiring, m.sight = Status{}, RetireStatus{}, nil
	m.mu.Unlock()
}

// step looks once at everything and does what follows from it.
func (m *Manager) step(ctx context.Context) {
	err := m.refresh(ctx)
	if m.cmap == nil {
		m.complain(ctx, err)
		return
	}
	m.probe(ctx)
	if err == nil && m.settled() && ctx.Err() == nil {
		if err = m.plan(ctx); err == nil {
			err = m.retireStores(ctx)
		}
	}
	m.see(err == nil && m.settled())
	m.complain(ctx, err)
	m.publish(err)
}

// complain logs an error that is not the one logged last.
func (m *Manager) complain(ctx context.Context, err error) {
	text := ""
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		text = err.Error()
	}
	if text != m.failed && text != "" {
		m.o.Logger.Warn("placement groups are not looked after", "err", err)
	}
	m.failed = text
}

func (m *Manager) query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	return m.o.Meta.Query(ctx, shard, q)
}

// refresh gets the newest map, which is cheap if it is the one we have.
func (m *Manager) refresh(ctx context.Context) error {
	var known uint64
	if m.cmap != nil {
		known = m.cmap.Version
	}
	r, err := m.query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{KnownVersion: known}}})
	if err != nil {
		return vfs.Wrap("nodegroup.map", err)
	}
	if c := r.GetClusterMap(); !c.GetUnchanged() {
		m.cmap = c
	}
	return nil
}

// probe asks all stores that are not lost how they are.
func (m *Manager) probe(ctx context.Context) {
	seen := map[uint32]bool{}
	var list []*metapb.Store
	for _, s := range m.cmap.GetStores() {
		if s.State == metapb.StoreState_STORE_LOST || s.Gone {
			continue
		}
		seen[s.Id] = true
		list = append(list, s)
		if m.health[s.Id] == nil {
			m.health[s.Id] = &health{since: m.o.Now()}
		}
	}
	m.conns = connections(m.conns, list, m.o.Connect)
	for id := range m.health {
		if !seen[id] {
			delete(m.health, id)
		}
	}
	out := make([][]observation, len(list))
	slots := make(chan struct{}, probeParallel)
	var wg sync.WaitGroup
	for i, s := range list {
		slots <- struct{}{}
		c := m.conns[s.Node]
		due := m.o.Now().Sub(m.health[s.Id].asked) >= roomEvery
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = m.probeStore(ctx, c, s)
			if last := &out[i][len(out[i])-1]; due && last.answered {
				last.room = m.askRoom(ctx, c, s.Id)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	now := m.o.Now()
	for i, s := range list {
		h := m.health[s.Id]
		before := h.state
		for _, o := range out[i] {
			h.observe(m.o.Timing, o, now)
			if o.room != nil {
				h.room, h.asked = *o.room, now
			}
		}
		if h.state != before && (before != Unknown || h.state != Up) {
			level := slog.LevelWarn
			if h.state == Up {
				level = slog.LevelInfo
			}
			m.o.Logger.Log(ctx, level, "a store's state changed", "store", s.Id, "node", s.Node, "state", h.state, "before", before, "err", h.err)
		}
	}
}

// probeStore probes a store. If there is no answer after FailAfter it does so once more beside that, so that a store whose machine is off the
// network is down after ProbeTimeout and not after two of them. Whichever is answered counts; if none is, both do.
func (m *Manager) probeStore(ctx context.Context, c Conn, s *metapb.Store) []observation {
	ctx, cancel := context.WithTimeout(ctx, m.o.ProbeTimeout)
	defer cancel()
	results := make(chan observation, 2)
	var probes sync.WaitGroup
	defer probes.Wait()
	begin := func() {
		at := m.o.Now()
		probes.Go(func() { results <- m.probeOne(ctx, c, s, at) })
	}
	begin()
	again := time.NewTimer(m.o.Timing.FailAfter)
	defer again.Stop()
	var first observation
	select {
	case first = <-results:
		return []observation{first}
	case <-again.C:
		begin()
		first = <-results
	}
	if first.answered {
		cancel()
		return []observation{first}
	}
	second := <-results
	if second.answered {
		return []observation{second}
	}
	if second.at.Before(first.at) {
		first, second = second, first
	}
	return []observation{first, second}
}

func (m *Manager) probeOne(ctx context.Context, c Conn, s *metapb.Store, at time.Time) observation {
	o := observation{at: at}
	req := blockstore.DiskRequest{Disk: s.Id}
	reply, err := c.Call(ctx, blockstore.OpInfo, req.Append(nil), nil, nil)
	if err != nil {
		o.err = err
		return o
	}
	defer reply.Release()
	var info blockstore.InfoReply
	if err := info.Decode(reply.Meta); err != nil {
		o.err = err
		return o
	}
	if len(s.Uuid) != len(segment.ID{}) || info.Store != segment.ID(s.Uuid) {
		o.err = vfs.Errorf(vfs.KindIncompatible, "nodegroup.probe", "store %d of %s answers as %x, recorded is %x", s.Id, s.Node, info.Store, s.Uuid)
		return o
	}
	o.answered, o.writable = true, info.Writable && !info.Full
	o.used, o.capacity = int64(info.Used), int64(info.Capacity)
	switch {
	case !info.Writable:
		o.err = vfs.Errorf(vfs.KindIO, "nodegroup.probe", "store %d of %s takes no writes: check its disk and restart it", s.Id, s.Node)
	case info.Full:
		o.err = vfs.Errorf(vfs.KindNoSpace, "nodegroup.probe", "store %d of %s is full: delete data or add stores", s.Id, s.Node)
	}
	return o
}

// askRoom asks a store what of its room it shares; nil: it does not say, as one of an older release.
func (m *Manager) askRoom(ctx context.Context, c Conn, store uint32) *blockstore.RoomReply {
	ctx, cancel := context.WithTimeout(ctx, m.o.ProbeTimeout)
	defer cancel()
	req := blockstore.DiskRequest{Disk: store}
	reply, err := c.Call(ctx, blockstore.OpRoom, req.Append(nil), nil, nil)
	if err != nil {
		return nil
	}
	defer reply.Release()
	r := new(blockstore.RoomReply)
	if r.Decode(reply.Meta) != nil {
		return nil
	}
	return r
}

// settled reports whether there is an opinion about every store.
func (m *Manager) settled() bool {
	for _, h := range m.health {
		if h.state == Unknown {
			return false
		}
	}
	return true
}

// storeStates are the stores as placement sees them in a pool.
func (m *Manager) storeStates(p *metapb.Pool) []placement.StoreState {
	var out []placement.StoreState
	reserved := Reservations(m.cmap)
	for _, s := range m.cmap.GetStores() {
		c, readable := placement.Lost, false
		if h := m.health[s.Id]; h != nil {
			c, readable = h.condition(s), h.readable
		} else if s.Gone {
			c = placement.Out
		}
		x := storeState(s, eligible(reserved, p, s), c, readable)
		if h := m.health[s.Id]; h != nil {
			x.Missing = h.missing(m.o.Timing, m.o.Now())
		}
		out = append(out, x)
	}
	return out
}

// poolView is what follows from a pool and its stores. Of large pools that takes a while to find out, and mostly nothing has changed.
type poolView struct {
	version uint64 // of the map
	states  []placement.StoreState
	atRest  bool // its plan is empty
	report  *placement.Report
	stores  []uint32 // of its open groups; nil: not looked up yet
}

// view is that of a pool of the map as it is now.
func (m *Manager) view(p *metapb.Pool) *poolView {
	states := m.storeStates(p)
	v := m.views[p.Id]
	if v == nil || v.version == 0 || v.version != m.cmap.Version || !slices.Equal(v.states, states) {
		v = &poolView{version: m.cmap.Version, states: states} // at version 0 maps have none
		m.views[p.Id] = v
	}
	return v
}

// plan proposes what the pools need.
func (m *Manager) plan(ctx context.Context) error {
	changed := false
	for _, p := range m.cmap.GetPools() {
		// Ids are unique over all pools, so each pool's plan is made with a map that has the others' new groups.
		if changed {
			if err := m.refresh(ctx); err != nil {
				return err
			}
			changed = false
			if i := slices.IndexFunc(m.cmap.GetPools(), func(x *metapb.Pool) bool { return x.Id == p.Id }); i >= 0 {
				p = m.cmap.Pools[i]
			}
		}
		if p.Retiring {
			if err := m.retirePool(ctx, p); err != nil {
				return err
			}
			changed = true
			continue
		}
		v := m.view(p)
		if v.atRest {
			continue
		}
		changes := placement.Plan(poolState(p, firstFreeID(m.cmap)), v.states)
		v.atRest = len(changes) == 0
		for _, c := range commands(p, changes) {
			if err := m.propose(ctx, c); vfs.KindOf(err) == vfs.KindChanged {
				return m.refresh(ctx) // somebody was faster; the next step looks at what there is then
			} else if err != nil {
				return err
			}
			changed = true
		}
		if len(changes) > 0 {
			m.o.Logger.Info("placement groups were changed", "pool", p.Id, "groups", len(changes), "first", changes[0].Group)
		}
	}
	if changed {
		return m.refresh(ctx)
	}
	return nil
}

// propose makes a change, unless the map has changed since it was read: then the next step looks again.
func (m *Manager) propose(ctx context.Context, c *metapb.ChangePGs) error {
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	_, err := m.o.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: c}})
	return vfs.Wrap("nodegroup.propose", err)
}
