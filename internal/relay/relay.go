package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// RoleGateway is the role in the certificate of who may carry requests.
	RoleGateway = "gateway"

	// callsPerConn is how many calls one wire connection serves at a time: more than package v4 carries, so that pings and callbacks have room.
	callsPerConn = 512
	// smallConns is how many connections carry requests that are small, whose answers may be large.
	smallConns = 4
	// maxHeld bounds what requests hold that others have carried here, in bytes.
	maxHeld = 128 << 20
	// maxForeign bounds the connections of others that are known.
	maxForeign = 16 << 10
	// idleFor is how long a connection of another gateway is known that carries nothing. Clients renew their leases more often.
	idleFor = 5 * time.Minute
	// sweepEvery is how often it is looked for those.
	sweepEvery = time.Minute
	// pingTimeout is how long a server may take to show that it is there.
	pingTimeout = 2 * time.Second
	// closedTimeout bounds telling another gateway that a connection is closed. It finds out, too.
	closedTimeout = 5 * time.Second
	// maxCallbackReply bounds the results of a callback, in bytes.
	maxCallbackReply = 64 << 10
)

// Place is where a gateway takes what others carry.
type Place struct {
	Gateway string // as its certificate calls it
	Address string // host:port
}

// Server is the NFS server here.
type Server interface {
	Foreign(via string, remote netip.AddrPort, tag uint32, call func(context.Context, *rpc.Call) (rpc.Response, error)) *rpc.Conn
	EndForeign(c *rpc.Conn)
	Carry(req *rpc.Request, answer func(rpc.CarriedOutcome, [][]byte))
}

// Config of a Relay. All fields but the last two are required.
type Config struct {
	Name    string // of this gateway
	Address string // host:port where it is served, as others reach it
	// Find is where the gateway that serves a client takes requests, nothing if that is not known.
	Find func(ctx context.Context, client uint64) (Place, error)
	// Server and Client secure connections from and to other gateways.
	Server  wire.Security
	Client  func(gateway string) wire.Security
	Metrics *Metrics     // nil: not registered
	Logger  *slog.Logger // slog.Default()
}

// Relay carries requests to other gateways and takes theirs. It implements v4.Peers. Serve it, and Close it after the NFS server was shut down.
type Relay struct {
	cfg    Config
	boot   uint64
	ctx    context.Context // of what goes on in the background
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex             // guards the following
	peers   map[string]*peer       // by gateway; nil when closed
	own     map[uint64]*ownConn    // connections by which something was carried, by rpc.Conn.ID
	boots   map[string]uint64      // of other gateways, as they said last
	foreign map[foreignID]*foreign // connections of others
	server  *wire.Server           // nil: not served
}

// peer is another gateway. mu of the Relay guards all but the client.
type peer struct {
	address string
	client  *wire.Client
	away    bool // it did not answer a ping, nor one since
	pinged  bool // there is one under way to see whether it is back
}

// ownConn is a connection here, and who knows it.
type ownConn struct {
	conn  *rpc.Conn
	known map[string]bool
}

