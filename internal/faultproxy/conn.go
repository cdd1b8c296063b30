package faultproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	chunkBytes     = 16 << 10
	bufferedChunks = 64
)

// Conn is one connection through a Proxy.
type Conn struct {
	client *net.TCPConn
	links  [directions]*link
	ctx    context.Context
	cancel context.CancelFunc
}

// Set changes the conditions of the given directions of this connection.
func (c *Conn) Set(cond Conditions, ds ...Direction) {
	for _, d := range ds {
		c.links[d].set(func(l *link) { l.cond = cond })
	}
}

// HalfClose ends the stream in one direction after what was passed on already;
// what comes later is dropped. The other direction goes on.
func (c *Conn) HalfClose(d Direction) {
	c.links[d].set(func(l *link) { l.closed = true })
}

// Passed is how many bytes were handed on in a direction.
func (c *Conn) Passed(d Direction) int64 {
	l := c.links[d]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passed
}

// Cut resets both ends.
func (c *Conn) Cut() { c.cancel() }

// run forwards until both directions have ended, an end failed, or the connection is cut.
func (c *Conn) run(target Target) {
	defer c.cancel()
	// A SYN does not get through what holds bytes back either.
	if !c.links[ToTarget].open(c.ctx) || !c.links[FromTarget].open(c.ctx) {
		reset(c.client)
		return
	}
	var server *net.TCPConn
	addr, err := target(c.ctx)
	if err == nil {
		var nc net.Conn
		if nc, err = (&net.Dialer{}).DialContext(c.ctx, "tcp", addr); err == nil {
			server = nc.(*net.TCPConn)
		}
	}
	if err != nil {
		reset(c.client)
		return
	}
	var wg sync.WaitGroup
	for d, ends := range [directions][2]*net.TCPConn{ToTarget: {c.client, server}, FromTarget: {server, c.client}} {
		l := c.links[d]
		chunks := make(chan chunk, bufferedChunks)
		wg.Go(func() { l.read(c, ends[0], chunks) })
		wg.Go(func() { l.write(c, ends[1], chunks) })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	select {
	case <-done: // both streams have ended
		c.client.Close()
		server.Close()
	case <-c.ctx.Done():
		reset(c.client)
		reset(server)
		<-done
	}
}

// chunk is bytes on their way.
type chunk struct {
	bytes []byte
	read  time.Time
}

// link is one direction.
type link struct {
	mu      sync.Mutex // guards the fields below
	cond    Conditions
	closed  bool          // half-closed
	passed  int64         // bytes
	changed chan struct{} // closed when cond or closed changes
}

func newLink(c Conditions) *link { return &link{cond: c, changed: make(chan struct{})} }

func (l *link) set(f func(*link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) state() (c Conditions, closed bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cond, l.closed, l.changed
}

// open waits until nothing is held back; false if ctx ends first.
func (l *link) open(ctx context.Context) bool {
	for {
		c, closed, changed := l.state()
		if !c.Hold || closed {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// read takes bytes from src until its end or an error.
func (l *link) read(c *Conn, src *net.TCPConn, chunks chan<- chunk) {
	defer close(chunks)
	for {
		p := make([]byte, chunkBytes)
		n, err := src.Read(p)
		if n > 0 {
			select {
			case chunks <- chunk{p[:n], time.Now()}:
			case <-c.ctx.Done():
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.Cut() // what breaks one end breaks the other
			}
			return
		}
	}
}

// write hands chunks on to dst as the conditions allow.
func (l *link) write(c *Conn, dst *net.TCPConn, chunks <-chan chunk) {
	ended := false // dst was told the end of the stream
	end := func() {
		if !ended {
			ended = true
			_ = dst.CloseWrite()
		}
	}
	for {
		_, closed, changed := l.state()
		if closed {
			end()
		}
		select {
		case x, ok := <-chunks:
			if !ok {
				if !closed && !l.open(c.ctx) {
					return
				}
				end()
				return
			}
			if closed {
				continue // dropped
			}
			if !l.pass(c, dst, x) {
				return
			}
		case <-changed:
		case <-c.ctx.Done():
			return
		}
	}
}

// pass writes one chunk when its time has come; false if the connection ended. A chunk that is still here when the
// direction is half-closed is dropped.
func (l *link) pass(c *Conn, dst *net.TCPConn, x chunk) bool {
	for len(x.bytes) > 0 {
		cond, closed, changed := l.state()
		if closed {
			return true
		}
		if cond.Hold {
			select {
			case <-changed:
			case <-c.ctx.Done():
				return false
			}
			continue
		}
		if d := cond.Delay - time.Since(x.read); d > 0 {
			select {
			case <-time.After(d):
			case <-changed:
			case <-c.ctx.Done():
				return false
			}
			continue
		}
		p := x.bytes
		if r := cond.BytesPerSecond; r > 0 {
			// A hundredth of a second's worth at a time, after the time it takes.
			p = p[:min(len(p), max(r/100, 1))]
			select {
			case <-time.After(time.Duration(len(p)) * time.Second / time.Duration(r)):
			case <-c.ctx.Done():
				return false
			}
		}
		if _, err := dst.Write(p); err != nil {
			c.Cut()
			return false
		}
		l.mu.Lock()
		l.passed += int64(len(p))
		l.mu.Unlock()
		x.bytes = x.bytes[len(p):]
	}
	return true
}
