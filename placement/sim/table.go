package sim

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Write prints the report for people.
func (r *Report) Write(out io.Writer) error {
	c := &r.Config
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, a ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", a...) }
	line("cluster", "%d disks of %s on %d nodes in %d racks in %d zones, %.0f%% full; %.0f%% of the nodes have disks of twice that size", c.Disks, size(float64(c.Capacity)), r.Nodes, r.Racks, r.Zones, 100*c.Fill, 100*c.Large)
	line("pool", "%v, failure domain %s, %d groups for each disk: %d, on %d distinct sets of disks", c.Profile, r.Level, c.PerStore, r.Groups, r.Sets)
	line("scatter width", "a disk shares groups with %.1f others, at least %d", r.Scatter.Mean, r.Scatter.Min)
	line("balance", "%s", r.Balance)
	fmt.Fprintln(w)
	fmt.Fprintln(w, "CHANGE\tMOVED\tMINIMUM\tRATIO\tSLOTS\tLEFT\tPLANS\tPLANNING\tBALANCE AFTER")
	for _, x := range r.Changes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.3f\t%d\t%d\t%d\t%.2f s\t%s\n", x.What, size(x.Bytes), size(x.Minimum), x.Ratio, x.Slots, x.Left, x.Plans, x.Seconds, x.Balance)
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, "REPAIR AT %s/s OF A DISK\tREBUILT\tSLOTS\tDISKS AT WORK\tBUSIEST DISK\tTIME\n", size(float64(c.Bandwidth)))
	for _, x := range r.Repairs {
		fmt.Fprintf(w, "%s is lost\t%s\t%d\t%d\t%s\t%s, with %s until it is given up\n", x.What, size(x.Bytes), x.Slots, x.Disks, size(x.Busiest), x.Time.Round(time.Second), c.Detect)
	}
	fmt.Fprintln(w)
	l := &r.Loss
	line("losses", "%.2f%% of the disks and %.2f%% of the nodes in a year; a group that lacks a member is whole after %s, one that lacks more after %s",
		100*c.DiskAFR, 100*c.NodeAFR, l.First.Round(time.Second), l.Urgent.Round(time.Second))
	line("loss of data", "in a year with probability %.2g; %.2g of all data (Markov chain of a group)", l.Year, l.Share)
	if m := &l.Check; m.Years > 0 {
		line("check", "%g years with %.4g times the rates: %d disks and %d groups lost, the chain expects %.1f (Monte Carlo)", m.Years, m.Factor, m.Failures, m.Losses, m.Expected)
	}
	if b := &l.Burst; b.Trials > 0 && b.Disks > 0 {
		line("burst", "%d disks at once: data is lost in %d of %d trials, then of %.1f groups; every time %.2g of all data", b.Disks, b.Lost, b.Trials, b.GroupsIfLost, b.Share)
		line("", "lost with probability %.3g; %.3g if every block had a set of its own, %.3g if sets had nothing in common", b.Probability, b.EveryBlock, b.Disjoint)
	}
	line("simulated in", "%.1f s; the first plan took %.2f s, one that finds nothing to do %.3f s", r.Seconds.All, r.Seconds.First, r.Seconds.AtRest)
	return w.Flush()
}

func (b Balance) String() string {
	return fmt.Sprintf("fullest %.3f, emptiest %.3f of the mean; fullest with small data %.3f", b.Max, b.Min, b.MaxSmall)
}

// size prints bytes.
func size(b float64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for ; b >= 1024 && i < len(units)-1; i++ {
		b /= 1024
	}
	return fmt.Sprintf("%.4g %s", b, units[i])
}
