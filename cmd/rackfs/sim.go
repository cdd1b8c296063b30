package main

import (
	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/placement/sim"
)

func newSimCommand() *cobra.Command {
	var (
		c                   = sim.Default
		profile             = c.Profile.String()
		capacity, bandwidth int64
		raw                 bool
	)
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Simulate placement in a cluster of a given shape: balance, moves, repair, loss",
		Long: "Makes a cluster of the given shape in memory, lets the code that plans placement groups plan it, and says how evenly data lies, what is\n" +
			"moved when disks, nodes and racks come and go, how long repairs take, and how probable it is that data is lost. No cluster is needed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if c.Profile, err = placement.ParseProfile(profile); err != nil {
				return err
			}
			c.Capacity, c.Bandwidth = capacity<<30, bandwidth<<20
			r, err := sim.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			if raw {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return r.Write(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.Disks, "disks", c.Disks, "disks")
	f.IntVar(&c.DisksPerNode, "disks-per-node", c.DisksPerNode, "disks of a node")
	f.IntVar(&c.NodesPerRack, "nodes-per-rack", c.NodesPerRack, "nodes of a rack")
	f.IntVar(&c.RacksPerZone, "racks-per-zone", c.RacksPerZone, "racks of a zone")
	f.StringVar(&profile, "profile", profile, "data+parity shards")
	f.StringVar(&c.Level, "domain", c.Level, "failure domain: disk, node, rack or zone (default the coarsest that there are enough of)")
	f.IntVar(&c.PerStore, "groups-per-store", c.PerStore, "placement groups for each disk, which bound the sets of disks")
	f.Int64Var(&capacity, "capacity", c.Capacity>>30, "size of a disk in GiB")
	f.Float64Var(&c.Large, "large", c.Large, "share of the nodes whose disks have twice that size, 0 to 1")
	f.Float64Var(&c.Fill, "fill", c.Fill, "share of the capacity that holds data, 0 to 1")
	f.Int64Var(&bandwidth, "repair-bandwidth", c.Bandwidth>>20, "what a disk reads and writes for repair, in MiB/s")
	f.DurationVar(&c.Detect, "detect", c.Detect, "how long a store is silent before it is given up")
	f.Float64Var(&c.DiskAFR, "disk-afr", c.DiskAFR, "share of the disks that is lost in a year")
	f.Float64Var(&c.NodeAFR, "node-afr", c.NodeAFR, "share of the nodes that is lost in a year, with all their disks")
	f.Float64Var(&c.Burst, "burst", c.Burst, "share of the disks that is lost at once, as after a power cut, 0 to 1")
	f.IntVar(&c.Trials, "trials", c.Trials, "bursts that are drawn; 0: none")
	f.Float64Var(&c.Years, "years", c.Years, "years of the Monte Carlo simulation; 0: none")
	f.Uint64Var(&c.Seed, "seed", c.Seed, "of all that is drawn")
	f.BoolVar(&raw, "json", false, "print JSON")
	return cmd
}
