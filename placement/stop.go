package placement

import (
	"fmt"
	"strings"
)

// Stop is what a pool would be while some stores are stopped.
type Stop struct {
	// Unreadable is how many groups have blocks that could not be read, and UnreadableNow how many there are already.
	Unreadable    int    `json:"unreadable_groups"`
	UnreadableNow int    `json:"unreadable_groups_now"`
	Margin        int    `json:"margin"`   // further stores that every group would survive
	Writable      int    `json:"writable"` // groups of the full profile that could be written
	Writes        string `json:"writes"`   // the profile of new blocks, "" if writers would wait
	// Reads and Full say that all could be read, as far as it can now, and that new blocks would have the pool's profile.
	Reads bool   `json:"reads"`
	Full  bool   `json:"full_profile"`
	Text  string `json:"text"` // the arithmetic
}

// OK reports whether the pool could be read and written as well as it can now.
func (s *Stop) OK() bool { return s.Reads && s.Full }

// CanStop says what a pool would be while the stores of which stop is true are stopped. Nothing is moved for that: they are to come back.
func CanStop(name string, pool PoolState, stores []StoreState, stop func(id uint32) bool) Stop {
	now := newAssessment(pool, stores)
	then := make([]StoreState, len(stores))
	stopped, there := 0, 0
	for i, s := range stores {
		counts := 0
		if s.in() || s.Readable {
			counts = 1
		}
		there += counts
		if then[i] = s; stop(s.ID) {
			then[i].Readable = false
			then[i].Condition = min(s.Condition, Down)
			stopped += counts
		}
	}
	a := newAssessment(pool, then)
	s := Stop{Margin: a.Margin, Writable: a.Writable, Writes: a.writes(a.Writable, a.upDomains())}
	most := 0 // stopped members of a group that could not be read
	touched := 0
	for i := range a.groups {
		if int(now.missing[i]) > now.profile.M {
			s.UnreadableNow++
		}
		lost := int(a.missing[i]) - int(now.missing[i])
		if lost > 0 {
			touched++
		}
		if int(a.missing[i]) > a.profile.M {
			s.Unreadable++
			most = max(most, lost)
		}
	}
	s.Reads, s.Full = s.Unreadable == s.UnreadableNow, a.Writable > 0

	k, m := pool.Profile.K, pool.Profile.M
	var b strings.Builder
	fmt.Fprintf(&b, "pool %s (%v, %d groups, domain %s): of its %d stores %d would stop; ", name, pool.Profile, len(a.groups), pool.Level, there, stopped)
	switch {
	case s.Unreadable > s.UnreadableNow:
		fmt.Fprintf(&b, "%d groups would miss more than %d members (the worst %d by this stop), and their blocks could not be read", s.Unreadable, m, most)
	case touched == 0:
		b.WriteString("no group would miss a member by that, so reads stay as they are")
	default:
		fmt.Fprintf(&b, "%d groups would miss members by that, none more than the %d that it may, so reads stay as they are", touched, m)
	}
	if s.UnreadableNow > 0 {
		fmt.Fprintf(&b, " (%d groups cannot be read now)", s.UnreadableNow)
	}
	domains := a.upDomains()
	switch {
	case a.Writable > 0:
		fmt.Fprintf(&b, "; %d of %d groups could be written, so new blocks stay %v", a.Writable, a.Groups, pool.Profile)
	case s.Writes == "":
		fmt.Fprintf(&b, "; of its failure domains %d would take writes, fewer than the %d that one data and %d parity shards need: writers would wait", domains, m+1, m)
	default:
		fmt.Fprintf(&b, "; no group of %d would be whole, and %d domains would take writes: new blocks would be %s, and rewritten later", k+m, domains, s.Writes)
	}
	s.Text = b.String()
	return s
}
