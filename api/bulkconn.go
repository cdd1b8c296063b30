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
	c.below.hold()
	n, err := c.Conn.Write(p)
	if ferr := c.below.release(); err == nil {
		err = ferr
	}
	return n, err
}

// heldConn gathers what is written while it is held.
type heldConn struct {
	net.Conn

	mu   sync.Mutex // guards what follows; writes are one after the other
	held bool
	b    []byte
}

func (c *heldConn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held {
		return c.Conn.Write(p)
	}
	c.b = append(c.b, p...)
	return len(p), nil
}

func (c *heldConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	_, err := c.Conn.Write(c.b)
	c.b = c.b[:0]
	return err
}

// dialer opens connections for bulk.
type dialer struct {
	net     net.Dialer
	tls     *tls.Config
	buffers *bulkBuffers
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
	below := &heldConn{Conn: c}
	t := tls.Client(below, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return &bulkConn{Conn: t, below: below, buffers: d.buffers}, nil
}
