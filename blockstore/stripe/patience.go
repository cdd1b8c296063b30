package stripe

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
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

// waitingFor is the targets of an attempt that did not answer yet.
type waitingFor struct {
	began time.Time

	mu      sync.Mutex
	targets map[placement.Target]int // how many shards were on their way to it, this one included
}

// answered removes a target and returns how many shards were on their way to it.
func (w *waitingFor) answered(t placement.Target) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.targets[t]
	delete(w.targets, t)
	return max(n, 1)
}

// left removes all that did not answer.
func (w *waitingFor) left() map[placement.Target]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.targets
	w.targets = nil
	return left
}

// watch ends an attempt whose targets do not all answer in time. Those count as failed; and the
// time they had counts as one of an answer, so that when all are slow patience grows until one comes.
func (c *Client) watch(ctx context.Context, cancel context.CancelCauseFunc, w *waitingFor, shardLen int, patience time.Duration, ended <-chan struct{}) {
	if patience >= c.o.AttemptTimeout {
		return
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	case <-ended:
		return
	}
	left := w.left()
	if len(left) == 0 || ctx.Err() != nil {
		return
	}
	var err error
	for target, depth := range left {
		c.putLatency(shardLen).add(patience / time.Duration(depth))
		err = vfs.Errorf(vfs.KindUnavailable, "stripe.put", "%v did not acknowledge a shard within %v, much longer than usual", target, patience)
		c.failed(target, err)
	}
	c.o.Metrics.WritesSlow.Inc()
	cancel(err)
}
