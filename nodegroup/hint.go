package nodegroup

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	// hintQueue bounds the blocks that wait to be told of, hintBatch those that are told of together.
	hintQueue = 1 << 16
	hintBatch = 4096
	// DefaultHintEvery is how long blocks are gathered before stores are told.
	DefaultHintEvery = 500 * time.Millisecond
	hintTimeout      = 2 * time.Second
	// hintAvoid is for how long a store that did not answer is not told anything.
	hintAvoid = 30 * time.Second
)

// HinterOptions of a Hinter. Meta and Connect are required.
type HinterOptions struct {
	Meta    Meta
	Connect func(node, addr string) Conn
	Every   time.Duration // 0: DefaultHintEvery
	Logger  *slog.Logger
}

// Hinter tells the stores of a group which of its blocks are dead, so that they need not find out in their next pass. It
// is a hint: a store asks the metadata before it deletes anything, and finds by itself what it was not told. So nothing is
// repeated: what does not fit the queue, and what a store cannot be told at once, is dropped.
type Hinter struct {
	o    HinterOptions
	wake chan struct{} // 1: the queue is not empty

	mu     sync.Mutex // guards the following
	queue  []*metapb.DeadBlock
	status HintStatus

	// Of the goroutine of Run.
	cmap  *metapb.ClusterMapR
	conns map[string]*conn
	avoid map[uint32]time.Time // stores, until when
}

// HintStatus counts blocks, once for each store.
type HintStatus struct {
	Queue   int    `json:"queue"` // blocks that wait
	Told    uint64 `json:"told"`
	Dropped uint64 `json:"dropped"`
}

// NewHinter makes a Hinter; Run it.
func NewHinter(o HinterOptions) *Hinter {
	if o.Every <= 0 {
		o.Every = DefaultHintEvery
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Hinter{o: o, wake: make(chan struct{}, 1), conns: map[string]*conn{}, avoid: map[uint32]time.Time{}}
}

// Dead takes in blocks that just died. It does not block.
func (h *Hinter) Dead(blocks []*metapb.DeadBlock) {
	h.mu.Lock()
	n := min(len(blocks), hintQueue-len(h.queue))
	h.queue = append(h.queue, blocks[:n]...)
	h.status.Dropped += uint64(len(blocks) - n)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Status is what was told until now.
func (h *Hinter) Status() HintStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.status
	st.Queue = len(h.queue)
	return st
}

// Run tells until ctx ends.
func (h *Hinter) Run(ctx context.Context) {
	defer func() {
		for _, c := range h.conns {
			c.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(h.o.Every):
		}
		for blocks := h.take(); len(blocks) > 0 && ctx.Err() == nil; blocks = h.take() {
			h.tell(ctx, blocks)
		}
	}
}

func (h *Hinter) take() []*metapb.DeadBlock {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(h.queue), hintBatch)
	out := h.queue[:n:n]
	if h.queue = h.queue[n:]; len(h.queue) == 0 {
		h.queue = nil
	}
	return out
}

func (h *Hinter) count(told, dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status.Told += uint64(told)
	h.status.Dropped += uint64(dropped)
}

// tell makes one call to each store that is, or was before a move, a member of a group of the blocks.
func (h *Hinter) tell(ctx context.Context, blocks []*metapb.DeadBlock) {
	if err := h.refresh(ctx); err != nil {
		h.count(0, len(blocks))
		return
	}
	groups := map[uint32]*metapb.PlacementGroup{}
	for _, p := range h.cmap.GetPools() {
		for _, g := range p.GetPgs() {
			groups[g.Id] = g
		}
	}
	keys := map[uint32][]segment.Key{}
	for _, b := range blocks {
		if g := groups[b.Pg]; g != nil {
			for _, s := range members(g) {
				keys[s] = append(keys[s], segment.Key{PG: b.Pg, Block: b.Id})
			}
		}
	}
	now := time.Now()
	var mu sync.Mutex // guards h.avoid while calls are under way
	var calls sync.WaitGroup
	slots := make(chan struct{}, probeParallel)
	for _, s := range h.cmap.GetStores() {
		k := keys[s.Id]
		c := h.conns[s.Node]
		mu.Lock()
		avoided := now.Before(h.avoid[s.Id])
		mu.Unlock()
		switch {
		case len(k) == 0:
			continue
		case c == nil || avoided || s.State == metapb.StoreState_STORE_LOST || s.Gone:
			h.count(0, len(k))
			continue
		}
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			err := hint(ctx, c, s.Id, k)
			if err == nil {
				h.count(len(k), 0)
				return
			}
			h.count(0, len(k))
			h.o.Logger.Debug("a store could not be told of dead blocks, it finds them in its next pass", "store", s.Id, "blocks", len(k), "err", err)
			mu.Lock()
			defer mu.Unlock()
			h.avoid[s.Id] = time.Now().Add(hintAvoid)
		})
	}
	calls.Wait()
}

func hint(ctx context.Context, c Conn, store uint32, keys []segment.Key) error {
	ctx, cancel := context.WithTimeout(ctx, hintTimeout)
	defer cancel()
	req := blockstore.DiskRequest{Disk: store}
	reply, err := c.Call(ctx, blockstore.OpHint, req.Append(nil), net.Buffers{segment.AppendKeys(nil, keys)}, nil)
	reply.Release()
	return err
}

// refresh gets the newest map, and connections to its nodes.
func (h *Hinter) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	r, err := h.o.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{KnownVersion: h.cmap.GetVersion()}}})
	if err != nil {
		return err
	}
	c := r.GetClusterMap()
	if c.GetUnchanged() && h.cmap != nil {
		return nil
	}
	h.cmap = c
	h.conns = connections(h.conns, c.GetStores(), h.o.Connect)
	for id := range h.avoid {
		if time.Now().After(h.avoid[id]) {
			delete(h.avoid, id)
		}
	}
	return nil
}

// connections are those to the nodes of stores that are not lost: of old, where a node is where it was, else new ones.
func connections(old map[string]*conn, stores []*metapb.Store, connect func(node, addr string) Conn) map[string]*conn {
	out := map[string]*conn{}
	for _, s := range stores {
		if s.State == metapb.StoreState_STORE_LOST || s.Gone || out[s.Node] != nil {
			continue
		}
		if c := old[s.Node]; c != nil && c.addr == s.Address {
			out[s.Node] = c
		} else {
			out[s.Node] = &conn{addr: s.Address, Conn: connect(s.Node, s.Address)}
		}
	}
	for node, c := range old {
		if out[node] != c {
			c.Close()
		}
	}
	return out
}
