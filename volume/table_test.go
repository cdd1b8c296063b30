package volume_test

import (
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// TestTableIsBounded: leases of files that nobody uses go back when there are
// many, and the files that are open stay as they are.
func TestTableIsBounded(t *testing.T) {
	const limit, files = 50, 1000
	c := newCrashing(t, volume.Config{InodeLimit: limit})
	released := 0
	c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) {
		if cmd.GetReleaseLease() != nil {
			released++
		}
	}
	open := create(t, c, "open")
	if _, err := c.Open(ctx, &vfs.Root, open, vfs.OpenWrite, false); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		f := create(t, c, fmt.Sprint(i))
		write(t, c, f, 0, fill(10, byte(i)), vfs.FileSync)
	}
	eventually(t, "leases are given back", func() bool {
		c.meta.mu.Lock()
		defer c.meta.mu.Unlock()
		return released >= files-limit
	})
	if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "open", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	write(t, c, open, 0, fill(10, 7), vfs.FileSync)
	if err := c.volume().Close(ctx, open, vfs.OpenWrite); err != nil {
		t.Fatal(err)
	}
	_, err := c.GetAttr(ctx, open)
	want(t, vfs.KindStale, err)
}
