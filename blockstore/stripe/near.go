package stripe

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/placement"
)

// Distance is how far a node is from the client.
type Distance uint8

// Distances, each farther than the one before.
const (
	SameNode Distance = iota
	SameRack
	SameZone
	Elsewhere
	Distances // how many there are
)

func (d Distance) String() string {
	return [...]string{"node", "rack", "zone", "cluster", "none"}[d]
}

// Located is a Map that knows how far nodes are. To a client with another Map all are equally far.
type Located interface {
	Distance(node string) Distance
}

func distanceOf(m Map, node string) Distance {
	if l, ok := m.(Located); ok {
		return l.Distance(node)
	}
	return Elsewhere
}

const (
	// forgetPull is how long the time that a target took counts. Who was slow is asked again after that.
	forgetPull = 10 * time.Second
	// leastPull is what a fetch is thought to take at least: below that, times are noise.
	leastPull = 100 * time.Microsecond
)

// pulls are what fetches from targets take.
type pulls struct {
	mu sync.Mutex
	m  map[placement.Target]*pull
}

// pull is what is known of fetches from one target.
type pull struct {
	pending int
	mean    [2]time.Duration // smoothed, by class of length as Client.latency
	at      [2]time.Time     // of the last one
}

func classOf(n int) int {
	if n <= smallFetch {
		return 0
	}
	return 1
}

// begin counts a fetch from t; the caller ends what it returns.
func (l *pulls) begin(t placement.Target) *pull {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.m[t]
	if p == nil {
		p = new(pull)
		l.m[t] = p
	}
	p.pending++
	return p
}

// end counts a fetch of n bytes that has ended, and how long it took if it was answered. p may be forgotten meanwhile.
func (l *pulls) end(p *pull, n int, took time.Duration, answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.pending = max(p.pending-1, 0)
	if answered {
		p.took(classOf(n), took)
	}
}

// slower counts a fetch of n bytes that was given up, for others were faster: it would have taken longer. Else who hangs would be asked first again
// and again.
func (l *pulls) slower(t placement.Target, n int, than time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, c := l.m[t], classOf(n); p != nil && (than > p.mean[c] || !p.fresh(c)) {
		p.took(c, than)
	}
}

// fresh reports whether the time that fetches of a class took counts.
func (p *pull) fresh(class int) bool {
	return p.mean[class] > 0 && time.Since(p.at[class]) <= forgetPull
}

func (p *pull) took(class int, d time.Duration) {
	if p.fresh(class) {
		p.mean[class] += (d - p.mean[class]) / 8
	} else {
		p.mean[class] = d
	}
	p.at[class] = time.Now()
}

// retain forgets the targets that known denies.
func (l *pulls) retain(known func(placement.Target) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t := range l.m {
		if !known(t) {
			delete(l.m, t)
		}
	}
}

// cost is what a fetch of n bytes from a target so far away may take: the time that one took lately, or usual if that is not known, for each that is
// under way and this one, weighted by distance. So a near target is preferred until it is loaded or slow by as much.
func (l *pulls) cost(t placement.Target, d Distance, n int, usual time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	one, pending := usual, 0
	if p := l.m[t]; p != nil {
		pending = p.pending
		if c := classOf(n); p.fresh(c) {
			one = p.mean[c]
		}
	}
	return max(one, leastPull) * time.Duration(pending+1) * time.Duration(1+d)
}

// usual is how long a fetch of n bytes takes on average.
func (c *Client) usual(n int) time.Duration {
	l := c.latencyOf(n)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mean
}

// byCost sorts shards by what the same n bytes of each may take, equal ones in any order.
func (r *reader) byCost(shards []int, n int) {
	if len(shards) < 2 {
		return
	}
	rand.Shuffle(len(shards), func(i, j int) { shards[i], shards[j] = shards[j], shards[i] })
	var costs [placement.MaxData + placement.MaxParity]time.Duration
	usual := r.c.usual(n)
	for _, i := range shards {
		costs[i] = r.cost(i, n, usual)
	}
	slices.SortStableFunc(shards, func(a, b int) int { return cmp.Compare(costs[a], costs[b]) })
}

func (r *reader) cost(shard, n int, usual time.Duration) time.Duration {
	t := r.pg.Slots[shard].Target
	return r.c.pulls.cost(t, distanceOf(r.m, t.Node), n, usual)
}

func (r *reader) distance(shard int) Distance { return distanceOf(r.m, r.pg.Slots[shard].Target.Node) }

// nearer replaces far data shards by near parity shards where that needs no more shards than the read needs anyhow: if the same
// range is wanted of every data shard, which for a block of one data shard is always so. It marks the wants that are computed instead of fetched.
func (r *reader) nearer() {
	s := r.shape
	if s.M == 0 || len(r.wants) != s.Data {
		return
	}
	if _, ok := r.m.(Located); !ok {
		return
	}
	first := r.wants[0].part
	for i := range r.wants {
		if pt := r.wants[i].part; pt.from != first.from || pt.to != first.to {
			return
		}
	}
	var parity []int
	for i := s.K; i < s.K+s.M; i++ {
		// One that is being moved or filled may be missing where it is looked for first.
		if slot := &r.pg.Slots[i]; slot.Previous == nil && !slot.Filling && !r.c.troubled(slot.Target) {
			parity = append(parity, i)
		}
	}
	n := first.len()
	r.byCost(parity, n)
	usual := r.c.usual(n)
	for _, p := range parity[:min(len(parity), s.Data)] {
		// The farthest of those that are left, of equal ones the slowest.
		worst := -1
		for i := range r.wants {
			w := &r.wants[i]
			if w.computed {
				continue
			}
			if worst < 0 {
				worst = i
				continue
			}
			a, b := w.part.shard, r.wants[worst].part.shard
			if da, db := r.distance(a), r.distance(b); da > db || da == db && r.cost(a, n, usual) > r.cost(b, n, usual) {
				worst = i
			}
		}
		shard := r.wants[worst].part.shard
		if r.distance(p) >= r.distance(shard) || r.cost(p, n, usual) >= r.cost(shard, n, usual) {
			return
		}
		r.wants[worst].computed = true
		r.fetch(part{p, first.from, first.to}, nil)
	}
}
