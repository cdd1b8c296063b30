package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// clientConn is one connection of a Client.
type clientConn struct {
	c   *Client
	t   *transport
	r   *frameReader
	out *outbox

	slots  chan struct{} // one token per request the server has to answer yet
	load   atomic.Int32  // calls on this connection or waiting for a slot
	served atomic.Bool   // an answer has come

	// mu is taken with outbox.mu held, never the other way round.
	mu      sync.Mutex
	pending map[uint64]*pending
}

// States of a pending call, guarded by clientConn.mu.
const (
	callWaiting   = iota
	callFilling   // the reader is using into, or has
	callAbandoned // nobody waits; the answer is dropped
)

// pending is a call between its registration and its answer.
type pending struct {
	conn  *clientConn
	out   outFrame
	id    uint64
	into  []byte
	state uint8

	ch    chan struct{} // one token when reply or err is set, unless abandoned
	reply *Reply
	err   error
}

var (
	// errBrokeBefore marks calls that a breaking connection had not sent yet.
	errBrokeBefore = errors.New("connection broke before the request was sent")
	errBroke       = errors.New("connection broke while the call was in progress")
	errGrace       = errors.New("wire: the peer neither reads nor writes while a call is being cancelled")

	pendings = sync.Pool{New: func() any { return &pending{ch: make(chan struct{}, 1)} }}
)

// maxSlots bounds what a hello can make us allocate.
const maxSlots = 4096

func newClientConn(c *Client, t *transport) *clientConn {
	return &clientConn{
		c: c, t: t,
		r:       newFrameReader(t, c.opt.MaxMeta, c.opt.MaxPayload, c.opt.StallTimeout),
		out:     newOutbox(t, c.opt.StallTimeout),
		slots:   make(chan struct{}, min(t.hello.calls, maxSlots)),
		pending: map[uint64]*pending{},
	}
}

// register is called by the outbox with its mu held.
func (p *pending) register(id uint64) {
	p.id = id
	p.conn.mu.Lock()
	p.conn.pending[id] = p
	p.conn.mu.Unlock()
}

func (cc *clientConn) call(ctx context.Context, op Op, meta []byte, payload net.Buffers, size int, into []byte) (*Reply, error) {
	if peer := cc.t.hello; len(meta) > int(peer.maxMeta) || size > int(peer.maxPayload) {
		return nil, notSent(vfs.KindInvalid, "request of %d+%d bytes, the peer takes %d+%d", len(meta), size, peer.maxMeta, peer.maxPayload)
	}
	cc.load.Add(1)
	defer cc.load.Add(-1)
	select {
	case cc.slots <- struct{}{}:
	default:
		select {
		case cc.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, givenUp(ctx, outcomeNotSent)
		case <-cc.out.stop:
			return nil, notSent(vfs.KindUnavailable, "%w", errBrokeBefore)
		}
	}
	h := header{typ: typeRequest, op: op}
	if cc.t.hello.flags&helloUser != 0 {
		h.user = vfs.RequestOf(ctx)
	}
	if d, ok := ctx.Deadline(); ok {
		// Rounded up: the server should rather work a millisecond for nobody than give up before the caller does.
		left := (time.Until(d) + time.Millisecond - 1).Milliseconds()
		h.deadlineMS = uint32(min(max(left, 1), 1<<32-1))
	}
	p := pendings.Get().(*pending)
	p.conn, p.into, p.state = cc, into, callWaiting
	p.out.init(&h, meta, payload)
	p.out.request = p
	if cc.out.send(&p.out) != nil {
		p.recycle()
		return nil, notSent(vfs.KindUnavailable, "%w", errBrokeBefore)
	}
	select {
	case <-p.ch:
		return cc.result(p)
	case <-ctx.Done():
		return cc.abandon(ctx, p)
	}
}

// result is the outcome of a call that the reader, or the connection's end, has settled.
func (cc *clientConn) result(p *pending) (*Reply, error) {
	state := cc.release(p)
	reply, err := p.reply, p.err
	p.recycle()
	switch {
	case err == nil:
		return reply, nil
	case outcomeOf(err) == outcomeAnswered:
		return nil, err
	case state == frameUnsent:
		return nil, notSent(vfs.KindUnavailable, "%w", fmt.Errorf("%w: %w", errBrokeBefore, err))
	}
	return nil, &callError{outcomeUnknown, vfs.Errorf(vfs.KindUnknown, "wire.call", "%w", fmt.Errorf("%w: %w", errBroke, err))}
}

