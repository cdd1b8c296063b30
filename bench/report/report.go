package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/vfs"
)

// page is what is shown.
type page struct {
	Runs      []*bench.Results
	Targets   []target
	Unequal   bool // some targets promise different things
	Ratios    []ratioRow
	RatioPlot markup
	Workloads []section
	Goals     []goalRow
	Skipped   []bench.Skipped
}

type target struct {
	Name string
	bench.TargetInfo
}

type ratioRow struct {
	What, Of           string
	Rate, Interval     string
	CPU, CPUInterval   string
	Coarse             bool // too short for CPU
	Certain, Different bool
}

// section is one workload.
type section struct {
	Name, About string
	Plots       []markup
	Latencies   []markup
	Rows        []row
	Held        []markup
	Drifts      []driftRow
}

// driftRow is what a target held of something in the course of a phase.
type driftRow struct {
	Target, Phase, What string
	Mean, Most          string
	PerHour, Low, High  string
	Shown               bool
}

type row struct {
	Target, Phase, Unit     string
	Workers, Repeats        int
	Rate, MiB, Server, GiB  string
	Client, P50, P99, Worst string
}

// HTML makes the page. Ratios are to the first target of the first results, or of the same run where those have nothing to compare with. Goals, if there are any, are compared with what was measured.
func HTML(all []*bench.Results, wanted []Goal) ([]byte, error) {
	if len(all) == 0 || len(all[0].Targets) == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, "report", "no results of any target")
	}
	all = distinct(all)
	p := page{Runs: all}
	var samples []bench.Sample
	for _, r := range all {
		samples = append(samples, r.Samples...)
		for _, s := range r.Skipped {
			if !slices.Contains(p.Skipped, s) {
				p.Skipped = append(p.Skipped, s)
			}
		}
		for _, t := range r.Targets {
			if !slices.Contains(p.targetNames(), t.Name) {
				p.Targets = append(p.Targets, target{t.Name, t})
			}
			p.Unequal = p.Unequal || !t.Durability.Equal(all[0].Targets[0].Durability)
		}
	}
	p.Goals = goals(wanted, samples)
	if err := p.ratios(all); err != nil {
		return nil, err
	}
	if err := p.sections(bench.Group(samples)); err != nil {
		return nil, err
	}
	return p.html(), nil
}

// distinct gives targets of several files names of their own. Files may be parts of one measurement: a target that is the same in both and was
// measured with other workloads keeps its name.
func distinct(all []*bench.Results) []*bench.Results {
	type measured struct {
		target, workload, phase string
		workers                 int
	}
	known := map[string]bench.TargetInfo{}
	done := map[measured]bool{}
	var out []*bench.Results
	for _, r := range all {
		c := *r
		c.Targets, c.Samples = nil, nil
		renamed := map[string]string{}
		for _, t := range r.Targets {
			was := t.Name
			again := slices.ContainsFunc(r.Samples, func(s bench.Sample) bool {
				return s.Target == was && done[measured{was, s.Workload, s.Phase, s.Workers}]
			})
			for n := 2; ; n++ {
				k, ok := known[t.Name]
				if !ok || !again && k.Spec == t.Spec && k.Durability == t.Durability {
					break
				}
				t.Name = fmt.Sprintf("%s (%d)", was, n)
			}
			known[t.Name], renamed[was] = t, t.Name
			c.Targets = append(c.Targets, t)
		}
		for _, s := range r.Samples {
			if name, ok := renamed[s.Target]; ok {
				s.Target = name
			}
			c.Samples = append(c.Samples, s)
		}
		c.Skipped = nil
		for _, s := range r.Skipped {
			if name, ok := renamed[s.Target]; ok {
				s.Target = name
			}
			c.Skipped = append(c.Skipped, s)
		}
		for _, s := range c.Samples {
			done[measured{s.Target, s.Workload, s.Phase, s.Workers}] = true
		}
		out = append(out, &c)
	}
	return out
}

