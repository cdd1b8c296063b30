package devcluster

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta"
)

// MetaClient is a client of the metadata for a gateway of that name. The caller closes it.
func MetaClient(c *Cluster, name string) (*raftmeta.Client, error) {
	id, err := c.ca.Issue(name, []string{blockstore.RoleGateway}, nil, time.Now())
	if err != nil {
		return nil, err
	}
	return c.metaClient(id)
}

// WithLinger has files without names stay so long for a gateway that was ended.
func WithLinger(c Config, d time.Duration) Config {
	c.linger = d
	return c
}

// StopGateway stops the ith gateway, but not the first one, as its process would: its connections end.
func StopGateway(ctx context.Context, c *Cluster, i int) error {
	m := c.more[i-1]
	m.nfs.Close()
	g := m.gateway
	m.gateway = nil
	return g.Stop(ctx)
}
