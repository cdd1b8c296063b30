package nfsserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/nfsserver/v3ro"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

// tickInterval is how often leases and the grace period are looked at.
const tickInterval = time.Second

// stillAfter is how long without a beat means that the process was paused.
const stillAfter = 4 * tickInterval

// Limits bound what clients may cost. Zero fields take the defaults of the
// packages they belong to.
type Limits struct {
	RPC   rpc.Limits
	State state.Limits
	MaxIO int // bytes of one READ or WRITE, 1 MiB

	ReadMemory int // bytes of READ data held, all connections together, 256 MiB
}

// Config of a Server.
type Config struct {
	Cluster     [16]byte         // the cluster's id
	Keys        []handle.Key     // of file handles; the last makes new ones
	Exports     []export.Export  // may be replaced later
	Store       state.StateStore // what survives a restart
	Lease       time.Duration    // 30 s
	Boot        uint32           // differs from that of every earlier start; 0: random
	Delegations state.Delegating // which are given, none
	Name        string           // of this server, unique in the cluster
	Release     string           // of the software, told to clients
	// Group, if not nil, names the servers that are one to clients, with the same clients, sessions and handles; this is one of them. Needs a state.SessionStore.
	Group  func() string
	Limits Limits
	Valid  func(fsid uint32) bool // see v4.Config
	Others bool                   // see v4.Config
	// OthersOpen: see v4.Config
	OthersOpen func(ctx context.Context, fsid uint32, ino vfs.Ino) (open bool, err error)
	Refresh    func(ctx context.Context) error // see v4.Config
	Peers      v4.Peers                        // see v4.Config
	Clock      func() time.Time                // time.Now
	Logger     *slog.Logger                    // slog.Default()

	// Registerer takes the metrics, nil: none. For several servers in one
	// process wrap it with a label.
	Registerer prometheus.Registerer
}

// Server is an NFS server. It is safe for concurrent use.
type Server struct {
	cfg     Config
	exports *export.Set
	state   *state.State
	v4      *v4.Server
	rpc     *rpc.Server
	v3      *v3ro.Server

	// stop ends the ticker, which done waits for.
	stop context.CancelFunc
	done sync.WaitGroup
}

// New returns a server that has loaded from the store which clients may reclaim.
// The caller ends it with Shutdown, also when it never calls Serve. ctx is for
// loading only.
func New(ctx context.Context, cfg Config) (*Server, error) {
	const op = "nfsserver.new"
	if cfg.Store == nil || cfg.Name == "" {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a state store and a name are required")
	}
	if cfg.Lease == 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Lease < time.Second {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a lease of %v is too short; NFS counts in seconds", cfg.Lease)
	}
	still := time.Duration(0) // who has a clock of his own calls Tick when he likes
	if cfg.Clock == nil {
		cfg.Clock, still = time.Now, stillAfter
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	for cfg.Boot == 0 {
		var b [4]byte
		rand.Read(b[:])
		cfg.Boot = binary.BigEndian.Uint32(b[:])
	}
	ring, err := handle.NewRing(cfg.Cluster, cfg.Keys)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	table, err := export.NewTable(cfg.Exports, cfg.Clock())
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	recorded, err := cfg.Store.Clients(ctx)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}

	_, kept := cfg.Store.(state.SessionStore)
	s := &Server{cfg: cfg, exports: export.NewSet(table)}
	s.state = state.New(state.Config{
		Lease: cfg.Lease, Boot: cfg.Boot, Limits: cfg.Limits.State, Recorded: recorded, Kept: kept, Delegations: cfg.Delegations, Still: still,
	}, cfg.Clock())
	m := newMetrics()
	// Node names repeat from cluster to cluster. A client that mounts two clusters would take
	// equal owners for one server, and mix their client ids and sessions (RFC 8881,
	// 2.10.5). The scope has the name too: servers do not share client
	// ids and stateids (2.10.4), unless they are a group.
	identity := fmt.Appendf(nil, "%s@%x", cfg.Name, cfg.Cluster)
	var shared func() []byte
	if cfg.Group != nil {
		shared = func() []byte { return fmt.Appendf(nil, "group %s@%x", cfg.Group(), cfg.Cluster) }
	}
	s.v4 = v4.New(v4.Config{
		State: s.state, Store: cfg.Store, Exports: s.exports, Ring: ring, Cluster: cfg.Cluster,
		Owner: identity, Scope: identity, Shared: shared, Release: cfg.Release, Valid: cfg.Valid, Others: cfg.Others, OthersOpen: cfg.OthersOpen, Refresh: cfg.Refresh, Peers: cfg.Peers,
		MaxIO: cfg.Limits.MaxIO, ReadMemory: cfg.Limits.ReadMemory, Now: cfg.Clock, Logger: cfg.Logger, Observer: m,
	})
	if err := s.v4.Resume(ctx); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	s.rpc = rpc.NewServer(rpc.Config{
		Limits: cfg.Limits.RPC,
		Accept: s.accept,
		Closed: s.v4.ConnClosed,
		Logger: cfg.Logger,
	})
	s.rpc.Register(v4.Program, v4.Version, v4.Version, s.v4)
	s.v3 = v3ro.New(v3ro.Config{Exports: s.exports, Ring: s.v4.Ring, Cluster: cfg.Cluster, Logger: cfg.Logger})
	if cfg.Registerer != nil {
		if err := m.register(cfg.Registerer, s.rpc, s.state); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "metrics: %w", err)
		}
	}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { each(run, func() { s.v4.Tick(run) }) })
	s.done.Go(func() { each(run, func() { s.state.Beat(s.cfg.Clock()) }) }) // that time passes is known also while a look at leases waits for the metadata
	return s, nil
}

