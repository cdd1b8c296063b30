package nodegroup

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A trace of probes, one each second, and the states after them. "+" takes writes, "r" answers
// but takes none, "-" is silent; a number repeats what follows it.
func TestHysteresis(t *testing.T) {
	timing := Timing{FailAfter: time.Second, SuspectAfter: 10 * time.Second, OutAfter: 60 * time.Second, UpAfter: 3 * time.Second}
	for _, c := range []struct{ probes, want string }{
		{"+", "up"},
		{"-", "unknown"},
		{"2-", "down"},
		{"+ -", "up"},
		{"+ - + - + -", "up"}, // never two in a row
		{"+ 2-", "down"},
		{"+ 2- 3+", "down"},
		{"+ 2- 4+", "up"},
		{"+ 2- 3+ - 3+", "down"}, // it has to hold
		{"+ 10-", "down"},
		{"+ 11-", "suspect"},
		{"+ 11- 3+", "suspect"},
		{"+ 11- 4+", "up"},
		{"+ 60-", "suspect"},
		{"+ 61-", "out"},
		{"+ 61- 3r", "out"},
		{"+ 61- 4+", "up"},
		{"+ 200r", "suspect"}, // it serves what it has
		{"+ 100r 60-", "suspect"},
		{"+ 100r 61-", "out"},
		{"+ 30- r 60-", "suspect"},
	} {
		var h health
		now := time.Unix(1000, 0)
		for _, p := range strings.Fields(c.probes) {
			n, what := 1, p
			if _, err := fmt.Sscanf(p, "%d", &n); err == nil {
				what = strings.TrimLeft(p, "0123456789")
			}
			for range n {
				now = now.Add(time.Second)
				h.observe(timing, observation{at: now, answered: what != "-", writable: what == "+", err: errors.New("test")}, now)
				if h.readable != (what != "-") {
					t.Fatalf("%q: readable %v", c.probes, h.readable)
				}
			}
		}
		if h.state.String() != c.want {
			t.Errorf("%q: %v, want %s", c.probes, h.state, c.want)
		}
	}
	// A probe that hung for long counts from its begin, but one alone is not enough.
	var h health
	now := time.Unix(1000, 0)
	h.observe(timing, observation{at: now, answered: true, writable: true}, now)
	h.observe(timing, observation{at: now, err: errors.New("test")}, now.Add(5*time.Second))
	if h.state != Up {
		t.Error("one long probe took a store down")
	}
	h.observe(timing, observation{at: now.Add(5 * time.Second), err: errors.New("test")}, now.Add(10*time.Second))
	if h.state != Suspect {
		t.Errorf("two probes of 5 s each: %v", h.state)
	}
}
