package rpc

import (
	"context"
	"net"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// Call is a call that this side makes.
type Call struct {
	Prog, Vers, Proc uint32
	Cred             []byte       // opaque_auth, as from AuthSysCred; nil: AUTH_NONE
	Args             []byte       // encoded arguments
	Attached         []Attachment // payloads inside Args, in order
	MaxReply         int          // bytes of results that are accepted
}

// Attachment is a payload that is sent in place, not copied: before the byte
// at position At of Args.
type Attachment struct {
	At int
	P  []byte
}

// Response holds the results of a Call in a pooled buffer.
type Response struct {
	Body []byte // encoded results; valid until Release
	buf  *buffer
}

// Release gives the buffer back. It may be called once.
func (r *Response) Release() {
	r.buf.release()
	r.Body, r.buf = nil, nil
}

// pendingCall waits for its reply. Both channels hold one element.
type pendingCall struct {
	msg      Reply
	maxReply int
	result   chan callResult
	sent     chan struct{}
}

type callResult struct {
	resp Response
	err  error
}

// Call sends a call and waits for its results. An error of the peer's RPC layer
// is a *RemoteError. When ctx or the connection ends first, the call may or may
// not have been executed. call may be reused when Call returns.
func (c *Conn) Call(ctx context.Context, call *Call) (Response, error) {
	if c.foreign != nil {
		return c.foreign.call(ctx, call)
	}
	p := c.ep.calls.Get().(*pendingCall)
	p.maxReply = call.MaxReply
	xid, err := c.register(p)
	if err != nil {
		c.ep.calls.Put(p)
		return Response{}, err
	}
	p.encode(xid, call)
	c.send(outgoing{reply: &p.msg, sent: p.sent})

	var res callResult
	select {
	case res = <-p.result:
	case <-ctx.Done():
		if c.unregister(xid, p) {
			res.err = vfs.Wrap("rpc.call", context.Cause(ctx))
		} else {
			res = <-p.result // it is being read: at most RecordTimeout
		}
	}
	<-p.sent // the writer may still read the arguments: at most WriteTimeout
	p.msg.Truncate(Mark{})
	c.ep.calls.Put(p)
	return res.resp, res.err
}

func (p *pendingCall) encode(xid uint32, call *Call) {
	b := append(p.msg.B[:0], 0, 0, 0, 0)
	b = xdr.AppendUint32(b, xid)
	b = xdr.AppendUint32(b, msgCall)
	b = xdr.AppendUint32(b, rpcVersion)
	b = xdr.AppendUint32(b, call.Prog)
	b = xdr.AppendUint32(b, call.Vers)
	b = xdr.AppendUint32(b, call.Proc)
	if call.Cred != nil {
		b = append(b, call.Cred...)
	} else {
		b = xdr.AppendUint64(b, 0)
	}
	b = xdr.AppendUint64(b, 0) // verifier: AUTH_NONE
	start := len(b)
	p.msg.B = append(b, call.Args...)
	for _, a := range call.Attached {
		p.msg.ext = append(p.msg.ext, external{at: start + a.At, p: a.P})
		p.msg.size += len(a.P)
	}
	p.msg.mark()
}

// register makes p wait for the reply to the xid it returns.
func (c *Conn) register(p *pendingCall) (uint32, error) {
	c.cmu.Lock()
	defer c.cmu.Unlock()
	if c.callsClosed {
		return 0, vfs.Errorf(vfs.KindUnavailable, "rpc.call", "%w", net.ErrClosed)
	}
	for {
		c.nextXID++
		if _, used := c.pending[c.nextXID]; !used {
			c.pending[c.nextXID] = p
			return c.nextXID, nil
		}
	}
}

// unregister reports whether p was still waiting.
func (c *Conn) unregister(xid uint32, p *pendingCall) bool {
	c.cmu.Lock()
	defer c.cmu.Unlock()
	if c.pending[xid] != p {
		return false
	}
	delete(c.pending, xid)
	return true
}

// readReply reads the rest of a REPLY and gives it to the call that waits. A
// reply nobody waits for belongs to a call whose context ended; it is skipped.
func (c *Conn) readReply(xid uint32) error {
	c.cmu.Lock()
	p := c.pending[xid]
	delete(c.pending, xid)
	c.cmu.Unlock()
	if p == nil {
		if err := c.awaitRest(); err != nil {
			return err
		}
		return c.rr.skip()
	}
	if limit := prefixSize + maxReplyHeader + p.maxReply; c.rr.size > limit {
		p.result <- callResult{err: vfs.Errorf(vfs.KindTooBig, "rpc.call", "reply of %d bytes, %d allowed", c.rr.size, limit)}
		if err := c.awaitRest(); err != nil {
			return err
		}
		return c.rr.skip()
	}
	buf, body, err := c.readRest()
	if err != nil {
		p.result <- callResult{err: vfs.Errorf(vfs.KindUnavailable, "rpc.call", "connection lost within the reply: %w", err)}
		return err
	}
	results, err := decodeReply(body)
	if err != nil {
		buf.release()
		p.result <- callResult{err: err}
		return nil
	}
	p.result <- callResult{resp: Response{Body: results, buf: buf}}
	return nil
}

// failCalls ends all calls that wait, and those to come.
func (c *Conn) failCalls(err error) {
	c.cmu.Lock()
	waiting := c.pending
	c.pending = nil
	c.callsClosed = true
	c.cmu.Unlock()
	for _, p := range waiting {
		p.result <- callResult{err: vfs.Errorf(vfs.KindUnavailable, "rpc.call", "connection lost: %w", err)}
	}
}
