package sim

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

const (
	year = 365.25 * 24 * float64(time.Hour)
	// expectedLosses is how many the Markov chain expects in the Monte Carlo simulation, by the rates that it is run with.
	expectedLosses = 50
	// maxEvents bounds the losses of disks and nodes that are drawn; fewer years are simulated if there were more.
	maxEvents = 500_000
	// blocks of 4 MiB are the pieces that would have a set of stores each, if every block had its own.
	blockBytes = 4 << 20
)

// Loss is how probable it is that data is lost.
type Loss struct {
	// Repair times that the chain counts with: of a group that lacks one member, and of one that lacks more.
	First  time.Duration `json:"repair_first_ns"`
	Urgent time.Duration `json:"repair_urgent_ns"`
	Year   float64       `json:"probability_in_a_year"` // of any loss, by the Markov chain
	Share  float64       `json:"share_lost_in_a_year"`  // of all data, on average
	Check  MonteCarlo    `json:"monte_carlo"`
	Burst  Burst         `json:"burst"`
}

// MonteCarlo compares the chain with a simulation at rates at which something is lost.
type MonteCarlo struct {
	Years    float64 `json:"years"`
	Factor   float64 `json:"rates_times"` // the rates of loss, over those that were given
	Failures int     `json:"disks_lost"`
	Losses   int     `json:"groups_lost"`
	Expected float64 `json:"groups_lost_by_the_chain"`
}

// Burst is the loss of many disks at once.
type Burst struct {
	Disks  int `json:"disks"`
	Trials int `json:"trials"`
	Lost   int `json:"trials_with_loss"`
	// The probability that something is lost: by the trials, if every block had a set of stores of its own, and if
	// stores were cut into sets that have nothing in common.
	Probability  float64 `json:"probability"`
	EveryBlock   float64 `json:"probability_every_block_its_own"`
	Disjoint     float64 `json:"probability_disjoint_sets"`
	GroupsIfLost float64 `json:"groups_lost_if_any"`
	Share        float64 `json:"share_lost"` // of all data, on average over all trials: the same however sets are chosen
}

// chain is the mean time until a group of n members, of which m may be missing, loses data: members are lost at rate fail, and one comes back
// at rate repair(i) while i are missing. Times are in one unit. It is the sum of the mean times from i to i+1 missing
// members; each is that until the next event, and, if that is a repair, until the group is back at i.
func chain(n, m int, fail float64, repair func(i int) float64) float64 {
	sum, before := 0.0, 0.0
	for i := range m + 1 {
		birth := float64(n-i) * fail
		t := 1 / birth
		if i > 0 {
			t += repair(i) / birth * before
		}
		sum, before = sum+t, t
	}
	return sum
}

func loss(ctx context.Context, c *Config, w *world, r []Repair) (l Loss, err error) {
	disk, node := r[0].Time, r[1].Time
	slot := c.takes(w.bytes)
	l.Urgent = min(c.Detect+slot, disk)
	l.First = disk
	if rate := c.DiskAFR + c.NodeAFR; rate > 0 {
		l.First = time.Duration((c.DiskAFR*float64(disk) + c.NodeAFR*float64(node)) / rate)
		l.Share = c.perYear(&l, 1)
	}
	l.Year = -math.Expm1(-l.Share * float64(len(w.pool.Groups)))
	if l.Check, err = monteCarlo(ctx, c, w, &l, disk, node); err != nil {
		return l, err
	}
	l.Burst, err = burst(ctx, c, w)
	return l, err
}

// perYear is how often a group loses data in a year, by the chain, when members are lost factor times as often.
func (c *Config) perYear(l *Loss, factor float64) float64 {
	return 1 / chain(c.Profile.Width(), c.Profile.M, (c.DiskAFR+c.NodeAFR)*factor, func(i int) float64 {
		if i == 1 {
			return year / float64(l.First)
		}
		return year / float64(l.Urgent)
	})
}

