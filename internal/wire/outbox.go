package wire

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// States of an outFrame, guarded by outbox.mu.
const (
	frameQueued  = iota // not looked at; can be taken back
	frameWriting        // the transport is using its buffers
	frameWritten        // handed to the transport, all of it
	frameUnsent         // the connection broke before all of it was: the peer cannot have it
	frameUnknown        // the connection broke and nobody knows
)

// outFrame is a frame on its way out. head is the outbox's from send on; the
// payload stays the sender's and is not used once the state is one of the last three.
type outFrame struct {
	head    *Buf // header, meta and, when small, payload
	meta    int
	payload [][]byte
	size    int       // all bytes
	request registrar // nil for all but requests
	state   uint8
	waiting bool
	ch      chan struct{} // one token when the state becomes final and waiting is set
}

// registrar learns the id of the request it is about to be sent with.
type registrar interface{ register(id uint64) }

// inlinePayload is the size up to which payload is copied behind the meta: one
// buffer is cheaper than two, and its sender need not wait.
const inlinePayload = 8 << 10

// init makes f of h and the parts. send sets a request's id.
func (f *outFrame) init(h *header, meta []byte, payload [][]byte) {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	h.metaLen, h.payloadLen = len(meta), n
	f.meta, f.size = len(meta), headerLen+len(meta)+n
	f.payload = payload
	f.state, f.waiting = frameQueued, false
	if n > inlinePayload {
		f.head = GetBuf(headerLen + len(meta))
	} else {
		f.head, f.payload = GetBuf(f.size), nil
		at := headerLen + len(meta)
		for _, p := range payload {
			at += copy(f.head.B[at:], p)
		}
	}
	h.put(f.head.B)
	copy(f.head.B[headerLen:], meta)
}

// seal finishes the frame with g.
func (f *outFrame) seal(g *guard) {
	body := headerLen + f.meta
	if f.payload != nil {
		g.seal(f.head.B, f.payload)
	} else if len(f.head.B) > body {
		g.seal(f.head.B[:body], [][]byte{f.head.B[body:]})
	} else {
		g.seal(f.head.B, nil)
	}
}

// outbox writes the frames of one connection in the order of send. When the
// connection is idle the sender itself writes as much as the socket takes
// without waiting; the rest, and all that is sent meanwhile, is for the writer
// goroutine (run), which joins what is queued into one system call.
type outbox struct {
	nc     net.Conn
	raw    net.Conn // under nc; closed by fail, without TLS's farewell, which could block
	direct *direct  // nil when the connection cannot be written without waiting
	exact  bool     // the byte count of a failed write is what the peer can have at most
	stall  atomic.Int64

	wake chan struct{} // one token: busy is set and now the writer goroutine's. Sent under mu while err is nil
	stop chan struct{} // closed by fail

	mu     sync.Mutex
	queue  []*outFrame
	busy   bool // somebody writes; batch, bufs and guard are theirs
	err    error
	nextID uint64
	idle   *sync.Cond // busy became false or err was set

	// Owned by whoever set busy.
	guard guard
	batch []*outFrame
	bufs  net.Buffers
	space net.Buffers // bufs before writing consumed it
	sent  int64       // bytes of batch already written
	joint []byte      // ModeTLS: small frames, to be one record
}

// A batch ends at the first frame that brings it to maxBatchBytes.
const (
	maxBatchBytes  = 256 << 10
	maxBatchFrames = 128
)

