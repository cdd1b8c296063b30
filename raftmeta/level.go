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
	const op = "raftmeta.level"
	sh, err := s.shard(uint32(shard))
	if err != nil {
		return err
	}
	if sh.lead.Load() == nil {
		return sh.notLeader()
	}
	now := sh.host.Status().Level
	if now >= level {
		return nil
	}
	for _, id := range sh.voters() {
		can, err := sh.maxLevel(ctx, id)
		if err != nil {
			return vfs.Errorf(vfs.KindUnavailable, op, "shard %d stays at level %d: voter %s does not say what it can apply: %w", shard, now, id, err)
		}
		if can < level {
			return vfs.Errorf(vfs.KindNotSupported, op, "shard %d stays at level %d: voter %s applies up to %d, not %d: install the newer release there", shard, now, id, can, level)
		}
	}
	for now < level {
		now++
		r, err := sh.command(ctx, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: now}}})
		if err != nil {
			return vfs.Wrap(op, err)
		}
		if k := vfs.Kind(r.GetKind()); k != vfs.KindOK {
			return vfs.Errorf(k, op, "shard %d to level %d: %s", shard, now, r.GetText())
		}
	}
	sh.log.Info("raftmeta: feature level raised", "level", level)
	return nil
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
