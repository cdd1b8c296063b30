package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// closeFlush is how long a closing server lets a peer take for one write.
const closeFlush = time.Second

// serverConn is one connection of a Server.
type serverConn struct {
	s   *Server
	t   *transport
	r   *frameReader
	out *outbox
	log *slog.Logger

	ctx    context.Context // ends with the connection; parent of its calls'
	cancel context.CancelCauseFunc
	calls  sync.WaitGroup
	slots  chan struct{} // one token per call
	lastID uint64        // of the reader

	mu      sync.Mutex
	running map[uint64]*Call
}

// Call is one request being served. One goroutine at a time uses it, and none
// after the handler has returned.
type Call struct {
	Op      Op
	Meta    []byte // valid until the handler returns
	Payload []byte // valid until the handler returns, or, taken, until released
	Peer    Peer

	conn    *serverConn
	id      uint64
	meta    *Buf
	payload *Buf
	held    int64 // bytes charged to the server
	ctx     callContext
	replied bool
	out     outFrame
}

// serve runs nc from its handshake to its end.
func (s *Server) serve(nc net.Conn) {
	defer nc.Close()
	tune(nc)
	log := s.opt.Logger.With("remote", nc.RemoteAddr())
	hctx, cancel := context.WithTimeoutCause(s.ctx, s.opt.HandshakeTimeout, errors.New("it took too long"))
	t, err := s.opt.Security.handshake(hctx, nc, true, hello{
		maxMeta: uint32(s.opt.MaxMeta), maxPayload: uint32(s.opt.MaxPayload), calls: uint32(s.opt.CallsPerConn),
	})
	cancel()
	if err != nil {
		if s.ctx.Err() == nil && !errors.Is(err, io.EOF) { // a port probe connects and leaves
			log.Warn("wire: connection refused", "err", err)
		}
		return
	}
	c := &serverConn{
		s: s, t: t, log: log.With("peer", t.peer.Name),
		r:       newFrameReader(t, s.opt.MaxMeta, s.opt.MaxPayload, s.opt.StallTimeout),
		out:     newOutbox(t, s.opt.StallTimeout),
		slots:   make(chan struct{}, s.opt.CallsPerConn),
		running: map[uint64]*Call{},
	}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.open[c] = struct{}{}
	s.mu.Unlock()

	var writer sync.WaitGroup
	writer.Go(c.out.run)
	err = c.read()
	if s.ctx.Err() == nil {
		if ended(err) {
			c.log.Debug("wire: connection ended", "err", err)
		} else {
			c.log.Warn("wire: connection closed", "err", err)
		}
		c.out.fail(err)
	}
	c.cancel(err)
	c.endCalls()
	c.calls.Wait()
	c.out.drain()
	c.out.fail(ErrClosed)
	writer.Wait()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
}

// ended reports errors with which connections normally end.
func ended(err error) bool {
	var pe *protocolError
	return !errors.As(err, &pe)
}

// shut makes the reader stop and the writer hurry. The server's context has
// ended before, which the reader checks after it cleared a deadline of its own.
func (c *serverConn) shut() {
	c.endCalls()
	c.out.hurry(closeFlush)
	c.t.raw.SetReadDeadline(time.Unix(1, 0))
}

// read is the connection's reader. It returns why it ended.
func (c *serverConn) read() error {
	var h header
	for {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if err := c.r.header(&h); err != nil {
			return err
		}
		switch h.typ {
		case typeRequest:
			if err := c.request(&h); err != nil {
				return err
			}
		case typeCancel:
			if err := c.r.body(&h, nil, nil); err != nil {
				return err
			}
			c.mu.Lock()
			call := c.running[h.id]
			c.mu.Unlock()
			if call != nil { // else its answer is on the way
				call.ctx.end(context.Canceled)
			}
		default:
			return protocolErrorf("frame type %d from a client", h.typ)
		}
	}
}