// New makes a relay.
func New(cfg Config) (*Relay, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if len(cfg.Address) > maxAddress {
		return nil, vfs.Errorf(vfs.KindInvalid, "relay.new", "an address of %d bytes, at most %d", len(cfg.Address), maxAddress)
	}
	var b [8]byte
	rand.Read(b[:])
	if cfg.Metrics == nil {
		m, err := NewMetrics(nil)
		if err != nil {
			return nil, err
		}
		cfg.Metrics = m
	}
	r := &Relay{
		cfg: cfg, boot: binary.BigEndian.Uint64(b[:]), peers: map[string]*peer{}, own: map[uint64]*ownConn{}, boots: map[string]uint64{}, foreign: map[foreignID]*foreign{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

var _ v4.Peers = (*Relay)(nil)

// Close ends it. Nothing is carried any more, in neither direction.
func (r *Relay) Close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	peers, server := r.peers, r.server
	r.peers = nil
	r.mu.Unlock()
	r.cancel()
	if server != nil {
		_ = server.Close()
	}
	for _, p := range peers {
		p.client.Close()
	}
	r.wg.Wait()
}

// Serving implements v4.Peers.
func (r *Relay) Serving(ctx context.Context, client uint64) (string, error) {
	p, err := r.cfg.Find(ctx, client)
	if err != nil || p.Gateway == "" || p.Address == "" || p.Gateway == r.cfg.Name {
		return "", vfs.Wrap("relay.serving", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers == nil {
		return "", nil
	}
	r.reach(p)
	if r.awaits(r.peers[p.Gateway]) { // clients are handed over meanwhile
		return "", nil
	}
	return p.Gateway, nil
}

// awaits reports whether a gateway does not answer, and sees in the background whether it does again, so that no request waits for that. r.mu is held.
func (r *Relay) awaits(p *peer) bool {
	if p.away && !p.pinged {
		p.pinged = true
		r.wg.Go(func() {
			answers := ping(r.ctx, p)
			r.mu.Lock()
			defer r.mu.Unlock()
			p.pinged, p.away = false, !answers
		})
	}
	return p.away
}

// reach makes a gateway known, at an address. r.mu is held, and r not closed.
func (r *Relay) reach(p Place) {
	if old := r.peers[p.Gateway]; old == nil || old.address != p.Address {
		if old != nil {
			r.wg.Go(old.client.Close)
		}
		r.peers[p.Gateway] = &peer{address: p.Address, client: wire.NewClient(wire.Dialer("tcp", p.Address), wire.ClientOptions{
			Security: r.cfg.Client(p.Gateway), SmallConns: smallConns, Logger: r.cfg.Logger,
		})}
	}
}

// client is that of a gateway that Serving has told.
func (r *Relay) client(gateway string) (*wire.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.peers[gateway]; p != nil {
		return p.client, nil
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, "relay.call", "it is not known where gateway %s is", gateway)
}

// Carry implements v4.Peers.
func (r *Relay) Carry(ctx context.Context, gateway string, req *rpc.Request) (v4.Carried, error) {
	const op = "relay.carry"
	cl, err := r.client(gateway)
	if err != nil {
		return v4.Carried{}, err
	}
	r.tells(req.Conn, gateway)
	c := carried{id: connID{r.boot, req.Conn.ID()}, address: r.cfg.Address, tag: req.Conn.Tag(), remote: req.Conn.RemoteAddr()}
	c.req = rpc.Request{XID: req.XID, Flavor: req.Flavor, Cred: req.Cred, Machine: req.Machine, Size: req.Size}
	reply, err := cl.Call(ctx, OpCarry, c.append(make([]byte, 0, 256)), net.Buffers{req.Body}, nil)
	if err != nil {
		r.cfg.Metrics.sent.WithLabelValues(failed).Inc()
		return v4.Carried{}, vfs.Wrap(op, err)
	}
	if len(reply.Meta) != 1 || reply.Meta[0] > byte(rpc.CarriedElsewhere) {
		reply.Release()
		return v4.Carried{}, vfs.Errorf(vfs.KindCorrupt, op, "an answer of gateway %s that this release does not know", gateway)
	}
	o := rpc.CarriedOutcome(reply.Meta[0])
	r.cfg.Metrics.sent.WithLabelValues(outcome(o)).Inc()
	return v4.Carried{Outcome: o, Results: reply.Payload, Release: reply.Release}, nil
}

// Reaches implements v4.Peers.
func (r *Relay) Reaches(ctx context.Context, gateway string) bool {
	r.mu.Lock()
	p := r.peers[gateway]
	r.mu.Unlock()
	if p == nil {
		return false
	}
	answers := ping(ctx, p)
	if !answers && ctx.Err() == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		p.away = true
	}
	return answers
}

func ping(ctx context.Context, p *peer) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	reply, err := p.client.Call(ctx, OpPing, nil, nil, nil)
	if err != nil {
		return false
	}
	reply.Release()
	return true
}

// tells notes that a gateway is told of a connection here.
func (r *Relay) tells(conn *rpc.Conn, gateway string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.own[conn.ID()]
	if o == nil {
		o = &ownConn{conn, map[string]bool{}}
		r.own[conn.ID()] = o
	}
	o.known[gateway] = true
}

// Closed implements v4.Peers.
func (r *Relay) Closed(conn *rpc.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.own[conn.ID()]
	delete(r.own, conn.ID())
	if o == nil {
		return
	}
	meta := connID{r.boot, conn.ID()}.append([]byte{metaFormat})
	for gateway := range o.known {
		p := r.peers[gateway]
		if p == nil {
			continue
		}
		r.wg.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, closedTimeout)
			defer cancel()
			if reply, err := p.client.Call(ctx, OpClosed, meta, nil, nil); err == nil {
				reply.Release()
			}
		})
	}
}
