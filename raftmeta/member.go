package raftmeta

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/members"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// replicaTimeout is how long a healthy replica may take to say how it is.
	replicaTimeout = 2 * time.Second
	// healthyLag is how many entries a healthy voter may be behind the leader's commit index.
	healthyLag = 4096
	// catchUpRounds and catchUpTime: a replica has caught up if so many times in a row it reached, in that
	// time, what was committed when the round began.
	catchUpRounds = 3
	catchUpTime   = 2 * time.Second
	catchUpPoll   = 10 * time.Millisecond
)

// serveReplica answers how this replica is.
func (s *Server) serveReplica(call *wire.Call) error {
	var req metapb.LeaderRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "raftmeta.replica", "%w", err)
	}
	sh, err := s.shard(req.Shard)
	if err != nil {
		return err
	}
	return answer(call, sh.describe())
}

// describe is the replica as it sees itself.
func (sh *shard) describe() *metapb.ReplicaReply {
	_, leader := sh.raft.LeaderWithID()
	h := sh.host.Status()
	r := &metapb.ReplicaReply{
		Id: sh.info.ID, Term: sh.raft.CurrentTerm(), Leader: string(leader), Last: sh.raft.LastIndex(),
		Commit: sh.raft.CommitIndex(), State: h.State, Digest: h.Digest,
		Voter: slices.Contains(sh.voters(), sh.info.ID),
	}
	if err := sh.failure(); err != nil {
		r.Failed = err.Error()
	} else if sh.raft.State() == raft.Shutdown {
		r.Failed = "it was removed from the shard"
	}
	return r
}