// request reads the rest of a request and hands it to a worker.
func (c *serverConn) request(h *header) error {
	received := time.Now()
	if h.id <= c.lastID {
		return protocolErrorf("request id %d after %d", h.id, c.lastID)
	}
	c.lastID = h.id
	if c.t.verify != nil {
		if err := c.t.verify(); err != nil { // removed since it connected
			return protocolErrorf("%v", err)
		}
	}
	select {
	case c.slots <- struct{}{}:
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	call := &Call{Op: h.op, Peer: c.t.peer, conn: c, id: h.id, held: int64(h.metaLen + h.payloadLen)}
	if err := c.s.bytes.Acquire(c.ctx, call.held); err != nil {
		<-c.slots
		return context.Cause(c.ctx)
	}
	c.calls.Add(1)
	call.meta = GetBuf(h.metaLen)
	call.Meta = call.meta.B
	if h.payloadLen > 0 {
		call.payload = GetBuf(h.payloadLen)
		call.Payload = call.payload.B
	}
	if err := c.r.body(h, call.Meta, call.Payload); err != nil {
		call.finish()
		return err
	}
	call.ctx.request = h.user
	if h.deadlineMS > 0 {
		call.ctx.deadline = received.Add(time.Duration(h.deadlineMS) * time.Millisecond)
	}
	c.mu.Lock()
	c.running[call.id] = call
	over := c.ctx.Err() // endCalls may have been before
	c.mu.Unlock()
	if over != nil {
		call.ctx.end(over)
	}
	if err := c.s.dispatch(call); err != nil {
		call.finish()
		return err
	}
	return nil
}

// run serves call and sees to it that it is answered.
func (c *serverConn) run(call *Call) {
	err := c.s.handler(&call.ctx, call)
	switch {
	case call.replied:
		if err != nil {
			vfs.LogRequest(&call.ctx, c.log).Debug("wire: handler failed after its reply", "op", call.Op, "err", err)
		}
	case err != nil:
		c.failed(call, err)
		var b [maxErrorBytes]byte
		kind, meta := appendError(b[:0], err)
		call.answer(uint16(kind), meta[:min(len(meta), int(c.t.hello.maxMeta))], nil)
	default:
		call.answer(0, nil, nil)
	}
	call.finish()
}

// failed logs a call that failed. What the node failed in is a warning; a refusal is the caller's affair.
func (c *serverConn) failed(call *Call, err error) {
	level := slog.LevelDebug
	if k := vfs.KindOf(err); k == vfs.KindIO || k == vfs.KindInternal {
		level = slog.LevelWarn
	}
	if c.log.Enabled(&call.ctx, level) {
		vfs.LogRequest(&call.ctx, c.log).Log(&call.ctx, level, "wire: a call failed", "op", call.Op, "err", err)
	}
}

// endCalls ends the contexts of all calls, after that of the connection has ended.
func (c *serverConn) endCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.running {
		call.ctx.end(c.ctx.Err())
	}
}

// finish gives back all that the call holds.
func (call *Call) finish() {
	c := call.conn
	c.mu.Lock()
	delete(c.running, call.id)
	c.mu.Unlock()
	call.ctx.end(context.Canceled)
	call.meta.Release()
	call.payload.Release()
	call.meta, call.payload, call.Meta, call.Payload = nil, nil, nil, nil
	c.s.bytes.Release(call.held)
	<-c.slots
	c.calls.Done()
}

// Reply answers the call, once. When it returns, meta and payload are the
// caller's again: small replies are copied, others written to the connection,
// for which it waits as long as the peer takes to read. It fails, and another
// answer is then possible, if the reply is larger than the peer accepts. It also fails when
// the connection is gone; there is nothing left to do for the call then.
func (call *Call) Reply(meta []byte, payload ...[]byte) error {
	if call.replied {
		return vfs.Errorf(vfs.KindInternal, "wire.reply", "op %d answered twice", call.Op)
	}
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	peer := call.conn.t.hello
	if len(meta) > int(min(peer.maxMeta, MaxMeta)) || n > int(min(peer.maxPayload, MaxPayload)) {
		return vfs.Errorf(vfs.KindInvalid, "wire.reply", "reply of %d+%d bytes, the peer takes %d+%d", len(meta), n, peer.maxMeta, peer.maxPayload)
	}
	return call.answer(0, meta, payload)
}

func (call *Call) answer(kind uint16, meta []byte, payload [][]byte) error {
	call.replied = true
	h := header{typ: typeResponse, op: call.Op, kind: kind, id: call.id}
	f := &call.out
	f.init(&h, meta, payload)
	o := call.conn.out
	copied := f.payload == nil
	if err := o.send(f); err != nil {
		return vfs.Errorf(vfs.KindUnavailable, "wire.reply", "connection to %s: %w", call.Peer.Name, err)
	}
	if copied {
		return nil
	}
	state, ch := o.settled(f)
	if ch != nil {
		<-ch
		state, _ = o.settled(f)
	}
	if state != frameWritten {
		return vfs.Errorf(vfs.KindUnavailable, "wire.reply", "connection to %s broke", call.Peer.Name)
	}
	return nil
}

// TakePayload makes the payload the handler's to keep beyond its return, until it
// releases it. From then on it does not count against the server's bound
// on request bytes: who keeps payloads has a bound of their own.
func (call *Call) TakePayload() *Buf {
	b := call.payload
	if b == nil {
		return GetBuf(0)
	}
	call.conn.s.bytes.Release(int64(len(b.B)))
	call.held -= int64(len(b.B))
	call.payload, call.Payload = nil, nil
	return b
}
