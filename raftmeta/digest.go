package raftmeta

import (
	"bytes"
	"context"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/members"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// compareDigests compares the state of every voter with this one's. A difference is a bug or a failing machine:
// one of them computed something else from the same log. It is counted and reported for as long as it lasts. When a
// majority of the voters agree, the one that differs is told to stop; without one, which of them is right is for an operator to say.
func (sh *shard) compareDigests(ctx context.Context) {
	type differing struct {
		id    string
		index uint64
		mine  []byte
	}
	voters := sh.voters()
	agree, differ := 1, []differing(nil)
	for _, id := range voters {
		if id == sh.info.ID {
			continue
		}
		actx, cancel := context.WithTimeout(ctx, transportTimeout)
		r, err := sh.askReplica(actx, id)
		cancel()
		if err != nil || r.Failed != "" {
			continue // it is down or has stopped; Raft knows better
		}
		mine, ok := sh.host.DigestAt(r.State)
		if !ok || len(r.Digest) == 0 {
			continue // one is behind the other, or was restarted
		}
		if bytes.Equal(mine, r.Digest) {
			agree++
			continue
		}
		differ = append(differ, differing{id, r.State, mine})
		sh.s.metrics.digestMismatch(sh.id)
		sh.log.Error("raftmeta: replicas differ", "applied", r.State, "replica", id, "digest", r.Digest, "leader", sh.info.ID, "leader_digest", mine)
	}
	switch members.Judge(len(voters), agree, len(differ)) {
	case members.TheOthers:
		for _, d := range differ {
			sh.tellDiffering(ctx, d.id, d.index, d.mine)
		}
	case members.Myself:
		sh.fatal(vfs.Errorf(vfs.KindCorrupt, "raftmeta.digest", "the state of this replica at entry %d differs from that of most voters: a bug or failing memory: report it", differ[0].index))
	}
}

// tellDiffering tells a replica that most voters have another state.
func (sh *shard) tellDiffering(ctx context.Context, id string, index uint64, digest []byte) {
	ctx, cancel := context.WithTimeout(ctx, transportTimeout)
	defer cancel()
	err := sh.s.peers.call(ctx, mux.NodeOf(id), OpDiffer, &metapb.DifferRequest{Shard: uint32(sh.id), Replica: id, Index: index, Digest: digest}, new(metapb.DifferReply))
	if err != nil {
		sh.log.Warn("raftmeta: tell a replica that it differs", "replica", id, "err", err)
	}
}

// serveDiffer stops the replica if its state at that entry is indeed another one.
func (s *Server) serveDiffer(call *wire.Call) error {
	const op = "raftmeta.digest"
	var req metapb.DifferRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	sh, err := s.shard(req.Shard)
	if err != nil {
		return err
	}
	if sh.info.ID != req.Replica {
		return vfs.Errorf(vfs.KindNotFound, op, "replica %s is not here; this one is %s", req.Replica, sh.info.ID)
	}
	if mine, ok := sh.host.DigestAt(req.Index); ok && len(req.Digest) > 0 && !bytes.Equal(mine, req.Digest) {
		sh.fatal(vfs.Errorf(vfs.KindCorrupt, op, "the state of this replica at entry %d differs from that of most voters, says node %s: a bug or failing memory: report it", req.Index, call.Peer.Name))
	}
	return answer(call, new(metapb.DifferReply))
}
