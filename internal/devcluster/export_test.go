package devcluster

import "context"

// StopGateway stops the ith gateway, but not the first one, as its process would: its connections end.
func StopGateway(ctx context.Context, c *Cluster, i int) error {
	m := c.more[i-1]
	m.nfs.Close()
	g := m.gateway
	m.gateway = nil
	return g.Stop(ctx)
}
