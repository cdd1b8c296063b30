package volume_test

import (
	"context"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// TestQueriesStall: a caller that only asks is told to come again when the
// metadata does not answer, and one that gave up is told so.
func TestQueriesStall(t *testing.T) {
	c := newCrashing(t, volume.Config{StallTimeout: 20 * time.Millisecond})
	f := create(t, c, "f")
	c.Crash() // nothing is leased
	speak := c.meta.hush()
	for what, ask := range map[string]func(context.Context) error{
		"lookup":  func(ctx context.Context) error { _, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f"); return err },
		"getattr": func(ctx context.Context) error { _, err := c.GetAttr(ctx, f); return err },
		"readdir": func(ctx context.Context) error {
			_, err := c.ReadDir(ctx, &vfs.Root, vfs.RootIno, 0, 10, false)
			return err
		},
		"readlink": func(ctx context.Context) error { _, err := c.ReadLink(ctx, f); return err },
		"statfs":   func(ctx context.Context) error { _, err := c.StatFS(ctx); return err },
		"read":     func(ctx context.Context) error { _, _, err := c.Read(ctx, f, 0, make([]byte, 1)); return err },
		"open": func(ctx context.Context) error {
			_, err := c.Open(ctx, &vfs.Root, f, vfs.OpenRead, false)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			want(t, vfs.KindUnavailable, ask(ctx))
			gone, cancel := context.WithCancel(ctx)
			cancel()
			want(t, vfs.KindCanceled, ask(gone))
		})
	}
	speak()
	if _, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f"); err != nil {
		t.Fatal(err)
	}
}

// TestChangesWaitForQueries: an operation that changes something is not told to come
// again because what it has to ask takes long.
func TestChangesWaitForQueries(t *testing.T) {
	c := newCrashing(t, volume.Config{StallTimeout: 20 * time.Millisecond})
	f := create(t, c, "f")
	write(t, c, f, 0, fill(10, 1), vfs.Unstable)
	if _, _, err := c.Link(ctx, &vfs.Root, f, vfs.RootIno, "g"); err != nil {
		t.Fatal(err)
	}
	commit(t, c, f)
	if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "g", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	speak := c.meta.hush()
	set := make(chan error, 1)
	go func() {
		mode := uint32(0o600)
		_, err := c.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Mode: &mode}, false)
		set <- err
	}()
	eventually(t, "SetAttr asks", func() bool {
		c.meta.mu.Lock()
		defer c.meta.mu.Unlock()
		return c.meta.asked > 0
	})
	// Others that began to ask later give up before.
	for range 3 {
		_, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f")
		want(t, vfs.KindUnavailable, err)
	}
	select {
	case err := <-set:
		t.Fatalf("SetAttr ended: %v", err)
	default:
	}
	speak()
	if err := <-set; err != nil {
		t.Fatal(err)
	}
}
