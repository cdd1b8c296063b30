package node

import (
	"context"
	"encoding/hex"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/nodegroup/gossip"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// gossipFile keeps the keys, so that a node that starts while shard 0 does not answer hears from the others.
	gossipFile = "gossip.json"
	// gossipRetry is between attempts to get the keys while that fails, and to begin.
	gossipRetry = 2 * time.Second
)

// member is what this node says of itself.
func (n *Node) member() gossip.Member {
	c := n.cfg
	port := func(role, addr string) uint16 {
		_, p, err := net.SplitHostPort(c.advertised(role, addr))
		if err != nil {
			return 0
		}
		x, _ := strconv.ParseUint(p, 10, 16) // the configuration was checked
		return uint16(x)
	}
	return gossip.Member{
		Name: c.Name, ID: hex.EncodeToString(n.dir.state.id()), Host: c.Advertise, Roles: c.Roles, Zone: c.Zone, Rack: c.Rack, Release: n.opt.Release,
		Ports: gossip.Ports{
			Control: port(RoleMeta, c.ControlListen), Meta: port(RoleMeta, c.MetaListen), Block: port(RoleBlock, c.BlockListen), NFS: port(RoleGateway, c.NFSListen),
		},
	}
}

// gossips takes part in gossip until ctx ends. The node does without while that cannot be.
func (n *Node) gossips(ctx context.Context) {
	var ring gossipRing
	if _, err := n.dir.loadJSON(gossipFile, &ring); err != nil {
		n.log.Warn("the keys of gossip on disk are not used", "err", err)
	}
	var complaint string
	complain := func(err error) {
		if text := err.Error(); text != complaint && ctx.Err() == nil {
			complaint = text
			n.log.Warn("gossip does not run yet", "err", err)
		}
	}
	for {
		if len(ring.Keys) > 0 && n.gossip.Load() == nil {
			g, err := gossip.Start(gossip.Options{
				Self: n.member(), Listen: n.cfg.GossipListen, Keys: ring.Keys, Cluster: n.dir.state.Settings.Cluster, Seeds: n.gossipSeeds,
				OnChange: n.heard, ProbeEvery: n.cfg.GossipEvery, RejoinEvery: n.cfg.GossipRejoin, Logger: n.log,
			})
			if err != nil {
				complain(err)
			} else {
				n.gossip.Store(g)
			}
		}
		wait := gossipRetry
		if keys, err := n.askGossipKeys(ctx); err == nil {
			next := ring.next(keys, n.gossipTiming, time.Now())
			began := len(ring.Keys) == 0
			if !next.equal(ring) {
				n.useKeys(next)
			}
			if ring = next; began {
				continue
			}
			if n.gossip.Load() != nil {
				wait = n.gossipTiming.every
			}
		} else if n.gossip.Load() == nil {
			complain(err)
		}
		select {
		case <-ctx.Done():
			n.endGossip()
			return
		case <-time.After(wait):
		}
	}
}

// useKeys remembers keys and gossips with them.
func (n *Node) useKeys(ring gossipRing) {
	if err := n.dir.saveJSON(gossipFile, ring); err != nil {
		n.log.Warn("the keys of gossip are not remembered over a restart", "err", err)
	}
	g := n.gossip.Load()
	if g == nil {
		return
	}
	if err := g.SetKeys(ring.Keys); err != nil {
		n.log.Error("the keys of gossip are not changed; nodes that have others are not heard", "err", err)
		return
	}
	n.log.Info("the keys of gossip were changed", "understood", len(ring.Keys))
}

func (n *Node) endGossip() {
	if g := n.gossip.Swap(nil); g != nil {
		if err := g.Close(); err != nil {
			n.log.Debug("gossip", "err", err)
		}
	}
}

// askGossipKeys gets them from shard 0, the newest first. A meta node makes the first one.
func (n *Node) askGossipKeys(ctx context.Context) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	keys, err := provision.GossipKeys(ctx, n.meta)
	if err == nil && len(keys) == 0 && n.cfg.Has(RoleMeta) {
		if err = provision.GossipKey(ctx, n.meta); err == nil {
			keys, err = provision.GossipKeys(ctx, n.meta)
		}
	}
	if err == nil && len(keys) == 0 {
		err = vfs.Errorf(vfs.KindUnavailable, "gossip", "no meta node has made the key yet")
	}
	return keys, err
}

// gossipSeeds are where the nodes of the cluster gossip, if all do so at the same port; where it is another one, they are heard of from others.
func (n *Node) gossipSeeds() map[string]string {
	_, port, err := net.SplitHostPort(n.cfg.GossipListen)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, p := range n.directory.all() {
		if host := p.host(); host != "" {
			out[p.Name] = net.JoinHostPort(host, port)
		}
	}
	return out
}

// heard is told of changes. It is a hint: the leader looks at stores now and not a little later, and the records are asked for.
func (n *Node) heard(m gossip.Member, alive bool) {
	n.log.Info("gossip: a node's state changed", "peer", m.Name, "alive", alive)
	n.directory.lookAgain()
	if g := n.guarding.Load(); g != nil {
		g.Hint()
	}
}

// hint is what gossip says of a node that is alive.
func (n *Node) hint(name string) (gossip.Member, bool) {
	if g := n.gossip.Load(); g != nil {
		return g.Alive(name)
	}
	return gossip.Member{}, false
}

// gossipView is what gossip says, by name.
func (n *Node) gossipView() map[string]gossip.Seen {
	out := map[string]gossip.Seen{}
	if g := n.gossip.Load(); g != nil {
		for _, s := range g.View() {
			out[s.Name] = s
		}
	}
	return out
}

// registerGossip makes gauges of what this node hears.
func (n *Node) registerGossip() {
	n.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rackfs_gossip_keys", Help: "Keys of gossip that this node understands: more than one while one takes the place of another.",
	}, func() float64 {
		if g := n.gossip.Load(); g != nil {
			return float64(g.Keys())
		}
		return 0
	}))
	for _, state := range []gossip.State{gossip.Alive, gossip.Dead} {
		n.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rackfs_gossip_nodes", Help: "Nodes by what this node hears of them, itself among them.", ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 {
			count := 0
			for _, s := range n.gossipView() {
				if s.State == state {
					count++
				}
			}
			return float64(count)
		}))
	}
}
