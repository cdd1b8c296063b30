//go:build linux

package cluster

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nodegroup"
)

// Any two nodes of a pool 4+2 are killed while clients write: nothing fails, what was acknowledged is there, and what the two
// held is made anew on the others while writes go on, within the disks' budgets. Then they come back.
func TestTwoNodesAreKilled(t *testing.T) {
	c := newClusterOf(t, 3, 3, configuration{disks: 1, more: "health: {suspect_after: 3s, out_after: 6s}", block: "  budget: 16MiB\n"})
	c.fill(short(t, 32, 512))
	s := c.startStorm()
	for range short(t, 1, 5) {
		s.goesOn(50)
		s.mark()
		s.goesOn(short(t, 750, 4000))
		before := s.mark()
		i, j := c.victims()
		watch := c.gateway()
		for _, m := range c.metas() {
			if m != i && m != j {
				watch = m
			}
		}
		i.kill()
		j.kill()
		killed := time.Now()
		s.goesOn(100)
		watch.stores(nodegroup.Out, i, j)
		out := time.Since(killed)
		s.goesOn(1)
		lost, r := s.mark(), c.measureRepairs(c.without(i, j)...)
		watch.sees("all redundancy is back", redundant)
		r.report("until all redundancy is back")
		during := s.mark()
		s.goesOn(50)
		t.Logf("%s and %s killed, out after %v: %v; during repair: %v; before: %v", i.name, j.name, out.Round(100*time.Millisecond), lost, during, before)
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
