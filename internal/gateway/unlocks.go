package gateway

import (
	"context"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hearUnlocks has clients of this gateway told when those of others have fewer locks, and ends those of this one whose leases are over and that are in others' way, until ctx
// ends. It is about the file systems of one shard.
func (g *Gateway) hearUnlocks(ctx context.Context, shard uint16) {
	waiting := g.nfs.Waiting()
	awaited := func() (a raftmeta.Awaited) {
		files, by, changed := waiting.AwaitedLocks()
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
	})
}
