package stripe

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/reedsolomon"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Client writes and reads blocks. It is safe for concurrent use and holds no
// connections: those are the Map's.
type Client struct {
	o     Options
	zeros []byte // the zero shards of short blocks; never written

	mu       sync.Mutex
	encoders map[placement.Profile]reedsolomon.Encoder
	avoided  map[placement.Target]*trouble
	// anyAvoided is len(avoided) > 0, read without mu.
	anyAvoided atomic.Bool

	latency [2]latency // of fetches up to smallFetch bytes, and longer ones
	puts    [2]latency // of shards likewise, divided by how many were under way to the target
	load    load
	pulls   pulls

	attempts sync.Pool // *attempt
	readers  sync.Pool // *reader
}

// trouble is a target that failed.
type trouble struct {
	failures int
	until    time.Time // avoided before
	full     bool      // it had no space when it last failed
}

// New makes a client.
func New(o Options) *Client {
	return &Client{
		o: o.withDefaults(), zeros: make([]byte, blockstore.MinShard),
		encoders: make(map[placement.Profile]reedsolomon.Encoder), avoided: make(map[placement.Target]*trouble),
		load: load{n: make(map[placement.Target]int)}, pulls: pulls{m: make(map[placement.Target]*pull)},
	}
}

// inversionCacheMax is the widest code whose inverted matrices are cached. There is one
// for each set of lost shards, and their number explodes with the width.
const inversionCacheMax = 14

func (c *Client) encoder(p placement.Profile) (reedsolomon.Encoder, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.encoders[p]; e != nil {
		return e, nil
	}
	// The library's default matrix is part of the disk format; a golden test holds it.
	// One goroutine per block: parallel work is many blocks.
	e, err := reedsolomon.New(p.K, p.M, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(p.Width() <= inversionCacheMax))
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInternal, "stripe.encoder", "%v: %w", p, err)
	}
	c.encoders[p] = e
	return e, nil
}

// failed notes that a target failed, so that it is avoided for a while.
func (c *Client) failed(t placement.Target, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.avoided[t]
	if x == nil {
		x = &trouble{}
		c.avoided[t] = x
		c.o.Logger.Warn("block target is avoided", "target", t, "err", err)
	}
	d := c.o.BackoffMax
	if x.full = vfs.KindOf(err) == vfs.KindNoSpace; !x.full && x.failures < 16 {
		d = min(c.o.BackoffMin<<x.failures, c.o.BackoffMax)
	}
	x.failures++
	// Half of it is drawn, so that gateways do not come back all at once.
	x.until = time.Now().Add(d/2 + rand.N(d/2+1))
	c.anyAvoided.Store(true)
}

// worked notes that a target answered.
func (c *Client) worked(t placement.Target) {
	if !c.anyAvoided.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.avoided[t]; x != nil {
		delete(c.avoided, t)
		c.anyAvoided.Store(len(c.avoided) > 0)
		c.o.Logger.Info("block target works again", "target", t)
	}
}

// avoids reports whether t failed a short while ago. When its time is over, one
// caller at a time is let through to see whether it works again: the others would all wait
// for a node that is still dead.
func (c *Client) avoids(t placement.Target) bool {
	if !c.anyAvoided.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.avoided[t]
	if x == nil {
		return false
	}
	now := time.Now()
	if now.Before(x.until) {
		return true
	}
	x.until = now.Add(c.o.BackoffMin)
	return false
}

// avoidsWrite is avoids for a write. Where somebody calls Probe, no write has to
// find out at its own cost whether a target works again.
func (c *Client) avoidsWrite(t placement.Target) bool {
	if !c.o.Probed {
		return c.avoids(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.avoided[t] != nil
}

// troubled reports whether t failed and did not work since, and takes no try.
func (c *Client) troubled(t placement.Target) bool {
	if !c.anyAvoided.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.avoided[t] != nil
}

func (c *Client) healthy(pg *placement.PG) bool {
	if !c.anyAvoided.Load() {
		return true
	}
	for i := range pg.Slots {
		if c.avoidsWrite(pg.Slots[i].Target) {
			return false
		}
	}
	return true
}

// allFull reports whether each of the groups with at least minK data shards, and there is one, cannot be written because targets
// of it have no space, and for no other reason.
func (c *Client) allFull(pgs []*placement.PG, minK int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := false
	for _, pg := range pgs {
		if pg.K < minK {
			break // they are sorted by falling k
		}
		full := false
		for i := range pg.Slots {
			if x := c.avoided[pg.Slots[i].Target]; x != nil {
				if !x.full {
					return false
				}
				full = true
			}
		}
		if !full {
			return false
		}
		found = true
	}
	return found
}

// Probe asks the targets that failed and whose time is over whether they take writes again. One that
// is not in the map any more is forgotten.
func (c *Client) Probe(ctx context.Context, m Map) {
	if !c.anyAvoided.Load() {
		return
	}
	now := time.Now()
	var due []placement.Target
	c.mu.Lock()
	for t, x := range c.avoided {
		if !now.Before(x.until) {
			due = append(due, t)
		}
	}
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, t := range due {
		caller, err := m.Caller(t.Node)
		if err != nil {
			c.forget(t)
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.o.ProbeTimeout)
			defer cancel()
			err := probe(ctx, caller, t)
			switch {
			case err == nil:
				c.worked(t)
			case ctx.Err() != context.Canceled:
				c.failed(t, err)
			}
		})
	}
	wg.Wait()
}