func newOutbox(t *transport, stall time.Duration) *outbox {
	o := &outbox{
		nc: t.nc, raw: t.raw, exact: !t.tls, guard: t.out,
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if !t.tls {
		o.direct = newDirect(t.nc)
	}
	o.stall.Store(int64(stall))
	o.idle = sync.NewCond(&o.mu)
	return o
}

// send queues f and perhaps writes it. On an error f was not and will not be
// sent. A request is registered, under mu, once it is known that it can be sent, and before it is.
func (o *outbox) send(f *outFrame) error {
	o.mu.Lock()
	if o.err != nil {
		err := o.err
		settle(f, frameUnsent)
		o.mu.Unlock()
		return err
	}
	if f.request != nil {
		o.nextID++
		le.PutUint64(f.head.B[16:], o.nextID)
		f.request.register(o.nextID)
	}
	if o.busy {
		o.queue = append(o.queue, f)
		o.mu.Unlock()
		return nil
	}
	o.busy = true
	f.state = frameWriting
	o.mu.Unlock()
	o.batch = append(o.batch[:0], f)
	o.prepare()
	if o.direct != nil {
		n, err := o.direct.write(o.bufs)
		if errors.Is(err, os.ErrDeadlineExceeded) { // left over from hurry; the writer goroutine has its own
			n, err = 0, nil
		}
		o.sent += int64(n)
		if err != nil {
			o.broken(err)
			return nil // f.state tells what became of it
		}
		if o.sent == int64(f.size) {
			o.next(false)
			return nil
		}
		consume(&o.bufs, n)
	}
	o.mu.Lock()
	err := o.err
	if err == nil {
		o.wake <- struct{}{}
	}
	o.mu.Unlock()
	if err != nil { // the writer goroutine may be gone
		o.broken(err)
	}
	return nil
}

// consume drops the first n bytes of b.
func consume(b *net.Buffers, n int) {
	for n > 0 {
		if len((*b)[0]) > n {
			(*b)[0] = (*b)[0][n:]
			return
		}
		n -= len((*b)[0])
		*b = (*b)[1:]
	}
}

// prepare seals the batch and lays out its buffers.
func (o *outbox) prepare() {
	o.bufs, o.sent = o.space[:0], 0
	for _, f := range o.batch {
		f.seal(&o.guard)
		o.bufs = append(o.bufs, f.head.B)
		for _, p := range f.payload {
			if len(p) > 0 {
				o.bufs = append(o.bufs, p)
			}
		}
	}
	o.space = o.bufs
}

// finish settles the frames of the batch after n of its bytes were written.
// Called with mu.
func (o *outbox) finish(n int64, failed bool) {
	for i, f := range o.batch {
		n -= int64(f.size)
		state := uint8(frameWritten)
		if failed {
			state = frameUnknown
			if n < 0 && o.exact {
				state = frameUnsent
			}
		}
		settle(f, state)
		o.batch[i] = nil
	}
	o.batch = o.batch[:0]
	clear(o.space) // keep no payload alive
	o.space = o.space[:0]
	o.bufs = nil
}

func settle(f *outFrame, state uint8) {
	f.head.Release()
	f.head, f.payload = nil, nil
	f.state = state
	if f.waiting {
		f.waiting = false
		f.ch <- struct{}{}
	}
}

// next settles the written batch. For the writer goroutine it takes the next
// batch and reports whether there is one; anybody else hands over to it.
func (o *outbox) next(writer bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.finish(o.sent, false)
	if len(o.queue) == 0 {
		o.busy = false
		o.idle.Broadcast()
		return false
	}
	if !writer {
		o.wake <- struct{}{}
		return false
	}
	bytes, n := 0, 0
	for n < len(o.queue) && n < maxBatchFrames && bytes < maxBatchBytes {
		f := o.queue[n]
		f.state = frameWriting
		o.batch = append(o.batch, f)
		bytes += f.size
		n++
	}
	left := copy(o.queue, o.queue[n:])
	clear(o.queue[left:])
	o.queue = o.queue[:left]
	return true
}

// run is the writer goroutine. It ends after fail.
func (o *outbox) run() {
	for {
		select {
		case <-o.wake:
		case <-o.stop:
			// Tokens are only sent under mu while err is nil: a batch handed over is here by now.
			select {
			case <-o.wake:
				o.broken(net.ErrClosed)
			default:
			}
			return
		}
		if len(o.batch) > 0 && !o.flush() {
			return
		}
		for o.next(true) {
			o.prepare()
			if !o.flush() {
				return
			}
		}
	}
}

// flush writes what is left of the batch.
func (o *outbox) flush() bool {
	err := o.nc.SetWriteDeadline(time.Now().Add(time.Duration(o.stall.Load())))
	if err == nil {
		var n int64
		if o.exact {
			n, err = o.bufs.WriteTo(o.nc)
		} else {
			n, err = o.writeJoined()
		}
		o.sent += n
	}
	if err != nil {
		o.broken(err)
		return false
	}
	o.nc.SetWriteDeadline(time.Time{}) // an old one would also end direct writes, which never wait
	return true
}

// writeJoined writes bufs to a TLS connection, which makes at least one record
// of each Write: short pieces are joined.
func (o *outbox) writeJoined() (n int64, err error) {
	const record = 16 << 10
	write := func(b []byte) bool {
		if len(b) == 0 {
			return true
		}
		var k int
		k, err = o.nc.Write(b)
		n += int64(k)
		return err == nil
	}
	o.joint = o.joint[:0]
	for _, b := range o.bufs {
		if len(o.joint)+len(b) > 2*record {
			fill := min(len(b), (record-len(o.joint)%record)%record)
			o.joint = append(o.joint, b[:fill]...)
			if !write(o.joint) || !write(b[fill:]) {
				return n, err
			}
			o.joint = o.joint[:0]
			continue
		}
		o.joint = append(o.joint, b...)
	}
	write(o.joint)
	return n, err
}

// broken ends the outbox after a failed write by the caller, who set busy.
func (o *outbox) broken(err error) {
	o.fail(err)
	o.mu.Lock()
	o.finish(o.sent, true)
	o.busy = false
	o.idle.Broadcast()
	o.mu.Unlock()
}

// hurry limits what is being written, and each write from now on, to d.
func (o *outbox) hurry(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stall.Store(int64(d))
	if o.busy {
		o.nc.SetWriteDeadline(time.Now().Add(d))
	}
}

// fail refuses all further frames, drops those not begun and closes the
// connection, so that those being written are soon settled by who writes them.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	o.err = err
	for _, f := range o.queue {
		settle(f, frameUnsent)
	}
	o.queue = nil
	close(o.stop)
	o.raw.Close()
	o.idle.Broadcast()
}

// takeBack removes f if nobody began to write it.
func (o *outbox) takeBack(f *outFrame) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.state != frameQueued {
		return false
	}
	for i, q := range o.queue {
		if q == f {
			o.queue = append(o.queue[:i], o.queue[i+1:]...)
			settle(f, frameUnsent)
			return true
		}
	}
	return false
}

// settled returns f's final state, or a channel that gets one token when
// it has one. For one caller per frame.
func (o *outbox) settled(f *outFrame) (uint8, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.state >= frameWritten {
		return f.state, nil
	}
	if f.ch == nil {
		f.ch = make(chan struct{}, 1)
	}
	f.waiting = true
	return f.state, f.ch
}

// drain waits until all that was sent is written or the connection broke.
func (o *outbox) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.busy && o.err == nil {
		o.idle.Wait()
	}
}
