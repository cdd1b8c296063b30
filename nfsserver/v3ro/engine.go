package v3ro

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"

	nfs "github.com/willscott/go-nfs"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// lastFragment marks a record's length (RFC 5531, 11).
	lastFragment = 1 << 31
	// replyHeader is the length of the header of go-nfs's replies: xid, REPLY, MSG_ACCEPTED, an empty verifier, accept_stat.
	replyHeader = 24
	// maxResults bounds the results of a call in bytes: of READLINK they are the longest.
	maxResults = 8 << 10
)

// engine is a server of go-nfs behind a pipe. It works at one call at a time.
type engine struct {
	h      handler
	host   net.Conn // our end of the pipe
	served sync.WaitGroup
	ended  chan struct{} // closed when go-nfs has closed its end
	ln     *pipeListener
	out    []byte
	broken bool // a call was given up: what comes next out of the pipe is not known
}

func newEngine() *engine {
	host, guest := net.Pipe()
	e := &engine{host: host, ended: make(chan struct{}), ln: &pipeListener{done: make(chan struct{})}}
	e.ln.conn = &guestConn{Conn: guest, ended: e.ended}
	// A context of its own: that of a call is the handler's.
	srv := &nfs.Server{Handler: &e.h, ID: [8]byte{1}, Context: context.Background()}
	e.served.Go(func() { _ = srv.Serve(e.ln) })
	return e
}

// close ends the engine and waits for go-nfs.
func (e *engine) close() {
	if e == nil {
		return
	}
	_ = e.host.Close()
	<-e.ended
	_ = e.ln.Close()
	e.served.Wait()
}

// call has go-nfs answer a call about the view. The arguments are well formed.
func (e *engine) call(ctx context.Context, v *view, prog, proc uint32, args []byte) ([]byte, error) {
	const op = "nfs3.call"
	e.h.view = v
	defer func() { e.h.view = nil }()
	stop := context.AfterFunc(ctx, func() { _ = e.host.Close() })
	results, err := e.exchange(prog, proc, args)
	if !stop() || err != nil {
		e.broken = true
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "procedure %d of program %d: %w", proc, prog, err)
	}
	return results, nil
}

func (e *engine) exchange(prog, proc uint32, args []byte) ([]byte, error) {
	const xid = 1
	b := xdr.AppendUint32(e.out[:0], 0)
	for _, word := range []uint32{xid, 0, 2, prog, version, proc, 0, 0, 0, 0} { // CALL, RPC version 2, AUTH_NONE twice
		b = xdr.AppendUint32(b, word)
	}
	b = append(b, args...)
	xdr.PutUint32(b, 0, lastFragment|uint32(len(b)-4))
	e.out = b
	if _, err := e.host.Write(b); err != nil {
		return nil, err
	}
	var head [4 + replyHeader]byte
	if _, err := io.ReadFull(e.host, head[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:])&^lastFragment) - replyHeader
	if size < 4 || size > maxResults || binary.BigEndian.Uint32(head[4:]) != xid || binary.BigEndian.Uint32(head[len(head)-4:]) != 0 {
		return nil, vfs.Errorf(vfs.KindInternal, "nfs3.reply", "%d bytes, header %x", size, head)
	}
	results := make([]byte, size)
	_, err := io.ReadFull(e.host, results)
	return results, err
}

// pipeListener accepts one connection.
type pipeListener struct {
	conn net.Conn // nil after it was accepted; only Accept touches it
	done chan struct{}
	once sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// guestConn is go-nfs's end of the pipe, and tells when that is done with it. go-nfs closes it at the end of the stream, but not when it could
// not read a call: then Read does, once it has failed.
type guestConn struct {
	net.Conn
	once  sync.Once
	ended chan struct{}
}

func (c *guestConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func (c *guestConn) Close() error {
	c.once.Do(func() { close(c.ended) })
	return c.Conn.Close()
}
