package members

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLeave(t *testing.T) {
	for _, c := range []struct {
		leader, conf string
		wanted       int
		want         Step
		refused      string
	}{
		{"a.1", "a.1 b.1 c.1", 3, Step{}, ""},
		{"a.1", "a.1 b.1 c.1!", 3, Step{}, ""}, // down is not gone
		{"a.1", "a.1 b.1 c.1!x", 3, Step{Remove, "c.1"}, ""},
		{"a.1", "a.1 b.1 c.1!x d.1?", 3, Step{Remove, "c.1"}, ""},
		{"a.1", "a.1 b.1! c.1!x", 3, Step{}, "only 1 of 2"},
		{"a.1", "a.1 b.1!x", 3, Step{Remove, "b.1"}, ""},
		{"a.1", "a.1 b.1 c.1 d.1?x", 3, Step{Remove, "d.1"}, ""},
		{"a.1", "a.1 b.1 c.1-", 3, Step{}, "survive 0 failure(s), not 1"},
		{"a.1", "a.1 b.1 c.1- d.1?", 3, Step{}, "survive 0 failure(s), not 1"}, // until it votes
		{"a.1", "a.1 b.1 c.1- d.1", 3, Step{Remove, "c.1"}, ""},
		{"a.1", "a.1 b.1! c.1- d.1", 3, Step{Remove, "c.1"}, ""},
		{"a.1", "a.1 b.1! c.1- d.1!", 3, Step{}, "only 1 of 3"},
		{"a.1", "a.1 b.1 c.1 d.1?-", 3, Step{}, ""}, // a non-voter may stay until its node is removed
		{"c.1", "a.1 b.1 c.1- d.1", 3, Step{Transfer, "a.1"}, ""},
		{"c.1", "a.1! b.1- c.1- d.1 e.1", 3, Step{Remove, "b.1"}, ""},
		{"c.1", "a.1! b.1 c.1x d.1", 3, Step{Transfer, "b.1"}, ""},
		{"a.1", "a.1 b.1-", 3, Step{Remove, "b.1"}, ""}, // two survive no more than one
		{"a.1", "a.1-", 3, Step{}, "would be healthy"},
		{"a.1", "a.1 b.1- c.1- d.1 e.1", 3, Step{Remove, "b.1"}, ""},
		{"a.1", "a.1 b.1 c.1 d.1 e.1-", 5, Step{}, "survive 1 failure(s), not 2"},
	} {
		got, err := Leave(c.leader, parse(c.conf), c.wanted)
		if got != c.want || (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s of [%s]: %v %s %v, want %v %s %q", c.leader, c.conf, got.Action, got.Replica, err, c.want.Action, c.want.Replica, c.refused)
		}
	}
}

// Whatever leaves, is gone or is down: no step of leaders and of nodes that stand by takes away the healthy majority of a shard that has one, no drain
// lowers how many failures it survives, and where enough nodes stay, the steps end with as many voters as are wanted, none of them of a node that leaves.
func TestLeavingIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wanted := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "wanted")
		var ms []Member
		voters := rapid.SampledFrom([]int{1, 3, wanted}).Draw(t, "voters")
		for i := range voters + rapid.IntRange(0, 4).Draw(t, "standing by") {
			m := Member{ID: fmt.Sprintf("n%d.1", i), Voter: i < voters}
			m.Fate = rapid.SampledFrom([]Fate{Stays, Stays, Stays, Leaves, Gone}).Draw(t, "fate")
			if rapid.IntRange(0, 4).Draw(t, "down") == 0 {
				m.Trouble = "does not answer"
			}
			ms = append(ms, m)
		}
		healthy := func() bool {
			return majority("", "", ms, func(m Member) bool { return m.Voter }) == nil
		}
		count := func(is func(Member) bool) (n int) {
			for _, m := range ms {
				if is(m) {
					n++
				}
			}
			return n
		}
		votes := func(m Member) bool { return m.Voter }
		leader := -1
		for i, m := range ms {
			if m.Voter && m.Trouble == "" {
				leader = i
				break
			}
		}
		if leader < 0 || !healthy() {
			t.Skip("nobody leads")
		}
		name := ms[leader].ID
		for steps := 0; ; steps++ {
			if steps > 50 {
				t.Fatalf("no end: %+v", ms)
			}
			s, _ := Leave(name, ms, wanted)
			before, moved := count(votes), false
			switch s.Action {
			case Transfer:
				name, moved = s.Replica, true
			case Remove:
				gone := find(ms, s.Replica).Fate == Gone
				ms = slices.DeleteFunc(slices.Clone(ms), func(m Member) bool { return m.ID == s.Replica })
				if moved = true; !gone && tolerated(count(votes)) < min(tolerated(before), tolerated(wanted)) {
					t.Fatalf("%s was removed: %d voters of %d are left: %+v", s.Replica, count(votes), before, ms)
				}
			default:
				for i := range ms { // whoever asks first
					id := ms[i].ID
					if !ms[i].Voter && Grow(id, ms, wanted) == nil && Check(Step{Promote, id}, ms) == nil {
						ms[i].Voter, moved = true, true
						break
					}
				}
			}
			if !healthy() || find(ms, name) == nil {
				t.Fatalf("after %v %s the shard stands still: %+v", s.Action, s.Replica, ms)
			}
			if !moved {
				break
			}
		}
		well := count(func(m Member) bool { return m.Fate == Stays && m.Trouble == "" })
		down := count(func(m Member) bool { return m.Voter && m.Fate == Stays && m.Trouble != "" })
		if well < wanted || down > 0 {
			return
		}
		if n := count(func(m Member) bool { return m.Fate == Gone || m.Voter && m.Fate == Leaves }); n > 0 || count(votes) < min(voters, wanted) {
			t.Fatalf("%d are not away, %d of %d voters: %+v", n, count(votes), wanted, ms)
		}
	})
}
