package volume_test

import (
	"context"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// What is opened while a rename over it, or its removal, is under way is readable until it is closed, or is not open at all. The open begins after
// the other asked which files are open here, and is answered by the metadata before the other is.
func TestOpenDuringUnlink(t *testing.T) {
	for name, unlink := range map[string]func(context.Context, *crashing) error{
		"rename": func(ctx context.Context, c *crashing) error {
			_, _, err := c.Rename(ctx, &vfs.Root, vfs.RootIno, "new", vfs.RootIno, "f")
			return err
		},
		"remove": func(ctx context.Context, c *crashing) error {
			_, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny)
			return err
		},
	} {
		for _, x := range []struct {
			what            string
			keep, elsewhere bool // elsewhere: an open of another client is recorded, which ends later
		}{{"no records", false, false}, {"records", true, false}, {"recorded for another", true, true}} {
			t.Run(name+"/"+x.what, func(t *testing.T) {
				ctx := t.Context()
				c := newCrashing(t, volume.Config{Keep: x.keep})
				mode := uint32(0o644)
				for _, n := range []string{"f", "new"} {
					if _, err := c.Create(ctx, &vfs.Root, vfs.RootIno, n, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}}); err != nil {
						t.Fatal(err)
					}
				}
				a, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f")
				if err != nil {
					t.Fatal(err)
				}
				if x.elsewhere {
					if _, err := c.meta.gateway(t, "other").Apply(ctx, testShard, &metapb.Command{Fs: testFS, Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{
						Ino: uint64(a.Ino), Share: &metapb.ClientOpen{Client: 2, Stateid: make([]byte, 12), Access: uint32(vfs.OpenRead)},
					}}}); err != nil {
						t.Fatal(err)
					}
				}
				asked, go_ := make(chan struct{}), make(chan struct{})
				c.gw.asking = func(cmd *metapb.Command) {
					if cmd.GetRename() != nil || cmd.GetRemove() != nil {
						close(asked)
						<-go_
					}
				}
				seen := make(chan struct{}, 100)
				c.gw.told = func(q *metapb.Query) {
					if q.GetGetAttr().GetOpen() != 0 {
						seen <- struct{}{}
					}
				}
				unlinked, opened := make(chan error, 1), make(chan error, 1)
				go func() { unlinked <- unlink(ctx, c) }()
				<-asked
				go func() {
					var err error
					if x.keep {
						s := vfs.Share{Client: 1, State: vfs.StateID{1}, Owner: []byte("o"), Access: vfs.OpenRead}
						_, err = c.volume().OpenShared(ctx, &vfs.Root, a.Ino, vfs.OpenRead, false, s)
					} else {
						_, err = c.Open(ctx, &vfs.Root, a.Ino, vfs.OpenRead, false)
					}
					opened <- err
				}()
				<-seen
				close(go_)
				if err := <-unlinked; err != nil {
					t.Fatal(err)
				}
				err = <-opened
				if x.elsewhere {
					c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{2}}}})
					for c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 1000}}}).GetPurge().GetMore() {
					}
				}
				switch vfs.KindOf(err) {
				case vfs.KindStale:
					if r, w := c.volume().Opens(a.Ino); r+w != 0 {
						t.Errorf("the open failed and is counted: %d, %d", r, w)
					}
				case vfs.KindOK:
					if _, _, err := c.Read(ctx, a.Ino, 0, make([]byte, 1)); err != nil {
						t.Errorf("a file that is open: %v", err)
					}
					if _, err := c.GetAttr(ctx, a.Ino); err != nil {
						t.Errorf("a file that is open: %v", err)
					}
				default:
					t.Error(err)
				}
			})
		}
	}
}

// What a removal recorded of an open that was closed meanwhile ends.
func TestCloseDuringUnlink(t *testing.T) {
	ctx := t.Context()
	c := newCrashing(t, volume.Config{Keep: true})
	made, err := c.Create(ctx, &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{})
	if err != nil {
		t.Fatal(err)
	}
	s := vfs.Share{Client: 1, State: vfs.StateID{1}, Owner: []byte("o"), Access: vfs.OpenRead}
	if _, err := c.volume().OpenShared(ctx, &vfs.Root, made.Attr.Ino, vfs.OpenRead, false, s); err != nil {
		t.Fatal(err)
	}
	c.gw.asking = func(cmd *metapb.Command) {
		if cmd.GetRemove() == nil {
			return
		}
		if err := c.volume().Unshare(ctx, made.Attr.Ino, vfs.Closing{Share: s}); err != nil {
			t.Error(err)
		}
		if err := c.Close(ctx, made.Attr.Ino, vfs.OpenRead); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	if err := c.volume().Shutdown(ctx); err != nil { // writes down what is to be closed
		t.Fatal(err)
	}
	c.start()
	if opens, _, err := c.volume().Resume(ctx, 1); err != nil || len(opens) != 0 {
		t.Errorf("still open: %v, %v", opens, err)
	}
}
