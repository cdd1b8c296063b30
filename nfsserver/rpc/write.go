package rpc

import (
	"net"
	"time"
)

// outgoing is a complete message to be written: the reply of req, or a call of
// ours, whose sender waits on sent.
type outgoing struct {
	reply *Reply
	req   *Request
	sent  chan<- struct{}
}

// send writes o, or leaves it to the goroutine that is writing already. It owns
// o from now on.
func (c *Conn) send(o outgoing) {
	c.wmu.Lock()
	if c.broken {
		c.wmu.Unlock()
		c.finish(o)
		return
	}
	c.queue = append(c.queue, o)
	if c.writing {
		c.wmu.Unlock()
		return
	}
	c.writing = true
	for len(c.queue) > 0 {
		batch := c.queue
		c.queue = c.spare[:0]
		c.spare = nil
		nc, broken := c.nc, c.broken
		c.wmu.Unlock()
		if !broken {
			if err := c.write(nc, batch); err != nil {
				c.shut(err)
			}
		}
		for i := range batch {
			c.finish(batch[i])
			batch[i] = outgoing{}
		}
		c.wmu.Lock()
		c.spare = batch
	}
	c.writing = false
	c.wmu.Unlock()
}

// write writes batch in as few writev calls as the limits allow.
func (c *Conn) write(nc net.Conn, batch []outgoing) error {
	slices, bytes := c.slices[:0], 0
	defer func() {
		clear(slices[:cap(slices)])
		c.slices = slices[:0]
	}()
	for i := range batch {
		r := batch[i].reply
		at := 0
		for _, e := range r.ext {
			if e.at > at {
				slices = append(slices, r.B[at:e.at])
				at = e.at
			}
			if len(e.p) > 0 {
				slices = append(slices, e.p)
			}
		}
		slices = append(slices, r.B[at:])
		bytes += len(r.B) + r.size
		if i+1 < len(batch) && bytes < maxBatchBytes && len(slices) < maxBatchSlices {
			continue
		}
		if err := c.allow(nc); err != nil {
			return err
		}
		c.vector = slices
		n, err := c.vector.WriteTo(nc)
		c.ep.stats.bytesWritten.Add(n)
		if err != nil {
			return err
		}
		slices, bytes = slices[:0], 0
	}
	return nil
}

// allow gives the next write to nc WriteTimeout, or at least half of it: a deadline that is far enough away is not moved each time, which costs
// more than much of what a small call does.
func (c *Conn) allow(nc net.Conn) error {
	d, now := c.ep.limits.WriteTimeout, time.Now()
	if c.writeTo == nc && c.writeUntil.Sub(now) >= d/2 {
		return nil
	}
	c.writeTo, c.writeUntil = nc, now.Add(d)
	return nc.SetWriteDeadline(c.writeUntil)
}

// finish releases what o held, whether it was written or not.
func (c *Conn) finish(o outgoing) {
	if o.req != nil {
		c.finishRequest(o.req)
		return
	}
	o.sent <- struct{}{}
}
