package gateway

import (
	"context"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hearUnlocks has clients of this gateway told when those of others have fewer locks, ends those of this one whose leases are over and that are in others' way, and answers which
// files are open here for reading, until ctx ends. It is about the file systems of one shard.
func (g *Gateway) hearUnlocks(ctx context.Context, shard uint16) {
	waiting, m := g.nfs.Waiting(), g.members.all[shard]
	awaited := func() (a raftmeta.Awaited) {
		files, by, changed := waiting.AwaitedLocks()
		a.Origin = m.origin()
		a.Against, a.Changed = by, changed // of other shards too, which does no harm
		for _, f := range files {
			if g.files.shardOf(uint32(f.FS)) == shard {
				a.Files = append(a.Files, &metapb.FileId{Fs: uint32(f.FS), Ino: uint64(f.Ino)})
			}
		}
		return a
	}
	g.cfg.Meta.Unlocks(ctx, shard, awaited, func(u raftmeta.Unlocked) {
		for _, id := range u.Against {
			waiting.InTheWay(ctx, id)
		}
		freed := make(map[state.File]bool, len(u.Files))
		for _, f := range u.Files {
			freed[state.File{FS: uint64(f.GetFs()), Ino: vfs.Ino(f.GetIno())}] = true
		}
		if u.All || len(freed) > 0 {
			waiting.Unlocked(func(f state.File) bool {
				return freed[f] || u.All && g.files.shardOf(uint32(f.FS)) == shard
			})
		}
	}, func(f *metapb.FileId) bool {
		v := m.volumeOf(f.GetFs())
		return v != nil && v.OpenUnrecorded(vfs.Ino(f.GetIno()))
	})
}

// othersOpen asks whether another gateway has a file open for reading, which is not recorded.
func (g *Gateway) othersOpen(ctx context.Context, fsid uint32, ino vfs.Ino) (bool, error) {
	const op = "gateway.opens elsewhere"
	shard := g.files.shardOf(fsid)
	open, all, err := g.cfg.Meta.OthersOpen(ctx, shard, g.members.all[shard].origin(), fsid, uint64(ino))
	if err == nil && !all {
		err = vfs.Errorf(vfs.KindUnavailable, op, "a gateway that is registered at shard %d does not answer", shard)
	}
	return open, err
}
