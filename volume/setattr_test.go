package volume_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// ticking is a file system whose gateway's clock stands at a time after the ctime of a file that it has the lease of.
type ticking struct {
	*crashing
	ino  vfs.Ino
	now  atomic.Int64 // ns; 0: what it is
	sets atomic.Int64 // commands that set attributes
}

func newTicking(t *testing.T) *ticking {
	x := &ticking{}
	x.crashing = newCrashing(t, volume.Config{AtimeInterval: time.Hour, Now: func() time.Time {
		if ns := x.now.Load(); ns != 0 {
			return time.Unix(0, ns)
		}
		return time.Now()
	}})
	x.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) {
		if cmd.GetSetAttr() != nil {
			x.sets.Add(1)
		}
	}
	x.ino = create(t, x, "f")
	write(t, x, x.ino, 0, fill(10, 1), vfs.FileSync)
	return x
}

// attr are the attributes now.
func (x *ticking) attr(t *testing.T) vfs.Attr {
	t.Helper()
	a, err := x.GetAttr(ctx, x.ino)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// after sets s as c at a time after ctime, and returns how many commands that was.
func (x *ticking) after(t *testing.T, since time.Duration, c *vfs.Cred, s vfs.SetAttr) (int64, vfs.Attr) {
	t.Helper()
	was := x.sets.Load()
	x.now.Store(x.attr(t).Ctime.Add(since).UnixNano())
	defer x.now.Store(0)
	a, err := x.SetAttr(ctx, c, x.ino, s, false)
	if err != nil {
		t.Fatal(err)
	}
	return x.sets.Load() - was, a
}

func ptr(n uint32) *uint32 { return &n }

// TestSetAttrInTick: what sets that which is so already is a command, and moves ctime and change value, unless ctime is of less than 10 ms ago: then nothing
// happens that anybody could see.
func TestSetAttrInTick(t *testing.T) {
	alice := &vfs.Cred{UID: 7, GID: 8}
	for name, s := range map[string]vfs.SetAttr{
		"owner": {UID: ptr(7)}, "group": {GID: ptr(8)}, "mode": {Mode: ptr(0o640)}, "all": {UID: ptr(7), GID: ptr(8), Mode: ptr(0o640)},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTicking(t)
			x.after(t, time.Hour, &vfs.Root, vfs.SetAttr{UID: ptr(7), GID: ptr(8), Mode: ptr(0o640)})
			for _, c := range []*vfs.Cred{&vfs.Root, alice} {
				for since, commands := range map[time.Duration]int64{
					0: 0, volume.CtimeTick - 1: 0, volume.CtimeTick: 1, time.Hour: 1, -1: 1, -time.Hour: 1, // a clock that was set back says nothing
				} {
					write(t, x, x.ino, 0, fill(10, 1), vfs.FileSync) // it has the lease, whatever the clock did to that
					before := x.attr(t)
					n, told := x.after(t, since, c, s)
					after := x.attr(t)
					if n != commands {
						t.Errorf("%v after ctime, user %d: %d commands, want %d", since, c.UID, n, commands)
					}
					if told != after {
						t.Errorf("%v after ctime it tells %+v, attributes are %+v", since, told, after)
					}
					if moved := after.Change > before.Change && after.Ctime.After(before.Ctime); moved != (commands == 1) {
						t.Errorf("%v after ctime: from %+v to %+v", since, before, after)
					}
					if before.Change, before.Ctime = after.Change, after.Ctime; before != after {
						t.Errorf("%v after ctime: attributes are %+v, were %+v", since, after, before)
					}
				}
			}
		})
	}
}

// TestSetAttrThatChanges is a command at once, whatever else it sets to what it is and however short after ctime.
func TestSetAttrThatChanges(t *testing.T) {
	x := newTicking(t)
	size := uint64(10)
	plain := ptr(0o755)
	for i, s := range []vfs.SetAttr{
		{UID: ptr(7)}, {GID: ptr(7)}, {UID: ptr(0), GID: ptr(0), Mode: ptr(vfs.ModeSetuid | 0o755)},
		{UID: ptr(0)}, // setuid falls
		{Mode: ptr(0o777)}, {UID: ptr(0), Mode: plain}, {Size: &size}, {UID: ptr(0), MtimeSet: vfs.TimeServer},
		{Mode: plain, AtimeSet: vfs.TimeClient, Atime: time.Unix(7, 0)},
	} {
		if n, _ := x.after(t, 0, &vfs.Root, s); n != 1 {
			t.Errorf("%d: %d commands", i, n)
		}
	}
	if a := x.attr(t); a.Mode != *plain || a.UID != 0 || a.GID != 0 || a.Size != size || !a.Atime.Equal(time.Unix(7, 0)) {
		t.Errorf("attributes are %+v", a)
	}
	// Who may not change them may not keep them either.
	x.now.Store(x.attr(t).Ctime.UnixNano())
	_, err := x.SetAttr(ctx, &vfs.Cred{UID: 7, GID: 7}, x.ino, vfs.SetAttr{UID: ptr(0)}, false)
	want(t, vfs.KindPerm, err)
}

// TestSetAttrKeepsWhatIsDurable: a mode that is so only here, as a write that is not durable yet took setuid away, is told to the metadata by whoever sets it: it
// is so after a crash.
func TestSetAttrKeepsWhatIsDurable(t *testing.T) {
	x := newTicking(t)
	x.after(t, 0, &vfs.Root, vfs.SetAttr{UID: ptr(7), Mode: ptr(0o755)})
	x.after(t, 0, &vfs.Root, vfs.SetAttr{Mode: ptr(vfs.ModeSetuid | 0o755)})
	if _, _, err := x.Write(ctx, &vfs.Cred{UID: 7}, x.ino, 0, fill(10, 2), vfs.Unstable); err != nil {
		t.Fatal(err)
	}
	if a := x.attr(t); a.Mode != 0o755 {
		t.Fatalf("mode is %o after a write", a.Mode)
	}
	if n, _ := x.after(t, 0, &vfs.Cred{UID: 7}, vfs.SetAttr{Mode: ptr(0o755)}); n != 1 {
		t.Errorf("%d commands", n)
	}
	x.Crash()
	if a := x.attr(t); a.Mode != 0o755 {
		t.Errorf("mode is %o after a crash, though it was set before", a.Mode)
	}
}
