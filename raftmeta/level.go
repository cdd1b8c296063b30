package raftmeta

import (
	"context"

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
