package faultproxy

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// Direction is one of the two of a connection.
type Direction uint8

// Directions, as seen by who opened the connection.
const (
	ToTarget Direction = iota
	FromTarget
	directions
)

// Both is for calls that take directions.
var Both = []Direction{ToTarget, FromTarget}

// Conditions are what a direction does to its bytes. The zero value passes
// them on.
type Conditions struct {
	// Hold keeps bytes, and the end of the stream, back until it is taken off again.
	Hold bool
	// Delay is how much later each byte arrives. It does not limit throughput.
	Delay time.Duration
	// BytesPerSecond, if not zero, does.
	BytesPerSecond int
}

// Target finds where a connection goes to.
type Target func(ctx context.Context) (hostport string, err error)

// To is a Target that stays where it is.
func To(hostport string) Target {
	return func(context.Context) (string, error) { return hostport, nil }
}

// Proxy forwards connections. Close it.
type Proxy struct {
	target Target
	ln     net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	cond   [directions]Conditions
	refuse bool
	conns  []*Conn
}

// Listen opens a proxy to target on a port of loopback.
func Listen(target Target) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, ln: ln}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Close ends the proxy and all its connections and waits for its goroutines.
func (p *Proxy) Close() {
	p.cancel()
	p.ln.Close()
	p.Cut()
	p.wg.Wait()
}

// Set changes the conditions of the given directions, for all connections
// that are and that will be.
func (p *Proxy) Set(c Conditions, ds ...Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range ds {
		p.cond[d] = c
	}
	for _, conn := range p.conns {
		conn.Set(c, ds...)
	}
}

// Refuse makes the proxy reset new connections, or take them again. Those that are stay.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	for _, c := range p.Conns() {
		c.Cut()
	}
}

// Conns are the connections that are open, in the order in which they came.
func (p *Proxy) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

func (p *Proxy) accept() {
	for {
		nc, err := p.ln.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the peer was gone before it was accepted
		}
		client := nc.(*net.TCPConn)
		p.mu.Lock()
		if p.refuse || p.ctx.Err() != nil {
			p.mu.Unlock()
			reset(client)
			continue
		}
		c := &Conn{client: client, links: [directions]*link{newLink(p.cond[ToTarget]), newLink(p.cond[FromTarget])}}
		c.ctx, c.cancel = context.WithCancel(p.ctx)
		p.conns = append(p.conns, c)
		p.mu.Unlock()
		p.wg.Go(func() {
			c.run(p.target)
			p.mu.Lock()
			p.conns = slices.DeleteFunc(p.conns, func(x *Conn) bool { return x == c })
			p.mu.Unlock()
		})
	}
}

// reset closes a connection so that the peer sees it as broken.
func reset(nc *net.TCPConn) {
	_ = nc.SetLinger(0)
	_ = nc.Close()
}
