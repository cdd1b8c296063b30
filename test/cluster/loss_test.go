//go:build linux

package cluster

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/nodegroup"
)

// Any two nodes of a pool 4+2 are killed while clients write: nothing fails, what was acknowledged is there, and what the two
// held is made anew on the others while writes go on. Then they come back.
func TestTwoNodesAreKilled(t *testing.T) {
	c := newCluster(t, 3, 3, "health: {suspect_after: 3s, out_after: 6s}")
	s := c.startStorm()
	for range short(t, 1, 5) {
		s.goesOn(short(t, 800, 4000))
		before := s.mark()
		i, j := c.victims()
		watch := c.gateway()
		for _, m := range c.metas() {
			if m != i && m != j {
				watch = m
			}
		}
		held := i.used() + j.used()
		i.kill()
		j.kill()
		killed := time.Now()
		s.goesOn(100)
		watch.stores(nodegroup.Out, i, j)
		out := time.Since(killed)
		watch.sees("all redundancy is back", redundant)
		filled := time.Since(killed) - out
		s.goesOn(50)
		t.Logf("%s and %s killed: %v (before: %v); out after %v; they held %d MiB; redundancy is back %v later (%.1f MB/s)",
			i.name, j.name, s.mark(), before, out.Round(100*time.Millisecond), held>>20, filled.Round(100*time.Millisecond), float64(held)/1e6/filled.Seconds())
		i.begin()
		j.begin()
		i.ready()
		j.ready()
		c.healthy()
	}
	s.finish()
}

// victims are two nodes other than the gateway, of which at most one votes.
func (c *cluster) victims() (a, b *machine) {
	for {
		a, b = c.all[rand.IntN(len(c.all))], c.all[rand.IntN(len(c.all))]
		if a != b && a != c.gateway() && b != c.gateway() && !(votes(a) && votes(b)) {
			return a, b
		}
	}
}

func votes(m *machine) bool { return strings.Contains(m.conf.roles, "meta") }

// used is the bytes of shards on a node's disks.
func (m *machine) used() (n int64) {
	m.sees("it knows its disks", func(st *api.ClusterStatus) string {
		n = 0
		for _, x := range st.Nodes {
			if x.Name == m.name && x.Local != nil {
				for _, d := range x.Local.Disks {
					n += d.Info.Used
				}
				return ""
			}
		}
		return "it does not describe itself"
	})
	return n
}
