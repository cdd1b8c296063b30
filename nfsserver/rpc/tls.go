package rpc

import (
	"bufio"
	"context"

	"github.com/rackfs/rackfs/internal/xdr"
)

// mayStartTLS reports whether req, which has flavour AUTH_TLS, is a probe that
// TLS may follow (RFC 9289, 4.1): the NULL procedure, not yet encrypted, and
// nothing else under way, because bytes that were sent in the clear after the
// probe must not count as protected.
func (c *Conn) mayStartTLS(req *Request, auth AuthStat) bool {
	c.cmu.Lock()
	calling := len(c.pending) > 0
	c.cmu.Unlock()
	return c.ep.startTLS != nil && !c.tls && !calling && auth != AuthBadVerf && req.Proc == 0 &&
		len(c.tokens) == 1 && c.rr.br.Buffered() == 0
}

// upgrade answers the probe req and runs the handshake. The reading goroutine
// does it, so nothing is read in between.
func (c *Conn) upgrade(req *Request) error {
	b := append(req.Reply.B[:0], 0, 0, 0, 0)
	b = xdr.AppendUint32(b, req.XID)
	b = xdr.AppendUint32(b, msgReply)
	b = xdr.AppendUint32(b, msgAccepted)
	b = xdr.AppendUint32(b, uint32(AuthNone))
	b = xdr.AppendString(b, startTLS)
	req.Reply.B = xdr.AppendUint32(b, acceptSuccess)
	req.Reply.mark()
	c.send(outgoing{reply: &req.Reply, req: req})

	ctx, cancel := context.WithTimeout(c.ep.ctx, c.ep.limits.RecordTimeout)
	defer cancel()
	if err := c.setReadDeadline(c.ep.limits.RecordTimeout); err != nil {
		return err
	}
	c.wmu.Lock()
	plain := c.nc
	c.wmu.Unlock()
	nc, err := c.ep.startTLS(ctx, plain)
	if err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.nc = nc
	if c.broken { // closed meanwhile: plain is, nc must be too
		return nc.Close()
	}
	c.tls = true
	c.rr.br = bufio.NewReaderSize(&stream{c, nc}, readBufferSize)
	return nil
}
