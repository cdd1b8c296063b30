package bench

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// heldSample is an hour of points: value tells what is held at an hour's part.
func heldSample(value func(hour float64) float64) *Sample {
	s := &Sample{Seconds: 3600}
	for i := range watched {
		hour := float64(i+1) / watched
		s.Held = append(s.Held, Held{At: hour * 3600, Resident: int64(value(hour)), Goroutines: 7})
	}
	return s
}

func driftOf(t *testing.T, s *Sample, what string) Drift {
	t.Helper()
	for _, d := range s.Drifts() {
		if d.What == what {
			return d
		}
	}
	t.Fatalf("no drift of %s in %+v", what, s.Drifts())
	return Drift{}
}

// TestDriftOfKnownSeries: a leak is found through the swings of a collected heap, caches that fill at first are none, and what is not known is
// left out.
func TestDriftOfKnownSeries(t *testing.T) {
	const mib = 1 << 20
	swing := func(hour float64) float64 { return 40 * mib * math.Mod(hour*97, 1) }
	leak := driftOf(t, heldSample(func(h float64) float64 { return 500*mib + swing(h) + 60*mib*h }), "resident memory")
	if !leak.Shown() || leak.Low > 60*mib || leak.High < 60*mib || leak.High-leak.Low > 40*mib || !leak.Bytes {
		t.Errorf("60 MiB/h are %+v", leak)
	}
	flat := driftOf(t, heldSample(func(h float64) float64 { return min(500, 2500*h)*mib + swing(h) }), "resident memory")
	if flat.Shown() || math.Abs(flat.PerHour) > 20*mib || flat.Most < 530*mib {
		t.Errorf("a cache that fills for twelve minutes: %+v", flat)
	}
	for _, d := range heldSample(func(float64) float64 { return 1 }).Drifts() {
		if d.What == "goroutines" && (d.Mean != 7 || d.PerHour != 0 || d.Shown()) {
			t.Errorf("%+v", d)
		}
		if d.What == "heap in use" || d.What == "open files" {
			t.Errorf("%+v was not looked at", d)
		}
	}
	s := heldSample(func(float64) float64 { return 1 })
	s.Held = s.Held[:10]
	if d := s.Drifts(); d != nil {
		t.Errorf("ten points say %+v", d)
	}
}

// TestDriftsHoldTheTruth: about 95 of 100 intervals hold the slope of what swings for as long as a block. The seed is fixed, so is the outcome.
func TestDriftsHoldTheTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const trials, truth = 1000, 1e6
	held := 0
	for range trials {
		level, left := 0.0, 0
		s := heldSample(func(h float64) float64 {
			if left--; left < 0 { // a level stays for some points
				level, left = r.NormFloat64()*1e6, r.IntN(10)
			}
			return 1e8 + level + truth*h
		})
		if d := driftOf(t, s, "resident memory"); d.Low <= truth && truth <= d.High {
			held++
		}
	}
	if held < trials*90/100 || held > trials*98/100 {
		t.Errorf("%d of %d intervals hold the slope", held, trials)
	}
}

// TestRate: operations are no more often than was asked for, however many workers there are, and what was waited is in no latency.
func TestRate(t *testing.T) {
	const rate, workers, each = 200, 4, 10
	e := &Env{Workers: workers, Options: tiny}
	e.Options.Rate, e.Options.Time = rate, time.Hour
	m, err := (&phaseRun{env: e}).run(t.Context(), &Phase{Name: "none", Count: func(int) int { return each }, Op: func(context.Context, int, int) (Work, error) { return Work{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if least := time.Duration(each-1) * workers * time.Second / rate; m.elapsed < least {
		t.Errorf("%d operations took %v, want %v at least", m.ops, m.elapsed, least)
	}
	if p, wait := time.Duration(m.latency.ValueAtQuantile(25)), e.Options.period(workers); p >= wait {
		t.Errorf("operations that do nothing take %v, the wait for each of %v is part of it", p, wait)
	}
	o := Standard
	o.Rate = -1
	if o.Check() == nil {
		t.Error("a rate below 0 is taken")
	}
}

// TestMixture: shares are a thousand, files come as often as they go, and each kind comes up as often as its share says.
func TestMixture(t *testing.T) {
	total, balance := 0, 0
	want := map[kind]int{}
	for _, m := range mixture {
		total += m.share
		want[m.kind] = m.share
		switch m.kind {
		case mixCreate, mixWrite:
			balance += m.share
		case mixRemove:
			balance -= m.share
		}
	}
	if total != 1000 || balance != 0 {
		t.Errorf("shares of %d, %d more files made than removed", total, balance)
	}
	const n = 200_000
	got := map[kind]int{}
	for i := range n {
		got[mixedKind(mix(mix(1, 2), uint64(i)))]++
	}
	for k, share := range want {
		if d := float64(got[k])*1000/n - float64(share); math.Abs(d) > 3 {
			t.Errorf("kind %d: %d of %d, share %d", k, got[k], n, share)
		}
	}
}
