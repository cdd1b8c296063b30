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
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/wire"
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
	id    uint32
	addr  string
	store *store.Store // nil: it could not start
	err   error        // why
	wire  *wire.Server
	done  sync.WaitGroup

	identity *pki.Identity
	meta     *raftmeta.Client // of the keeper
	keeper   atomic.Pointer[upkeep.Keeper]
}

// startStores starts all that can start. A cluster of which stores are missing
// serves what can be reconstructed without them.
func (c *Cluster) startStores(ctx context.Context) error {
	cache := pebble.NewCache(indexCacheBytes)
	defer cache.Unref() // the stores hold it
	c.stores = make([]*blockNode, c.dir.shape.BlockStores)
	var start sync.WaitGroup
	for i := range c.stores {
		n := &blockNode{name: storeName(i), id: storeID(i)}
		c.stores[i] = n
		start.Go(func() { n.err = c.startStore(ctx, n, cache) })
	}
	start.Wait()
	var failures []error
	for _, n := range c.stores {
		if n.err == nil {
			continue
		}
		failures = append(failures, fmt.Errorf("%s: %w", n.name, n.err))
		if c.dir.shape.Formed {
			c.log.Error("a block store does not start; its shards are reconstructed from the others", "node", n.name, "err", n.err)
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

func (c *Cluster) startStore(ctx context.Context, n *blockNode, cache *pebble.Cache) error {
	s, err := store.Open(ctx, store.Options{
		Dir: c.dir.sub(n.name), Cluster: segment.ID(c.dir.shape.clusterID()), Create: !c.dir.shape.Formed,
		MetadataIncarnation: raftmeta.FirstIncarnation,
		SegmentSize:         segmentBytes, IndexCache: cache, Logger: c.log.With("node", n.name),
		OnBad:   n.bad,
		Metrics: store.NewMetrics(c.reg, prometheus.Labels{"node": n.name}),
	})
	if err != nil {
		return err
	}
	id, err := c.ca.Issue(n.name, []string{blockstore.RoleBlock}, nil, time.Now())
	if err != nil {
		return errors.Join(err, s.Close())
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, s.Close())
	}
	h := server.New(map[uint32]*store.Store{n.id: s}, server.Options{Logger: c.log, Upkeep: n.upkeep})
	n.identity = id
	n.store, n.addr = s, ln.Addr().String()
	n.wire = wire.NewServer(h.Handle, wire.ServerOptions{Security: wire.Security{Mode: c.cfg.dataMode(), TLS: id.ServerTLS()}, Logger: c.log})
	n.done.Go(func() {
		if err := n.wire.Serve(ln); err != nil {
			c.log.Debug("block server ended", "node", n.name, "err", err)
		}
	})
	return nil
}

func (n *blockNode) close() error {
	if n.store == nil {
		return nil
	}
	err := n.wire.Close()
	n.done.Wait()
	return errors.Join(err, n.store.Close())
}

// storeRecords are the shard-0 records of the stores that run, at their
// present addresses. The record of one that does not keeps its last address,
// where nobody with its certificate answers.
func (c *Cluster) storeRecords() []*metapb.Store {
	var out []*metapb.Store
	for _, n := range c.stores {
		if n.store == nil {
			continue
		}
		info := n.store.Info()
		out = append(out, &metapb.Store{
			Id: n.id, Node: n.name, Address: n.addr, Rack: "dev", Zone: "dev",
			Uuid: info.Store[:], Capacity: uint64(info.Capacity),
		})
	}
	return out
}
