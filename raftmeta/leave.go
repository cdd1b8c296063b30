package raftmeta

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/internal/members"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// leavePause is how often a leader looks for voters whose nodes leave.
	leavePause = 2 * time.Second
	// fatesTimeout bounds the question which do.
	fatesTimeout = 5 * time.Second
)

// Fate is what becomes of a node; see [Options.Fates].
type Fate = members.Fate

// Fates.
const (
	Stays  = members.Stays
	Leaves = members.Leaves
	Gone   = members.Gone
)

// fates asks what becomes of the nodes.
func (s *Server) fates(ctx context.Context) (map[string]Fate, error) {
	if s.opt.Fates == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fatesTimeout)
	defer cancel()
	f, err := s.opt.Fates(ctx)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, "raftmeta.fates", "it is not known which nodes leave: %w", err)
	}
	s.mu.Lock()
	s.fated = f
	s.mu.Unlock()
	return f, nil
}

// lastFates is what was heard last.
func (s *Server) lastFates() map[string]Fate {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fated
}

// keepLeaving removes the replicas of nodes that leave, as leader, until ctx ends. What is decided is decided on what shard 0 says then.
func (sh *shard) keepLeaving(ctx context.Context) {
	if sh.s.opt.Fates == nil {
		return
	}
	told := ""
	for ctx.Err() == nil {
		again, err := sh.leave(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			sh.log.Warn("raftmeta: a replica of a node that leaves stays in the shard for now", "err", err)
		}
		if again {
			continue
		}
		if pause(ctx, min(leavePause, sh.s.opt.CheckInterval)) != nil {
			return
		}
	}
}

// leave takes one step of members.Leave.
func (sh *shard) leave(ctx context.Context) (again bool, err error) {
	fates, err := sh.s.fates(ctx)
	if err != nil || len(fates) == 0 {
		return false, err
	}
	ms := membersOf(sh.survey(ctx), fates)
	step, err := members.Leave(sh.info.ID, ms, sh.s.opt.Voters)
	switch step.Action {
	case members.Transfer:
		sh.log.Info("raftmeta: this node leaves and hands the shard over", "to", step.Replica)
		return false, vfs.Wrap("raftmeta.leave", sh.raft.LeadershipTransferToServer(raft.ServerID(step.Replica), raft.ServerAddress(step.Replica)).Error())
	case members.Remove:
		return true, sh.changeMember(ctx, memberLeaves, step.Replica)
	}
	return false, err
}

// memberLeaves is what changeMember does for a leader by itself: nobody asks for it.
const memberLeaves metapb.MemberAction = -1