func (p *page) ratios(all []*bench.Results) error {
	var labels []string
	at := map[string]int{}
	var series []dots
	names := map[string]int{}
	for _, r := range all {
		comparisons := bench.Compare(all[0], r)
		if len(comparisons) == 0 || r.Targets[0].Name == all[0].Targets[0].Name { // those of one run are pairs
			comparisons = bench.Compare(r, r)
		}
		for _, c := range comparisons {
			what := fmt.Sprintf("%s/%s, %d", c.Workload, c.Phase, c.Workers)
			if _, ok := at[what]; !ok {
				at[what] = len(labels)
				labels = append(labels, what)
			}
			of := c.Name + " / " + c.Base
			if _, ok := names[of]; !ok {
				names[of] = len(series)
				series = append(series, dots{name: of})
			}
			s := &series[names[of]]
			point := dot{at[what], c.Rate.Mean, c.Rate.Low, c.Rate.High}
			if c.Rate.Vague() {
				point.low, point.hig = math.NaN(), math.NaN()
			}
			s.dots = append(s.dots, point)
			row := ratioRow{What: what, Of: of, Rate: number(c.Rate.Mean), Interval: interval(c.Rate), CPU: "-", CPUInterval: "-", Coarse: c.Coarse, Certain: c.Rate.Certain(), Different: !c.EqualPromise}
			if c.ServerCPU.N > 0 {
				row.CPU, row.CPUInterval = number(c.ServerCPU.Mean), interval(c.ServerCPU)
			}
			p.Ratios = append(p.Ratios, row)
		}
	}
	var err error
	if len(labels) > 0 {
		p.RatioPlot, err = dotPlot("ratios of rates", "ratio", labels, series)
	}
	return err
}

// interval shows that of a ratio.
func interval(r bench.Ratio) string {
	switch {
	case r.N <= 1:
		return "one repeat"
	case r.Vague():
		return "not known"
	}
	return number(r.Low) + " to " + number(r.High)
}

// sections makes one of each workload.
func (p *page) sections(all []bench.Series) error {
	about := map[string]string{}
	for _, w := range bench.Workloads() {
		about[w.Name] = w.About
	}
	var order []string
	by := map[string][]bench.Series{}
	for _, s := range all {
		if by[s.Workload] == nil {
			order = append(order, s.Workload)
		}
		by[s.Workload] = append(by[s.Workload], s)
	}
	for _, name := range order {
		s := section{Name: name, About: about[name]}
		if err := s.fill(by[name], p.targetNames()); err != nil {
			return err
		}
		p.Workloads = append(p.Workloads, s)
	}
	return nil
}

func (p *page) targetNames() (out []string) {
	for _, t := range p.Targets {
		out = append(out, t.Name)
	}
	return out
}

func (s *section) fill(all []bench.Series, targets []string) error {
	for i := range all {
		r, err := rowOf(&all[i])
		if err != nil {
			return err
		}
		s.Rows = append(s.Rows, r)
	}
	for _, x := range []struct {
		title, unit string
		of          func(*bench.Sample) (float64, bool)
	}{
		{s.Name + ": rate", "operations / s", bench.RateOf},
		{s.Name + ": throughput", "MiB / s", func(x *bench.Sample) (float64, bool) { v, ok := bench.ThroughputOf(x); return v / (1 << 20), ok }},
		{s.Name + ": server CPU", "us / operation", micro(bench.ServerPerOpOf)},
		{s.Name + ": client CPU", "us / operation", micro(bench.ClientPerOpOf)},
	} {
		plot, err := dotPlot(x.title, x.unit, labelsOf(all), dotsOf(all, targets, x.of))
		if err != nil {
			return err
		}
		if plot != "" {
			s.Plots = append(s.Plots, plot)
		}
	}
	for _, phase := range phasesOf(all) {
		if err := s.held(phase, targets); err != nil {
			return err
		}
		plot, err := scaling(phase, targets)
		if err != nil {
			return err
		}
		if plot != "" {
			s.Plots = append(s.Plots, plot)
		}
		if plot, err = latencies(phase, targets); err != nil {
			return err
		}
		if plot != "" {
			s.Latencies = append(s.Latencies, plot)
		}
	}
	return nil
}

func micro(of func(*bench.Sample) (float64, bool)) func(*bench.Sample) (float64, bool) {
	return func(s *bench.Sample) (float64, bool) { v, ok := of(s); return v * 1e6, ok }
}

// label of a series; the number of workers is part of it.
func label(s *bench.Series) string { return fmt.Sprintf("%s, %d", s.Phase, s.Workers) }

func labelsOf(all []bench.Series) (out []string) {
	seen := map[string]bool{}
	for i := range all {
		if l := label(&all[i]); !seen[l] {
			seen[l] = true
			out = append(out, l)
		}
	}
	return out
}

