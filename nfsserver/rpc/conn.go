package rpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// readBufferSize is per connection: room for a few small calls per read(2).
// What does not fit goes straight into the record's buffer, which is not
// allocated before this much of a larger record has arrived: announcing a
// record is free, so it must not cost us anything.
const readBufferSize = 16 << 10

var (
	errDraining = errors.New("shutting down")
	errNotRPC   = errors.New("neither a call nor a reply")
	errIdle     = errors.New("idle for too long")
)

// endpoint is what the connections of a Server, or one client connection,
// share.
type endpoint struct {
	limits   Limits
	programs programs
	bufs     *buffers
	requests sync.Pool // *Request
	calls    sync.Pool // *pendingCall
	startTLS func(ctx context.Context, nc net.Conn) (net.Conn, error)
	log      *slog.Logger
	memory   *semaphore.Weighted
	waiting  atomic.Int64    // connections that wait for memory
	idle     atomic.Int64    // workers that wait for calls, of all connections
	ctx      context.Context // of all calls
	reading  context.Context // ends with ctx or stopReading: read no more calls
	drain    <-chan struct{} // reading.Done()
	stopRead context.CancelFunc
	stats    counters
}

type counters struct {
	conns, running, accepted, refused, calls, stalled, bytesRead, bytesWritten, badRecords atomic.Int64
}

func newEndpoint(ctx context.Context, l Limits, log *slog.Logger) *endpoint {
	l = l.withDefaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ep := &endpoint{limits: l, bufs: newBuffers(l.MaxRecord), log: log, ctx: ctx,
		memory: semaphore.NewWeighted(int64(max(l.Memory, l.MaxRecord)))}
	ep.reading, ep.stopRead = context.WithCancel(ctx)
	ep.drain = ep.reading.Done()
	ep.requests.New = func() any { return new(Request) }
	ep.calls.New = func() any {
		return &pendingCall{result: make(chan callResult, 1), sent: make(chan struct{}, 1)}
	}
	return ep
}

// Conn is one connection, of a Server or made by NewClientConn.
type Conn struct {
	id            uint64
	tag           uint32 // random, not 0: with an xid it names a call in the cluster's logs
	ep            *endpoint
	remote, local netip.AddrPort
	value         atomic.Pointer[any]
	foreign       *foreign // nil: a connection of this process

	tokens  chan struct{} // holds one element per call being read, run or answered
	work    chan *Request // to idle workers
	idle    atomic.Int32  // workers waiting on work
	workers sync.WaitGroup

	readDone chan struct{} // closed when nothing is read any more
	done     chan struct{} // closed when all is over

	// Used by the reading goroutine only.
	rr      recordReader
	machine string
	tls     bool
	arrival time.Time // when the record that is being read must be there; zero: it holds no memory

	wmu sync.Mutex
	// Fields protected by wmu.
	nc      net.Conn
	broken  bool
	cause   error
	writing bool       // a goroutine is in flush
	queue   []outgoing // to be written
	spare   []outgoing // the other of two alternating queues

	// Used by the goroutine that set writing.
	slices [][]byte
	vector net.Buffers
	// Until when what is written to writeTo may take.
	writeTo    net.Conn
	writeUntil time.Time

	cmu sync.Mutex
	// Fields protected by cmu.
	pending     map[uint32]*pendingCall
	nextXID     uint32
	callsClosed bool
}

