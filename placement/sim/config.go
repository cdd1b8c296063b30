package sim

import (
	"fmt"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Config is a cluster, its pool, and what happens to them.
type Config struct {
	Disks        int               `json:"disks"`
	DisksPerNode int               `json:"disks_per_node"`
	NodesPerRack int               `json:"nodes_per_rack"`
	RacksPerZone int               `json:"racks_per_zone"`
	Profile      placement.Profile `json:"profile"`
	// Level is the failure domain, disk, node, rack or zone; "": the coarsest that there are enough of.
	Level    string `json:"domain"`
	PerStore int    `json:"groups_per_store"`

	Capacity int64   `json:"capacity_bytes"` // of a disk
	Large    float64 `json:"large"`          // this share of the nodes has disks of twice the capacity
	Fill     float64 `json:"fill"`           // of the capacity that holds data, shards of all kinds

	Bandwidth int64         `json:"repair_bytes_per_second"` // of a disk, reading and writing together
	Detect    time.Duration `json:"detect"`                  // until a store is given up
	DiskAFR   float64       `json:"disk_afr"`                // disks that are lost in a year, as a share
	NodeAFR   float64       `json:"node_afr"`                // nodes that are lost with all their disks

	Burst  float64 `json:"burst"`        // share of all disks that is lost at once
	Trials int     `json:"burst_trials"` // bursts that are drawn
	Years  float64 `json:"monte_carlo_years"`
	Seed   uint64  `json:"seed"`
}

// Default is a data centre. The rate of disks is what large fleets publish, 1 to 2 percent a year.
var Default = Config{
	Disks: 10_000, DisksPerNode: 10, NodesPerRack: 10, RacksPerZone: 100, Profile: placement.Profile{K: 4, M: 2}, PerStore: 6,
	Capacity: 16 << 40, Fill: 0.7, Bandwidth: 50 << 20, Detect: 10 * time.Minute, DiskAFR: 0.015,
	Burst: 0.01, Trials: 1000, Years: 10, Seed: 1,
}

// Bounds of a simulation.
const (
	maxDisks  = 50_000
	maxTrials = 1_000_000
	maxYears  = 1_000_000
	// maxCapacity of a disk, and maxDetect, keep times and sums far from overflow.
	maxCapacity = 1 << 50
	maxDetect   = 365 * 24 * time.Hour
	maxTakes    = 100 * maxDetect
)

func (c *Config) validate() error {
	bad := func(format string, a ...any) error { return vfs.Errorf(vfs.KindInvalid, "sim", format, a...) }
	switch {
	case c.Disks < 1 || c.Disks > maxDisks:
		return bad("%d disks: 1 to %d can be simulated", c.Disks, maxDisks)
	case c.DisksPerNode < 1 || c.NodesPerRack < 1 || c.RacksPerZone < 1:
		return bad("%d disks per node, %d nodes per rack, %d racks per zone: each is at least 1", c.DisksPerNode, c.NodesPerRack, c.RacksPerZone)
	case c.PerStore < 1 || c.PerStore > 1024:
		return bad("%d groups per store: 1 to 1024", c.PerStore)
	case c.PerStore*c.Disks > placement.MaxGroups:
		return bad("%d groups for each of %d disks are %d, and a pool has at most %d: choose at most %d per store", c.PerStore, c.Disks, c.PerStore*c.Disks, placement.MaxGroups, placement.MaxGroups/c.Disks)
	case c.Capacity < 1 || c.Capacity > maxCapacity || c.Bandwidth < 1:
		return bad("a disk has 1 byte to %d TiB, and some bandwidth for repair", maxCapacity>>40)
	case c.Detect < 0 || c.Detect > maxDetect:
		return bad("a store is given up after %v: choose nothing to a year", c.Detect)
	case !share(c.Large) || !share(c.Fill) || !share(c.Burst):
		return bad("large, fill and burst are shares, 0 to 1")
	case !(c.DiskAFR >= 0 && c.DiskAFR <= 10 && c.NodeAFR >= 0 && c.NodeAFR <= 10):
		return bad("rates of loss are 0 to 10 a year")
	case c.Trials < 0 || c.Trials > maxTrials || !(c.Years >= 0 && c.Years <= maxYears):
		return bad("%d trials and %g years: at most %d and %d", c.Trials, c.Years, maxTrials, maxYears)
	}
	return c.Profile.Validate()
}

// takes is how long a disk reads and writes for repair.
func (c *Config) takes(bytes float64) time.Duration {
	return time.Duration(min(bytes/float64(c.Bandwidth)*float64(time.Second), float64(maxTakes)))
}

func share(x float64) bool { return x >= 0 && x <= 1 }

// stores are those of the cluster. Every so many nodes are large that their share comes out.
func (c *Config) stores() []placement.StoreState {
	var out []placement.StoreState
	for n := 0; len(out) < c.Disks; n++ {
		rack := n / c.NodesPerRack
		at := placement.Location{Rack: fmt.Sprintf("r%d", rack+1), Zone: fmt.Sprintf("z%d", rack/c.RacksPerZone+1)}
		out = c.node(out, n, at, min(c.DisksPerNode, c.Disks-len(out)))
	}
	return out
}

// node adds node n.
func (c *Config) node(stores []placement.StoreState, n int, at placement.Location, disks int) []placement.StoreState {
	at.Node = fmt.Sprintf("n%d", n+1)
	weight := uint64(c.Capacity)
	if int(float64(n+1)*c.Large) > int(float64(n)*c.Large) {
		weight *= 2
	}
	for range disks {
		stores = append(stores, placement.StoreState{
			ID: uint32(len(stores) + 1), Condition: placement.Up, Readable: true, Weight: weight,
			Location: at,
		})
	}
	return stores
}