func dotsOf(all []bench.Series, targets []string, of func(*bench.Sample) (float64, bool)) (out []dots) {
	at := map[string]int{}
	for i, l := range labelsOf(all) {
		at[l] = i
	}
	for _, t := range targets {
		d := dots{name: t}
		for i := range all {
			if all[i].Target != t {
				continue
			}
			mean, ok := all[i].Mean(of)
			if !ok {
				continue
			}
			low, high := extremes(&all[i], of)
			d.dots = append(d.dots, dot{at[label(&all[i])], mean, low, high})
		}
		out = append(out, d)
	}
	return out
}

// extremes are the least and the most of a series.
func extremes(s *bench.Series, of func(*bench.Sample) (float64, bool)) (low, high float64) {
	low = math.Inf(1)
	for i := range s.Samples {
		if v, ok := of(&s.Samples[i]); ok {
			low, high = min(low, v), max(high, v)
		}
	}
	return low, high
}

// phasesOf groups series by phase.
func phasesOf(all []bench.Series) (out [][]bench.Series) {
	at := map[string]int{}
	for _, s := range all {
		i, ok := at[s.Phase]
		if !ok {
			i = len(out)
			at[s.Phase] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], s)
	}
	return out
}

// scaling plots the rate of a phase over the number of workers, if there are several.
func scaling(all []bench.Series, targets []string) (markup, error) {
	counts := map[int]bool{}
	for _, s := range all {
		counts[s.Workers] = true
	}
	if len(counts) < 2 {
		return "", nil
	}
	var lines []line
	for _, t := range targets {
		l := line{name: t}
		for i := range all {
			if all[i].Target == t {
				v, _ := all[i].Mean(bench.RateOf)
				l.points = append(l.points, plotter.XY{X: float64(all[i].Workers), Y: v})
			}
		}
		lines = append(lines, l)
	}
	return linePlot(all[0].Phase+": scaling", "workers", "operations / s", nil, lines)
}

// quantiles that latencies are plotted at, in percent.
var quantiles = []float64{1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99}

// latencies plots the distribution of a phase with its most workers: the x axis is 1/(1-q), so that each nine is as wide as the next.
func latencies(all []bench.Series, targets []string) (markup, error) {
	most := 0
	for _, s := range all {
		most = max(most, s.Workers)
	}
	var lines []line
	for _, t := range targets {
		l := line{name: t}
		for i := range all {
			if all[i].Target != t || all[i].Workers != most {
				continue
			}
			h, err := all[i].Samples[0].Latency.Decode()
			if err != nil {
				return "", err
			}
			for k := range all[i].Samples[1:] {
				more, err := all[i].Samples[k+1].Latency.Decode()
				if err != nil {
					return "", err
				}
				h.Merge(more)
			}
			for _, q := range quantiles {
				if float64(h.TotalCount())*(100-q) < 100 && q > 50 { // fewer calls than that say nothing about it
					continue
				}
				l.points = append(l.points, plotter.XY{X: 100 / (100 - q), Y: float64(h.ValueAtQuantile(q)) / 1e6})
			}
		}
		lines = append(lines, l)
	}
	ticks := []plot.Tick{{Value: 2, Label: "50 %"}, {Value: 10, Label: "90 %"}, {Value: 100, Label: "99 %"}, {Value: 1000, Label: "99.9 %"}, {Value: 1e4, Label: "99.99 %"}}
	return linePlot(fmt.Sprintf("%s, %d workers", all[0].Phase, most), "calls that are faster", "ms", ticks, lines)
}

func rowOf(s *bench.Series) (row, error) {
	of := func(value func(*bench.Sample) (float64, bool), scale float64) string {
		v, ok := s.Mean(value)
		if !ok {
			return "-"
		}
		return number(v * scale)
	}
	worst := 0.0
	for _, x := range s.Samples {
		worst = max(worst, x.Latency.Max)
	}
	return row{
		Target: s.Target, Phase: s.Phase, Unit: s.Unit, Workers: s.Workers, Repeats: len(s.Samples),
		Rate: of(bench.RateOf, 1), MiB: of(bench.ThroughputOf, 1.0/(1<<20)), Server: of(bench.ServerPerOpOf, 1e6), GiB: of(bench.ServerPerGiBOf, 1),
		Client: of(bench.ClientPerOpOf, 1e6), P50: of(bench.P50Of, 1e3), P99: of(bench.P99Of, 1e3), Worst: number(worst * 1e3),
	}, nil
}

// number shows three digits.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v == 0:
		return "0"
	case math.Abs(v) >= 1000:
		return fmt.Sprintf("%.0f", v)
	}
	s := fmt.Sprintf("%.3g", v)
	if strings.Contains(s, "e") {
		s = fmt.Sprintf("%.6f", v)
	}
	return s
}
