package volume_test

import (
	"fmt"
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

// Read-only opens of a file that loses its last name are recorded: by the command that takes it if they are few, else after it.
func TestUnlinkRecordsOpens(t *testing.T) {
	for _, opens := range []int{1, 40} {
		c := newCrashing(t, volume.Config{Keep: true})
		ctx := t.Context()
		mode := uint32(0o644)
		made, err := c.Create(ctx, &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}})
		if err != nil {
			t.Fatal(err)
		}
		ino := made.Attr.Ino
		commands := map[string]int{}
		c.meta.mu.Lock()
		c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) { commands[fmt.Sprintf("%T", cmd.Op)]++ }
		c.meta.mu.Unlock()
		for i := range opens {
			s := vfs.Share{Client: 1, State: vfs.StateID{1, byte(i)}, Owner: []byte{byte(i)}, Access: vfs.OpenRead}
			if _, err := c.volume().OpenShared(ctx, &vfs.Root, ino, vfs.OpenRead, false, s); err != nil {
				t.Fatal(err)
			}
		}
		if len(commands) != 0 {
			t.Errorf("%d opens for reading cost %v", opens, commands)
		}
		if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
		c.meta.mu.Lock()
		if n := commands["*metapb.Command_OpenFile"]; opens == 1 && n != 0 || opens == 40 && n != opens {
			t.Errorf("the unlink of a file with %d opens cost %v", opens, commands)
		}
		c.meta.applied = nil
		c.meta.mu.Unlock()
		c.Crash()
		kept, _, err := c.volume().Resume(ctx, 1)
		if err != nil || len(kept) != opens {
			t.Errorf("%d of %d opens are kept, %v", len(kept), opens, err)
		}
	}
}

// An OPEN for writing is one command, which takes the lease too, and what was closed is known to the metadata after a clean end.
func TestCommandsOfOpens(t *testing.T) {
	c := newCrashing(t, volume.Config{Keep: true})
	ctx := t.Context()
	commands := map[string]int{}
	c.meta.mu.Lock()
	c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) { commands[fmt.Sprintf("%T", cmd.Op)]++ }
	c.meta.mu.Unlock()
	const files = 20
	share := func(i, n int) vfs.Share {
		return vfs.Share{Client: 1, State: vfs.StateID{1, byte(i), byte(n)}, Owner: []byte("o"), Access: vfs.OpenWrite}
	}
	for i := range files {
		s := share(i, 0)
		made, err := c.Create(ctx, &vfs.Root, vfs.RootIno, fmt.Sprint(i), vfs.CreateArgs{Open: vfs.OpenWrite, Share: &s})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			end := share(i, n)
			if n > 0 {
				if _, err := c.volume().OpenShared(ctx, &vfs.Root, made.Attr.Ino, vfs.OpenWrite, false, end); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.volume().Unshare(ctx, made.Attr.Ino, vfs.Closing{Share: end}); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(ctx, made.Attr.Ino, vfs.OpenWrite); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	c.meta.mu.Lock()
	if commands["*metapb.Command_Create"] != files || commands["*metapb.Command_OpenFile"] != files ||
		commands["*metapb.Command_AcquireLease"] != 0 || commands["*metapb.Command_CloseFiles"] == 0 {
		t.Errorf("%v", commands)
	}
	c.meta.mu.Unlock()
	c.start()
	opens, _, err := c.volume().Resume(ctx, 1)
	if err != nil || len(opens) != 0 {
		t.Errorf("still open: %+v, %v", opens, err)
	}
}
