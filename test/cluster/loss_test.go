//go:build linux

package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/test/journal"
)

// forRepair is a configuration in which lost nodes are given up soon, and whose disks' budgets are less than what the machine under test can do, so that what is
// measured are the budgets.
var forRepair = configuration{disks: 1, more: "health: {suspect_after: 3s, out_after: 6s}", block: "  budget: 16MiB\n"}

// Any two nodes of a pool 4+2 are killed while clients write: nothing fails, what was acknowledged is there, and what the two
// held is made anew on the others while writes go on, within the disks' budgets. Then they come back.
func TestTwoNodesAreKilled(t *testing.T) {
	kclient.Require(t)
	c := newClusterOf(t, 3, 3, forRepair)
	c.fill(short(t, 32, 512))
	s := c.startStorm()
	if long {
		for range 5 {
			c.killTwo(s, 4000)
		}
	} else {
		w := c.kernelWriter()
		c.killTwo(beside{s, w}, 400)
		w.verify()
	}
	s.finish()
}

// beside is a load with a client in a real kernel beside it, which has to go on too, and is not measured.
type beside struct {
	*storm
	w *kernelWriter
}

func (b beside) goesOn(n int) {
	b.storm.goesOn(n)
	b.w.goesOn(min(n, 20))
}

// load is clients that use the cluster while something happens to it.
type load interface {
	// goesOn waits until n more calls were answered.
	goesOn(n int)
	// mark returns how long calls took since it was called last.
	mark() journal.Measured
}

// killTwo kills two nodes under a load, waits until what they held is made anew, and starts them again. It reports what was rebuilt, and what clients noticed of it in
// comparison with n calls before.
func (c *cluster) killTwo(l load, n int) {
	t := c.t
	t.Helper()
	l.goesOn(n / 4)
	l.mark()
	l.goesOn(n)
	before := l.mark()
	i, j := c.victims()
	watch := c.other(i, j)
	i.kill()
	j.kill()
	killed := time.Now()
	l.goesOn(100)
	watch.stores(nodegroup.Out, i, j)
	out := time.Since(killed)
	l.goesOn(1)
	lost, r := l.mark(), c.measureRepairs(c.without(i, j)...)
	watch.sees("all redundancy is back", redundant)
	r.report("until all redundancy is back")
	during := l.mark()
	l.goesOn(n)
	repaired := l.mark()
	i.begin()
	j.begin()
	i.ready()
	j.ready()
	c.healthy()
	l.goesOn(1)
	t.Logf("%s and %s are killed, and out after %v", i.name, j.name, out.Round(100*time.Millisecond))
	for _, x := range []struct {
		when string
		journal.Measured
	}{{"before", before}, {"until they are out", lost}, {"during repair", during}, {"after repair", repaired}, {"until they are back", l.mark()}} {
		t.Logf("%s: %v%s", x.when, x.Measured, x.Kinds())
	}
	t.Logf("during repair in comparison with before: p99 %.2f, p50 %.2f%s", ratio(during.All.P99, before.All.P99), ratio(during.All.P50, before.All.P50), compare(during, before))
}

// compare are the ratios of each kind of which there were enough calls both times for a p99.
func compare(a, b journal.Measured) string {
	const enough = 100
	var text strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(a.Of)) {
		if x, y := a.Of[kind], b.Of[kind]; x.N >= enough && y.N >= enough {
			fmt.Fprintf(&text, "\n    %-22s p99 %.2f, p50 %.2f", kind, ratio(x.P99, y.P99), ratio(x.P50, y.P50))
		}
	}
	return text.String()
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

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
