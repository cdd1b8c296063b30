package upkeep

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// accept makes the store one of the metadata's incarnation, if that is a later one, of the same cluster, and an operator allowed
// deletion for it. Then what it does not know is collected.
func (k *Keeper) accept(ctx context.Context) error {
	r, err := k.query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	if err != nil {
		return vfs.Wrap("upkeep.accept", err)
	}
	i, mine := r.GetShardInfo(), k.o.Store.Info()
	if string(i.GetCluster()) != string(mine.Cluster[:]) || i.GetShard() != clusterShard ||
		i.GetIncarnation() <= mine.MetadataIncarnation || i.GetDeletionIncarnation() != i.GetIncarnation() {
		return nil
	}
	if err := k.o.Store.Adopt(i.Incarnation); err != nil {
		return vfs.Wrap("upkeep.accept", err)
	}
	k.log.Warn("upkeep: an operator allowed deletion: the store accepts the restored metadata, and deletes what it does not know",
		"store", k.o.ID, "incarnation", i.Incarnation, "before", mine.MetadataIncarnation)
	select {
	case k.accepted <- struct{}{}:
	default:
	}
	return nil
}
