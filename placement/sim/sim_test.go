package sim

import (
	"encoding/json"
	"io"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// small is a cluster that is simulated in no time.
func small() Config {
	c := Default
	c.Disks, c.DisksPerNode, c.NodesPerRack, c.PerStore, c.Large = 240, 4, 6, 8, 0.25
	return c
}

func run(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	r := run(t, small())
	if r.Nodes != 60 || r.Racks != 10 || r.Level != placement.Rack || r.Groups != 8*240 || r.Sets > r.Groups || r.Sets < r.Groups*9/10 {
		t.Fatalf("%+v", r)
	}
	if r.Balance.Max > 1.1 || r.Balance.Min < 0.9 || r.Balance.MaxSmall > 1.2 {
		t.Errorf("balance %+v", r.Balance)
	}
	if len(r.Changes) != 6 {
		t.Fatalf("changes %+v", r.Changes)
	}
	for _, c := range r.Changes {
		if c.Ratio > 1.15 || c.Ratio < 0.8 || c.Plans < 1 || c.Balance.Max > 1.2 || c.Left > 0 {
			t.Errorf("%+v", c)
		}
	}
	if d, n := r.Repairs[0], r.Repairs[1]; d.Time <= r.Config.Detect || n.Time <= d.Time || d.Slots < 30 || n.Slots < 4*30 || d.Disks < 100 {
		t.Errorf("repairs %+v", r.Repairs)
	}
	// The chain is of the size that the simulation finds.
	if m := r.Loss.Check; m.Losses < 10 || float64(m.Losses) > 3*m.Expected || float64(m.Losses) < m.Expected/5 {
		t.Errorf("%d groups were lost, the chain expects %g: %+v", m.Losses, m.Expected, m)
	}
	if b := r.Loss.Burst; b.Disks != 2 || b.Lost != 0 {
		t.Errorf("two disks at once, with two parity shards: %+v", b)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

// The same configuration has the same outcome.
func TestSeed(t *testing.T) {
	c := small()
	c.Burst = 0.05
	a, b := run(t, c), run(t, c)
	for _, r := range []*Report{a, b} {
		r.Seconds = Seconds{}
		for i := range r.Changes {
			r.Changes[i].Seconds = 0
		}
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
	if c.Seed = 2; run(t, c).Loss.Burst == a.Loss.Burst {
		t.Error("another seed draws the same bursts")
	}
}

// The chain agrees with closed forms, and the share of groups that a burst takes with the hypergeometric one.
func TestLossArithmetic(t *testing.T) {
	// Without repair it is a sum of means; with one parity shard it is known since RAID.
	if got, want := chain(3, 2, 0.1, func(int) float64 { return 0 }), 1/0.3+1/0.2+1/0.1; math.Abs(got-want) > 1e-9 {
		t.Errorf("without repair %g, want %g", got, want)
	}
	n, f, mu := 5.0, 0.01, 100.0
	if got, want := chain(5, 1, f, func(int) float64 { return mu }), ((2*n-1)*f+mu)/(n*(n-1)*f*f); math.Abs(got-want)/want > 1e-9 {
		t.Errorf("RAID-5 of five: %g, want %g", got, want)
	}
	// Two of four lost: the other pair of a 1+1 group is lost with probability 1/6.
	if got := tooMany(4, 2, placement.Profile{K: 1, M: 1}); math.Abs(got-1.0/6) > 1e-9 {
		t.Errorf("%g", got)
	}
	c := small()
	c.Burst, c.Trials = 0.1, 2000
	b := run(t, c).Loss.Burst
	if p := tooMany(240, 24, c.Profile); math.Abs(b.Share-p) > 0.2*p {
		t.Errorf("a burst of 24 of 240 takes %g of the groups, want %g", b.Share, p)
	}
	if b.Probability <= b.Disjoint || b.EveryBlock < b.Probability {
		t.Errorf("%+v", b)
	}
}

// Repair is faster with more groups per store, for more disks take part, and a burst takes some of more sets.
func TestScatterWidth(t *testing.T) {
	few, many := small(), small()
	few.PerStore, few.Burst, few.Trials = 1, 0.03, 3000
	many.PerStore, many.Burst, many.Trials = 16, 0.03, 3000
	a, b := run(t, few), run(t, many)
	if a.Repairs[0].Time <= b.Repairs[0].Time || a.Scatter.Mean >= b.Scatter.Mean || a.Sets >= b.Sets || a.Loss.Burst.Probability >= b.Loss.Burst.Probability {
		t.Errorf("one group per store: %+v %+v %v\n16: %+v %+v %v", a.Scatter, a.Repairs[0], a.Loss.Burst, b.Scatter, b.Repairs[0], b.Loss.Burst)
	}
}

// At the edges of what is accepted every number can be printed, and it ends.
func TestEdges(t *testing.T) {
	for i, f := range []func(*Config){
		func(c *Config) { c.Fill, c.Burst = 0, 1 },
		func(c *Config) { c.DiskAFR = 0 },
		func(c *Config) { c.DiskAFR, c.NodeAFR, c.Years = 10, 10, maxYears },
		func(c *Config) { c.Bandwidth, c.Capacity, c.Detect = 1, maxCapacity, maxDetect },
		func(c *Config) { c.Disks, c.PerStore, c.Profile = 1, 1, placement.Profile{K: 1} },
		func(c *Config) { c.Trials, c.Years, c.Burst = 0, 0, 0 },
		func(c *Config) { c.Profile = placement.Profile{K: 2, M: 8} },
	} {
		c := small()
		c.Disks = 60
		f(&c)
		r, err := Run(t.Context(), c)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if err := r.Write(io.Discard); err != nil {
			t.Error(err)
		}
		for _, x := range r.Repairs {
			if x.Time < c.Detect {
				t.Errorf("%d: %+v", i, x)
			}
		}
	}
}

// What has nowhere to go stays, and is counted: a rack of two is drained, and the other has five nodes for six shards.
func TestNowhereToGo(t *testing.T) {
	c := small()
	c.Disks, c.DisksPerNode, c.NodesPerRack, c.Large = 40, 4, 5, 0
	for _, x := range run(t, c).Changes {
		// A group has three slots in the rack, of which two find a node.
		if want := map[bool]int{true: 8 * 40}[x.What == "a rack is drained"]; x.Left != want {
			t.Errorf("%s: %d slots are left, want %d", x.What, x.Left, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, f := range []func(*Config){
		func(c *Config) { c.Disks = 0 },
		func(c *Config) { c.Disks = maxDisks + 1 },
		func(c *Config) { c.PerStore = 1000 },
		func(c *Config) { c.DisksPerNode = 0 },
		func(c *Config) { c.Fill = 1.5 },
		func(c *Config) { c.Large = math.NaN() },
		func(c *Config) { c.DiskAFR = math.NaN() },
		func(c *Config) { c.DiskAFR = -1 },
		func(c *Config) { c.Bandwidth = 0 },
		func(c *Config) { c.Years = math.Inf(1) },
		func(c *Config) { c.Detect = -time.Second },
		func(c *Config) { c.Capacity = maxCapacity + 1 },
		func(c *Config) { c.Profile = placement.Profile{K: 40, M: 2} },
		func(c *Config) { c.Profile = placement.Profile{K: 16, M: 8}; c.Disks = 20 },
		func(c *Config) { c.Level = "row" },
		func(c *Config) { c.Level = "zone" },
	} {
		c := small()
		f(&c)
		if _, err := Run(t.Context(), c); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