func probe(ctx context.Context, caller Caller, t placement.Target) error {
	req := blockstore.DiskRequest{Disk: t.Disk}
	reply, err := caller.Call(ctx, blockstore.OpInfo, req.Append(nil), nil, nil)
	if err != nil {
		return err
	}
	defer reply.Release()
	var info blockstore.InfoReply
	if err := info.Decode(reply.Meta); err != nil {
		return err
	}
	if !info.Writable {
		return vfs.Errorf(vfs.KindUnavailable, "stripe.probe", "it takes no writes")
	}
	if info.Full {
		return vfs.Errorf(vfs.KindNoSpace, "stripe.probe", "it is full")
	}
	return nil
}

// forget drops what is known of a target.
func (c *Client) forget(t placement.Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.avoided, t)
	c.anyAvoided.Store(len(c.avoided) > 0)
}

// Retain forgets the targets that known denies: stores that were replaced do not come back. It is for whoever follows the map.
func (c *Client) Retain(known func(placement.Target) bool) {
	c.pulls.retain(known)
	if !c.anyAvoided.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.avoided {
		if !known(t) {
			delete(c.avoided, t)
		}
	}
	c.anyAvoided.Store(len(c.avoided) > 0)
}

// pgEpoch is an attempt that was made.
type pgEpoch struct{ pg, epoch uint32 }

// choose picks a group for a block of the pool: at random among those of the largest k that has
// any which are healthy and were not tried. Groups are sorted by falling k. It returns nil if there are none with at least minK.
func (c *Client) choose(pgs []*placement.PG, minK int, tried []pgEpoch) *placement.PG {
	for len(pgs) > 0 && pgs[0].K >= minK {
		n := 1
		for n < len(pgs) && pgs[n].K == pgs[0].K {
			n++
		}
		if pg := c.chooseAmong(pgs[:n], tried); pg != nil {
			return pg
		}
		pgs = pgs[n:]
	}
	return nil
}

func (c *Client) chooseAmong(pgs []*placement.PG, tried []pgEpoch) *placement.PG {
	usable := func(pg *placement.PG) bool {
		for _, t := range tried {
			if t == (pgEpoch{pg.ID, pg.Epoch}) {
				return false
			}
		}
		return c.healthy(pg)
	}
	const draws = 8 // almost always enough; then all are looked at
	for range min(draws, len(pgs)) {
		if pg := pgs[rand.IntN(len(pgs))]; usable(pg) {
			return pg
		}
	}
	var best *placement.PG
	n := 0
	for _, pg := range pgs {
		if usable(pg) {
			if n++; rand.IntN(n) == 0 {
				best = pg
			}
		}
	}
	return best
}

// smallFetch divides the two classes of latency.
const smallFetch = 64 << 10

// latency is a smoothed mean and deviation, as TCP keeps them for its
// retransmission timer (RFC 6298).
type latency struct {
	mu        sync.Mutex
	mean, dev time.Duration
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mean == 0 {
		l.mean, l.dev = d, d/2
		return
	}
	l.dev += ((l.mean - d).Abs() - l.dev) / 4
	l.mean += (d - l.mean) / 8
}

// timeout is how long an answer may take before it is remarkable.
func (l *latency) timeout() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mean + 4*l.dev
}

func (c *Client) latencyOf(n int) *latency {
	if n <= smallFetch {
		return &c.latency[0]
	}
	return &c.latency[1]
}

// hedgeAfter is how long to wait for n bytes before rebuilding them.
func (c *Client) hedgeAfter(n int) time.Duration {
	return min(max(c.latencyOf(n).timeout(), c.o.HedgeMin), c.o.HedgeMax)
}

// shapeIn is the shape of a block of n bytes in pg.
func shapeIn(pg *placement.PG, n int) (blockstore.Shape, error) {
	if len(pg.Slots) != pg.K+pg.M {
		return blockstore.Shape{}, vfs.Errorf(vfs.KindInternal, "stripe.map", "placement group %d of profile %v has %d slots", pg.ID, pg.Profile(), len(pg.Slots))
	}
	return blockstore.ShapeOf(n, pg.K, pg.M)
}

// ended wraps the end of the caller's context.
func ended(ctx context.Context, op string) error { return vfs.Wrap(op, context.Cause(ctx)) }