func newConn(ep *endpoint, id uint64, nc net.Conn) *Conn {
	c := &Conn{
		id:       id,
		tag:      rand.Uint32() | 1,
		ep:       ep,
		nc:       nc,
		remote:   addrPort(nc.RemoteAddr()),
		local:    addrPort(nc.LocalAddr()),
		tokens:   make(chan struct{}, ep.limits.Workers),
		work:     make(chan *Request),
		readDone: make(chan struct{}),
		done:     make(chan struct{}),
		pending:  make(map[uint32]*pendingCall),
	}
	c.rr.br = bufio.NewReaderSize(&stream{c, nc}, readBufferSize)
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// ID is unique among the connections of this process's server, never 0.
func (c *Conn) ID() uint64 { return c.id }

// RemoteAddr is the peer's address; the zero AddrPort if it is not TCP.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// LocalAddr is our own address.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// SetValue attaches v to the connection, for the layer above.
func (c *Conn) SetValue(v any) { c.value.Store(&v) }

// Value is what SetValue attached last, else nil.
func (c *Conn) Value() any {
	if v := c.value.Load(); v != nil {
		return *v
	}
	return nil
}

// ReadDone is closed when nothing is read from the connection any more: the other side has closed it, or it is broken, or this one ends.
func (c *Conn) ReadDone() <-chan struct{} { return c.readDone }

// Done is closed when the connection is closed and its last call has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection. Running calls go on without an answer. It does
// not wait: Done tells when they have ended.
func (c *Conn) Close() { c.shut(net.ErrClosed) }

// shut makes cause the reason of the end and closes the stream.
func (c *Conn) shut(cause error) {
	c.wmu.Lock()
	if !c.broken {
		c.broken = true
		c.cause = cause
		if c.foreign != nil {
			c.wmu.Unlock()
			return // its end is the other process's affair
		}
		_ = c.nc.Close() // nothing to be done about an error, and nothing lost
	}
	c.wmu.Unlock()
}

// setReadDeadline is for the reading goroutine; a draining connection keeps
// the deadline in the past that stopDraining gave it.
func (c *Conn) setReadDeadline(d time.Duration) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	select {
	case <-c.ep.drain:
		return errDraining
	default:
	}
	return c.nc.SetReadDeadline(time.Now().Add(d))
}

// wake ends the wait of the reading goroutine, after ep.drain was closed.
func (c *Conn) wake() {
	c.wmu.Lock()
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // fails only if the connection is closed, which wakes too
	c.wmu.Unlock()
}

// serve owns the connection: it reads, and returns when everything is over.
func (c *Conn) serve() {
	err := c.read()
	close(c.readDone)
	c.failCalls(err)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errDraining), errors.Is(err, net.ErrClosed):
		// The peer may have closed its sending side only: answers still go out.
	default:
		c.shut(err)
		c.ep.log.Info("nfs connection ended", "remote", c.remote, "reason", err)
	}
	c.workers.Wait()
	c.shut(err)
	close(c.done)
}

// read reads records until the stream ends.
func (c *Conn) read() error {
	for {
		if err := c.awaitRecord(); err != nil {
			return err
		}
		c.rr.begin(c.ep.limits.MaxRecord)
		if c.rr.br.Buffered() < 4+prefixSize {
			if err := c.setReadDeadline(c.ep.limits.RecordTimeout); err != nil {
				return err
			}
		}
		var p [prefixSize]byte
		err := c.rr.prefix(&p)
		if err == nil {
			xid := binary.BigEndian.Uint32(p[:])
			switch binary.BigEndian.Uint32(p[4:]) {
			case msgCall:
				err = c.readCall(xid)
			case msgReply:
				err = c.readReply(xid)
			default:
				err = errNotRPC
			}
		}
		if err != nil {
			return c.readError(err)
		}
		c.ep.stats.bytesRead.Add(int64(c.rr.size))
	}
}

// readError counts what the peer is to blame for.
func (c *Conn) readError(err error) error {
	select {
	case <-c.ep.drain:
		return errDraining
	default:
	}
	for _, bad := range []error{errRecordTooLarge, errTooManyFragments, errRecordTooShort, errNotRPC, errHeader} {
		if errors.Is(err, bad) {
			c.ep.stats.badRecords.Add(1)
		}
	}
	return err
}

// awaitRecord waits for the first byte of a record.
func (c *Conn) awaitRecord() error {
	for c.rr.br.Buffered() == 0 {
		if err := c.setReadDeadline(c.ep.limits.IdleTimeout); err != nil {
			return err
		}
		_, err := c.rr.br.Peek(1)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			select {
			case <-c.ep.drain:
				return errDraining
			default:
			}
			if !c.busy() {
				return errIdle
			}
		default:
			return err
		}
	}
	select {
	case <-c.ep.drain:
		return errDraining
	default:
		return nil
	}
}