// release waits until the transport no longer uses the request's payload, if
// need be by breaking the connection, and returns the frame's final state.
func (cc *clientConn) release(p *pending) uint8 {
	state, ch := cc.out.settled(&p.out)
	if ch != nil {
		cc.await(ch)
		state, _ = cc.out.settled(&p.out)
	}
	return state
}

// await takes ch's token, which comes soon or at the latest when the connection breaks.
func (cc *clientConn) await(ch <-chan struct{}) {
	t := time.NewTimer(cc.c.opt.CancelGrace)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
		cc.out.fail(errGrace)
		<-ch
	}
}

// abandon gives up p because ctx ended, unless its answer is already arriving.
func (cc *clientConn) abandon(ctx context.Context, p *pending) (*Reply, error) {
	if cc.out.takeBack(&p.out) {
		cc.mu.Lock()
		_, mine := cc.pending[p.id]
		delete(cc.pending, p.id)
		cc.mu.Unlock()
		if mine { // else the connection just broke, and p is being settled
			<-cc.slots
			p.recycle()
		}
		return nil, givenUp(ctx, outcomeNotSent)
	}
	state := cc.release(p)
	cc.mu.Lock()
	_, registered := cc.pending[p.id]
	if p.state == callFilling || !registered {
		cc.mu.Unlock()
		cc.await(p.ch)
		return cc.result(p)
	}
	p.state, p.into = callAbandoned, nil
	cc.mu.Unlock()
	if state == frameUnsent {
		return nil, givenUp(ctx, outcomeNotSent)
	}
	f := &outFrame{}
	f.init(&header{typ: typeCancel, id: p.id}, nil, nil)
	cc.out.send(f) // when it fails there is nothing left to cancel
	return nil, givenUp(ctx, outcomeUnknown)
}

func (p *pending) recycle() {
	ch, token := p.ch, p.out.ch
	*p = pending{ch: ch}
	p.out.ch = token
	pendings.Put(p)
}

// serve reads answers until the connection breaks and returns why. down is
// called as soon as it has, before the calls on it fail.
func (cc *clientConn) serve(down func(error)) error {
	var writer sync.WaitGroup
	writer.Go(cc.out.run)
	err := cc.read()
	cc.out.fail(err)
	cc.out.mu.Lock()
	err = cc.out.err // the first reason: a failed write, Close, or err
	cc.out.mu.Unlock()
	down(err)
	writer.Wait()
	// Nobody reads into or writes from callers' buffers any more, except a caller that is
	// itself in send, and none registers: the outbox refuses.
	cc.mu.Lock()
	defer cc.mu.Unlock()
	for id, p := range cc.pending {
		delete(cc.pending, id)
		if p.state != callAbandoned {
			p.err = err
			p.ch <- struct{}{}
		}
	}
	return err
}

func (cc *clientConn) read() error {
	var h header
	for {
		if err := cc.r.header(&h); err != nil {
			return err
		}
		if h.typ != typeResponse {
			return protocolErrorf("frame type %d from a server", h.typ)
		}
		if err := cc.response(&h); err != nil {
			return err
		}
	}
}

// response reads the rest of an answer and settles its call.
func (cc *clientConn) response(h *header) error {
	r := &Reply{meta: GetBuf(h.metaLen)}
	r.Meta = r.meta.B
	cc.mu.Lock()
	p := cc.pending[h.id]
	if p == nil {
		cc.mu.Unlock()
		r.Release()
		return protocolErrorf("answer to call %d, which is not open", h.id)
	}
	if p.state == callWaiting {
		p.state = callFilling
		if h.payloadLen > 0 && h.payloadLen <= len(p.into) {
			r.Payload = p.into[:h.payloadLen]
		}
	}
	cc.mu.Unlock()
	if h.payloadLen > len(r.Payload) {
		r.payload = GetBuf(h.payloadLen)
		r.Payload = r.payload.B
	}
	if err := cc.r.body(h, r.Meta, r.Payload); err != nil {
		r.Release()
		return err
	}
	if !cc.served.Swap(true) {
		cc.c.works()
	}
	cc.mu.Lock()
	delete(cc.pending, h.id)
	cc.mu.Unlock()
	<-cc.slots
	if p.state == callAbandoned {
		r.Release()
		return nil
	}
	if h.kind != 0 {
		p.err = decodeError(h.kind, r.Meta)
		r.Release()
	} else {
		p.reply = r
	}
	p.ch <- struct{}{}
	return nil
}
