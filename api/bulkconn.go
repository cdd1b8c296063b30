package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// bulkBytes is how much of a body goes to the kernel at once. net/http copies by 32 KiB, and TLS makes a system call for each record of 16 KiB.
const bulkBytes = 256 << 10

// bulkBuffers are for bodies that are being sent.
type bulkBuffers struct{ sync.Pool }

func newBulkBuffers() *bulkBuffers {
	return &bulkBuffers{sync.Pool{New: func() any { b := make([]byte, bulkBytes); return &b }}}
}

// bulkConn is a connection that sends bodies in large pieces: net/http finds ReadFrom.
type bulkConn struct {
	net.Conn              // what is written to: the connection itself, or TLS on it
	below    *heldConn    // nil without TLS
	buffers  *bulkBuffers // of the client
}

// ReadFrom sends all that r has.
func (c *bulkConn) ReadFrom(r io.Reader) (sent int64, err error) {
	b := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(b)
	for {
		n, err := r.Read(*b)
		if n > 0 {
			m, werr := c.send((*b)[:n])
			if sent += int64(m); werr != nil {
				return sent, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
}

// Close closes it at once: TLS would wait for a body that the peer does not take, to say goodbye behind it.
func (c *bulkConn) Close() error {
	if c.below != nil {
		return c.below.Conn.Close()
	}
	return c.Conn.Close()
}

func (c *bulkConn) send(p []byte) (int, error) {
	if c.below == nil {
		return c.Conn.Write(p)
	}
	return c.below.holding(func() (int, error) { return c.Conn.Write(p) })
}

// heldConn gathers what is written while it is held.
type heldConn struct {
	net.Conn
	gathers *sync.Pool // of []byte, for what is gathered

	mu   sync.Mutex // guards what follows; writes are one after the other
	held *[]byte    // nil: it is not held
}

// newGathers has room for the records of what is written at once.
func newGathers() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, bulkBytes+16<<10); return &b }}
}

// holding sends what write writes at once.
func (c *heldConn) holding(write func() (int, error)) (int, error) {
	b := c.gathers.Get().(*[]byte)
	c.mu.Lock()
	c.held = b
	c.mu.Unlock()
	n, err := write()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = nil
	if len(*b) > 0 {
		if _, ferr := c.Conn.Write(*b); err == nil {
			err = ferr
		}
		*b = (*b)[:0]
	}
	c.gathers.Put(b)
	return n, err
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// belowKey is where the context of a request has the heldConn that its TLS goes over.
type belowKey struct{}

// TLS is ln over TLS. What Serve sends over its connections goes to the kernel in large pieces.
func TLS(ln net.Listener, cfg *tls.Config) net.Listener {
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true // whoever waits for the first byte of what comes from here waits for the last as well
	return &heldListener{ln, cfg, newGathers()}
}

type heldListener struct {
	net.Listener
	cfg     *tls.Config
	gathers *sync.Pool
}

func (l *heldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&heldConn{Conn: c, gathers: l.gathers}, l.cfg), nil
}

// belowOf is the context of a connection's requests.
func belowOf(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		if below, ok := t.NetConn().(*heldConn); ok {
			return context.WithValue(ctx, belowKey{}, below)
		}
	}
	return ctx
}

// dialer opens connections for bulk.
type dialer struct {
	net     net.Dialer
	tls     *tls.Config
	buffers *bulkBuffers
	gathers *sync.Pool
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.net.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &bulkConn{Conn: c, buffers: d.buffers}, nil
}

// handshakeTimeout bounds TLS's.
const handshakeTimeout = 10 * time.Second

func (d *dialer) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.net.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	cfg := d.tls
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			c.Close()
			return nil, err
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	below := &heldConn{Conn: c, gathers: d.gathers}
	if !cfg.DynamicRecordSizingDisabled {
		cfg = cfg.Clone()
		cfg.DynamicRecordSizingDisabled = true
	}
	t := tls.Client(below, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return &bulkConn{Conn: t, below: below, buffers: d.buffers}, nil
}
