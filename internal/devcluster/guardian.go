package devcluster

import (
	"context"
	"time"

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
	c.reg.MustRegister(nodegroup.NewCollector(c.placement))
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

// placement is what the leader's manager knows; nil while there is none.
func (c *Cluster) placement() *nodegroup.Status {
	for _, g := range c.guardians {
		if st := g.Status(); st.Leading {
			return &st
		}
	}
	return nil
}
