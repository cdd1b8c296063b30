package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
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
	// alpn names the application protocols of Raft streams, with their number.
	alpn = "rackfs-raft/"
	// RoleMeta is the role in a certificate that lets a node speak Raft.
	RoleMeta = "meta"
)

// Protocol is in which form Raft's messages are on a stream.
type Protocol int

// The protocols; each release knows all up to its newest.
const (
	Raft1  Protocol = iota + 1 // of hashicorp/raft's NetworkTransport
	Raft2                      // of package raftnet
	Newest = Raft2
)

// alpns are the names of the protocols up to p, the newest first: that is the order in which they are preferred.
func (p Protocol) alpns() (names []string) {
	for ; p >= Raft1; p-- {
		names = append(names, p.alpn())
	}
	return names
}

func (p Protocol) alpn() string { return alpn + strconv.Itoa(int(p)) }

// Options configures a Mux.
type Options struct {
	Cluster  string        // cluster id; streams of another are refused
	Security wire.Security // server side: mode and certificate
	ServeRPC func(net.Conn)
	Logger   *slog.Logger
	Newest   Protocol // of Raft streams; default all that this release knows
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
	if o.Newest == 0 {
		o.Newest = Newest
	}
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
		case kindRaft, kindRaft2:
			err = m.acceptRaft(nc, kind, shard)
		default:
			err = fmt.Errorf("stream kind %d", kind)
		}
	}
	if err != nil {
		m.opt.Logger.Warn("raftmeta: connection refused", "remote", nc.RemoteAddr(), "err", err)
		nc.Close()
	}
}

func (m *Mux) acceptRaft(nc net.Conn, kind byte, shard uint16) error {
	conn, peer, p, err := serverTLS(nc, m.opt.Security, m.opt.Newest)
	if err != nil {
		return err
	}
	if kind == kindRaft2 {
		if peer != nil || m.opt.Newest < Raft2 {
			return fmt.Errorf("stream kind %d", kind)
		}
		p = Raft2
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
	return l.deliver(Stream{conn, h.from}, p)
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
func serverTLS(nc net.Conn, s wire.Security, newest Protocol) (net.Conn, *wire.Peer, Protocol, error) {
	if s.Mode == wire.ModeInsecure {
		return nc, nil, Raft1, nil
	}
	if s.TLS == nil || s.TLS.ClientCAs == nil {
		return nil, nil, 0, vfs.Errorf(vfs.KindInvalid, "mux.accept", "security mode %v needs a TLS configuration with the cluster's CA", s.Mode)
	}
	cfg := raftTLS(s.TLS, newest)
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	tc := tls.Server(nc, cfg)
	if err := tc.Handshake(); err != nil {
		return nil, nil, 0, err
	}
	peer, p, err := tlsPeer(tc, newest)
	if cfg.VerifyConnection != nil {
		cs := tc.ConnectionState()
		return &verified{tc, func() error { return cfg.VerifyConnection(cs) }}, peer, p, err
	}
	return tc, peer, p, err
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

func clientTLS(ctx context.Context, nc net.Conn, s wire.Security, newest Protocol) (net.Conn, Protocol, error) {
	if s.Mode == wire.ModeInsecure {
		return nc, newest, nil
	}
	if s.TLS == nil || s.TLS.RootCAs == nil || s.TLS.ServerName == "" || s.TLS.InsecureSkipVerify {
		return nil, 0, vfs.Errorf(vfs.KindInvalid, "mux.dial", "security mode %v needs a TLS configuration that checks the node's name against the cluster's CA", s.Mode)
	}
	tc := tls.Client(nc, raftTLS(s.TLS, newest))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, 0, err
	}
	_, p, err := tlsPeer(tc, newest)
	return tc, p, err
}

// raftTLS is c with everything set that these streams' security rests on. Raft
// streams are always encrypted: they carry the cluster's keys.
func raftTLS(c *tls.Config, newest Protocol) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	c.NextProtos = newest.alpns()
	c.SessionTicketsDisabled = true
	c.ClientSessionCache = nil
	c.GetConfigForClient = nil
	return c
}

func tlsPeer(tc *tls.Conn, newest Protocol) (*wire.Peer, Protocol, error) {
	cs := tc.ConnectionState()
	p := newest
	for ; p.alpn() != cs.NegotiatedProtocol; p-- {
		if p == Raft1 {
			return nil, 0, fmt.Errorf("the peer speaks none of %q", newest.alpns())
		}
	}
	name, roles, err := pki.Subject(cs.PeerCertificates[0])
	if err != nil {
		return nil, 0, err
	}
	return &wire.Peer{Name: name, Roles: roles}, p, nil
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
	l := &Listener{mux: m, shard: shard, self: self, in: map[Protocol]chan Stream{}, done: make(chan struct{}), conns: map[*conn]struct{}{}}
	for p := Raft1; p <= Newest; p++ {
		l.in[p] = make(chan Stream, backlog)
	}
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
	in    map[Protocol]chan Stream
	done  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	conns map[*conn]struct{} // nil after Close
}

// Stream is an accepted stream of the replica Peer.
type Stream struct {
	net.Conn
	Peer string
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

func (l *Listener) deliver(c Stream, p Protocol) error {
	select {
	case <-l.done:
		return ErrClosed
	default:
	}
	select {
	case l.in[p] <- c:
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

// Accept waits for the next stream of the first protocol.
func (l *Listener) Accept() (net.Conn, error) {
	s, err := l.AcceptStream(Raft1)
	return s.Conn, err
}

// AcceptStream waits for the next stream of a protocol.
func (l *Listener) AcceptStream(p Protocol) (Stream, error) {
	select {
	case c := <-l.in[p]:
		nc, err := l.Track(c.Conn)
		return Stream{nc, c.Peer}, err
	case <-l.done:
		return Stream{}, ErrClosed
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
	for _, in := range l.in {
		for more := true; more; {
			select {
			case c := <-in:
				c.Close()
			default:
				more = false
			}
		}
	}
}

// Addr is the replica's id, by which Raft knows it; where it listens is the resolver's affair.
func (l *Listener) Addr() net.Addr { return addr(l.self) }

type addr string

func (addr) Network() string  { return "rackfs-raft" }
func (a addr) String() string { return string(a) }
