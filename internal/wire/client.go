package wire

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Connection classes.
const (
	classSmall = iota
	classBulk
	classes
)

// spread is the number of calls on the least busy connection of a class from which
// on another connection is dialled: small calls gain from sharing system calls, bulk
// calls only wait for each other.
var spread = [classes]int32{classSmall: 8, classBulk: 1}

// Client makes calls to one peer. It is safe for concurrent use.
type Client struct {
	dial   func(context.Context) (net.Conn, error)
	opt    ClientOptions
	ctx    context.Context // ends when the client closes
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // connections

	mu       sync.Mutex
	closed   bool
	slots    [classes][]slot
	failures int       // dials in a row that led to nothing
	retryAt  time.Time // no dial before
	lastErr  error
}

// slot holds a connection, or the attempt to make one, or neither.
type slot struct {
	conn    *clientConn
	attempt *attempt
}

// attempt is a dial in progress; the rest is set when done is closed.
type attempt struct {
	done chan struct{}
	conn *clientConn
	err  error
}

// Reply is the answer to a call. Meta and Payload are valid until Release.
type Reply struct {
	Meta    []byte
	Payload []byte // in the caller's buffer if it was large enough

	meta, payload *Buf
}

// Release gives the reply's buffers back, at most once. A reply that is not
// released is left to the garbage collector.
func (r *Reply) Release() {
	if r == nil {
		return
	}
	r.meta.Release()
	r.payload.Release()
	*r = Reply{}
}

// NewClient makes a client. It dials when it is first used; dial has to end with its context.
func NewClient(dial func(context.Context) (net.Conn, error), o ClientOptions) *Client {
	o = o.withDefaults()
	c := &Client{dial: dial, opt: o}
	c.slots[classSmall] = make([]slot, o.SmallConns)
	c.slots[classBulk] = make([]slot, o.BulkConns)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// Dialer returns a dial function for NewClient.
func Dialer(network, addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
}

// Call sends a request and waits for its answer, at most until ctx ends; ctx's deadline
// travels with it. Meta is copied; payload and into must not be touched
// before Call returns. The answer's payload is read into into if it fits, else into a
// pooled buffer; what into holds after an error is undefined. About errors
// see NotSent and Answered.
func (c *Client) Call(ctx context.Context, op Op, meta []byte, payload net.Buffers, into []byte) (*Reply, error) {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	if len(meta) > MaxMeta || n > MaxPayload {
		return nil, notSent(vfs.KindInvalid, "request of %d+%d bytes, limit %d+%d", len(meta), n, MaxMeta, MaxPayload)
	}
	class := classSmall
	if max(n, len(into)) >= c.opt.BulkBytes {
		class = classBulk
	}
	for try := 0; ; try++ {
		if ctx.Err() != nil {
			return nil, givenUp(ctx, outcomeNotSent)
		}
		cc, err := c.conn(ctx, class)
		if err != nil {
			return nil, err
		}
		r, err := cc.call(ctx, op, meta, payload, n, into)
		// A connection that broke before the request left it says nothing about the peer's health: it
		// may have restarted since the last call.
		if err != nil && try < 2 && errors.Is(err, errBrokeBefore) {
			continue
		}
		return r, err
	}
}

// Close ends the client. Calls in progress fail; it returns when all its
// connections are closed.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	var open []*clientConn
	for class := range c.slots {
		for _, s := range c.slots[class] {
			if s.conn != nil {
				open = append(open, s.conn)
			}
		}
	}
	c.mu.Unlock()
	c.cancel(ErrClosed)
	for _, cc := range open {
		cc.out.fail(ErrClosed)
	}
	c.wg.Wait()
}

// conn returns a connection of the class: the least busy one, or, if there is none, the next to be made.
func (c *Client) conn(ctx context.Context, class int) (*clientConn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, notSent(vfs.KindCanceled, "%w", ErrClosed)
	}
	var best *clientConn
	var att *attempt
	free := -1
	for i, s := range c.slots[class] {
		switch {
		case s.conn != nil:
			if best == nil || s.conn.load.Load() < best.load.Load() {
				best = s.conn
			}
		case s.attempt != nil:
			att = s.attempt
		case free < 0:
			free = i
		}
	}
	if att == nil && free >= 0 && (best == nil || best.load.Load() >= spread[class]) && !time.Now().Before(c.retryAt) {
		att = &attempt{done: make(chan struct{})}
		c.slots[class][free].attempt = att
		c.wg.Add(1)
		go c.connect(class, free, att)
	}
	lastErr := c.lastErr
	c.mu.Unlock()
	switch {
	case best != nil:
		return best, nil
	case att == nil:
		return nil, notSent(vfs.KindUnavailable, "peer was not reachable a moment ago: %w", lastErr)
	}
	select {
	case <-att.done:
	case <-ctx.Done():
		return nil, givenUp(ctx, outcomeNotSent)
	}
	if att.err != nil {
		return nil, notSent(vfs.KindUnavailable, "cannot connect: %w", att.err)
	}
	return att.conn, nil
}

// connect makes a connection and then is its reader until it breaks.
func (c *Client) connect(class, i int, att *attempt) {
	defer c.wg.Done()
	cc, err := c.open()
	c.mu.Lock()
	if err == nil && c.closed {
		cc.t.raw.Close()
		err = ErrClosed
	}
	att.conn, att.err = cc, err
	if err != nil {
		c.slots[class][i] = slot{}
		c.failed(err)
	} else {
		c.slots[class][i] = slot{conn: cc}
	}
	close(att.done)
	c.mu.Unlock()
	if err != nil {
		return
	}
	err = cc.serve(func(cause error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.slots[class][i] = slot{}
		if !cc.served.Load() {
			c.failed(cause)
		}
	})
	if c.ctx.Err() == nil && !ended(err) {
		c.opt.Logger.Warn("wire: connection closed", "peer", cc.t.peer.Name, "remote", cc.t.raw.RemoteAddr(), "err", err)
	}
}

// open dials and shakes hands.
func (c *Client) open() (*clientConn, error) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, c.opt.HandshakeTimeout, errors.New("it took too long"))
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	tune(nc)
	t, err := c.opt.Security.handshake(ctx, nc, false, hello{
		maxMeta: uint32(c.opt.MaxMeta), maxPayload: uint32(c.opt.MaxPayload), calls: 1,
	})
	if err != nil {
		nc.Close()
		return nil, err
	}
	return newClientConn(c, t), nil
}

// failed puts off the next dial. Called with mu.
func (c *Client) failed(err error) {
	pause := c.opt.BackoffMax
	if c.failures < 16 {
		pause = min(c.opt.BackoffMin<<c.failures, pause)
	}
	c.failures++
	c.lastErr = err
	c.retryAt = time.Now().Add(pause/2 + rand.N(pause/2+1))
}

// works ends the back-off after an answer.
func (c *Client) works() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures, c.retryAt = 0, time.Time{}
}
