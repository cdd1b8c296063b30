package stripe

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
)

// reader is one Read. Each fetch has a goroutine; the caller oversees them, and as long as all goes well that is all there is.
// Readers are pooled: between Client.reader and release it belongs to that one call, and nothing refers to it, to the caller's
// buffer or to bufs afterwards.
type reader struct {
	c     *Client
	timer *time.Timer   // the overseer's
	wake  chan struct{} // one token when a fetch has ended

	// Set before the first fetch, read by all.
	ctx   context.Context // the caller's
	m     Map
	pg    *placement.PG
	block Block
	shape blockstore.Shape
	began time.Time
	wants []want

	wg sync.WaitGroup // all fetches and those who wait for them

	mu      sync.Mutex // guards the following
	all     []*fetch   // for reuse
	fetches []*fetch   // those of this Read, in the order in which they were started
	stopped error      // why no fetch is of use any more
	bufs    []*wire.Buf
	state   []shardState
	owner   blockstore.Owner // as a background read tells it
}

// part is a range of a shard.
type part struct{ shard, from, to int }

func (p part) len() int { return p.to - p.from }

// want is a part that the caller asked for, and where it goes.
type want struct {
	part   part
	dst    []byte
	direct *fetch // from the part's own target; nil if that is avoided
	// computed says that it is made from nearer shards, which are on their way.
	computed bool
}

// fetch is a part on its way. buf holds it once it has ended and err is nil.
type fetch struct {
	r    *reader
	run  func() // r.run(f), made once
	ctx  callCtx
	part part
	buf  []byte
	meta [32]byte // of the call, kept here because a Caller's arguments are on the heap

	// Guarded by r.mu; err is not changed any more once ended is set.
	ended bool
	err   error
	done  chan struct{} // closed when it has ended; nil before somebody asks for it
}

func (c *Client) reader(ctx context.Context, m Map, pg *placement.PG, b Block, s blockstore.Shape) *reader {
	r, ok := c.readers.Get().(*reader)
	if !ok {
		r = &reader{c: c, timer: stoppedTimer(), wake: make(chan struct{}, 1)}
	}
	r.ctx, r.m, r.pg, r.block, r.shape, r.began = ctx, m, pg, b, s, time.Now()
	for range s.K + s.M {
		r.state = append(r.state, shardState{})
	}
	return r
}

// end stops what is still on its way and waits until nothing refers to the caller's or any other buffer.
func (r *reader) end() {
	r.stop(context.Canceled)
	r.wg.Wait()
	for _, buf := range r.bufs {
		buf.Release()
	}
	clear(r.bufs)
	r.bufs = r.bufs[:0]
}

// release gives r back to the pool, after end.
func (r *reader) release() {
	r.timer.Stop()
	select {
	case <-r.wake:
	default:
	}
	r.ctx, r.m, r.pg, r.stopped = nil, nil, nil, nil
	r.owner = blockstore.Owner{}
	for _, f := range r.fetches {
		f.buf, f.err, f.done = nil, nil, nil
	}
	clear(r.wants)
	clear(r.state)
	r.wants, r.fetches, r.state = r.wants[:0], r.fetches[:0], r.state[:0]
	r.c.readers.Put(r)
}

// fetch starts to get a part into into, which may be nil, or returns the fetch of it that was started before.
func (r *reader) fetch(pt part, into []byte) *fetch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.find(pt); f != nil {
		return f
	}
	n := len(r.fetches)
	if n == len(r.all) {
		f := &fetch{r: r}
		f.run = func() { f.r.run(f) }
		r.all = append(r.all, f)
	}
	f := r.all[n]
	r.fetches = r.all[:n+1]
	if into == nil {
		b := wire.GetBuf(pt.len())
		r.bufs = append(r.bufs, b)
		into = b.B
	}
	f.part, f.buf, f.ended = pt, into, false
	f.ctx.begin(r.ctx, r.c.o.FetchTimeout)
	if r.stopped != nil {
		f.ctx.end(r.stopped, nil)
	}
	r.wg.Add(1)
	go f.run()
	return f
}

// lands reports whether what arrives is written to dst. It is not if another part is made of this one, and was first to ask for it.
func (f *fetch) lands(dst []byte) bool { return &f.buf[0] == &dst[0] }

// land puts what has arrived into dst.
func (f *fetch) land(dst []byte) {
	if !f.lands(dst) {
		copy(dst, f.buf)
	}
}

// find is the fetch of a part; nil if there is none. r.mu is held.
func (r *reader) find(pt part) *fetch {
	for _, f := range r.fetches {
		if f.part == pt {
			return f
		}
	}
	return nil
}

func (r *reader) run(f *fetch) {
	defer r.wg.Done()
	err := r.ask(f)
	r.mu.Lock()
	f.ended, f.err = true, err
	if f.done != nil {
		close(f.done)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// done is closed when f has ended.
func (r *reader) done(f *fetch) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.done == nil {
		f.done = make(chan struct{})
		if f.ended {
			close(f.done)
		}
	}
	return f.done
}

// buffer returns n bytes that live as long as the Read.
func (r *reader) buffer(n int) []byte {
	b := wire.GetBuf(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bufs = append(r.bufs, b)
	return b.B
}

// stop ends all fetches, and those that are started from now on.
func (r *reader) stop(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped == nil {
		r.stopped = err
	}
	for _, f := range r.fetches {
		if !f.ended { // else its context is as good as new
			f.ctx.end(err, nil)
		}
	}
}

// over reports whether errors say nothing any more, because the Read has its result or its caller gave up.
func (r *reader) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped != nil || r.ctx.Err() != nil
}

// arrived reports whether all that is wanted has arrived, and whether one of it will not come from its own target.
func (r *reader) arrived() (all, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all = true
	for i := range r.wants {
		f := r.wants[i].direct
		all = all && f != nil && f.ended && f.err == nil
		failed = failed || f == nil || f.ended && f.err != nil
	}
	return all, failed
}

// expire ends the fetches whose time is over, and says when that may be so again.
func (r *reader) expire(now time.Time) (next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = now.Add(r.c.o.FetchTimeout) // of one that is started from now on
	for _, f := range r.fetches {
		switch {
		case f.ended:
		case !now.Before(f.ctx.until):
			f.ctx.end(context.DeadlineExceeded, nil)
		case f.ctx.until.Before(next):
			next = f.ctx.until
		}
	}
	return next
}

// oversee waits for n results, or for the first that is an error, and ends fetches that take too long.
func (r *reader) oversee(results <-chan error, n int) error {
	for n > 0 {
		r.timer.Reset(time.Until(r.expire(time.Now())))
		select {
		case err := <-results:
			if err != nil {
				return err
			}
			n--
		case <-r.timer.C:
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
	return nil
}
