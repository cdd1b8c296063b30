package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// segmentBytes is smaller than a real disk's: six stores share one here.
	segmentBytes = 64 << 20
	// indexCacheBytes is the index cache of all stores together.
	indexCacheBytes = 32 << 20
)

// blockNode is a block server with one store.
type blockNode struct {
	name  string
	first uint32 // the id of its first store
	lost  bool   // its directory is gone or empty, and the cluster was formed before
	store *store.Store
	err   error // why it does not run
	nodegroup.Admission

	mu   sync.Mutex   // guards the following
	addr string       // where it serves
	wire *wire.Server // nil: it does not serve
	done chan struct{}

	identity *pki.Identity
	meta     *raftmeta.Client // of the keeper
	keeper   atomic.Pointer[upkeep.Keeper]
}

// openStores opens all that can be opened. A cluster of which stores are missing
// serves what can be reconstructed without them.
func (c *Cluster) openStores(ctx context.Context) error {
	c.indexCache = pebble.NewCache(indexCacheBytes)
	c.stores = make([]*blockNode, c.dir.shape.BlockStores)
	var start sync.WaitGroup
	for i := range c.stores {
		n := &blockNode{name: storeName(i), first: storeID(i)}
		c.stores[i] = n
		start.Go(func() {
			if c.dir.shape.Formed {
				if n.lost, n.err = node.EmptyDisk(c.dir.sub(n.name)); n.err == nil && n.lost {
					n.err = vfs.Errorf(vfs.KindNotFound, "open store", "%s is gone or empty", c.dir.sub(n.name))
				}
			}
			if n.err == nil {
				n.store, n.err = c.openStore(ctx, n, !c.dir.shape.Formed, raftmeta.FirstIncarnation)
			}
		})
	}
	start.Wait()
	var failures []error
	for _, n := range c.stores {
		if n.err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", n.name, n.err))
		}
	}
	profile, err := placement.ParseProfile(c.dir.shape.Profile)
	if err != nil {
		return err
	}
	if !c.dir.shape.Formed && len(failures) > 0 || len(failures) > profile.M {
		return vfs.Errorf(vfs.KindUnavailable, "start block stores", "%d of %d do not start, profile %v survives the loss of %d: %w",
			len(failures), len(c.stores), profile, profile.M, errors.Join(failures...))
	}
	return nil
}

// openStore opens a node's store, or makes it for an incarnation of the metadata.
func (c *Cluster) openStore(ctx context.Context, n *blockNode, create bool, incarnation uint64) (*store.Store, error) {
	var err error
	if n.identity, err = c.ca.Issue(n.name, []string{blockstore.RoleBlock}, nil, time.Now()); err != nil {
		return nil, err
	}
	return store.Open(ctx, store.Options{
		Dir: c.dir.sub(n.name), Cluster: segment.ID(c.dir.shape.clusterID()), Create: create,
		MetadataIncarnation: incarnation,
		SegmentSize:         segmentBytes, IndexCache: c.indexCache, Logger: c.log.With("node", n.name),
		OnBad:   n.bad,
		Budget:  budget.New(c.cfg.budget),
		Metrics: store.NewMetrics(c.reg, prometheus.Labels{"node": n.name}),
	})
}

// serve makes the node answer, at an address chosen by the kernel.
func (c *Cluster) serve(n *blockNode) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h := server.New(map[uint32]*store.Store{n.ID: n.store}, server.Options{Logger: c.log, Upkeep: n.upkeep})
	srv := wire.NewServer(h.Handle, wire.ServerOptions{Security: wire.Security{Mode: c.cfg.dataMode(), TLS: n.identity.ServerTLS()}, Logger: c.log})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); err != nil {
			c.log.Debug("block server ended", "node", n.name, "err", err)
		}
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr, n.wire, n.done = ln.Addr().String(), srv, done
	return nil
}

// unserve ends the node's server; its store stays open.
func (n *blockNode) unserve() error {
	n.mu.Lock()
	srv, done := n.wire, n.done
	n.wire = nil
	n.mu.Unlock()
	if srv == nil {
		return nil
	}
	err := srv.Close()
	<-done
	return err
}

// address is where it serves, or did last.
func (n *blockNode) address() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addr
}

// serves reports whether the node answers.
func (n *blockNode) serves() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wire != nil
}

func (n *blockNode) close() error {
	err := n.unserve()
	if n.store != nil {
		err = errors.Join(err, n.store.Close())
	}
	return err
}

// fail makes a node one that does not run.
func (c *Cluster) fail(n *blockNode, err error) {
	n.err = err
	if n.store != nil {
		n.err = errors.Join(err, n.close())
		n.store = nil
	}
	c.log.Error("a block store does not start; its shards are reconstructed from the others", "node", n.name, "err", n.err)
}

// record is the shard-0 record of a store that runs, at its present address. The record of one
// that does not keeps its last address, where nobody with its certificate answers.
func (c *Cluster) record(n *blockNode) *metapb.Store {
	info := n.store.Info()
	var rooms []blockstore.RoomReply
	at := 0
	for _, s := range c.stores {
		if s == n {
			at = len(rooms)
		}
		if s.store != nil {
			i := s.store.Info()
			rooms = append(rooms, i.Room())
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return &metapb.Store{
		Id: n.ID, Node: n.name, Address: n.addr, Rack: rackOf(n.name), Zone: devZone,
		Uuid: info.Store[:], Capacity: blockstore.Parts(rooms)[at], // placement weighs stores by it
		State: n.Record.GetState(), // an operator's; a new store is in
	}
}
