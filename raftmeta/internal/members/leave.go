package members

import (
	"github.com/rackfs/rackfs/vfs"
)

// Fate is what the cluster map says of a replica's node.
type Fate uint8

// Fates.
const (
	Stays  Fate = iota
	Leaves      // it is being drained: it gets no vote, and gives away the one it has
	Gone        // it was removed for good, whether it is well or not
)

// tolerated is how many of n voters may fail.
func tolerated(n int) int { return (n - 1) / 2 }

// Leave is what leader does next about replicas whose nodes leave or are gone: remove one, or hand over its own leadership. None: there
// is nothing to do, or nothing that may be done, and then the error says why.
//
// A voter that leaves is removed when that does not lower how many failures the shard survives, or not below what the wanted voters (0: those
// there are) would; so another one takes its place first. One that is gone is removed as soon as the rest is a healthy majority: it needs those anyway.
func Leave(leader string, ms []Member, wanted int) (Step, error) {
	const op = "raftmeta.members"
	voters := 0
	for _, m := range ms {
		if m.Voter {
			voters++
		} else if m.Fate == Gone {
			return Step{Remove, m.ID}, nil
		}
	}
	need := tolerated(voters)
	if wanted > 0 {
		need = min(need, tolerated(wanted))
	}
	var why error
	for _, fate := range []Fate{Gone, Leaves} {
		for _, m := range ms {
			if !m.Voter || m.Fate != fate {
				continue
			}
			if err := majority(op, "without "+m.ID, ms, func(x Member) bool { return x.Voter && x.ID != m.ID }); err != nil {
				why = err
				continue
			}
			if left := tolerated(voters - 1); fate == Leaves && left < need {
				why = vfs.Errorf(vfs.KindBusy, op, "%s stays a voter for now: without it the shard would have %d voters, which survive %d failure(s), not %d: let another node with role meta join, which takes its place",
					m.ID, voters-1, left, need)
				continue
			}
			if m.ID != leader {
				return Step{Remove, m.ID}, nil
			}
			for _, to := range ms {
				if to.Voter && to.ID != leader && to.Trouble == "" && to.Fate == Stays {
					return Step{Transfer, to.ID}, nil
				}
			}
			why = vfs.Errorf(vfs.KindBusy, op, "%s leads, and no healthy voter that stays can take over", m.ID)
		}
	}
	return Step{}, why
}
