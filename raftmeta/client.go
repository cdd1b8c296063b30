package raftmeta

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/crew"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"golang.org/x/sync/singleflight"
)

// ClientOptions configures a Client.
type ClientOptions struct {
	Nodes []string // names of the nodes with voters; any order
	// NodesFunc, if given, is asked for them instead, for they may change. It never returns none.
	NodesFunc func() []string
	Resolver  Resolver
	Security  func(node string) wire.Security // for a connection to node
	Clock     func() time.Time                // stamps commands; default time.Now
	Logger    *slog.Logger                    // default slog.Default()

	Monotonic func() time.Duration // time that only runs forward, by which leases are valid; default: since the machine was booted, with the time it was suspended

	// RenewInterval is how often leases are renewed; default a sixth of the lease.
	RenewInterval time.Duration
	// AttemptTimeout is how long one call to one node may take before another is tried; default 3 s.
	AttemptTimeout time.Duration
	// Calls is how many calls of commands are in flight per shard, and as many of queries with short and with long answers; default 4.
	Calls int
}

const (
	defaultAttemptTimeout = 3 * time.Second
	defaultCalls          = 4
	// keptCallers is how many goroutines that made calls are kept for the next ones: as many as calls to two shards are in flight.
	keptCallers = 8

	// maxCallItems and maxCallBytes bound what is put into one call. maxItemBytes, the
	// limit of one command or query, leaves room for its identity.
	maxCallItems = 256
	maxCallBytes = 512 << 10
	maxItemBytes = maxCallBytes - 256

	// slotItems is how many commands of a call share a slot, told apart by their op index. A slot's results
	// are one record, rewritten as a whole; a slot for each command would be one more key for each.
	slotItems = 16
	callSlots = (maxCallItems + slotItems - 1) / slotItems

	// callLoad is how many commands, or queries, are worth a further call while others are under way. Fewer wait for an answer to those,
	// and then share a call, and with it a log entry and a sync of each log, with what has come meanwhile.
	callLoad = 32

	backoffMin = 5 * time.Millisecond
	backoffMax = 250 * time.Millisecond
)

// Client changes and reads the metadata of all shards. It is safe for concurrent use; concurrent
// commands, and queries, share calls.
//
// Commands of one Apply after the other are applied in that order; those of concurrent ones in any.
type Client struct {
	opt   ClientOptions
	peers *peers

	ctx    context.Context // of the calls; ends with Close
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // calls; Add by enter
	crew   *crew.Crew     // that makes them
	shards map[uint16]*clientShard

	wishing singleflight.Group // by what is wished for
	wishes  chan struct{}      // slots of calls of Wish, which wait at the leader
}

var errClientClosed = errors.New("the metadata client was closed")

// NewClient makes a client. It connects when it is first used.
func NewClient(o ClientOptions) (*Client, error) {
	if len(o.Nodes) == 0 && o.NodesFunc == nil || o.Resolver == nil || o.Security == nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "raftmeta.client", "nodes, a resolver and connection security are needed")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Monotonic == nil {
		o.Monotonic = sinceBoot
	}
	o.AttemptTimeout = orDefault(o.AttemptTimeout, defaultAttemptTimeout)
	if o.Calls <= 0 {
		o.Calls = defaultCalls
	}
	if o.NodesFunc == nil {
		nodes := slices.Clone(o.Nodes)
		o.NodesFunc = func() []string { return nodes }
	}
	c := &Client{opt: o, shards: map[uint16]*clientShard{}, wishes: make(chan struct{}, maxWishCalls), crew: crew.New(keptCallers)}
	c.peers = newPeers(func(ctx context.Context, node string) (net.Conn, error) { return dialNode(ctx, o.Resolver, node) }, o.Security, o.Logger)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c, nil
}

// Close ends the client. What waits for an answer fails; the outcome of commands that were sent is unknown.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel(errClientClosed)
	c.wg.Wait()
	c.crew.Close()
	c.crew.Wait()
	c.peers.close()
}

// enter begins work that Close waits for, until c.wg.Done; false after Close.
func (c *Client) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	return true
}

