package volume_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// sets counts the commands that set attributes.
func sets(c *crashing) *atomic.Int64 {
	var n atomic.Int64
	c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) {
		if cmd.GetSetAttr() != nil {
			n.Add(1)
		}
	}
	return &n
}

// TestSetAttrThatKeeps: who sets what is so already sees another ctime and change value at once, and so do all others when the lease was given back; it is a
// command of its own only if none comes after it that tells a later ctime.
func TestSetAttrThatKeeps(t *testing.T) {
	uid, gid, mode := uint32(0), uint32(0), uint32(0o600)
	keeps := map[string]vfs.SetAttr{"owner": {UID: &uid}, "owner and group": {UID: &uid, GID: &gid}, "mode": {Mode: &mode}}
	for name, set := range keeps {
		for _, then := range []string{"", "chmod", "write"} {
			t.Run(name+" "+then, func(t *testing.T) {
				c := newCrashing(t, volume.Config{AtimeInterval: time.Hour})
				commands := sets(c)
				ino := create(t, c, "f")
				attr := func(s vfs.SetAttr) vfs.Attr {
					t.Helper()
					a, err := c.SetAttr(ctx, &vfs.Root, ino, s, false)
					if err != nil {
						t.Fatal(err)
					}
					return a
				}
				attr(vfs.SetAttr{Mode: &mode, UID: &uid, GID: &gid})
				write(t, c, ino, 0, fill(10, 1), vfs.FileSync) // takes the lease
				before, err := c.GetAttr(ctx, ino)
				if err != nil {
					t.Fatal(err)
				}
				was := commands.Load()
				after := attr(set)
				if n := commands.Load(); n != was {
					t.Errorf("%d commands set what was so", n-was)
				}
				now, err := c.GetAttr(ctx, ino)
				if err != nil || now != after {
					t.Errorf("attributes are %+v, told were %+v, %v", now, after, err)
				}
				if after.Change <= before.Change || !after.Ctime.After(before.Ctime) {
					t.Errorf("change %d after %d, ctime %v after %v", after.Change, before.Change, after.Ctime, before.Ctime)
				}
				before.Change, before.Ctime = after.Change, after.Ctime
				if before != after {
					t.Errorf("attributes are %+v, want %+v", after, before)
				}
				extra := int64(1)
				switch then {
				case "chmod":
					other := uint32(0o644)
					after = attr(vfs.SetAttr{Mode: &other}) // is the one extra command
				case "write":
					write(t, c, ino, 5, fill(10, 2), vfs.FileSync)
					extra = 0
				}
				if then != "" {
					last := after
					if after, err = c.GetAttr(ctx, ino); err != nil || after.Change < last.Change || after.Ctime.Before(last.Ctime) {
						t.Errorf("change %d after %d, ctime %v after %v, %v", after.Change, last.Change, after.Ctime, last.Ctime, err)
					}
				}
				if err := c.volume().Shutdown(ctx); err != nil {
					t.Fatal(err)
				}
				if n := commands.Load() - was; n != extra {
					t.Errorf("%d commands set attributes, want %d", n, extra)
				}
				g := c.meta.gateway(t, "other")
				other := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: g, Blocks: c.blocks, Incarnation: g.incarnation})
				defer other.Abandon()
				a, err := other.GetAttr(ctx, ino)
				if err != nil || a.Change < after.Change || !a.Ctime.Equal(after.Ctime) {
					t.Errorf("another gateway is told of change %d and ctime %v, want %d and %v, %v", a.Change, a.Ctime, after.Change, after.Ctime, err)
				}
			})
		}
	}
}

// TestSetAttrThatChanges is a command at once, whatever else it sets to what it is.
func TestSetAttrThatChanges(t *testing.T) {
	c := newCrashing(t, volume.Config{AtimeInterval: time.Hour})
	commands := sets(c)
	ino := create(t, c, "f")
	write(t, c, ino, 0, fill(10, 1), vfs.FileSync)
	root, other, size := uint32(0), uint32(7), uint64(10)
	plain, setuid, more := uint32(0o755), uint32(vfs.ModeSetuid|0o755), uint32(0o777)
	for i, s := range []vfs.SetAttr{
		{UID: &other, GID: &other}, {UID: &root, GID: &root, Mode: &setuid}, // the last falls with the next one
		{UID: &root}, {Mode: &more}, {UID: &root, Mode: &plain}, {Size: &size}, {UID: &root, MtimeSet: vfs.TimeServer},
		{Mode: &plain, AtimeSet: vfs.TimeClient, Atime: time.Unix(7, 0)},
	} {
		was := commands.Load()
		if _, err := c.SetAttr(ctx, &vfs.Root, ino, s, false); err != nil {
			t.Fatal(err)
		}
		if n := commands.Load() - was; n != 1 {
			t.Errorf("%d commands for %d", n, i)
		}
	}
	if a, err := c.GetAttr(ctx, ino); err != nil || a.Mode != plain || a.UID != root || !a.Atime.Equal(time.Unix(7, 0)) {
		t.Errorf("attributes are %+v, %v", a, err)
	}
	// Who may not change them may not keep them either.
	_, err := c.SetAttr(ctx, &vfs.Cred{UID: 7, GID: 7}, ino, vfs.SetAttr{UID: &root}, false)
	want(t, vfs.KindPerm, err)
}

// TestCtimeIsLostWithTheGateway, and never comes back as something else: the change value of what happens next is above all that were shown.
func TestCtimeIsLostWithTheGateway(t *testing.T) {
	c := newCrashing(t, volume.Config{AtimeInterval: time.Hour})
	ino := create(t, c, "f")
	write(t, c, ino, 0, fill(10, 1), vfs.FileSync)
	root, mode := uint32(0), uint32(0o640)
	var shown vfs.Attr
	for range 10 {
		var err error
		if shown, err = c.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{UID: &root}, false); err != nil {
			t.Fatal(err)
		}
	}
	c.Crash()
	a, err := c.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Mode: &mode}, false)
	if err != nil || a.Change <= shown.Change || a.Mode != mode {
		t.Errorf("after a crash: %+v, %v, shown before it: change %d", a, err, shown.Change)
	}
	if got := read(t, c, ino, 0, 10); string(got) != string(fill(10, 1)) {
		t.Errorf("read %q", got)
	}
}

// TestCtimeIsToldSoon: without anything after it, too.
func TestCtimeIsToldSoon(t *testing.T) {
	c := newCrashing(t, volume.Config{AtimeInterval: time.Millisecond})
	commands := sets(c)
	ino := create(t, c, "f")
	write(t, c, ino, 0, fill(10, 1), vfs.FileSync)
	root := uint32(0)
	if _, err := c.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{UID: &root}, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the metadata is told", func() bool { return commands.Load() == 1 })
}