// accept refuses connections from where no export may be used.
func (s *Server) accept(remote netip.AddrPort) bool {
	return len(s.exports.Table().Root().Children(0, remote.Addr())) > 0
}

// each does something every tickInterval, until ctx ends.
func each(ctx context.Context, do func()) {
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			do()
		}
	}
}

// Tick looks at leases and the grace period now, for owners with a clock of
// their own; the server itself does so every second.
func (s *Server) Tick(ctx context.Context) { s.v4.Tick(ctx) }

// Serves ends, here only, all clients but those that this server serves: the owner lost the right to the others.
func (s *Server) Serves(ctx context.Context, served func(state.ClientID) bool) error {
	return s.v4.Serves(ctx, served)
}

// Waiting is what clients wait for that other servers know; see v4.Server.
func (s *Server) Waiting() *v4.Server { return s.v4 }

// GiveUp gives a client to whichever server takes it, see v4.Server.
func (s *Server) GiveUp(ctx context.Context, id state.ClientID) error { return s.v4.GiveUp(ctx, id) }

// Foreign makes a connection of another server, which carries requests that came by it here. See rpc.Server, also for EndForeign and Carry.
func (s *Server) Foreign(via string, remote netip.AddrPort, tag uint32, call func(context.Context, *rpc.Call) (rpc.Response, error)) *rpc.Conn {
	return s.rpc.Foreign(via, remote, tag, call)
}

func (s *Server) EndForeign(c *rpc.Conn) { s.rpc.EndForeign(c) }

// Carry answers a COMPOUND that another server carried here.
func (s *Server) Carry(req *rpc.Request, answer func(rpc.CarriedOutcome, [][]byte)) {
	req.Prog, req.Vers, req.Proc = v4.Program, v4.Version, v4.ProcCompound
	s.rpc.Carry(req, answer)
}

// Prepare makes durable what clients have, while they are served; GiveUpAll gives all clients up, after Shutdown, and reports whether it did.
func (s *Server) Prepare(ctx context.Context)        { s.v4.Prepare(ctx) }
func (s *Server) GiveUpAll(ctx context.Context) bool { return s.v4.GiveUpAll(ctx) }

// Coherent is fs, which is exported as fsid, for a front end beside this one: what that does waits for clients to return the delegations in its way.
func (s *Server) Coherent(fs vfs.FS, fsid uint32) vfs.FS { return s.v4.Coherent(fs, fsid) }

// Serve accepts connections on ln until Shutdown; then it returns nil. It may be
// called for several listeners.
func (s *Server) Serve(ln net.Listener) error { return s.rpc.Serve(ln) }

// ServeV3 is Serve for the read-only NFSv3 of package v3ro.
func (s *Server) ServeV3(ln net.Listener) error { return s.v3.Serve(ln) }

// Shutdown stops accepting and reading, lets running calls finish and be
// answered until ctx ends, and waits for everything the server started.
func (s *Server) Shutdown(ctx context.Context) error {
	s.v4.Shutdown(ctx)
	err := errors.Join(s.v3.Shutdown(ctx), s.rpc.Shutdown(ctx))
	s.stop()
	s.done.Wait()
	return err
}

// SetExports replaces all exports for requests that begin from now on.
func (s *Server) SetExports(exports []export.Export) error {
	t, err := export.NewTable(exports, s.cfg.Clock())
	if err != nil {
		return vfs.Wrap("nfsserver.exports", err)
	}
	s.exports.Replace(t)
	return nil
}

// SetKeys replaces the keys of file handles for requests that begin from now on.
func (s *Server) SetKeys(keys []handle.Key) error {
	r, err := handle.NewRing(s.cfg.Cluster, keys)
	if err != nil {
		return vfs.Wrap("nfsserver.keys", err)
	}
	s.v4.SetRing(r)
	return nil
}

// State are the gauges and totals of client state.
func (s *Server) State() state.Stats { return s.state.Stats() }
