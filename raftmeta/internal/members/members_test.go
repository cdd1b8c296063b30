package members

import (
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// parse reads a configuration: "a.1" is a voter, "a.2?" a non-voter; a trailing ! means trouble, - that its node leaves, x that it is gone.
func parse(s string) []Member {
	var ms []Member
	for _, f := range strings.Fields(s) {
		m := Member{Voter: true}
		if strings.HasSuffix(f, "-") {
			f, m.Fate = strings.TrimSuffix(f, "-"), Leaves
		}
		if strings.HasSuffix(f, "x") {
			f, m.Fate = strings.TrimSuffix(f, "x"), Gone
		}
		if strings.HasSuffix(f, "!") {
			f, m.Trouble = strings.TrimSuffix(f, "!"), "does not answer"
		}
		if strings.HasSuffix(f, "?") {
			f, m.Voter = strings.TrimSuffix(f, "?"), false
		}
		m.ID = f
		ms = append(ms, m)
	}
	return ms
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		self  string
		fresh bool
		conf  string
		want  Step
	}{
		{"c.2", true, "a.1 b.1 c.1!", Step{Join, "c.2"}},
		{"c.2", false, "a.1 b.1 c.1!", Step{Superseded, "c.2"}},
		{"c.2", false, "a.1 b.1 c.1! c.2?", Step{Remove, "c.1"}},
		{"c.2", true, "a.1 b.1 c.1! c.2?", Step{Remove, "c.1"}}, // its log has not come yet
		{"c.2", false, "a.1 b.1 c.2?", Step{Promote, "c.2"}},
		{"c.2", false, "a.1 b.1 c.1! c.2", Step{Remove, "c.1"}},
		{"c.2", false, "a.1 b.1 c.2", Step{None, "c.2"}},
		{"c.1", false, "a.1 b.1 c.2", Step{Superseded, "c.1"}}, // the old directory came back
		// Wiped again while it joined: the abandoned one goes first, whoever the third is.
		{"c.3", true, "a.1 b.1 c.1! c.2?!", Step{Remove, "c.2"}},
		{"c.3", true, "a.1 b.1 c.2?!", Step{Remove, "c.2"}},
		{"c.3", false, "a.1 b.1 c.2! c.3", Step{Remove, "c.2"}},
		{"c.2", true, "", Step{Join, "c.2"}},
	} {
		if got := Next(c.self, c.fresh, parse(c.conf)); got != c.want {
			t.Errorf("%s (fresh %v) in [%s]: %v %s, want %v %s", c.self, c.fresh, c.conf, got.Action, got.Replica, c.want.Action, c.want.Replica)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		step Step
		conf string
		kind vfs.Kind
	}{
		{Step{Join, "c.2"}, "a.1 b.1 c.1!", vfs.KindOK},
		{Step{Join, "c.2"}, "a.1 b.1! c.1!", vfs.KindOK}, // a non-voter changes no majority
		{Step{Promote, "c.2"}, "a.1 b.1 c.1! c.2?", vfs.KindOK},
		{Step{Promote, "c.2"}, "a.1 b.1 c.1! c.2", vfs.KindOK}, // repeated
		{Step{Promote, "c.2"}, "a.1 b.1 c.1! c.2!", vfs.KindOK},
		{Step{Promote, "c.2"}, "a.1 b.1 c.1!", vfs.KindInvalid},
		{Step{Promote, "c.2"}, "a.1 b.1 c.1! c.2?!", vfs.KindBusy},
		{Step{Promote, "c.2"}, "a.1 b.1! c.1! c.2?", vfs.KindUnavailable}, // 2 of 4
		{Step{Promote, "c.2"}, "a.1 b.1 c.1 d.1! e.1! c.2?", vfs.KindOK},  // 4 of 6
		{Step{Promote, "c.2"}, "a.1 b.1 c.1! d.1! e.1! c.2?", vfs.KindUnavailable},
		{Step{Promote, "a.2"}, "a.1 a.2?", vfs.KindOK},
		{Step{Remove, "c.1"}, "a.1 b.1 c.1! c.2", vfs.KindOK},
		{Step{Remove, "c.1"}, "a.1 b.1 c.2", vfs.KindOK}, // repeated
		{Step{Remove, "c.2"}, "a.1 b.1! c.1! c.2?!", vfs.KindOK},
		{Step{Remove, "c.1"}, "a.1 b.1 c.1!", vfs.KindBusy}, // nobody has taken its place
		{Step{Remove, "c.1"}, "a.1 b.1 c.1! c.2?", vfs.KindOK},
		{Step{Remove, "c.1"}, "a.1 b.1 c.1! c.2?!", vfs.KindBusy},
		{Step{Remove, "c.1"}, "a.1 b.1 c.1! c.2!", vfs.KindBusy},
		{Step{Remove, "c.1"}, "a.1 b.1! c.1! c.2?", vfs.KindUnavailable}, // 1 of 2
		{Step{None, "c.1"}, "a.1 b.1 c.1", vfs.KindInvalid},
	} {
		if err := Check(c.step, parse(c.conf)); vfs.KindOf(err) != c.kind {
			t.Errorf("%v %s in [%s]: %v, want %v", c.step.Action, c.step.Replica, c.conf, err, c.kind)
		}
	}
}

// From any configuration that a crash can leave, the steps end with one healthy voter of the node, and after each of
// them the healthy voters of the other nodes alone are a majority: the node may fail once more.
func TestStepsEnd(t *testing.T) {
	for _, conf := range []string{"a.1 b.1 c.1!", "a.1 b.1 c.1! c.2?!", "a.1 b.1 c.1! c.9?", "a.1 b.1 c.9?", "a.1 b.1 c.9",
		"a.1 b.1 d.1 c.1! e.1!", "a.1 b.1 d.1 c.1! c.2?! c.9? e.1", "a.1 b.1 c.2?! c.9?"} {
		ms, self := parse(conf), "c.9"
		steps := 0
		for ; steps < 20; steps++ {
			s := Next(self, find(ms, self) == nil, ms)
			if s.Action == None {
				break
			}
			if err := Check(s, ms); err != nil {
				t.Errorf("[%s]: %v %s: %v", conf, s.Action, s.Replica, err)
				break
			}
			switch s.Action {
			case Join:
				ms = append(ms, Member{ID: self})
			case Promote:
				find(ms, self).Voter = true
			case Remove:
				for i := range ms {
					if ms[i].ID == s.Replica {
						ms = append(ms[:i:i], ms[i+1:]...)
						break
					}
				}
			}
			if err := Others("c", ms); err != nil {
				t.Errorf("[%s]: after %v %s: %v", conf, s.Action, s.Replica, err)
			}
		}
		if me := find(ms, self); me == nil || !me.Voter || other(ms, self, true) != nil || other(ms, self, false) != nil {
			t.Errorf("[%s] ended, after %d steps, with %+v", conf, steps, ms)
		}
	}
}

func TestGrow(t *testing.T) {
	for _, c := range []struct {
		id, conf string
		wanted   int
		ok       bool
	}{
		{"b.1", "a.1 b.1?", 3, false}, // two would need both
		{"b.1", "a.1 b.1? c.1?!", 3, false},
		{"b.1", "a.1 b.1? b.2?", 3, false},
		{"b.1", "a.1 b.1? a.2?", 3, false},
		{"b.1", "a.1 b.1? c.1?", 3, true},
		{"c.1", "a.1 b.1 c.1?", 3, true},
		{"d.1", "a.1 b.1 c.1 d.1?", 3, false},
		{"d.1", "a.1 b.1 c.1 d.1?", 5, false},
		{"d.1", "a.1 b.1 c.1 d.1? e.1?", 5, true},
		{"d.1", "a.1 b.1 c.1 d.1? e.1?", 3, false},
		{"c.2", "a.1 b.1 c.2?", 3, true},      // the lost one was removed already
		{"c.2", "a.1 b.1 c.1! c.2?", 3, true}, // and here not yet
		{"b.1", "a.1 b.1?", 0, true},
		{"d.1", "a.1 b.1 c.1- d.1?", 3, true},
		{"d.1", "a.1 b.1- c.1- d.1?", 3, true},
		{"d.1", "a.1 b.1 c.1!x d.1?", 3, true},
		{"d.1", "a.1 b.1 e.1 c.1- d.1?", 3, false},
		{"c.1", "a.1 b.1 c.1?-", 3, false},
		{"b.1", "a.1 b.1? c.1?-", 3, false}, // the next one is no help
	} {
		if err := Grow(c.id, parse(c.conf), c.wanted); (err == nil) != c.ok {
			t.Errorf("%s in [%s], %d wanted: %v", c.id, c.conf, c.wanted, err)
		}
	}
}

func TestOthers(t *testing.T) {
	for conf, ok := range map[string]bool{
		"a.1 b.1 c.1!": true, "a.1 b.1 c.1": true, "a.1 b.1! c.1": false, "c.1": false, "": false,
		"a.1 b.1 c.1! c.2!": false, "a.1 b.1 d.1 c.1! e.1!": true, "a.1 b.1 b.2? c.1": true,
	} {
		if err := Others("c", parse(conf)); (err == nil) != ok {
			t.Errorf("[%s]: %v", conf, err)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		voters, agree, differ int
		want                  Verdict
	}{
		{3, 3, 0, TheOthers}, {3, 2, 1, TheOthers}, {3, 1, 2, Myself}, {3, 1, 1, Open}, {3, 1, 0, Open},
		{1, 1, 0, TheOthers}, {2, 1, 1, Open}, {4, 2, 2, Open}, {4, 1, 3, Myself}, {5, 2, 3, Myself}, {5, 3, 1, TheOthers}, {5, 2, 2, Open},
	} {
		if got := Judge(c.voters, c.agree, c.differ); got != c.want {
			t.Errorf("%d of %d agree, %d differ: %v, want %v", c.agree, c.voters, c.differ, got, c.want)
		}
	}
}
