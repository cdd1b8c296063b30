//go:build linux

package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/vfs"
)

// long asks for the larger numbers of `make test-long`.
var long = os.Getenv("RACKFS_TEST_LONG") != ""

// cluster is nodes n1, n2, ... in racks r1, r2, ..., each a host of its own network. The first node of each of the first three racks is a meta
// node; the last of rack r1 is the gateway, alone on its host with that role so that it stays when others are killed. All have a disk.
type cluster struct {
	t     *testing.T
	net   *kclient.Net
	racks []*kclient.Rack
	all   []*machine
}

// newCluster runs a cluster of racks x perRack nodes with a pool 4+2 over nodes, and waits until it is healthy. more is added to the
// configuration of every node.
func newCluster(t *testing.T, racks, perRack int, more string) *cluster {
	t.Helper()
	return newClusterOf(t, racks, perRack, configuration{disks: 1, more: more})
}

// newClusterOf is newCluster with what else is in the configuration of every node.
func newClusterOf(t *testing.T, racks, perRack int, conf configuration) *cluster {
	t.Helper()
	kclient.RequireNet(t)
	began := time.Now()
	c := &cluster{t: t, net: kclient.NewNet(t)}
	dir := t.TempDir()
	for r := range racks {
		rack := c.net.NewRack(t)
		c.racks = append(c.racks, rack)
		for i := range perRack {
			roles := "block"
			switch {
			case i == 0 && r < node.DefaultVoters:
				roles = "meta, block"
			case r == 0 && i == perRack-1:
				roles = "block, gateway"
			}
			h := rack.NewHost(t)
			conf.roles, conf.rack, conf.http = roles, fmt.Sprintf("r%d", r+1), h.Addr()+":7070"
			m := &machine{t: t, name: fmt.Sprintf("n%d", len(c.all)+1), dir: dir, host: h.Addr(), base: 7000, at: h, conf: conf}
			m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
			m.configure()
			c.all = append(c.all, m)
		}
	}
	t.Cleanup(func() { end(t, c.all) })
	first := c.all[0]
	first.must("cluster", "init", "--profile", "4+2", "--nodes", fmt.Sprint(len(c.all)), "--domain", "node")
	first.start()
	// One of each rack, and so on: the first groups are made of the first six nodes, and they are to survive any rack too.
	for i := range perRack {
		var row []*machine
		for r := range racks {
			if m := c.all[r*perRack+i]; m != first {
				row = append(row, m)
			}
		}
		for _, m := range row {
			m.must("node", "join", "--token", first.must("cluster", "token", "--roles", strings.ReplaceAll(m.conf.roles, " ", "")))
			m.begin()
		}
		for _, m := range row {
			m.ready()
		}
	}
	c.healthy()
	t.Logf("%d nodes in %d racks serve after %v", len(c.all), racks, time.Since(began).Round(100*time.Millisecond))
	return c
}

// serves has a part of a test use the cluster: what fails from now on is its failure.
func (c *cluster) serves(t *testing.T) {
	c.t = t
	for _, m := range c.all {
		m.t = t
	}
}

func (c *cluster) gateway() *machine {
	return c.all[slices.IndexFunc(c.all, func(m *machine) bool { return strings.Contains(m.conf.roles, "gateway") })]
}

func (c *cluster) metas() []*machine {
	return slices.DeleteFunc(slices.Clone(c.all), func(m *machine) bool { return !strings.Contains(m.conf.roles, "meta") })
}

// named is the node of a name.
func (c *cluster) named(name string) *machine {
	c.t.Helper()
	i := slices.IndexFunc(c.all, func(m *machine) bool { return m.name == name })
	if i < 0 {
		c.t.Fatalf("there is no node %q", name)
	}
	return c.all[i]
}

// inRack are the nodes of the ith rack.
func (c *cluster) inRack(i int) []*machine {
	name := fmt.Sprintf("r%d", i+1)
	return slices.DeleteFunc(slices.Clone(c.all), func(m *machine) bool { return m.conf.rack != name })
}

func rackOf(m *machine) int {
	var n int
	_, _ = fmt.Sscanf(m.conf.rack, "r%d", &n)
	return n - 1
}