// start runs fn on a goroutine that Close waits for; false after Close.
func (c *Client) start(fn func()) bool {
	if !c.enter() {
		return false
	}
	c.crew.Go(func() {
		defer c.wg.Done()
		fn()
	})
	return true
}

func (c *Client) shard(id uint16) *clientShard {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shards[id]
	if s == nil {
		s = &clientShard{c: c, id: id, node: rand.IntN(1 << 16), short: lane{free: 1}, long: lane{free: c.opt.Calls}}
		for i := range c.opt.Calls * callSlots {
			s.slots = append(s.slots, slot{id: uint32(c.opt.Calls*callSlots - 1 - i)})
		}
		c.shards[id] = s
	}
	return s
}

// Register makes (name, incarnation) the origin of this client's commands to a shard and returns its
// id. An earlier incarnation of the same name is expired by it. Two clients must not register the same
// incarnation: they would use the same identities.
func (c *Client) Register(ctx context.Context, shard uint16, kind metapb.OriginKind, name string, incarnation []byte) (uint64, error) {
	return c.register(ctx, shard, &metapb.RegisterOrigin{Kind: kind, Name: name, Incarnation: incarnation})
}

func (c *Client) register(ctx context.Context, shard uint16, reg *metapb.RegisterOrigin) (uint64, error) {
	r, err := c.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: reg}})
	if err != nil {
		return 0, err
	}
	origin := r.GetOrigin().GetOrigin()
	if origin == 0 {
		return 0, vfs.Errorf(vfs.KindInternal, "raftmeta.register", "shard %d answered origin 0", shard)
	}
	s := c.shard(shard)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.origin != origin {
		s.become(origin)
	}
	return origin, nil
}

// become makes an origin that of the commands from now on; sequence numbers belong to an origin. s.mu is held.
func (s *clientShard) become(origin uint64) {
	s.origin, s.generation = origin, s.generation+1
	for i := range s.slots {
		s.slots[i] = slot{id: s.slots[i].id, generation: s.generation}
	}
}

// clientShard is what the client knows of one shard, and its queues.
type clientShard struct {
	c  *Client
	id uint16

	admin sync.Mutex // held while EnsureRegistered registers: a second incarnation would end the first

	mu         sync.Mutex
	node       int    // index into Nodes: who is asked next
	hint       string // node that leads, as far as we heard; ""
	origin     uint64
	generation int    // of origin
	slots      []slot // free ones; a call of commands takes some
	commands   []*item
	proposing  int                 // calls of commands in flight
	under      map[uint64]struct{} // the same by number
	calls      uint64              // of commands that ever were
	ended      chan struct{}       // closed when one ends, if somebody waits for that; else nil

	short, long lane // queries
}

// slot is one slot of the origin: the unit in which the shard remembers results.
type slot struct {
	id         uint32
	seq        uint64 // last used
	generation int
}

// item is a command or query on its way.
type item struct {
	enc  []byte       // without identity
	id   []byte       // encoded identity field; nil: none, or inside enc
	done chan outcome // 1
	gone bool         // the caller left before it was sent; guarded by clientShard.mu
	sent bool         // guarded by clientShard.mu

	bare bool // a command that needs no identity

	request vfs.RequestID // that it is part of

	maybe bool // a command that may have taken effect: an attempt's answer was lost; its call's goroutine only
}

type outcome struct {
	result *metapb.Result
	answer *metapb.QueryResult
	err    error
}

