//go:build linux

package cluster

import (
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/nodegroup"
)

// hears waits until gossip tells this node that all of these are in a state.
func (m *machine) hears(state string, of ...*machine) {
	m.t.Helper()
	m.sees("nodes are "+state+" by gossip", func(st *api.ClusterStatus) string {
		for _, x := range st.Nodes {
			if x.Gossip != state && slices.ContainsFunc(of, func(o *machine) bool { return o.name == x.Name }) {
				return fmt.Sprintf("%s is %q", x.Name, x.Gossip)
			}
		}
		return ""
	})
}

// other is a meta node that is none of these.
func (c *cluster) other(not ...*machine) *machine {
	c.t.Helper()
	i := slices.IndexFunc(c.metas(), func(m *machine) bool { return !slices.Contains(not, m) })
	if i < 0 {
		c.t.Fatal("no meta node is left")
	}
	return c.metas()[i]
}

// moveLeader makes another node lead shard 0, if away leads it, by pausing that until it is replaced.
func (c *cluster) moveLeader(away *machine) *machine {
	c.t.Helper()
	l := c.leader(0, away)
	if l != away {
		return l
	}
	l.signal(syscall.SIGSTOP)
	c.leader(0, c.other(l), l)
	away.signal(syscall.SIGCONT)
	c.healthy()
	return c.leader(0, away)
}

// Parts of a cluster do not reach each other, or a leader stands still, while clients write: one cluster, which is whole again after each of it.
func TestPartitions(t *testing.T) {
	c := newCluster(t, 3, 3, "health: {suspect_after: 3s}")
	for _, x := range []struct {
		name string
		test func(*cluster)
	}{
		{"a rack is cut off", (*cluster).rackIsCutOff},
		{"the leader is paused", (*cluster).leaderIsPaused},
		{"one way is lost", (*cluster).oneWayIsLost},
	} {
		if !t.Run(x.name, func(t *testing.T) {
			c.serves(t)
			x.test(c)
		}) {
			break // what follows would find what this one has left
		}
	}
	c.serves(t)
}

// The rack of the metadata's leader is cut off and comes back, while clients on the other side write. Later rounds are of the same rack: what was written while it
// was away is in the two others, three shards of six in each.
func (c *cluster) rackIsCutOff() {
	t := c.t
	s := c.startStorm()
	l := c.moveLeader(c.inRack(0)[0]) // that rack has the gateway
	rack := rackOf(l)
	for range short(t, 1, 4) {
		s.goesOn(short(t, 200, 1500))
		before := s.mark()
		c.cutRack(rack, true)
		s.goesOn(short(t, 100, 1500))
		watch := c.inRack(0)[0]
		c.leader(0, watch, c.inRack(rack)...)
		watch.stores(nodegroup.Suspect, c.inRack(rack)...)
		// New blocks get the full profile on the six nodes that are left.
		watch.sees("new blocks are 4+2", func(st *api.ClusterStatus) string {
			if st.Placement.Pools[0].Writes != "4+2" {
				return "they are " + st.Placement.Pools[0].Writes
			}
			return ""
		})
		// By gossip each side takes the other for dead; from then on nobody of one side speaks to the other by itself.
		inside, outside := c.inRack(rack), slices.DeleteFunc(slices.Clone(c.all), func(m *machine) bool { return rackOf(m) == rack })
		watch.hears("dead", inside...)
		watch.hears("alive", outside...)
		l.hears("dead", outside...)
		s.goesOn(50)
		during := s.mark()
		c.cutRack(rack, false)
		s.goesOn(100)
		c.healthy()
		for _, m := range c.metas() {
			m.hears("alive", c.all...)
		}
		t.Logf("rack %d cut off (of the first leader, %s): %v (before: %v); returned: %v", rack+1, l.name, during, before, s.mark())
	}
	s.finish()
}

// The metadata's leader is paused, for longer than an election takes, and wakes up as one that was replaced.
func (c *cluster) leaderIsPaused() {
	t := c.t
	s := c.startStorm()
	for shard := range short(t, uint16(2), 8) {
		shard %= 2
		s.goesOn(short(t, 100, 1000))
		l := c.leader(shard, c.all[0])
		watch := c.other(l)
		before := s.mark()
		l.signal(syscall.SIGSTOP)
		c.leader(shard, watch, l)
		s.goesOn(short(t, 100, 8000)) // in the long run about 30 s
		during := s.mark()
		l.signal(syscall.SIGCONT)
		c.healthy()
		s.goesOn(50)
		t.Logf("leader %s of shard %d paused: %v (before: %v); goes on: %v", l.name, shard, during, before, s.mark())
	}
	s.finish()
}

// What one node sends to another is lost, and what comes back arrives: between the voters, and from the gateway to stores.
func (c *cluster) oneWayIsLost() {
	t := c.t
	s := c.startStorm()
	lossy := func(what string, from, to []*machine) {
		t.Helper()
		s.goesOn(short(t, 100, 1000))
		before := s.mark()
		set := func(lose bool) {
			for _, f := range from {
				for _, x := range to {
					if f != x {
						c.mute(f, x, lose)
					}
				}
			}
		}
		set(true)
		s.goesOn(short(t, 200, 4000))
		during := s.mark()
		set(false)
		s.goesOn(100)
		c.healthy()
		t.Logf("%s: %v (before: %v); healed: %v", what, during, before, s.mark())
	}
	l := c.leader(0, c.all[0])
	f := c.other(l)
	lossy("a follower does not reach the leader", []*machine{f}, []*machine{l})
	l = c.leader(0, c.all[0])
	f = c.other(l)
	lossy("the leader does not reach a follower", []*machine{l}, []*machine{f})
	l = c.leader(0, c.all[0])
	lossy("the leader reaches nobody but the gateway, and hears all", []*machine{l}, slices.DeleteFunc(slices.Clone(c.all), func(m *machine) bool { return m == c.gateway() }))
	lossy("the gateway does not reach two stores", []*machine{c.gateway()}, []*machine{c.inRack(1)[2], c.inRack(2)[2]})
	lossy("two stores do not reach the gateway", []*machine{c.inRack(1)[2], c.inRack(2)[2]}, []*machine{c.gateway()})
	s.finish()
}
