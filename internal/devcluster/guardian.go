package devcluster

import (
	"context"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
)

// guardian is the manager of stores and placement groups that goes with a voter, and its metadata client.
type guardian struct {
	*node.Guardian
	meta        *raftmeta.Client
	maintenance *node.Maintenance
}

// startGuardians gives every voter that runs its manager; the one of the leader works.
func (c *Cluster) startGuardians(ctx context.Context) error {
	c.registerPlacement()
	for i := range c.voters.all {
		v := &c.voters.all[i]
		if v.server == nil {
			continue
		}
		id, err := c.ca.Issue(v.name, []string{blockstore.RoleMeta}, nil, time.Now())
		if err != nil {
			return err
		}
		meta, err := raftmeta.NewClient(raftmeta.ClientOptions{
			Nodes: c.voters.names(), Resolver: &c.voters, Logger: c.log,
			Security: func(node string) wire.Security { return wire.Security{Mode: wire.ModeTLS, TLS: id.ClientTLS(node)} },
		})
		if err != nil {
			return err
		}
		security := func(node string) wire.Security { return wire.Security{Mode: c.cfg.dataMode(), TLS: id.ClientTLS(node)} }
		g := &guardian{meta: meta, Guardian: node.StartGuardian(ctx, node.GuardianOptions{
			Server: v.server, Meta: meta, RetireEvery: c.cfg.retireInterval, Logger: c.log.With("node", v.name), Security: security,
		}), maintenance: &node.Maintenance{Server: v.server, Meta: meta, Security: security, Grace: c.cfg.GCGrace, Release: release(), Logger: c.log}}
		v.hinter.Store(g.Hinter)
		c.guardians = append(c.guardians, g)
	}
	return nil
}

// Maintenance is what one of the voters that run does for an operator.
func (c *Cluster) Maintenance() *node.Maintenance { return c.guardians[0].maintenance }

func (g *guardian) close() {
	g.Close()
	g.meta.Close()
}

// registerPlacement makes gauges of what the leader's manager knows of the pool.
func (c *Cluster) registerPlacement() {
	for _, g := range []struct {
		name, help string
		value      func(*nodegroup.PoolStatus) int
	}{
		{"margin", "How many more stores may be lost without losing data; negative: some data cannot be read.", func(p *nodegroup.PoolStatus) int { return p.Margin }},
		{"filling_slots", "Slots of placement groups that are being filled.", func(p *nodegroup.PoolStatus) int { return p.Filling }},
		{"fallback_groups", "Placement groups with fewer data shards than the profile.", func(p *nodegroup.PoolStatus) int { return p.Fallback }},
		{"writable_groups", "Placement groups of the full profile that take new blocks.", func(p *nodegroup.PoolStatus) int { return p.Writable }},
	} {
		c.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "rackfs_placement_" + g.name, Help: g.help}, func() float64 {
			if st := c.placement(); st != nil && len(st.Pools) > 0 {
				return float64(g.value(&st.Pools[0]))
			}
			return math.NaN() // no leader has looked yet
		}))
	}
}

// placement is what the leader's manager knows; nil while there is none.
func (c *Cluster) placement() *nodegroup.Status {
	for _, g := range c.guardians {
		if st := g.Status(); st.Leading {
			return &st
		}
	}
	return nil
}
