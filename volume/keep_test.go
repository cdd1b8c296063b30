package volume_test

import (
	"context"
	"fmt"
	"testing"
	"time"

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

// An open that is recorded stays recorded when an upgrade of it fails or is given up: it is still open.
func TestUpgradeThatFails(t *testing.T) {
	const both = vfs.OpenRead | vfs.OpenWrite
	for what, upgrade := range map[string]func(t *testing.T, c *crashing, ino vfs.Ino, s vfs.Share) error{
		"no answer": func(t *testing.T, c *crashing, ino vfs.Ino, s vfs.Share) error {
			c.meta.setFail(func(cmd *metapb.Command) error {
				if cmd.GetOpenFile() != nil {
					return vfs.KindUnavailable.Err("meta")
				}
				return nil
			})
			defer c.meta.setFail(nil)
			_, err := c.volume().OpenShared(t.Context(), &vfs.Root, ino, both, false, s)
			return err
		},
		"given up": func(t *testing.T, c *crashing, ino vfs.Ino, s vfs.Share) error {
			ctx, cancel := context.WithCancel(t.Context())
			gone, done := make(chan struct{}), make(chan error)
			c.meta.setFail(func(cmd *metapb.Command) error {
				if cmd.GetOpenFile() != nil {
					cancel()
					<-gone
				}
				return nil
			})
			go func() {
				_, err := c.volume().OpenShared(ctx, &vfs.Root, ino, both, false, s)
				done <- err
			}()
			err := <-done
			close(gone)
			c.meta.setFail(nil)
			return err
		},
		"given up by share": func(t *testing.T, c *crashing, ino vfs.Ino, s vfs.Share) error {
			c.meta.setFail(func(cmd *metapb.Command) error {
				if cmd.GetOpenFile() != nil {
					return vfs.KindUnavailable.Err("meta")
				}
				return nil
			})
			defer c.meta.setFail(nil)
			return c.volume().Share(t.Context(), ino, s)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrashing(t, volume.Config{Keep: true})
			s := vfs.Share{Client: 1, State: vfs.StateID{1}, Owner: []byte("o"), Access: vfs.OpenWrite}
			denier := vfs.Share{Client: 1, State: vfs.StateID{2}, Owner: []byte("p"), Access: both, Deny: both}
			create := func(name string, s vfs.Share) vfs.Ino {
				r, err := c.volume().Create(t.Context(), &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Open: s.Access, Share: &s})
				if err != nil {
					t.Fatal(err)
				}
				return r.Attr.Ino
			}
			ino, other := create("f", s), create("g", denier)
			more := s
			more.Access = both
			if err := upgrade(t, c, ino, more); err == nil {
				t.Fatal("it was upgraded")
			}
			kept := func() vfs.OpenFlags {
				// An open that is denied has what is queued done first.
				_, err := c.volume().OpenShared(t.Context(), &vfs.Root, other, vfs.OpenRead, false, vfs.Share{Client: 2, State: vfs.StateID{3}, Access: vfs.OpenRead, Deny: vfs.OpenWrite})
				if vfs.KindOf(err) != vfs.KindShareDenied {
					t.Fatal(err)
				}
				r, err := c.gw.Query(t.Context(), testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_ClientState{ClientState: &metapb.ClientStateQ{Client: 1}}})
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range r.GetClientState().GetOpens() {
					if vfs.Ino(o.Ino) == ino {
						return vfs.OpenFlags(o.Access)
					}
				}
				return 0
			}
			for range 20 { // what was given up is undone in the background
				if got := kept(); got&vfs.OpenWrite == 0 {
					t.Fatalf("kept with access %d after the upgrade failed", got)
				}
				time.Sleep(5 * time.Millisecond)
			}
			// It is not taken for done either.
			if _, err := c.volume().OpenShared(t.Context(), &vfs.Root, ino, both, false, more); err != nil {
				t.Fatal(err)
			}
			if got := kept(); got != both {
				t.Errorf("kept with access %d after the upgrade", got)
			}
			if err := c.volume().Unshare(t.Context(), ino, vfs.Closing{Share: more, Now: true}); err != nil {
				t.Fatal(err)
			}
			if got := kept(); got != 0 {
				t.Errorf("kept with access %d after the end", got)
			}
		})
	}
}

func (m *metadata) setFail(f func(*metapb.Command) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// What is noted of an open is what the metadata was told last, also when a downgrade comes while the answer to an upgrade is on its way.
func TestDowngradeDuringUpgrade(t *testing.T) {
	const both = vfs.OpenRead | vfs.OpenWrite
	c := newCrashing(t, volume.Config{Keep: true})
	s := vfs.Share{Client: 1, State: vfs.StateID{1}, Owner: []byte("o"), Access: both}
	made, err := c.volume().Create(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Open: both, Share: &s})
	if err != nil {
		t.Fatal(err)
	}
	ino := made.Attr.Ino
	less, more := s, s
	less.Access, more.Deny = vfs.OpenRead, vfs.OpenWrite
	closed, down := make(chan struct{}), make(chan error, 1)
	c.gw.mu.Lock()
	c.gw.applied = func(cmd *metapb.Command, _ *metapb.Result) {
		if cmd.GetCloseFiles() != nil {
			close(closed)
		}
	}
	c.gw.mu.Unlock()
	c.gw.answering = func(cmd *metapb.Command) {
		if cmd.GetOpenFile().GetShare().GetDeny() == 0 {
			return
		}
		go func() { down <- c.volume().Share(t.Context(), ino, less) }()
		select {
		case <-closed:
		case <-time.After(100 * time.Millisecond): // it waits for the answer
		}
	}
	if _, err := c.volume().OpenShared(t.Context(), &vfs.Root, ino, both, false, more); err != nil {
		t.Fatal(err)
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
	c.gw.answering = nil
	// As package state does when it finds that one overtook the other.
	if err := c.volume().Share(t.Context(), ino, more); err != nil {
		t.Fatal(err)
	}
	r, err := c.gw.Query(t.Context(), testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_ClientState{ClientState: &metapb.ClientStateQ{Client: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if o := r.GetClientState().GetOpens(); len(o) != 1 || vfs.OpenFlags(o[0].Deny) != vfs.OpenWrite {
		t.Fatalf("recorded %v", o)
	}
}
