package volume_test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

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

// TestCommitDoesNotWaitForLaterWrites: what is written after a Commit began
// may stay dirty.
func TestCommitDoesNotWaitForLaterWrites(t *testing.T) {
	c := newCrashing(t, volume.Config{StallTimeout: time.Minute})
	f := create(t, c, "f")
	var calls atomic.Int32
	v := c.volume()
	c.blocks.setFailWrite(func(uint64, int) error {
		if calls.Add(1) == 1 {
			_, _, err := v.Write(ctx, &vfs.Root, f, 0, fill(50_000, 2), vfs.Unstable)
			return err
		}
		return vfs.KindUnavailable.Err("blocks")
	})
	write(t, c, f, 0, fill(50_000, 1), vfs.Unstable)
	commit(t, c, f)
	if got := read(t, c, f, 0, 1); got[0] != 2 {
		t.Fatalf("read %d", got[0])
	}
	c.Crash()
	if got := read(t, c, f, 0, 60_000); !bytes.Equal(got, fill(50_000, 1)) {
		t.Fatal("what was committed is gone")
	}
}

// TestShutdownGivesBackOpenFiles: NFS clients keep files open over a clean
// restart; the change values continue where they were, while after a crash the range that
// was reserved is skipped.
func TestShutdownGivesBackOpenFiles(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	for _, clean := range []bool{true, false} {
		if _, err := c.Open(ctx, &vfs.Root, f, vfs.OpenRead|vfs.OpenWrite, false); err != nil {
			t.Fatal(err)
		}
		write(t, c, f, 0, fill(50_000, 1), vfs.Unstable)
		commit(t, c, f)
		before, err := c.GetAttr(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		if clean {
			if err := c.volume().Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
		}
		c.Crash()
		after, err := c.GetAttr(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		if clean != (after.Change == before.Change) {
			t.Errorf("change %d, after a shutdown (%v) or crash %d", before.Change, clean, after.Change)
		}
	}
}
