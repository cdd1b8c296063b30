package members

import (
	"strings"

	"github.com/rackfs/rackfs/vfs"
)

// Member is a replica in a shard's configuration, as the leader sees it.
type Member struct {
	ID      string // NODE.RANDOM
	Voter   bool
	Trouble string // why it is not healthy; "" if it is
	Fate    Fate   // of its node
}

// Action is one step.
type Action int

// Steps.
const (
	None       Action = iota // nothing to do: it votes, and alone on its node
	Join                     // become a non-voter
	Promote                  // become a voter
	Remove                   // remove another replica of the node
	Superseded               // it must not join: a new replica has to
	Transfer                 // hand the leadership over to it
)

// String implements fmt.Stringer.
func (a Action) String() string {
	return [...]string{"nothing", "join", "become a voter", "remove the lost replica", "superseded", "hand over the leadership"}[a]
}

// Step is what a replica asks the leader for.
type Step struct {
	Action  Action
	Replica string // whom it is about
}

// node is the first part of a replica's id.
func node(id string) string {
	if i := strings.LastIndexByte(id, '.'); i >= 0 {
		return id[:i]
	}
	return id
}

func find(ms []Member, id string) *Member {
	for i := range ms {
		if ms[i].ID == id {
			return &ms[i]
		}
	}
	return nil
}

// other is a replica of self's node, but not self, with that suffrage; nil if there is none.
func other(ms []Member, self string, voter bool) *Member {
	for i := range ms {
		if m := &ms[i]; m.ID != self && node(m.ID) == node(self) && m.Voter == voter {
			return m
		}
	}
	return nil
}

// Next is what replica self has to ask for. fresh says that it has no log: it was never in any configuration.
func Next(self string, fresh bool, ms []Member) Step {
	me := find(ms, self)
	if me == nil && !fresh {
		return Step{Superseded, self}
	}
	if left := other(ms, self, false); left != nil {
		return Step{Remove, left.ID}
	}
	if me == nil {
		return Step{Join, self}
	}
	if lost := other(ms, self, true); lost != nil {
		return Step{Remove, lost.ID}
	}
	if !me.Voter {
		return Step{Promote, self}
	}
	return Step{None, self}
}

// Successor is the healthy replica that takes the place of another of its node; "" if there is none.
func Successor(lost string, ms []Member) string {
	for _, m := range ms {
		if m.ID != lost && node(m.ID) == node(lost) && m.Trouble == "" {
			return m.ID
		}
	}
	return ""
}

// Check refuses a step that would leave the shard without a healthy majority, or that is out of turn. A step that
// was taken already is allowed: it changes nothing.
func Check(s Step, ms []Member) error {
	const op = "raftmeta.members"
	m := find(ms, s.Replica)
	switch s.Action {
	case Join:
		return nil
	case Promote:
		if m == nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%s is no member: it has to join first", s.Replica)
		}
		if m.Voter {
			return nil
		}
		if m.Trouble != "" {
			return vfs.Errorf(vfs.KindBusy, op, "%s cannot vote yet: it %s", s.Replica, m.Trouble)
		}
		return majority(op, "if "+s.Replica+" became a voter", ms, func(x Member) bool { return x.Voter || x.ID == s.Replica })
	case Remove:
		if m == nil || !m.Voter {
			return nil
		}
		if Successor(s.Replica, ms) == "" {
			return vfs.Errorf(vfs.KindBusy, op, "%s stays a voter: no other healthy replica of its node can take its place", s.Replica)
		}
		return majority(op, "without "+s.Replica, ms, func(x Member) bool { return x.Voter && x.ID != s.Replica })
	}
	return vfs.Errorf(vfs.KindInvalid, op, "unknown step %d", int(s.Action))
}

// Grow refuses to make replica id a voter if its node has none yet and the shard has wanted voters (0: any number is), or is to have an even
// number of them for longer than the next one takes: two voters need both, so that they survive less than one does. An odd shard grows
// when the one after is healthy too. The place of a voter that was lost is never refused. Voters whose nodes leave are not counted: one that takes
// the place of such a one comes at once. A node that leaves itself gets no vote.
func Grow(id string, ms []Member, wanted int) error {
	const op = "raftmeta.members"
	if me := find(ms, id); me != nil && me.Fate != Stays {
		return vfs.Errorf(vfs.KindBusy, op, "%s stands by: its node is leaving", id)
	}
	if wanted <= 0 || other(ms, id, true) != nil {
		return nil
	}
	voters, leaving, next := 0, 0, false
	for _, m := range ms {
		switch {
		case m.Voter && m.Fate != Stays:
			leaving++
		case m.Voter:
			voters++
		case m.Trouble == "" && m.Fate == Stays && node(m.ID) != node(id) && other(ms, m.ID, true) == nil:
			next = true
		}
	}
	switch {
	case leaving > 0 && voters < wanted:
		return nil
	case voters >= wanted:
		return vfs.Errorf(vfs.KindBusy, op, "%s stands by: the shard has %d voters, as many as it is to have", id, voters)
	case voters%2 == 1 && !next:
		return vfs.Errorf(vfs.KindBusy, op, "%s stands by until one more metadata node has caught up: %d voters survive no more than %d do", id, voters+1, voters)
	}
	return nil
}

// Others reports whether the shard serves without the replicas of a node: whether the others are a healthy
// majority of its voters. Only then is what the node has given up for a new replica.
func Others(name string, ms []Member) error {
	voters, healthy := 0, 0
	var troubles []string
	for _, m := range ms {
		if !m.Voter {
			continue
		}
		voters++
		switch {
		case node(m.ID) == name:
		case m.Trouble == "":
			healthy++
		default:
			troubles = append(troubles, m.ID+" "+m.Trouble)
		}
	}
	if voters == 0 || healthy < voters/2+1 {
		return short("raftmeta.members", "without node "+name, healthy, voters, troubles)
	}
	return nil
}

// majority checks that most of the voters that would be are healthy.
func majority(op, when string, ms []Member, voter func(Member) bool) error {
	voters, healthy := 0, 0
	var troubles []string
	for _, m := range ms {
		if !voter(m) {
			continue
		}
		voters++
		if m.Trouble == "" {
			healthy++
		} else {
			troubles = append(troubles, m.ID+" "+m.Trouble)
		}
	}
	if healthy >= voters/2+1 {
		return nil
	}
	return short(op, when, healthy, voters, troubles)
}

func short(op, when string, healthy, voters int, troubles []string) error {
	text := ""
	if len(troubles) > 0 {
		text = ": " + strings.Join(troubles, "; ")
	}
	return vfs.Errorf(vfs.KindUnavailable, op, "%s only %d of %d voters would be healthy, and %d are needed: bring the others back first%s", when, healthy, voters, voters/2+1, text)
}

// Verdict is who is wrong when states differ.
type Verdict int

// Verdicts.
const (
	Open      Verdict = iota // no majority agrees: an operator has to say
	TheOthers                // those that differ from this replica
	Myself
)

// Judge says who is wrong when of so many voters agree have the state of this one, itself included, and differ have another.
// The rest could not be compared.
func Judge(voters, agree, differ int) Verdict {
	switch majority := voters/2 + 1; {
	case agree >= majority:
		return TheOthers
	case differ >= majority:
		return Myself
	}
	return Open
}
