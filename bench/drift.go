package bench

import (
	"math"
	"time"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Held is what the processes of a target held at a moment of a phase.
type Held struct {
	At         float64 `json:"at"` // seconds since the phase began
	Ops        int64   `json:"ops"`
	Resident   int64   `json:"resident"`
	Heap       int64   `json:"heap,omitempty"`
	Goroutines int64   `json:"goroutines,omitempty"`
	Files      int64   `json:"open_files,omitempty"`
}

// Phases that last are looked at while they run: watchFrom is what lasts, watched is how often, in all, and holdMisses how many looks in a row may fail.
const (
	watchFrom  = time.Minute
	watched    = 360
	holdMisses = 6
	missPause  = 100 * time.Millisecond
)

// Drift is how something that is held changes after the warm-up.
type Drift struct {
	What  string
	Bytes bool // its unit, else pieces
	Mean  float64
	Most  float64 // of the whole phase
	// PerHour is the slope, Low and High the ends of its interval of confidence.
	PerHour, Low, High float64
}

// Shown reports whether the interval leaves out 0: it does grow, or shrink.
func (d Drift) Shown() bool { return d.Low > 0 || d.High < 0 }

const (
	// warmUp is the part of a phase in which caches fill, which says nothing about a drift.
	warmUp = 0.25
	// driftBlocks: the slope is that of the means of so many blocks of time. What is held swings with collections of garbage and compactions, so
	// points that follow one another are alike, and the interval of a slope through all of them would be far too narrow; means of blocks that are
	// longer than a swing are about independent.
	driftBlocks = 12
)

// Drifts are those of all that was looked at; none if that was too short.
func (s *Sample) Drifts() (out []Drift) {
	for _, x := range []struct {
		what  string
		bytes bool
		of    func(h *Held) int64
	}{
		{"resident memory", true, func(h *Held) int64 { return h.Resident }},
		{"heap in use", true, func(h *Held) int64 { return h.Heap }},
		{"goroutines", false, func(h *Held) int64 { return h.Goroutines }},
		{"open files", false, func(h *Held) int64 { return h.Files }},
	} {
		d := Drift{What: x.what, Bytes: x.bytes}
		var hours, values []float64
		for i := range s.Held {
			h := &s.Held[i]
			d.Most = max(d.Most, float64(x.of(h)))
			if h.At >= warmUp*s.Seconds {
				hours, values = append(hours, h.At/time.Hour.Seconds()), append(values, float64(x.of(h)))
			}
		}
		if len(values) < 2*driftBlocks || d.Most == 0 {
			continue
		}
		d.Mean = stat.Mean(values, nil)
		d.PerHour, d.Low, d.High = slope(blockMeans(hours), blockMeans(values))
		out = append(out, d)
	}
	return out
}

func blockMeans(v []float64) []float64 {
	out := make([]float64, driftBlocks)
	for i := range out {
		out[i] = stat.Mean(v[i*len(v)/driftBlocks:(i+1)*len(v)/driftBlocks], nil)
	}
	return out
}

// slope is that of the straight line through points, by least squares, with Student's interval.
func slope(x, y []float64) (b, low, high float64) {
	a, b := stat.LinearRegression(x, y, nil, false)
	mean, residual, spread := stat.Mean(x, nil), 0.0, 0.0
	for i := range x {
		r := y[i] - a - b*x[i]
		residual += r * r
		spread += (x[i] - mean) * (x[i] - mean)
	}
	freedom := float64(len(x) - 2)
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(1 - (1-confidence)/2)
	err := t * math.Sqrt(residual/freedom/spread)
	return b, b - err, b + err
}
