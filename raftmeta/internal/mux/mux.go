package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// HandshakeTimeout bounds everything before Raft's first message.
	HandshakeTimeout = 5 * time.Second
	// maxHandshakes bounds connections that have not said what they are.
	maxHandshakes = 256
	// backlog is how many accepted streams of a shard wait for Raft to take them.
	backlog = 16
	// alpn is the application protocol of Raft streams.
	alpn = "rackfs-raft/1"
	// RoleMeta is the role in a certificate that lets a node speak Raft.
	RoleMeta = "meta"
)

// Options configures a Mux.
type Options struct {
	Cluster  string        // cluster id; streams of another are refused
	Security wire.Security // server side: mode and certificate
	ServeRPC func(net.Conn)
	Logger   *slog.Logger
}

// Mux accepts connections and hands them on by what they say they are.
type Mux struct {
	opt   Options
	slots chan struct{} // one per handshake

	wg sync.WaitGroup

	mu     sync.Mutex
	closed bool
	ln     net.Listener
	shards map[uint16]*Listener
	conns  map[net.Conn]struct{} // in their handshake, or RPC
}

// New makes a mux; Serve runs it.
func New(o Options) *Mux {
	return &Mux{
		opt:    o,
		slots:  make(chan struct{}, maxHandshakes),
		shards: map[uint16]*Listener{},
		conns:  map[net.Conn]struct{}{},
	}
}

// Serve accepts connections from ln until Close, and closes ln.
func (m *Mux) Serve(ln net.Listener) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		ln.Close()
		return ErrClosed
	}
	m.ln = ln
	m.wg.Add(1)
	m.mu.Unlock()
	defer m.wg.Done()
	defer ln.Close()
	for pause := time.Duration(0); ; {
		nc, err := ln.Accept()
		if err != nil {
			m.mu.Lock()
			closed := m.closed
			m.mu.Unlock()
			if closed {
				return ErrClosed
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second) // too many files, an aborted connection
			m.opt.Logger.Warn("raftmeta: accept failed, trying again", "err", err, "pause", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		select {
		case m.slots <- struct{}{}:
		default:
			m.opt.Logger.Warn("raftmeta: connection refused, too many handshakes", "remote", nc.RemoteAddr(), "limit", maxHandshakes)
			nc.Close()
			continue
		}
		if !m.track(nc) {
			<-m.slots
			nc.Close()
			continue
		}
		go m.handle(nc)
	}
}

// track registers nc so that Close can end it. It also counts the goroutine
// that will handle it.
func (m *Mux) track(nc net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.conns[nc] = struct{}{}
	m.wg.Add(1)
	return true
}

func (m *Mux) untrack(nc net.Conn) {
	m.mu.Lock()
	delete(m.conns, nc)
	m.mu.Unlock()
}

func (m *Mux) handle(nc net.Conn) {
	defer m.wg.Done()
	defer m.untrack(nc)
	release := sync.OnceFunc(func() { <-m.slots })
	defer release()
	nc.SetDeadline(time.Now().Add(HandshakeTimeout))
	kind, shard, err := readPrelude(nc)
	if err == nil {
		switch kind {
		case kindRPC:
			nc.SetDeadline(time.Time{})
			release()
			m.opt.ServeRPC(nc)
			return
		case kindRaft:
			err = m.acceptRaft(nc, shard)
		default:
			err = fmt.Errorf("stream kind %d", kind)
		}
	}
	if err != nil {
		m.opt.Logger.Warn("raftmeta: connection refused", "remote", nc.RemoteAddr(), "err", err)
		nc.Close()
	}
}

func (m *Mux) acceptRaft(nc net.Conn, shard uint16) error {
	conn, peer, err := serverTLS(nc, m.opt.Security)
	if err != nil {
		return err
	}
	h, err := readHello(conn)
	if err != nil {
		return err
	}
	m.mu.Lock()
	l := m.shards[h.shard]
	m.mu.Unlock()
	switch {
	case h.cluster != m.opt.Cluster:
		err = fmt.Errorf("stream of cluster %s, this is cluster %s", h.cluster, m.opt.Cluster)
	case h.shard != shard || l == nil:
		err = fmt.Errorf("no replica of shard %d here", h.shard)
	case h.to != l.self:
		err = fmt.Errorf("replica %s is not here; this one is %s", h.to, l.self)
	case peer != nil && (peer.Name != NodeOf(h.from) || !slices.Contains(peer.Roles, RoleMeta)):
		err = fmt.Errorf("certificate of node %q with roles %q may not speak for replica %s", peer.Name, peer.Roles, h.from)
	}
	if werr := writeAnswer(conn, err); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	nc.SetDeadline(time.Time{})
	return l.deliver(conn)
}

// NodeOf is the node's name in a replica id (NODE.RANDOM).
func NodeOf(replica string) string {
	if i := strings.LastIndexByte(replica, '.'); i >= 0 {
		return replica[:i]
	}
	return replica
}

// serverTLS secures the server's end of nc as s says. peer is nil if nobody
// was authenticated.
func serverTLS(nc net.Conn, s wire.Security) (net.Conn, *wire.Peer, error) {
	if s.Mode == wire.ModeInsecure {
		return nc, nil, nil
	}
	if s.TLS == nil || s.TLS.ClientCAs == nil {
		return nil, nil, vfs.Errorf(vfs.KindInvalid, "mux.accept", "security mode %v needs a TLS configuration with the cluster's CA", s.Mode)
	}
	cfg := raftTLS(s.TLS)
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	tc := tls.Server(nc, cfg)
	if err := tc.Handshake(); err != nil {
		return nil, nil, err
	}
	peer, err := tlsPeer(tc)
	if cfg.VerifyConnection != nil {
		cs := tc.ConnectionState()
		return &verified{tc, func() error { return cfg.VerifyConnection(cs) }}, peer, err
	}
	return tc, peer, err
}

// verified is a stream whose peer is asked for at each message: one that was removed since it connected is cut off.
type verified struct {
	net.Conn
	ok func() error
}

// Read implements net.Conn.
func (v *verified) Read(b []byte) (int, error) {
	n, err := v.Conn.Read(b)
	if refused := v.ok(); refused != nil {
		v.Conn.Close()
		return 0, refused
	}
	return n, err
}

func clientTLS(ctx context.Context, nc net.Conn, s wire.Security) (net.Conn, error) {
	if s.Mode == wire.ModeInsecure {
		return nc, nil
	}
	if s.TLS == nil || s.TLS.RootCAs == nil || s.TLS.ServerName == "" || s.TLS.InsecureSkipVerify {
		return nil, vfs.Errorf(vfs.KindInvalid, "mux.dial", "security mode %v needs a TLS configuration that checks the node's name against the cluster's CA", s.Mode)
	}
	tc := tls.Client(nc, raftTLS(s.TLS))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	_, err := tlsPeer(tc)
	return tc, err
}

// raftTLS is c with everything set that these streams' security rests on. Raft
// streams are always encrypted: they carry the cluster's keys.
func raftTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	c.NextProtos = []string{alpn}
	c.SessionTicketsDisabled = true
	c.ClientSessionCache = nil
	c.GetConfigForClient = nil
	return c
}

