package volume_test

import (
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
	"github.com/rackfs/rackfs/volume"
)

func TestKeeper(t *testing.T) {
	vfstest.RunKeeper(t, func(t *testing.T) vfstest.Kept {
		c := newCrashing(t, volume.Config{Keep: true})
		purge := func() {
			for c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 1000}}}).GetPurge().GetMore() {
			}
		}
		return vfstest.Kept{
			FS: func() vfs.Keeper { return c.volume() },
			Restart: func() {
				c.Crash()
				purge()
			},
			Release: func(client uint64) {
				c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{client}}}})
				purge()
			},
		}
	})
}

// TestKeptConformance shows that keeping changes nothing else.
func TestKeptConformance(t *testing.T) {
	c := newCrashing(t, volume.Config{Keep: true})
	vfstest.Run(t, func(*testing.T) vfs.FS { return c })
}
