package bench

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// confidence of all intervals.
const confidence = 0.95

// Ratio is how much larger one quantity is than another, with its interval of confidence.
type Ratio struct {
	Mean      float64
	Low, High float64 // both NaN if there is one sample of either, which says nothing about confidence
	N         int     // pairs, or samples of the smaller side
}

var unknownRatio = Ratio{math.NaN(), math.NaN(), math.NaN(), 0}

// Certain reports whether the interval leaves out 1: the two differ.
func (r Ratio) Certain() bool { return r.Low > 1 || r.High < 1 }

// Vague reports whether the interval is so wide that it says nothing.
func (r Ratio) Vague() bool { return !(r.High/r.Low < vague) }

// vague is the ratio of the ends of an interval from which on it is.
const vague = 1000

// PairedRatio is a/b of samples that belong together pair by pair, by Student's interval of the mean of log(a/b). Ratios multiply, so their
// logarithms are what is about normal.
func PairedRatio(a, b []float64) Ratio {
	n := min(len(a), len(b))
	logs := make([]float64, n)
	for i := range logs {
		if a[i] <= 0 || b[i] <= 0 { // nothing is so many times as large as that
			return unknownRatio
		}
		logs[i] = math.Log(a[i] / b[i])
	}
	if n == 0 {
		return unknownRatio
	}
	mean, sd := stat.MeanStdDev(logs, nil)
	return interval(mean, sd/math.Sqrt(float64(len(logs))), float64(len(logs)-1), len(logs))
}

// UnpairedRatio is a/b of samples that were taken apart, by Welch's interval of the difference of the means of their logarithms.
func UnpairedRatio(a, b []float64) Ratio {
	la, lb := logsOf(a), logsOf(b)
	if la == nil || lb == nil {
		return unknownRatio
	}
	na, nb := float64(len(la)), float64(len(lb))
	ma, sa := stat.MeanStdDev(la, nil)
	mb, sb := stat.MeanStdDev(lb, nil)
	if len(la) < 2 || len(lb) < 2 {
		return interval(ma-mb, 0, 0, 1)
	}
	va, vb := sa*sa/na, sb*sb/nb
	freedom := min(na, nb) - 1
	if va+vb > 0 {
		freedom = (va + vb) * (va + vb) / (va*va/(na-1) + vb*vb/(nb-1))
	}
	return interval(ma-mb, math.Sqrt(va+vb), freedom, min(len(la), len(lb)))
}

// logsOf are the logarithms of positive numbers; nil if there are none, or one is not.
func logsOf(v []float64) (out []float64) {
	for _, x := range v {
		if x <= 0 {
			return nil
		}
		out = append(out, math.Log(x))
	}
	return out
}

// interval is the ratio of a mean of logarithms and its standard error.
func interval(mean, err, freedom float64, n int) Ratio {
	r := Ratio{Mean: math.Exp(mean), Low: math.NaN(), High: math.NaN(), N: n}
	if n > 1 {
		t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(1 - (1-confidence)/2)
		r.Low, r.High = math.Exp(mean-t*err), math.Exp(mean+t*err)
	}
	return r
}

// geometricMean of numbers that are positive; the arithmetic mean if one of them is 0, as a reading of CPU may be; 0 of none.
func geometricMean(v []float64) float64 {
	switch logs := logsOf(v); {
	case len(v) == 0:
		return 0
	case logs == nil:
		return stat.Mean(v, nil)
	default:
		return math.Exp(stat.Mean(logs, nil))
	}
}
