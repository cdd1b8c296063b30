package raftmeta

import (
	"context"
	"math"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// NewestLevel is the newest feature level of this release.
const NewestLevel = fsm.Level

// RaiseLevel raises the feature level of a shard to level, unless it is there already, once every voter of the newest configuration
// has answered that it can apply it: a voter that cannot would stop. Only the shard's leader can (KindNotLeader);
// KindUnavailable if a voter does not answer, KindNotSupported if one is too old.
func (s *Server) RaiseLevel(ctx context.Context, shard uint16, level uint32) error {
	sh, _, err := s.leading(uint32(shard))
	if err != nil {
		return err
	}
	return sh.raise(ctx, level)
}

func (sh *shard) raise(ctx context.Context, level uint32) error {
	const op = "raftmeta.level"
	now := sh.host.Status().Level
	if now >= level {
		return nil
	}
	for _, id := range sh.voters() {
		can, err := sh.maxLevel(ctx, id)
		if err != nil {
			return vfs.Errorf(vfs.KindUnavailable, op, "shard %d stays at level %d: voter %s does not say what it can apply: %w", sh.id, now, id, err)
		}
		if can < level {
			return vfs.Errorf(vfs.KindNotSupported, op, "shard %d stays at level %d: voter %s applies up to %d, not %d: install the newer release there", sh.id, now, id, can, level)
		}
	}
	for now < level {
		now++
		r, err := sh.command(ctx, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: now}}})
		if err != nil {
			return vfs.Wrap(op, err)
		}
		if k := vfs.Kind(r.GetKind()); k != vfs.KindOK {
			return vfs.Errorf(k, op, "shard %d to level %d: %s", sh.id, now, r.GetText())
		}
	}
	sh.log.Info("raftmeta: feature level raised", "level", level)
	return nil
}

// Level is how a shard stands with its feature level.
type Level struct {
	Shard  uint16
	Leader string // replica
	Level  uint32
	Voters []VoterLevel
}

// VoterLevel is what a voter can apply.
type VoterLevel struct {
	ID      string
	Max     uint32 // 0: it does not answer
	Trouble string // why
}

// Newest is the newest level that all voters can apply; 0 if one does not answer.
func (l *Level) Newest() uint32 {
	newest := uint32(math.MaxUint32)
	for _, v := range l.Voters {
		newest = min(newest, v.Max)
	}
	if len(l.Voters) == 0 {
		return 0
	}
	return newest
}

// ShardLevel asks the leader of a shard, whichever node that is, after it raised the level to raiseTo (0: leaves it); see RaiseLevel.
func (s *Server) ShardLevel(ctx context.Context, shard uint16, raiseTo uint32) (*Level, error) {
	r := new(metapb.LevelReply)
	if err := s.askLeader(ctx, shard, OpLevel, &metapb.LevelRequest{Shard: uint32(shard), RaiseTo: raiseTo}, r); err != nil {
		return nil, err
	}
	l := &Level{Shard: shard, Leader: r.Leader, Level: r.Level}
	for _, v := range r.Voters {
		l.Voters = append(l.Voters, VoterLevel{ID: v.Id, Max: v.MaxLevel, Trouble: v.Trouble})
	}
	return l, nil
}

func (s *Server) serveLevel(ctx context.Context, call *wire.Call) error {
	var req metapb.LevelRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "raftmeta.level", "%w", err)
	}
	sh, _, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	if req.RaiseTo > 0 {
		if err := sh.raise(ctx, req.RaiseTo); err != nil {
			return err
		}
	}
	reply := &metapb.LevelReply{Leader: sh.info.ID, Level: sh.host.Status().Level}
	for _, id := range sh.voters() {
		v := &metapb.VoterLevel{Id: id}
		if can, err := sh.maxLevel(ctx, id); err != nil {
			v.Trouble = err.Error()
		} else {
			v.MaxLevel = can
		}
		reply.Voters = append(reply.Voters, v)
	}
	return answer(call, reply)
}

// keepRaising raises a leader's shard to Options.Level as soon as all voters can, until ctx ends. One that is away, or of an older
// release, is waited for, however long: nothing but the newer behaviour depends on it.
func (sh *shard) keepRaising(ctx context.Context) {
	want, told := sh.s.opt.Level, ""
	for sh.host.Status().Level < want {
		switch err := sh.raise(ctx, want); {
		case err == nil || ctx.Err() != nil:
		case err.Error() != told:
			told = err.Error()
			sh.log.Warn("raftmeta: the feature level will be raised as soon as every voter can", "level", want, "err", err)
		}
		if pause(ctx, sh.s.opt.CheckInterval) != nil {
			return
		}
	}
}

// maxLevel asks a voter for the newest level that it can apply.
func (sh *shard) maxLevel(ctx context.Context, voter string) (uint32, error) {
	if voter == sh.info.ID {
		return sh.s.opt.MaxLevel, nil
	}
	ctx, cancel := context.WithTimeout(ctx, transportTimeout)
	defer cancel()
	var info metapb.ShardInfoR
	err := sh.s.peers.call(ctx, mux.NodeOf(voter), OpInfo, &metapb.LeaderRequest{Shard: uint32(sh.id)}, &info)
	return max(info.MaxLevel, 1), err
}
