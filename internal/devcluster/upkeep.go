package devcluster

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta"
)

// Background work of the stores: more often than on nodes of their own, for there is little of it.
const (
	DefaultCollectInterval = time.Minute
	defaultRetryInterval   = 10 * time.Second
	defaultMapInterval     = 5 * time.Second
)

// startUpkeep begins the background work of all stores that run.
func (c *Cluster) startUpkeep() error {
	if c.cfg.noUpkeep {
		return nil
	}
	for _, n := range c.stores {
		if n.store == nil {
			continue
		}
		if err := c.startKeeper(n); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startKeeper(n *blockNode) error {
	var err error
	n.meta, err = raftmeta.NewClient(raftmeta.ClientOptions{
		Nodes: c.voters.names(), Resolver: &c.voters, Logger: c.log,
		Security: func(node string) wire.Security {
			return wire.Security{Mode: wire.ModeTLS, TLS: n.identity.ClientTLS(node)}
		},
	})
	if err != nil {
		return err
	}
	k, err := upkeep.New(upkeep.Options{
		Store: n.store, ID: n.ID, Meta: n.meta,
		Dial: func(node, address string) upkeep.Conn {
			return wire.NewClient(wire.Dialer("tcp", address), wire.ClientOptions{
				Security: wire.Security{Mode: c.cfg.dataMode(), TLS: n.identity.ClientTLS(node)}, Logger: c.log,
			})
		},
		Scrub: upkeep.ScrubOf(n.store), CollectInterval: c.cfg.CollectInterval,
		Retry: cmp.Or(c.cfg.retryInterval, defaultRetryInterval), MapInterval: cmp.Or(c.cfg.mapInterval, defaultMapInterval),
		ScrubPeriod: c.cfg.scrubPeriod, Budget: n.store.Budget(), Leader: n.meta,
		Logger: c.log.With("node", n.name), Metrics: upkeep.NewMetrics(c.reg, prometheus.Labels{"node": n.name}),
	})
	if err != nil {
		return err
	}
	n.keeper.Store(k)
	k.Start()
	return nil
}

// upkeep is what the block server tells its peers' calls to; nil until the cluster has its metadata.
func (n *blockNode) upkeep(uint32) server.Upkeep {
	if k := n.keeper.Load(); k != nil {
		return k
	}
	return nil
}

// bad is told of shards that fail their checks. Those of before the Keeper began it finds missing.
func (n *blockNode) bad(key segment.Key, _ error) {
	if k := n.keeper.Load(); k != nil {
		k.Report([]segment.Key{key})
	}
}

// endUpkeep ends the background work.
func (n *blockNode) endUpkeep() {
	if k := n.keeper.Load(); k != nil {
		k.Close()
	}
	if n.meta != nil {
		n.meta.Close()
	}
}
