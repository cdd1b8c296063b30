package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func sprint(v any) string { return fmt.Sprint(v) }

// TestRatioOfKnownSamples compares with an interval that was worked out by hand: log ratios 0, log 2, log 4 have the mean log 2 and the
// standard error log 2 / sqrt 3; Student's t of 2 degrees of freedom is 4.3027.
func TestRatioOfKnownSamples(t *testing.T) {
	r := PairedRatio([]float64{1, 4, 4}, []float64{1, 2, 1})
	half := 4.302652729911275 * math.Ln2 / math.Sqrt(3)
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6*b }
	if r.N != 3 || !near(r.Mean, 2) || !near(r.Low, 2*math.Exp(-half)) || !near(r.High, 2*math.Exp(half)) || r.Certain() {
		t.Errorf("%+v", r)
	}
	if r := PairedRatio([]float64{3}, []float64{2}); r.N != 1 || !near(r.Mean, 1.5) || !math.IsNaN(r.Low) || !math.IsNaN(r.High) || r.Certain() {
		t.Errorf("one pair gives no confidence: %+v", r)
	}
	if r := PairedRatio(nil, nil); r.N != 0 || !math.IsNaN(r.Mean) || r.Certain() {
		t.Errorf("no pair gives no ratio: %+v", r)
	}
	for _, f := range []func(a, b []float64) Ratio{PairedRatio, UnpairedRatio} {
		if r := f([]float64{2, 0, 3}, []float64{1, 1, 1}); r.N != 0 || !math.IsNaN(r.Mean) {
			t.Errorf("nothing is so many times 0: %+v", r)
		}
	}
	if r := PairedRatio([]float64{2, 2}, []float64{1, 1}); !r.Certain() || !near(r.Low, 2) {
		t.Errorf("equal pairs are certain: %+v", r)
	}
}

// TestIntervalsHoldTheTruth draws samples whose ratio is known: about 95 of 100 intervals must hold it, paired ones also when what the pairs
// have in common varies much more than the ratio. The seed is fixed, so is the outcome.
func TestIntervalsHoldTheTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const trials, n, truth = 2000, 5, 1.3
	paired, unpaired, width := 0, 0, 0.0
	for range trials {
		a, b, c := make([]float64, n), make([]float64, n), make([]float64, n)
		for i := range n {
			common := math.Exp(r.NormFloat64())
			a[i] = truth * common * math.Exp(0.1*r.NormFloat64())
			b[i] = common * math.Exp(0.1*r.NormFloat64())
			c[i] = math.Exp(r.NormFloat64()) // apart from a
		}
		p, u := PairedRatio(a, b), UnpairedRatio(a, c)
		if p.Low <= truth && truth <= p.High {
			paired++
		}
		width += math.Log(p.High / p.Low)
		if u.Low <= truth && truth <= u.High {
			unpaired++
		}
	}
	if paired < trials*93/100 || paired > trials*97/100 || unpaired < trials*93/100 || unpaired > trials*98/100 {
		t.Errorf("of %d intervals %d paired and %d unpaired ones hold the truth", trials, paired, unpaired)
	}
	if mean := width / trials; mean > 0.5 {
		t.Errorf("paired intervals span %v on average: pairing takes nothing out", mean)
	}
}

func TestGeometricMean(t *testing.T) {
	if g := geometricMean([]float64{1, 10, 100}); math.Abs(g-10) > 1e-9 {
		t.Error(g)
	}
	if g := geometricMean([]float64{2, 0, 1}); g != 1 {
		t.Errorf("a reading of 0 counts: %v", g)
	}
	if geometricMean(nil) != 0 {
		t.Error("of none")
	}
}
