package volume

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Stage implements vfs.Stager.
func (v *Volume) Stage(ctx context.Context, project uint32) error {
	_, err := v.cfg.Meta.Apply(ctx, v.cfg.Shard, &metapb.Command{Fs: v.cfg.FS, Op: &metapb.Command_MakeStaging{MakeStaging: &metapb.MakeStaging{Project: project}}})
	return vfs.Wrap("stage", err)
}
