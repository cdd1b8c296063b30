package devcluster

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
)

// guardian is the manager of stores and placement groups that goes with a voter.
type guardian struct {
	*nodegroup.Manager
	meta *raftmeta.Client
	stop context.CancelFunc
	done sync.WaitGroup
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
		g := &guardian{}
		g.meta, err = raftmeta.NewClient(raftmeta.ClientOptions{
			Nodes: c.voters.names(), Resolver: &c.voters, Logger: c.log,
			Security: func(node string) wire.Security { return wire.Security{Mode: wire.ModeTLS, TLS: id.ClientTLS(node)} },
		})
		if err != nil {
			return err
		}
		server := v.server
		connect := func(node, addr string) nodegroup.Conn {
			return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{
				Security: wire.Security{Mode: c.cfg.dataMode(), TLS: id.ClientTLS(node)}, Logger: c.log,
			})
		}
		g.Manager = nodegroup.New(nodegroup.Options{
			Leads: func() bool { return leads(server, clusterShard) }, Meta: g.meta,
			Connect: connect, RetireEvery: c.cfg.retireInterval, Logger: c.log.With("node", v.name),
		})
		run, stop := context.WithCancel(context.WithoutCancel(ctx))
		g.stop = stop
		hinter := nodegroup.NewHinter(nodegroup.HinterOptions{Meta: g.meta, Connect: connect, Logger: c.log.With("node", v.name)})
		v.hinter.Store(hinter)
		g.done.Go(func() { g.Run(run) })
		g.done.Go(func() { hinter.Run(run) })
		c.guardians = append(c.guardians, g)
	}
	return nil
}

func leads(s *raftmeta.Server, shard uint16) bool {
	for _, st := range s.Status() {
		if st.Shard == shard {
			return st.Serving
		}
	}
	return false
}

func (g *guardian) close() {
	g.stop()
	g.done.Wait()
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
