package raftmeta

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// outlivedRounds is how many looks of a keeper there are from one question for the incarnation of the others to the next.
	outlivedRounds = 20
	// outlivedTimeout bounds the question.
	outlivedTimeout = time.Second
)

// outlived stops a replica whose state is of an earlier incarnation of the metadata than that of another node: the metadata was restored from a
// backup while this node was away, or while it ran, and its directory was left. Its voters would go on as the cluster that there was. The
// keeper then makes a new replica, as for any that is lost.
func (k *keeper) outlived(ctx context.Context, sh *shard) {
	if k.asked--; k.asked >= 0 {
		return
	}
	k.asked = outlivedRounds
	mine, err := sh.incarnation()
	if err != nil {
		return // it has applied nothing, or does not run
	}
	ctx, cancel := context.WithTimeout(ctx, outlivedTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, node := range k.s.opt.NodesFunc() {
		if node == k.s.node.Name {
			continue
		}
		wg.Go(func() {
			r := new(metapb.ShardInfoR)
			err := k.s.peers.call(ctx, node, OpInfo, &metapb.LeaderRequest{Shard: uint32(sh.id)}, r)
			if err == nil && string(r.Cluster) == string(k.s.node.Cluster) && r.Incarnation > mine {
				sh.fatal(vfs.Errorf(vfs.KindFenced, "raftmeta.keeper", "the metadata was restored from a backup: node %s has its incarnation %d, this replica is of %d", node, r.Incarnation, mine))
			}
		})
	}
	wg.Wait()
}

// incarnation is that of the replica's state.
func (sh *shard) incarnation() (uint64, error) {
	v, _, err := sh.host.View()
	if err != nil {
		return 0, err
	}
	defer v.Release()
	id, err := fsm.IdentityOf(v)
	return id.Incarnation, err
}