// wait waits for it's outcome. A caller that leaves before the item was sent
// takes it back.
func (s *clientShard) wait(ctx context.Context, it *item, op string) (outcome, error) {
	select {
	case o := <-it.done:
		return o, o.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	it.gone = true
	sent := it.sent
	s.mu.Unlock()
	select {
	case o := <-it.done: // it came in the meantime
		return o, o.err
	default:
	}
	cause := context.Cause(ctx)
	if sent && op == opApply {
		return outcome{}, vfs.Errorf(vfs.KindUnknown, op, "gave up waiting for shard %d: %w", s.id, cause)
	}
	return outcome{}, vfs.Errorf(vfs.KindOf(cause), op, "shard %d did not answer: %w", s.id, cause)
}

// take removes the next call's items from a queue. s.mu is held.
func take(queue *[]*item) []*item {
	var items []*item
	size, n := 0, 0
	for _, it := range *queue {
		if it.gone {
			n++
			continue
		}
		if len(items) == maxCallItems || len(items) > 0 && size+len(it.enc) > maxCallBytes {
			break
		}
		size += len(it.enc)
		it.sent = true
		items = append(items, it)
		n++
	}
	*queue = (*queue)[n:]
	if len(*queue) == 0 {
		*queue = nil // the array would keep what was answered alive
	}
	return items
}

// mayCall reports whether a call is to be made of what is queued, while others are under way: free ones start in any case.
func (s *clientShard) mayCall(queued, calls, free int) bool {
	return queued > 0 && calls < s.c.opt.Calls && (calls < free || queued >= callLoad)
}

// fail answers items with err.
func fail(items []*item, err error) {
	for _, it := range items {
		it.done <- outcome{err: err}
	}
}

// target is the node to ask, and notes it as the one to blame.
func (s *clientShard) target() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hint != "" {
		return s.hint
	}
	nodes := s.c.opt.NodesFunc()
	return nodes[s.node%len(nodes)]
}

// elsewhere chooses another node after asked did not do it; leader is the one it named.
func (s *clientShard) elsewhere(asked, leader string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hint != "" && s.hint != asked {
		return // somebody knows better meanwhile
	}
	if leader != "" && leader != asked && slices.Contains(s.c.opt.NodesFunc(), leader) {
		s.hint = leader
		return
	}
	s.hint = ""
	s.node++
}

// leads notes that node answered as the leader.
func (s *clientShard) leads(node string) {
	s.mu.Lock()
	s.hint = node
	s.mu.Unlock()
}

// final reports errors that asking again does not change.
func final(err error) bool {
	if !wire.Answered(err) {
		// Only what the client itself refuses to send.
		return wire.NotSent(err) && vfs.KindOf(err) == vfs.KindInvalid
	}
	switch vfs.KindOf(err) {
	case vfs.KindInvalid, vfs.KindTooMany, vfs.KindNotSupported, vfs.KindUnauthorized, vfs.KindPerm, vfs.KindAccess, vfs.KindIncompatible, vfs.KindInternal:
		return true
	}
	return false
}

// call makes one attempt at a call. It notes who leads, or asks elsewhere next time.
func (s *clientShard) call(op wire.Op, req []byte, payload net.Buffers) (*wire.Reply, error) {
	return s.callWithin(s.c.ctx, op, req, payload)
}

// callWithin is call for as long as ctx lasts.
func (s *clientShard) callWithin(ctx context.Context, op wire.Op, req []byte, payload net.Buffers) (*wire.Reply, error) {
	return s.callBy(ctx, op, req, payload, s.attempt)
}

// callBy is callWithin by one way to make the attempt.
func (s *clientShard) callBy(ctx context.Context, op wire.Op, req []byte, payload net.Buffers,
	attempt func(ctx context.Context, cl *wire.Client, node string, op wire.Op, req []byte, payload net.Buffers) (*wire.Reply, error)) (*wire.Reply, error) {
	node := s.target()
	ctx, cancel := context.WithTimeout(ctx, s.c.opt.AttemptTimeout)
	defer cancel()
	cl, err := s.c.peers.client(node)
	if err != nil {
		return nil, err
	}
	r, err := attempt(ctx, cl, node, op, req, payload)
	if err == nil {
		s.leads(node)
		return r, nil
	}
	leader := ""
	var e *vfs.Error
	if wire.Answered(err) && vfs.KindOf(err) == vfs.KindNotLeader && errors.As(err, &e) {
		leader = e.Text
	}
	s.elsewhere(node, leader)
	return nil, err
}

// backoff is the pause before an attempt.
type backoff struct{ next time.Duration }

// wait pauses; false when ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, backoffMin), backoffMax)
	d := b.next/2 + rand.N(b.next/2+1)
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
