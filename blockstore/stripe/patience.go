package stripe

import (
	"sync"
	"time"

	"github.com/rackfs/rackfs/placement"
)

// load counts the shards that are on their way to each target. How long one takes grows with it.
type load struct {
	mu sync.Mutex
	n  map[placement.Target]int
}

// begin counts one more, and returns how many there are with it.
func (l *load) begin(t placement.Target) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n[t]++
	return l.n[t]
}

func (l *load) end(t placement.Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n[t]--; l.n[t] == 0 {
		delete(l.n, t)
	}
}

// most is the highest count among the targets of a group.
func (l *load) most(pg *placement.PG) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range pg.Slots {
		n = max(n, l.n[pg.Slots[i].Target])
	}
	return n
}

func (c *Client) putLatency(n int) *latency {
	if n <= smallFetch {
		return &c.puts[0]
	}
	return &c.puts[1]
}

// patience is how long an attempt in pg waits for a target that is slower than others. The
// last attempt has the time of all: were it cut short too, a cluster that is slow as a whole would take no write.
func (c *Client) patience(pgs []*placement.PG, pg *placement.PG, w *Write, tried []pgEpoch) time.Duration {
	if len(tried)+1 >= c.o.WriteAttempts {
		return c.o.AttemptTimeout
	}
	d := c.o.PatienceMin
	if s, err := shapeIn(pg, len(w.Data)); err == nil {
		d = max(d, c.putLatency(s.ShardLen).timeout()*time.Duration(c.load.most(pg)+1))
	}
	if d < c.o.PatienceAlone && !c.another(pgs, pg, w.MinK, tried) {
		d = c.o.PatienceAlone
	}
	return min(d, c.o.AttemptTimeout)
}

// another reports whether a block could go to a group other than pg that shares no more with it than it
// must. Whether targets are due for another try is not asked here, for asking takes the try.
func (c *Client) another(pgs []*placement.PG, pg *placement.PG, minK int, tried []pgEpoch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
next:
	for _, g := range pgs {
		if g.K < minK || g.ID == pg.ID || same(g, pg) {
			continue
		}
		for _, t := range tried {
			if t == (pgEpoch{g.ID, g.Epoch}) {
				continue next
			}
		}
		for i := range g.Slots {
			if c.avoided[g.Slots[i].Target] != nil {
				continue next
			}
		}
		return true
	}
	return false
}

// same reports whether two groups have the same targets, in any order: then a target that is slow in
// one is slow in the other.
func same(a, b *placement.PG) bool {
	has := make(map[placement.Target]bool, len(a.Slots))
	for i := range a.Slots {
		has[a.Slots[i].Target] = true
	}
	for i := range b.Slots {
		if !has[b.Slots[i].Target] {
			return false
		}
	}
	return true
}