// sees waits until the status, as this node sees it, is what is wanted: want returns "" then, else what is missing.
func (m *machine) sees(what string, want func(*api.ClusterStatus) string) *api.ClusterStatus {
	m.t.Helper()
	var st *api.ClusterStatus
	m.await(what, func() (bool, string) {
		var err error
		if st, err = m.seen(); err != nil {
			return false, err.Error()
		}
		lack := want(st)
		return lack == "", lack
	})
	return st
}

// whole says what a status lacks of health and full redundancy.
func whole(st *api.ClusterStatus) string {
	switch {
	case st.Health != "ok":
		return st.Health
	case len(st.Shards) != 2:
		return fmt.Sprintf("%d shards", len(st.Shards))
	}
	for _, s := range st.Shards {
		if len(s.Voters) != node.DefaultVoters {
			return fmt.Sprintf("shard %d has the voters %v", s.Shard, s.Voters)
		}
	}
	return redundant(st)
}

// redundant says what the pool lacks: every block on as many stores that answer as its profile says, and new ones too.
func redundant(st *api.ClusterStatus) string {
	if st.Placement == nil || len(st.Placement.Pools) == 0 {
		return "nobody looks after the pool"
	}
	for _, p := range st.Placement.Pools {
		if p.Writes != p.Profile || p.Filling > 0 || p.Margin != 2 || p.Groups == 0 {
			return fmt.Sprintf("pool %s: %d groups, new blocks are %q, %d slots are being filled, margin %d", p.Name, p.Groups, p.Writes, p.Filling, p.Margin)
		}
	}
	return ""
}

// healthy waits until all of the cluster is, as its first meta node sees it.
func (c *cluster) healthy() {
	c.t.Helper()
	c.all[0].sees("the cluster is healthy", func(st *api.ClusterStatus) string {
		if len(st.Nodes) != len(c.all) {
			return fmt.Sprintf("%d nodes", len(st.Nodes))
		}
		return whole(st)
	})
}

// leader is the meta node that leads a shard, as one of them sees it. It is none of those that are given: it is waited until another one leads.
func (c *cluster) leader(shard uint16, by *machine, not ...*machine) *machine {
	c.t.Helper()
	var leader *machine
	by.sees(fmt.Sprintf("shard %d has a leader", shard), func(st *api.ClusterStatus) string {
		for _, s := range st.Shards {
			if s.Shard != shard {
				continue
			}
			if leader = c.named(s.Leader); !slices.Contains(not, leader) {
				return ""
			}
		}
		return st.Health
	})
	return leader
}

// stores waits until the stores of the nodes are thought to be in a state.
func (by *machine) stores(state nodegroup.State, of ...*machine) {
	by.t.Helper()
	by.sees(fmt.Sprintf("stores are %v", state), func(st *api.ClusterStatus) string {
		if st.Placement == nil {
			return "nobody looks after stores"
		}
		for _, s := range st.Placement.Stores {
			if s.State != state && slices.ContainsFunc(of, func(m *machine) bool { return m.name == s.Node }) {
				return fmt.Sprintf("store %d of %s is %v", s.ID, s.Node, s.State)
			}
		}
		return ""
	})
}

// cutRack takes a whole rack off the network, or puts it back. Its nodes reach each other.
func (c *cluster) cutRack(i int, off bool) { c.racks[i].Cut(c.t, off) }

// mute loses what one node sends to another; what comes back arrives.
func (c *cluster) mute(from, to *machine, lose bool) { from.at.Mute(c.t, to.host, lose) }

// client mounts through the gateway, from outside of the racks.
func (c *cluster) client(ctx context.Context) (*nfsclient.Client, nfsclient.FH, error) {
	x, err := nfsclient.Dial(ctx, nfsclient.Config{
		DialFunc: func(ctx context.Context) (net.Conn, error) { return c.net.Dial(ctx, c.gateway().host+":2049") },
		Owner:    rand.Text(), Patient: true, Cred: vfs.Cred{},
	})
	if err != nil {
		return nil, "", err
	}
	root, _, err := x.Walk(ctx, "/default")
	return x, root, err
}