// busy reports whether calls are running in either direction.
func (c *Conn) busy() bool {
	c.cmu.Lock()
	defer c.cmu.Unlock()
	return len(c.tokens) > 0 || len(c.pending) > 0
}

// readCall reads the rest of a CALL and hands it to a worker.
func (c *Conn) readCall(xid uint32) error {
	select {
	case c.tokens <- struct{}{}:
	default:
		select {
		case c.tokens <- struct{}{}:
		case <-c.ep.drain:
			return errDraining
		}
	}
	memory, err := c.reserve()
	if err != nil {
		<-c.tokens
		return err
	}
	buf, body, err := c.readCallRest()
	if err != nil {
		c.ep.memory.Release(memory)
		<-c.tokens
		return err
	}
	req := c.ep.requests.Get().(*Request)
	req.XID = xid
	req.Conn = c
	req.record = buf
	req.memory = memory
	req.Size = c.rr.size
	h, err := decodeCall(req, body, &c.machine)
	if err != nil {
		c.finishRequest(req)
		return err
	}
	switch {
	case h.rpcVersion != rpcVersion:
		req.outcome = outcomeMismatch
	case req.Flavor == AuthTLS && c.mayStartTLS(req, h.auth):
		return c.upgrade(req)
	case h.auth != 0:
		req.AuthError(h.auth)
	default:
		req.program, req.versions, req.accept = c.ep.programs.find(req.Prog, req.Vers)
		if req.program == nil {
			req.outcome = outcomeAccept
		}
	}
	c.ep.stats.calls.Add(1)
	c.dispatch(req)
	return nil
}

// awaitRest bounds the time for the rest of the record.
func (c *Conn) awaitRest() error {
	if c.rr.left <= c.rr.br.Buffered() && c.rr.last {
		return nil
	}
	return c.setReadDeadline(c.ep.limits.RecordTimeout)
}

// readRest reads what follows the prefix of a record.
func (c *Conn) readRest() (*buffer, []byte, error) {
	if err := c.awaitRest(); err != nil {
		return nil, nil, err
	}
	return c.rr.rest(c.ep.bufs)
}

// readCallRest is readRest of a CALL, which holds memory.
func (c *Conn) readCallRest() (*buffer, []byte, error) {
	if err := c.beginArrival(); err != nil {
		return nil, nil, err
	}
	defer c.endArrival()
	return c.rr.rest(c.ep.bufs)
}

// dispatch gives req to an idle worker or to a new one. There are never more
// workers than tokens.
func (c *Conn) dispatch(req *Request) {
	select {
	case c.work <- req:
	default:
		c.workers.Add(1)
		go c.worker(req)
	}
}

func (c *Conn) worker(req *Request) {
	defer c.workers.Done()
	for {
		c.run(req)
		own, all := c.idle.Add(1), c.ep.idle.Add(1)
		more := own <= maxIdleWorkers || all <= maxIdleShared
		if more {
			select {
			case req = <-c.work:
			case <-c.readDone:
				more = false
			}
		}
		c.idle.Add(-1)
		c.ep.idle.Add(-1)
		if !more {
			return
		}
	}
}

// run serves one call and sends its reply.
func (c *Conn) run(req *Request) {
	req.Reply.begin()
	if req.outcome == outcomeSuccess {
		c.ep.stats.running.Add(1)
		req.program.ServeRPC(c.ep.ctx, req)
		c.ep.stats.running.Add(-1)
	}
	if req.outcome == outcomeSilent {
		c.finishRequest(req)
		return
	}
	req.Reply.seal(req)
	c.send(outgoing{reply: &req.Reply, req: req})
}

// finishRequest gives back everything a call held.
func (c *Conn) finishRequest(req *Request) {
	req.Reply.Truncate(Mark{})
	req.record.release()
	c.ep.memory.Release(req.memory)
	b, ext := req.Reply.B, req.Reply.ext
	if cap(b) > maxKeptReply {
		b = nil
	}
	*req = Request{Reply: Reply{B: b, ext: ext}}
	c.ep.requests.Put(req)
	<-c.tokens
}

// maxKeptReply is the largest reply buffer that is kept for the next call.
const maxKeptReply = 64 << 10
