package journal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Times are how long calls took, by what they did, and how long none was answered. It has no clock; its owner guards it.
type Times struct {
	took    map[string][]time.Duration
	last    time.Time // of the last answer
	none    time.Duration
	slowest call
}

type call struct {
	kind string
	took time.Duration
}

// NewTimes begins now.
func NewTimes(now time.Time) *Times { return &Times{took: map[string][]time.Duration{}, last: now} }

// Answered counts a call that was answered now.
func (t *Times) Answered(kind string, took time.Duration, now time.Time) {
	t.took[kind] = append(t.took[kind], took)
	t.none, t.last = max(t.none, now.Sub(t.last)), now
	if took > t.slowest.took {
		t.slowest = call{kind, took}
	}
}

// Mark returns what was measured since the last Mark, and begins anew. A time without an answer that goes on counts in both.
func (t *Times) Mark(now time.Time) Measured {
	m := Measured{None: max(t.none, now.Sub(t.last)), Slowest: t.slowest.kind, Of: map[string]Spread{}}
	var all []time.Duration
	for kind, took := range t.took {
		m.Of[kind] = spread(took)
		all = append(all, took...)
	}
	m.All = spread(all)
	t.took, t.none, t.slowest = map[string][]time.Duration{}, 0, call{}
	return m
}

// Measured is what Times has between two marks.
type Measured struct {
	None    time.Duration     `json:"none"`    // the longest time without an answer
	Slowest string            `json:"slowest"` // what the longest call did
	All     Spread            `json:"all"`
	Of      map[string]Spread `json:"of"` // by kind
}

// Spread of the times that calls took.
type Spread struct {
	N       int           `json:"n"`
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Longest time.Duration `json:"longest"`
}

func spread(took []time.Duration) Spread {
	n := len(took)
	if n == 0 {
		return Spread{}
	}
	slices.Sort(took)
	return Spread{N: n, P50: took[n/2], P99: took[n*99/100], Longest: took[n-1]}
}

func (s Spread) String() string {
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, longest %.0f ms of %d", ms(s.P50), ms(s.P99), ms(s.Longest), s.N)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (m Measured) String() string {
	return fmt.Sprintf("nothing answered for %.0f ms; calls: %v (%s)", ms(m.None), m.All, m.Slowest)
}

// Kinds is a table of all kinds of calls.
func (m Measured) Kinds() string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(m.Of)) {
		fmt.Fprintf(&b, "\n    %-22s %v", kind, m.Of[kind])
	}
	return b.String()
}
