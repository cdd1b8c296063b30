package raftmeta

import (
	"cmp"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
)

// ShardStatus is the state of one replica as it sees itself.
type ShardStatus struct {
	Shard      uint16
	Replica    string // own id
	Role       string // Leader, Follower, Candidate, Shutdown
	Serving    bool   // leads, and has committed a barrier in its term
	Leader     string // id of the leader it knows; "" if none
	LeaderNode string
	Voters     []string // ids, of the newest configuration
	Term       uint64
	Commit     uint64         // Raft index
	Target     uint64         // commit index of the leader, when it is known and above Commit; else Commit
	Applied    uint64         // Raft index up to which the state machine has everything
	State      uint64         // Raft index of the newest entry the state machine applied
	Digest     []byte         // of the state at State
	Level      uint32         // feature level
	MaxLevel   uint32         // the newest feature level that this voter can apply
	ReadRounds uint64         // term-confirm rounds since it took office
	Purge      Work           // of a leader: extents, slots and the like that are void already
	Reap       Work           // of a leader: blocks that no file uses any more
	Lingering  int            // of a leader: gateways that were ended, for which files without names are held
	Tasks      []ledger.Entry // of a leader: background work of others that runs or waits
	Pieces     PieceStatus    // of a leader: the search for parts of files that somebody should fold
	Err        string         // why the replica stopped; "" while it runs

	Member  Membership
	Keeping string // what is done about a replica that does not vote, or is waited for; "" if nothing
}

// Membership is what a replica is to its shard.
type Membership string

// Memberships.
const (
	Voter    Membership = "voter"
	NonVoter Membership = "non-voter" // it catches up: compare Applied with Target
	NoMember Membership = "no member" // not yet, or not any more
	Lost     Membership = "lost"      // it is not there, damaged, or stopped by itself
)

// Status reports all replicas of the server, by shard.
func (s *Server) Status() []ShardStatus {
	var all []ShardStatus
	for _, sh := range s.all() {
		_, leader := sh.raft.LeaderWithID()
		h := sh.host.Status()
		st := ShardStatus{
			Shard: sh.id, Replica: sh.info.ID, Role: sh.raft.State().String(),
			Leader: string(leader), LeaderNode: mux.NodeOf(string(leader)), Voters: sh.voters(),
			Term: sh.raft.CurrentTerm(), Commit: sh.raft.CommitIndex(),
			Applied: h.Applied, State: h.State, Digest: h.Digest, Level: h.Level, MaxLevel: s.opt.MaxLevel,
		}
		st.Target = max(st.Commit, sh.target.Load())
		st.Member = sh.membership()
		if err := sh.failure(); err != nil {
			st.Err, st.Member = err.Error(), Lost
		}
		if l := sh.lead.Load(); l != nil {
			st.Serving, st.ReadRounds = true, l.confirm.Rounds()
			now := s.opt.Monotonic()
			st.Purge, st.Reap = l.purge.status(now), l.reap.status(now)
			st.Lingering = l.leases.lingering()
			st.Tasks, st.Pieces = l.work.list(now), l.work.pieces.status()
		}
		all = append(all, st)
	}
	s.mu.RLock()
	for id, err := range s.broken {
		all = append(all, ShardStatus{Shard: id, Role: raft.Shutdown.String(), Err: err.Error(), Member: Lost})
	}
	for i := range all {
		all[i].Keeping = s.keeping[all[i].Shard]
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b ShardStatus) int { return cmp.Compare(a.Shard, b.Shard) })
	return all
}

// membership is the replica's by the newest configuration that it knows.
func (sh *shard) membership() Membership {
	f := sh.raft.GetConfiguration()
	if f.Error() != nil {
		return NoMember
	}
	for _, s := range f.Configuration().Servers {
		if string(s.ID) == sh.info.ID {
			if s.Suffrage == raft.Voter {
				return Voter
			}
			return NonVoter
		}
	}
	return NoMember
}
