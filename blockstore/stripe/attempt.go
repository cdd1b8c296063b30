package stripe

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// attempt is one try to write a block to a group: a goroutine for each shard, overseen by the caller. Attempts
// are pooled: between begin and the end of run it belongs to that one call, and nothing refers to it or to the block's bytes afterwards.
type attempt struct {
	c     *Client
	timer *time.Timer   // the overseer's
	done  chan struct{} // one token when the last shard was answered

	// Set by begin, read by all.
	parent context.Context
	m      Map
	pg     *placement.PG
	w      *Write
	shape  blockstore.Shape
	began  time.Time
	ctx    callCtx
	all    []*put // for reuse
	puts   []*put // those of this attempt

	shards [][]byte // see Client.encode
	wg     sync.WaitGroup

	mu   sync.Mutex // guards left, and answered of puts
	left int        // shards that were not answered
}

// put is one shard's call.
type put struct {
	a     *attempt
	run   func() // a.do(p), made once
	i     int    // of the shard
	depth int    // how many shards were on their way to the target, this one included

	answered bool
	// What the call refers to, kept here because a Caller's arguments are on the heap.
	meta    [64]byte
	payload [1][]byte
}

func (p *put) target() placement.Target { return p.a.pg.Slots[p.i].Target }

func (c *Client) attempt() *attempt {
	if a, ok := c.attempts.Get().(*attempt); ok {
		return a
	}
	return &attempt{c: c, timer: stoppedTimer(), done: make(chan struct{}, 1)}
}

// release gives a back to the pool. All its calls have returned.
func (a *attempt) release() {
	a.parent, a.m, a.pg, a.w = nil, nil, nil, nil
	clear(a.shards)
	for _, p := range a.puts {
		p.payload[0] = nil
	}
	a.puts = a.puts[:0]
	a.c.attempts.Put(a)
}

// begin sets a up. The shards are encoded already.
func (a *attempt) begin(ctx context.Context, m Map, pg *placement.PG, w *Write, s blockstore.Shape) {
	a.parent, a.m, a.pg, a.w, a.shape = ctx, m, pg, w, s
	a.began = time.Now()
	a.ctx.begin(ctx, a.c.o.AttemptTimeout)
	n := 0
	for i := range a.shards {
		if !s.Stored(i) {
			continue
		}
		if n == len(a.all) {
			p := &put{a: a}
			p.run = func() { p.a.do(p) }
			a.all = append(a.all, p)
		}
		p := a.all[n]
		n++
		p.i, p.depth, p.answered = i, a.c.load.begin(pg.Slots[i].Target), false
		p.payload[0] = a.shards[i]
	}
	a.puts, a.left = a.all[:n], n
}

// run sends all shards and waits until all calls have ended.
func (a *attempt) run(patience time.Duration) error {
	a.wg.Add(len(a.puts))
	for _, p := range a.puts {
		go p.run()
	}
	timeout := time.Until(a.ctx.until)
	patient := patience >= timeout
	a.timer.Reset(min(patience, timeout))
	cancelled := a.parent.Done()
	for answered := len(a.puts) == 0; !answered; {
		select {
		case <-a.done:
			answered = true
		case <-cancelled:
			a.ctx.end(a.parent.Err(), nil)
			cancelled = nil
		case <-a.timer.C:
			if patient {
				a.ctx.end(context.DeadlineExceeded, nil)
				break
			}
			patient = true
			a.cutShort(patience)
			a.timer.Reset(time.Until(a.ctx.until))
		}
	}
	a.timer.Stop()
	a.wg.Wait()
	err, cause := a.ctx.ended()
	if err != nil && cause == nil {
		return vfs.Errorf(vfs.KindUnavailable, "stripe.put", "pg %d: %w", a.pg.ID, err)
	}
	return cause
}

// do makes one call.
func (a *attempt) do(p *put) {
	defer a.wg.Done()
	c, t := a.c, p.target()
	err := a.call(p)
	c.load.end(t)
	failed, cause := a.ctx.ended()
	switch {
	case err == nil:
		c.putLatency(a.shape.ShardLen).add(time.Since(a.began) / time.Duration(p.depth))
		c.worked(t)
	case failed != nil && cause != nil: // cancelled because another failed before
	default:
		k := vfs.KindOf(err)
		if a.parent.Err() == nil && k != vfs.KindFenced && k != vfs.KindExists && k != vfs.KindInvalid {
			c.failed(t, err)
		}
		a.ctx.end(context.Canceled, vfs.Errorf(k, "stripe.put", "shard %d on %v: %w", p.i, t, err))
	}
	a.mu.Lock()
	p.answered = true
	a.left--
	last := a.left == 0
	a.mu.Unlock()
	if last {
		a.done <- struct{}{}
	}
}

func (a *attempt) call(p *put) error {
	caller, err := a.m.Caller(p.target().Node)
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), "stripe.put", "no way to the node: %w", err)
	}
	r := blockstore.PutRequest{
		Disk: p.target().Disk, Key: blockstore.Key{PG: a.pg.ID, Block: a.w.Block, Shard: uint8(p.i)}, Epoch: a.pg.Epoch,
		K: uint8(a.shape.K), M: uint8(a.shape.M), BlockLen: uint32(a.shape.BlockLen), Owner: a.w.Owner,
	}
	reply, err := caller.Call(&a.ctx, blockstore.OpPut, r.Append(p.meta[:0]), net.Buffers(p.payload[:]), nil)
	reply.Release()
	return err
}

// cutShort ends an attempt whose targets do not all answer in time. Those count as failed; and the
// time they had counts as one of an answer, so that when all are slow patience grows until one comes.
func (a *attempt) cutShort(patience time.Duration) {
	if a.ctx.Err() != nil {
		return
	}
	var slow []*put
	a.mu.Lock()
	for _, p := range a.puts {
		if !p.answered {
			slow = append(slow, p)
		}
	}
	a.mu.Unlock()
	if len(slow) == 0 {
		return
	}
	var err error
	for _, p := range slow {
		a.c.putLatency(a.shape.ShardLen).add(patience / time.Duration(p.depth))
		err = vfs.Errorf(vfs.KindUnavailable, "stripe.put", "%v did not acknowledge a shard within %v, much longer than usual", p.target(), patience)
		a.c.failed(p.target(), err)
	}
	a.c.o.Metrics.WritesSlow.Inc()
	a.ctx.end(context.Canceled, err)
}
