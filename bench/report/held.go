package report

import (
	"fmt"

	"gonum.org/v1/plot/plotter"

	"github.com/rackfs/rackfs/bench"
)

// held shows what targets held in the course of a phase, if they were looked at: curves of memory and of pieces, and slopes.
func (s *section) held(all []bench.Series, targets []string) error {
	const minute, mib = 60, 1 << 20
	for _, x := range []struct {
		title, unit string
		of          func(h *bench.Held) float64
	}{
		{"resident memory", "MiB", func(h *bench.Held) float64 { return float64(h.Resident) / mib }},
		{"goroutines", "", func(h *bench.Held) float64 { return float64(h.Goroutines) }},
		{"open files", "", func(h *bench.Held) float64 { return float64(h.Files) }},
	} {
		var lines []line
		for _, t := range targets {
			for i := range all {
				if all[i].Target != t {
					continue
				}
				for _, sample := range all[i].Samples {
					l := line{name: fmt.Sprintf("%s, %d workers", t, all[i].Workers)}
					for k := range sample.Held {
						if v := x.of(&sample.Held[k]); v > 0 {
							l.points = append(l.points, plotter.XY{X: sample.Held[k].At / minute, Y: v})
						}
					}
					if len(l.points) > 0 {
						lines = append(lines, l)
					}
				}
			}
		}
		if len(lines) == 0 {
			continue
		}
		plot, err := timePlot(all[0].Phase+": "+x.title, x.unit, lines)
		if err != nil {
			return err
		}
		s.Held = append(s.Held, plot)
	}
	for i := range all {
		for k := range all[i].Samples {
			for _, d := range all[i].Samples[k].Drifts() {
				s.Drifts = append(s.Drifts, driftRowOf(&all[i], d))
			}
		}
	}
	return nil
}

func driftRowOf(s *bench.Series, d bench.Drift) driftRow {
	scale, unit := 1.0, ""
	if d.Bytes {
		scale, unit = 1<<20, " MiB"
	}
	show := func(v float64) string { return number(v/scale) + unit }
	return driftRow{
		Target: s.Target, Phase: s.Phase, What: d.What, Mean: show(d.Mean), Most: show(d.Most), PerHour: show(d.PerHour), Low: show(d.Low), High: show(d.High), Shown: d.Shown(),
	}
}