func tlsPeer(tc *tls.Conn) (*wire.Peer, error) {
	cs := tc.ConnectionState()
	if cs.NegotiatedProtocol != alpn {
		return nil, errors.New("the peer does not speak " + alpn)
	}
	name, roles, err := pki.Subject(cs.PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	return &wire.Peer{Name: name, Roles: roles}, nil
}

// Listen makes the listener of a shard's Raft streams for replica self.
func (m *Mux) Listen(shard uint16, self string) (*Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	if m.shards[shard] != nil {
		return nil, vfs.Errorf(vfs.KindInternal, "mux.listen", "shard %d has a listener already", shard)
	}
	l := &Listener{mux: m, shard: shard, self: self, in: make(chan net.Conn, backlog), done: make(chan struct{}), conns: map[*conn]struct{}{}}
	m.shards[shard] = l
	return l, nil
}

// Close ends accepting, handshakes and RPC connections, and waits for them.
// Listeners are closed too, and with them the streams of Raft.
func (m *Mux) Close() {
	m.mu.Lock()
	m.closed = true
	if m.ln != nil {
		m.ln.Close()
	}
	for nc := range m.conns {
		nc.Close()
	}
	var ls []*Listener
	for _, l := range m.shards {
		ls = append(ls, l)
	}
	m.mu.Unlock()
	for _, l := range ls {
		l.Close()
	}
	m.wg.Wait()
}

// Listener gives out the accepted Raft streams of one shard.
type Listener struct {
	mux   *Mux
	shard uint16
	self  string
	in    chan net.Conn
	done  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	conns map[*conn]struct{} // nil after Close
}

// conn is a stream of Raft. Raft forgets some when it ends, so that the
// listener has to know them all.
type conn struct {
	net.Conn
	l *Listener
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// Track makes nc one of the streams that are closed with the listener.
func (l *Listener) Track(nc net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		nc.Close()
		return nil, ErrClosed
	}
	c := &conn{nc, l}
	l.conns[c] = struct{}{}
	return c, nil
}

func (l *Listener) deliver(c net.Conn) error {
	select {
	case <-l.done:
		return ErrClosed
	default:
	}
	select {
	case l.in <- c:
		select {
		case <-l.done: // Close may have emptied the channel before c was in it
			l.drain()
		default:
		}
		return nil
	case <-l.done:
		return ErrClosed
	case <-time.After(HandshakeTimeout):
		return errors.New("raft does not take streams")
	}
}

// Accept waits for the next stream.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return l.Track(c)
	case <-l.done:
		return nil, ErrClosed
	}
}

// Close ends Accept and closes all streams.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.mux.mu.Lock()
		delete(l.mux.shards, l.shard)
		l.mux.mu.Unlock()
		l.drain()
		l.mu.Lock()
		conns := l.conns
		l.conns = nil
		l.mu.Unlock()
		for c := range conns {
			c.Conn.Close()
		}
	})
	return nil
}

func (l *Listener) drain() {
	for {
		select {
		case c := <-l.in:
			c.Close()
		default:
			return
		}
	}
}

// Addr is the replica's id, by which Raft knows it; where it listens is the resolver's affair.
func (l *Listener) Addr() net.Addr { return addr(l.self) }

type addr string

func (addr) Network() string  { return "rackfs-raft" }
func (a addr) String() string { return string(a) }
