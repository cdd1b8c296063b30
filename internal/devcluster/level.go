package devcluster

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// levelPatience is how long a start waits for voters to say which feature level they can apply.
	levelPatience = 5 * time.Second
	levelPause    = 50 * time.Millisecond
)

// raiseLevels raises both shards to the newest feature level of this release. With a voter missing they stay
// as they are, and serve: one that comes back may be of an older release. Their leaders raise them when all voters can.
func (c *Cluster) raiseLevels(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, levelPatience)
	defer cancel()
	for _, shard := range []uint16{clusterShard, namespaceShard} {
		if err := c.voters.raiseLevel(ctx, shard, raftmeta.NewestLevel); err != nil {
			c.log.Warn("the metadata stays at its feature level until all voters can apply a newer one; what needs that (the end of unused blocks, repair) does not run",
				"shard", shard, "err", err)
		}
	}
}

// raiseLevel asks the shard's leader until it is clear whether all voters can.
func (v *voters) raiseLevel(ctx context.Context, shard uint16, level uint32) error {
	for {
		var down error
		var err error = vfs.Errorf(vfs.KindNotLeader, "raise level", "shard %d has no leader", shard)
		for i := range v.all {
			s := v.all[i].server
			if s == nil {
				down = vfs.Errorf(vfs.KindUnavailable, "raise level", "voter %s does not run: %w", v.all[i].name, v.all[i].err)
				continue
			}
			e := s.RaiseLevel(ctx, shard, level)
			if e == nil {
				return nil
			}
			if vfs.KindOf(e) != vfs.KindNotLeader {
				err = e
			}
		}
		switch vfs.KindOf(err) {
		case vfs.KindNotSupported:
			return err
		case vfs.KindUnavailable: // the leader needs every voter, unless the level is that already
			if down != nil {
				return down
			}
		}
		select {
		case <-time.After(levelPause):
		case <-ctx.Done():
			return err
		}
	}
}
