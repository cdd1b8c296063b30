package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rackfs/rackfs/bench"
)

// benchScreen shows a run as it goes: a line for each phase, below it how far the current one is, if that is a terminal.
type benchScreen struct {
	out, errs io.Writer
	live      bool // progress is shown
	ratios    bool // at the end
	results   bench.Results
	headed    bool
}

func newBenchScreen(out, errs io.Writer, ratios bool) *benchScreen {
	s := &benchScreen{out: out, errs: errs, ratios: ratios}
	if f, ok := errs.(*os.File); ok {
		st, err := f.Stat()
		s.live = err == nil && st.Mode()&os.ModeCharDevice != 0
	}
	return s
}

const (
	clearLine  = "\r\x1b[K"
	benchTitle = "%-10s %-17s %-12s %4s %9s %12s %12s %9s %9s %12s %12s\n"
	benchRow   = "%-10s %-17s %-12s %4d %9d %12s %12s %9s %9s %12s %12s\n"
)

func (s *benchScreen) progress(p bench.Progress) {
	if s.live {
		fmt.Fprintf(s.errs, clearLine+"%s: %s/%s, %d workers, %d operations, %s, %v", p.Target, p.Workload, p.Phase, p.Workers, p.Ops, mib(float64(p.Bytes)), p.Elapsed.Round(time.Second/10))
	}
}

func (s *benchScreen) record(x bench.Record) error {
	if s.live {
		fmt.Fprint(s.errs, clearLine)
	}
	switch {
	case x.Run != nil:
		s.results.Run = *x.Run
		fmt.Fprintf(s.out, "%s, %d CPUs, Linux %s, seed %d\n", x.Run.Release, x.Run.Host.CPUs, x.Run.Host.Kernel, x.Run.Options.Seed)
	case x.Target != nil:
		s.results.Targets = append(s.results.Targets, *x.Target)
		fmt.Fprintf(s.out, "%s: %s\n  promises %v\n", x.Target.Name, x.Target.Spec, x.Target.Durability)
	case x.Skipped != nil:
		s.results.Skipped = append(s.results.Skipped, *x.Skipped)
		fmt.Fprintf(s.out, "%-10s %-17s %-12s left out: %s\n", x.Skipped.Target, x.Skipped.Workload, x.Skipped.Phase, x.Skipped.Why)
	case x.Sample != nil:
		if !s.headed {
			s.headed = true
			fmt.Fprintf(s.out, benchTitle, "TARGET", "WORKLOAD", "PHASE", "WORK", "OPS", "OPS/S", "MiB/S", "P50", "P99", "SERVER CPU", "CLIENT CPU")
		}
		s.results.Samples = append(s.results.Samples, *x.Sample)
		v := x.Sample
		through, server := "-", "-"
		if v.Bytes > 0 {
			through = fmt.Sprintf("%.1f", v.Throughput()/(1<<20))
		}
		if c, ok := v.ServerPerOp(); ok {
			server = cpuPer(c)
		}
		fmt.Fprintf(s.out, benchRow, v.Target, v.Workload, v.Phase, v.Workers, v.Ops, fmt.Sprintf("%.1f", v.Rate()), through,
			seconds(v.Latency.P50), seconds(v.Latency.P99), server, cpuPer(v.ClientCPU/float64(max(v.Ops, 1))))
		for _, d := range v.Drifts() {
			fmt.Fprintf(s.out, "  %s: %s\n", d.What, drift(d))
		}
	}
	return nil
}

// end prints ratios to the first target.
func (s *benchScreen) end() error {
	if !s.ratios {
		return nil
	}
	return benchRatios(s.out, bench.Compare(&s.results, &s.results))
}

func benchRatios(out io.Writer, all []bench.Comparison) error {
	fmt.Fprintln(out)
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "WORKLOAD\tPHASE\tWORKERS\tOF\tRATE\t95 %\tSERVER CPU\t95 %\tREMARK")
		for _, c := range all {
			var remarks []string
			switch {
			case c.Rate.N <= 1:
				remarks = append(remarks, "one repeat says nothing about confidence")
			case c.Rate.Vague():
				remarks = append(remarks, "the repeats differ too much or are too few")
			case !c.Rate.Certain():
				remarks = append(remarks, "no difference of rates shown")
			}
			if c.Coarse {
				remarks = append(remarks, "too short for CPU")
			}
			if !c.EqualPromise {
				remarks = append(remarks, "they promise different things")
			}
			rate, rates := ratio(c.Rate)
			cpu, cpus := ratio(c.ServerCPU)
			cells(w, c.Workload, c.Phase, c.Workers, c.Name+" / "+c.Base, rate, rates, cpu, cpus, strings.Join(remarks, "; "))
		}
	})
}

// ratio shows one and its interval.
func ratio(r bench.Ratio) (mean, interval string) {
	switch {
	case r.N == 0:
		return "-", "-"
	case r.N == 1 || r.Vague():
		return fmt.Sprintf("%.3g", r.Mean), "-"
	}
	return fmt.Sprintf("%.3g", r.Mean), fmt.Sprintf("%.3g to %.3g", r.Low, r.High)
}

// drift shows how something changed in the course of a phase.
func drift(d bench.Drift) string {
	show, verdict := func(v float64) string { return fmt.Sprintf("%+.1f", v) }, "no trend is shown"
	if d.Bytes {
		show = func(v float64) string { return fmt.Sprintf("%+.1f MiB", v/(1<<20)) }
	}
	switch {
	case d.Low > 0:
		verdict = "it grows"
	case d.High < 0:
		verdict = "it shrinks"
	}
	plain := func(v float64) string { return strings.TrimPrefix(show(v), "+") }
	return fmt.Sprintf("mean %s, most %s; %s an hour (95 %%: %s to %s): %s", plain(d.Mean), plain(d.Most), show(d.PerHour), show(d.Low), show(d.High), verdict)
}

func mib(n float64) string { return fmt.Sprintf("%.0f MiB", n/(1<<20)) }

// seconds shows a latency.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}

// cpuPer shows CPU time of an operation.
func cpuPer(s float64) string { return fmt.Sprintf("%.1f us/op", s*1e6) }
