package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"strings"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/vfs"
)

// Goal is what a phase shall reach: a bound of any of its quantities; 0: none.
type Goal struct {
	What     string `json:"what"`
	Target   string `json:"target"`
	Workload string `json:"workload"` // "": all that there are
	Phase    string `json:"phase"`
	Workers  int    `json:"workers"` // 0: any number

	CPUMicros float64 `json:"cpu_us"`     // of servers for an operation, at most
	CPUPerGiB float64 `json:"cpu_s_gib"`  // seconds of servers, at most
	P99Millis float64 `json:"p99_ms"`     // at most
	Seconds   float64 `json:"seconds"`    // all of the phase, at most
	MemoryMiB float64 `json:"memory_mib"` // resident, of servers, at most
	Rate      float64 `json:"rate"`       // operations a second, at least
	MiB       float64 `json:"mib_s"`      // a second, at least

	Why string `json:"why"` // what holds it back
}

// ReadGoals reads a list of goals.
func ReadGoals(raw []byte) ([]Goal, error) {
	var out []Goal
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "report.goals", "goals are a JSON list: %w", err)
	}
	return out, nil
}

// bound is one of a goal's, with what was measured.
type bound struct {
	Goal, Reached string
	Missed        bool
}

// goalRow is a row of the table of goals: costs, then rates.
type goalRow struct {
	What, Why   string
	Cost, Rates []bound
	Measured    bool
}

// goals compares goals with samples, by their means; in brackets stand the least and the most of several repeats.
func goals(all []Goal, samples []bench.Sample) (out []goalRow) {
	for _, g := range all {
		s := bench.Series{}
		for _, x := range samples {
			if x.Target == g.Target && (g.Workload == "" || x.Workload == g.Workload && x.Phase == g.Phase) && (g.Workers == 0 || x.Workers == g.Workers) {
				s.Samples = append(s.Samples, x)
			}
		}
		row := goalRow{What: g.What, Why: g.Why, Measured: len(s.Samples) > 0}
		for _, b := range []struct {
			want  float64
			unit  string
			scale float64
			of    func(*bench.Sample) (float64, bool)
			least bool // the bound is what is wanted at least
			most  bool // the most of all samples counts, not their mean
		}{
			{want: g.CPUMicros, unit: "us", scale: 1e6, of: bench.ServerPerOpOf},
			{want: g.CPUPerGiB, unit: "s/GiB", scale: 1, of: bench.ServerPerGiBOf},
			{want: g.P99Millis, unit: "ms (p99)", scale: 1e3, of: bench.P99Of},
			{want: g.Seconds, unit: "s in all", scale: 1, of: func(s *bench.Sample) (float64, bool) { return s.Seconds, true }},
			{want: g.MemoryMiB, unit: "MiB", scale: 1.0 / (1 << 20), of: resident, most: true},
			{want: g.Rate, unit: "/s", scale: 1, of: bench.RateOf, least: true},
			{want: g.MiB, unit: "MiB/s", scale: 1.0 / (1 << 20), of: bench.ThroughputOf, least: true},
		} {
			if b.want == 0 {
				continue
			}
			x := bound{Goal: number(b.want) + " " + b.unit, Reached: "not measured"}
			mean, ok := s.Mean(b.of)
			low, high := extremes(&s, b.of)
			if b.most {
				mean = high
			}
			if mean *= b.scale; ok {
				x.Missed = b.least && mean < b.want || !b.least && mean > b.want
				x.Reached = number(mean) + " " + b.unit
				if len(s.Samples) > 1 && !b.most {
					x.Reached = fmt.Sprintf("%s (%s to %s)", x.Reached, number(low*b.scale), number(high*b.scale))
				}
			}
			if b.least {
				row.Rates = append(row.Rates, x)
			} else {
				row.Cost = append(row.Cost, x)
			}
		}
		out = append(out, row)
	}
	return out
}

// resident is the most that the servers held in a phase.
func resident(s *bench.Sample) (float64, bool) {
	most := s.Resident
	for _, h := range s.Held {
		most = max(most, h.Resident)
	}
	return float64(most), most > 0
}

// Markdown is the table of goals for a text.
func Markdown(all []Goal, results []*bench.Results) string {
	var samples []bench.Sample
	for _, r := range distinct(results) {
		samples = append(samples, r.Samples...)
	}
	var b strings.Builder
	b.WriteString("| what | goal: cost | reached | goal: rate | reached | what holds it back |\n|---|---|---|---|---|---|\n")
	for _, r := range goals(all, samples) {
		cells := []string{r.What}
		for _, bounds := range [][]bound{r.Cost, r.Rates} {
			var want, got []string
			for _, x := range bounds {
				want = append(want, x.Goal)
				if x.Missed {
					x.Reached = "**" + x.Reached + "**"
				}
				got = append(got, x.Reached)
			}
			cells = append(cells, strings.Join(want, ", "), strings.Join(got, ", "))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", strings.Join(cells, " | "), r.Why)
	}
	return b.String()
}

// shown is a list of bounds as a cell; bold: those that are missed are.
func shown(all []bound, bold bool, of func(bound) string) markup {
	var out []string
	for _, x := range all {
		text := html.EscapeString(of(x))
		if bold && x.Missed {
			text = "<b>" + text + "</b>"
		}
		out = append(out, text)
	}
	return markup(strings.Join(out, "<br>"))
}
