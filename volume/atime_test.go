package volume_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// TestTimesOfAccessAreTold: many reads become few commands, later; a second gateway then sees them.
func TestTimesOfAccessAreTold(t *testing.T) {
	const files, reads = 300, 5
	c := newCrashing(t, volume.Config{AtimeInterval: time.Hour})
	var commands, told atomic.Int64
	c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) {
		if touch := cmd.GetTouch(); touch != nil {
			commands.Add(1)
			told.Add(int64(len(touch.Touched)))
		}
	}
	inos := make([]vfs.Ino, files)
	for i := range inos {
		inos[i] = create(t, c, "f"+string(rune('a'+i/26%26))+string(rune('a'+i%26)))
		write(t, c, inos[i], 0, fill(10, byte(i)), vfs.FileSync)
	}
	shown := map[vfs.Ino]time.Time{}
	for _, ino := range inos {
		for range reads {
			read(t, c, ino, 0, 10)
		}
		a, err := c.GetAttr(ctx, ino)
		if err != nil || a.Atime.Before(a.Mtime) {
			t.Fatalf("atime %v, mtime %v, %v", a.Atime, a.Mtime, err)
		}
		shown[ino] = a.Atime
	}
	if n := commands.Load(); n != 0 {
		t.Fatalf("%d commands before the interval is over", n)
	}
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if n := commands.Load(); n != 2 || told.Load() != files {
		t.Fatalf("%d commands told of %d reads, want 2 of %d", n, told.Load(), files)
	}
	g := c.meta.gateway(t, "other")
	other := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: g, Blocks: c.blocks, Incarnation: g.incarnation, NoAtime: true})
	defer other.Abandon()
	for _, ino := range inos {
		a, err := other.GetAttr(ctx, ino)
		if err != nil || !a.Atime.Equal(shown[ino]) {
			t.Fatalf("atime %v, want %v, %v", a.Atime, shown[ino], err)
		}
		write(t, other, ino, 0, fill(10, 1), vfs.FileSync)
		read(t, other, ino, 0, 10)
		if a, err = other.GetAttr(ctx, ino); err != nil || !a.Atime.Equal(shown[ino]) {
			t.Fatalf("atime %v moved although it must not, from %v, %v", a.Atime, shown[ino], err)
		}
	}
}
