package raftmeta

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/vfs"
)

// Server is one metadata node: a replica of each shard in its directory.
type Server struct {
	opt     Options
	node    *replica.Node
	mux     *mux.Mux
	rpc     *wire.Server
	peers   *peers
	blocks  *pebble.Cache
	metrics *metrics
	wg      sync.WaitGroup // the accept loop
	keepers sync.WaitGroup

	ctx    context.Context // of the keepers
	cancel context.CancelFunc

	mu      sync.RWMutex
	shards  map[uint16]*shard
	broken  map[uint16]error  // why there is no replica of a shard that should be here
	keeping map[uint16]string // what a keeper does or waits for; "" or absent: nothing
	fated   map[string]Fate   // what was heard last of nodes that leave

	sequence atomic.Uint64 // of term requests
}

// closeTimeout bounds how long Close waits for commands in progress.
const closeTimeout = 10 * time.Second

// Open starts the replicas in o.Dir. It returns before they have a leader.
func Open(o Options) (s *Server, err error) {
	const op = "raftmeta.open"
	o = o.withDefaults()
	s = &Server{opt: o, shards: map[uint16]*shard{}, broken: map[uint16]error{}, keeping: map[uint16]string{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	if o.Listener == nil || o.Resolver == nil || o.ClientSecurity == nil {
		return s, vfs.Errorf(vfs.KindInvalid, op, "a listener, a resolver and the security of connections to other voters are needed")
	}
	if s.node, err = replica.OpenNode(o.files, o.Dir); err != nil {
		return s, err
	}
	if o.Cluster != nil && string(o.Cluster) != string(s.node.Cluster) {
		return s, vfs.Errorf(vfs.KindIncompatible, op, "%s holds metadata of cluster %x, not of this one, %x: put its own back; it is left untouched", o.Dir, s.node.Cluster, o.Cluster)
	}
	ids := slices.Clone(s.node.Shards)
	for _, id := range o.Shards {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
			s.broken[id] = vfs.Errorf(vfs.KindNotFound, op, "the replica of shard %d is gone from %s", id, o.Dir)
		}
	}
	if len(ids) == 0 {
		return s, vfs.Errorf(vfs.KindInvalid, op, "%s holds no replica", o.Dir)
	}
	s.blocks = pebble.NewCache(o.BlockCacheBytes)
	s.peers = newPeers(o.dial, o.ClientSecurity, o.Logger)
	s.rpc = wire.NewServer(s.serve, wire.ServerOptions{Security: o.Security, Logger: o.Logger})
	s.mux = mux.New(mux.Options{Cluster: string(s.node.Cluster), Security: o.Security, ServeRPC: s.rpc.ServeConn, Logger: o.Logger, Newest: o.raftProtocol})
	s.metrics = newMetrics(s)
	for _, id := range s.node.Shards {
		sh, err := s.openShard(id)
		if err != nil && (remedyOf(err) != renewal && !diskFailed(err) || len(o.NodesFunc()) == 0) {
			return s, err
		}
		if err != nil {
			o.Logger.Error("raftmeta: a replica is damaged and does not run", "shard", id, "err", err)
			s.broken[id] = err
			continue
		}
		s.shards[id] = sh
	}
	if err := s.metrics.register(o.Registerer); err != nil {
		return s, vfs.Wrap(op, err)
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if err := s.mux.Serve(o.Listener); !errors.Is(err, mux.ErrClosed) {
			o.Logger.Error("raftmeta: the metadata port failed", "err", err)
		}
	}()
	if len(o.NodesFunc()) > 0 {
		for _, id := range ids {
			s.keepers.Add(1)
			go func() {
				defer s.keepers.Done()
				(&keeper{s: s, id: id}).run(s.ctx)
			}()
		}
	}
	return s, nil
}

// dial opens a plain connection to a node.
func (o Options) dial(ctx context.Context, node string) (net.Conn, error) {
	return dialNode(ctx, o.Resolver, node)
}

func dialNode(ctx context.Context, r Resolver, node string) (net.Conn, error) {
	addr, err := r.Resolve(ctx, node)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, "raftmeta.dial", "address of node %s: %w", node, err)
	}
	return wire.Dialer("tcp", addr)(ctx)
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.opt.Listener.Addr() }