// monteCarlo lets disks and nodes be lost over some years. A slot that was lost is back at some moment of the repair of its disk, or after the urgent
// time, and then on a disk like the one before; so groups stay as they are.
func monteCarlo(ctx context.Context, c *Config, w *world, l *Loss, disk, node time.Duration) (m MonteCarlo, err error) {
	if m.Years = c.Years; c.Years == 0 || c.DiskAFR+c.NodeAFR == 0 {
		return m, nil
	}
	// The expectation rises with the rates: find where it is what we want.
	groups := float64(len(w.pool.Groups))
	low, high := 1.0, 1e6
	if c.perYear(l, low)*groups*c.Years >= expectedLosses {
		high = low
	}
	for range 60 {
		if mid := math.Sqrt(low * high); c.perYear(l, mid)*groups*c.Years < expectedLosses {
			low = mid
		} else {
			high = mid
		}
	}
	m.Factor = high
	have := placement.Members(locations(w.stores))
	if events := (float64(len(w.stores))*c.DiskAFR + float64(have[placement.Node])*c.NodeAFR) * m.Factor; events*m.Years > maxEvents {
		m.Years = maxEvents / events
	}
	m.Expected = c.perYear(l, high) * groups * m.Years

	of := make([][]int32, len(w.stores)+1) // groups of each store
	for i := range w.pool.Groups {
		for _, x := range w.pool.Groups[i].Members {
			of[x.Store] = append(of[x.Store], int32(i))
		}
	}
	onNode := map[string][]uint32{}
	var nodes []string
	for _, s := range w.stores {
		if onNode[s.Node] == nil {
			nodes = append(nodes, s.Node)
		}
		onNode[s.Node] = append(onNode[s.Node], s.ID)
	}
	rng := rand.New(rand.NewPCG(c.Seed, 1))
	until := make([][]float64, len(w.pool.Groups)) // of each group: when each missing member is back
	lose := func(now float64, store uint32, first time.Duration) {
		m.Failures++
		for _, g := range of[store] {
			left := until[g][:0]
			for _, t := range until[g] {
				if t > now {
					left = append(left, t)
				}
			}
			took := float64(c.Detect) + rng.Float64()*float64(first-c.Detect)
			if len(left) > 0 {
				took = float64(l.Urgent)
			}
			if left = append(left, now+took); len(left) > c.Profile.M {
				m.Losses++
				left = left[:0] // what is lost is restored from elsewhere
			}
			until[g] = left
		}
	}
	disks := float64(len(w.stores)) * c.DiskAFR * m.Factor / year
	whole := float64(len(nodes)) * c.NodeAFR * m.Factor / year
	for now := 0.0; ; {
		if m.Failures%1024 == 0 && ctx.Err() != nil {
			return m, vfs.Wrap("sim", ctx.Err())
		}
		if now += rng.ExpFloat64() / (disks + whole); now > m.Years*year {
			return m, nil
		}
		if rng.Float64()*(disks+whole) < disks {
			lose(now, w.stores[rng.IntN(len(w.stores))].ID, disk)
		} else {
			for _, s := range onNode[nodes[rng.IntN(len(nodes))]] {
				lose(now, s, node)
			}
		}
	}
}

// burst loses some disks at once, again and again.
func burst(ctx context.Context, c *Config, w *world) (b Burst, err error) {
	b.Disks, b.Trials = int(math.Round(c.Burst*float64(len(w.stores)))), c.Trials
	if b.Disks == 0 || b.Trials == 0 {
		return b, nil
	}
	rng := rand.New(rand.NewPCG(c.Seed, 2))
	order := make([]int, len(w.stores))
	for i := range order {
		order[i] = i
	}
	of := make([][]int32, len(w.stores))
	for i := range w.pool.Groups {
		for _, m := range w.pool.Groups[i].Members {
			of[m.Store-1] = append(of[m.Store-1], int32(i))
		}
	}
	missing := make([]uint8, len(w.pool.Groups))
	groups := 0
	for trial := range b.Trials {
		if trial%64 == 0 && ctx.Err() != nil {
			return b, vfs.Wrap("sim", ctx.Err())
		}
		lost := 0
		for i := range b.Disks {
			j := i + rng.IntN(len(order)-i)
			order[i], order[j] = order[j], order[i]
			for _, g := range of[order[i]] {
				if missing[g]++; int(missing[g]) == c.Profile.M+1 {
					lost++
				}
			}
		}
		for i := range b.Disks {
			for _, g := range of[order[i]] {
				missing[g] = 0
			}
		}
		if groups += lost; lost > 0 {
			b.Lost++
		}
	}
	b.Probability = float64(b.Lost) / float64(b.Trials)
	b.Share = float64(groups) / float64(b.Trials) / float64(len(w.pool.Groups))
	if b.Lost > 0 {
		b.GroupsIfLost = float64(groups) / float64(b.Lost)
	}
	p := tooMany(len(w.stores), b.Disks, c.Profile)
	data := w.bytes * float64(len(w.pool.Groups)*c.Profile.K)
	if data > 0 {
		b.EveryBlock = -math.Expm1(data / blockBytes * math.Log1p(-p))
	}
	b.Disjoint = -math.Expm1(float64(len(w.stores)/c.Profile.Width()) * math.Log1p(-p))
	return b, nil
}

// tooMany is the probability that more than m of some k+m stores are among those lost, of all.
func tooMany(all, lost int, p placement.Profile) float64 {
	choose := func(n, k int) float64 {
		if k < 0 || k > n {
			return math.Inf(-1)
		}
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(k + 1))
		c, _ := math.Lgamma(float64(n - k + 1))
		return a - b - c
	}
	sum := 0.0
	for i := p.M + 1; i <= p.Width(); i++ {
		sum += math.Exp(choose(p.Width(), i) + choose(all-p.Width(), lost-i) - choose(all, lost))
	}
	return min(sum, 1)
}