// askReplica asks a replica how it is. The answer must be that very replica's.
func (sh *shard) askReplica(ctx context.Context, id string) (*metapb.ReplicaReply, error) {
	if id == sh.info.ID {
		return sh.describe(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, replicaTimeout)
	defer cancel()
	r := new(metapb.ReplicaReply)
	if err := sh.s.peers.call(ctx, mux.NodeOf(id), OpReplica, &metapb.LeaderRequest{Shard: uint32(sh.id)}, r); err != nil {
		return nil, err
	}
	if r.Id != id {
		return nil, vfs.Errorf(vfs.KindNotFound, "raftmeta.replica", "node %s has replica %s now", mux.NodeOf(id), r.Id)
	}
	return r, nil
}

// trouble is why a replica is not healthy, "" if it is.
func (sh *shard) trouble(r *metapb.ReplicaReply, err error, commit uint64) string {
	switch {
	case err != nil:
		return "does not answer (" + err.Error() + ")"
	case r.Failed != "":
		return "has stopped (" + r.Failed + ")"
	case r.Leader != sh.info.ID:
		return "does not follow this leader"
	case r.Last+healthyLag < commit:
		return "is " + strconv.FormatUint(commit-r.Last, 10) + " entries behind"
	}
	return ""
}

// survey asks all replicas of the newest configuration how they are.
func (sh *shard) survey(ctx context.Context) *metapb.MemberReply {
	f := sh.raft.GetConfiguration()
	if f.Error() != nil {
		return &metapb.MemberReply{}
	}
	servers := f.Configuration().Servers
	reply := &metapb.MemberReply{
		Leader: sh.info.ID, Term: sh.raft.CurrentTerm(), Commit: sh.raft.CommitIndex(),
		Members: make([]*metapb.Member, len(servers)),
	}
	var wg sync.WaitGroup
	for i, srv := range servers {
		wg.Go(func() {
			r, err := sh.askReplica(ctx, string(srv.ID))
			reply.Members[i] = &metapb.Member{
				Id: string(srv.ID), Voter: srv.Suffrage == raft.Voter, Match: r.GetLast(), Trouble: sh.trouble(r, err, reply.Commit),
			}
		})
	}
	wg.Wait()
	return reply
}

func membersOf(r *metapb.MemberReply, fates map[string]Fate) []members.Member {
	var ms []members.Member
	for _, m := range r.Members {
		ms = append(ms, members.Member{ID: m.Id, Voter: m.Voter, Trouble: m.Trouble, Fate: fates[mux.NodeOf(m.Id)]})
	}
	return ms
}

// serveMember reports or changes the configuration of a shard that this replica leads.
func (s *Server) serveMember(ctx context.Context, call *wire.Call) error {
	const op = "raftmeta.member"
	var req metapb.MemberRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	sh, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	if req.Action == metapb.MemberAction_MEMBER_REPORT {
		// Not from a leader that was deposed and does not know: a replica gives itself up when it reads that it is no member.
		if err := l.confirm.Confirm(ctx); err != nil {
			return sh.changeError(err)
		}
		return answer(call, sh.survey(ctx))
	}
	if call.Peer.Name != mux.NodeOf(req.Replica) {
		return vfs.Errorf(vfs.KindPerm, op, "node %s may not change the membership of replica %s: a node speaks for its own replicas only", call.Peer.Name, req.Replica)
	}
	if err := sh.changeMember(ctx, req.Action, req.Replica); err != nil {
		return err
	}
	return answer(call, sh.survey(ctx))
}

// changeMember takes one step. One at a time: the next one begins when the outcome of the last one is
// known, also when its caller has left.
func (sh *shard) changeMember(ctx context.Context, action metapb.MemberAction, id string) error {
	const op = "raftmeta.member"
	select {
	case sh.changing <- struct{}{}:
	case <-ctx.Done():
		return vfs.Errorf(vfs.KindBusy, op, "another change of shard %d's voters is in progress: %w", sh.id, context.Cause(ctx))
	}
	free := sync.OnceFunc(func() { <-sh.changing })
	started := false
	defer func() {
		if !started {
			free()
		}
	}()
	// What is decided below is decided about a configuration that is committed.
	if _, _, err := sh.barrier(ctx); err != nil {
		return sh.changeError(err)
	}
	fates, err := sh.s.fates(ctx)
	if err != nil && action == memberLeaves {
		return err
	} else if err != nil {
		fates = sh.s.lastFates() // a lost replica is replaced though shard 0 stands still
	}
	ms := membersOf(sh.survey(ctx), fates)
	i := slices.IndexFunc(ms, func(m members.Member) bool { return m.ID == id })
	address := raft.ServerAddress(id)
	var change func() raft.IndexFuture
	switch action {
	case metapb.MemberAction_MEMBER_JOIN:
		if i >= 0 {
			return nil
		}
		if err := members.Check(members.Step{Action: members.Join, Replica: id}, ms); err != nil {
			return err
		}
		r, err := sh.askReplica(ctx, id)
		if err != nil {
			return vfs.Errorf(vfs.KindUnavailable, op, "%s cannot join: its node has to answer for it: %w", id, err)
		}
		if r.Last > 0 {
			return vfs.Errorf(vfs.KindFenced, op, "%s was a member of shard %d and is not any more: it does not join again; let a new replica of its node join", id, sh.id)
		}
		change = func() raft.IndexFuture { return sh.raft.AddNonvoter(raft.ServerID(id), address, 0, 0) }
	case metapb.MemberAction_MEMBER_PROMOTE:
		if err := members.Check(members.Step{Action: members.Promote, Replica: id}, ms); err != nil {
			return err
		}
		if ms[i].Voter {
			return nil
		}
		if err := members.Grow(id, ms, sh.s.opt.Voters); err != nil {
			return err
		}
		if err := sh.caughtUp(ctx, id); err != nil {
			return err
		}
		change = func() raft.IndexFuture { return sh.raft.AddVoter(raft.ServerID(id), address, 0, 0) }
	case metapb.MemberAction_MEMBER_REMOVE:
		if err := members.Check(members.Step{Action: members.Remove, Replica: id}, ms); err != nil {
			return err
		}
		if i < 0 {
			return nil
		}
		if id == sh.info.ID {
			return vfs.Errorf(vfs.KindInvalid, op, "%s leads shard %d: a leader is not removed", id, sh.id)
		}
		if ms[i].Voter {
			if err := sh.caughtUp(ctx, members.Successor(id, ms)); err != nil {
				return err
			}
		}
		change = func() raft.IndexFuture { return sh.raft.RemoveServer(raft.ServerID(id), 0, 0) }
	case memberLeaves:
		// Decided anew, for the shard may have changed while another change was waited for.
		if step, err := members.Leave(sh.info.ID, ms, sh.s.opt.Voters); step != (members.Step{Action: members.Remove, Replica: id}) {
			return err
		}
		change = func() raft.IndexFuture { return sh.raft.RemoveServer(raft.ServerID(id), 0, 0) }
	default:
		return vfs.Errorf(vfs.KindNotSupported, op, "membership action %d", action)
	}
	if sh.lead.Load() == nil {
		return sh.notLeader()
	}
	sh.log.Info("raftmeta: the shard's members change", "action", action, "replica", id)
	started = true
	return sh.changeError(sh.settle(ctx, change(), free))
}

// settle waits for f, at most until ctx ends; done is called when f is answered. Raft may leave that out when it is shut down.
func (sh *shard) settle(ctx context.Context, f raft.Future, done func()) error {
	ch := make(chan error, 1)
	go func() {
		err := f.Error()
		done()
		ch <- err
	}()
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// changeError says what an error of Raft means for who asked for a change: it may have happened, and is asked for again.
func (sh *shard) changeError(err error) error {
	if err == nil {
		return nil
	}
	if sh.raft.State() != raft.Leader {
		return sh.notLeader()
	}
	return vfs.Errorf(vfs.KindUnavailable, "raftmeta.member", "the change of shard %d's members was not confirmed: ask again: %w", sh.id, err)
}

// barrier waits until everything before it is committed and applied here. It returns an index that is committed,
// and the one of the newest entry up to it that the state machine saw.
func (sh *shard) barrier(ctx context.Context) (commit, state uint64, err error) {
	f := sh.raft.Barrier(0)
	if err := sh.settle(ctx, f, func() {}); err != nil {
		return 0, 0, err
	}
	if i, ok := f.(raft.IndexFuture); ok {
		commit = i.Index()
		sh.host.Reached(commit)
	}
	return commit, sh.host.Status().State, nil
}

// caughtUp checks that a replica keeps up with this leader: that several times in a row it soon has, in its log
// and in its state, what was committed before. Its state must not differ from this one's.
func (sh *shard) caughtUp(ctx context.Context, id string) error {
	const op = "raftmeta.member"
	for range catchUpRounds {
		commit, state, err := sh.barrier(ctx)
		if err != nil {
			return sh.changeError(err)
		}
		for end := time.Now().Add(catchUpTime); ; {
			r, err := sh.askReplica(ctx, id)
			if t := sh.trouble(r, err, 0); t != "" {
				return vfs.Errorf(vfs.KindBusy, op, "%s cannot vote yet: it %s", id, t)
			}
			if r.Last >= commit && r.State >= state {
				mine, ok := sh.host.DigestAt(r.State)
				if ok && !bytes.Equal(mine, r.Digest) {
					return vfs.Errorf(vfs.KindCorrupt, op, "the state of %s differs from the leader's at entry %d: it does not become a voter", id, r.State)
				}
				break
			}
			if time.Now().After(end) {
				return vfs.Errorf(vfs.KindBusy, op, "%s cannot vote yet: it catches up: applied %d of %d, log up to %d of %d", id, r.State, state, r.Last, commit)
			}
			if err := pause(ctx, catchUpPoll); err != nil {
				return vfs.Wrap(op, err)
			}
		}
	}
	return nil
}