// Node is the name of this node.
func (s *Server) Node() string { return s.node.Name }

// shard finds a replica of this server.
func (s *Server) shard(id uint32) (*shard, error) {
	if id <= 0xffff {
		s.mu.RLock()
		sh := s.shards[uint16(id)]
		s.mu.RUnlock()
		if sh != nil {
			return sh, nil
		}
	}
	return nil, vfs.Errorf(vfs.KindNotLeader, "raftmeta", "")
}

// leading finds a shard that this server leads and serves. KindNotLeader names who does, if that is known.
func (s *Server) leading(id uint32) (*shard, *leadership, error) {
	sh, err := s.shard(id)
	if err != nil {
		return nil, nil, err
	}
	l := sh.lead.Load()
	if l == nil {
		return nil, nil, sh.notLeader()
	}
	return sh, l, nil
}

// all are the replicas that are open.
func (s *Server) all() []*shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.shards))
}

// Snapshot takes a Raft snapshot of a shard now.
func (s *Server) Snapshot(shard uint16) error {
	sh, err := s.shard(uint32(shard))
	if err != nil {
		return err
	}
	return vfs.Wrap("raftmeta.snapshot", sh.raft.Snapshot().Error())
}

// TransferLeadership gives the leadership of a shard to the voter on node, or to any if node is "".
func (s *Server) TransferLeadership(shard uint16, node string) error {
	const op = "raftmeta.transfer"
	sh, err := s.shard(uint32(shard))
	if err != nil {
		return err
	}
	if node == "" {
		return vfs.Wrap(op, sh.raft.LeadershipTransfer().Error())
	}
	for _, id := range sh.voters() {
		if mux.NodeOf(id) == node {
			return vfs.Wrap(op, sh.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id)).Error())
		}
	}
	return vfs.Errorf(vfs.KindNotFound, op, "shard %d has no voter on node %s", shard, node)
}

// HandOver gives the leadership of all shards that this server leads to other voters, where there are some, so that nobody has to find out by
// an election that it ended. It is for a server that is about to be closed while the others go on; what fails is left to that election.
func (s *Server) HandOver() {
	var wg sync.WaitGroup
	for _, sh := range s.all() {
		if sh.raft == nil || sh.raft.State() != raft.Leader || len(sh.voters()) < 2 {
			continue
		}
		wg.Go(func() {
			if err := sh.raft.LeadershipTransfer().Error(); err != nil {
				s.opt.Logger.Info("raftmeta: leadership is not handed over", "shard", sh.id, "err", err)
			}
		})
	}
	wg.Wait()
}

// Close stops the server: commands in progress are answered, leadership is given up,
// and everything is closed. What was acknowledged is durable before and after.
func (s *Server) Close() error {
	var errs []error
	if s.metrics != nil {
		s.metrics.unregister(s.opt.Registerer)
	}
	s.cancel()
	s.keepers.Wait() // they open and close replicas
	var wg sync.WaitGroup
	for _, sh := range s.all() { // they stop at the same time
		wg.Add(1)
		go func() {
			defer wg.Done()
			sh.quiesce()
		}()
	}
	wg.Wait()
	if s.rpc != nil {
		errs = append(errs, s.rpc.Close())
	}
	for _, sh := range s.all() {
		errs = append(errs, sh.close())
	}
	if s.mux != nil {
		s.mux.Close()
	}
	if s.opt.Listener != nil {
		s.opt.Listener.Close()
	}
	s.wg.Wait()
	if s.peers != nil {
		s.peers.close()
	}
	if s.blocks != nil {
		s.blocks.Unref()
		s.blocks = nil
	}
	if s.node != nil {
		errs = append(errs, s.node.Close())
	}
	return errors.Join(errs...)
}
