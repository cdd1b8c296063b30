package volume_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// TestXattrAmongWriters: a client that has seen the change value before a change of attributes keeps what it cached of
// the file when it sees the value after it. So between both no byte may have been written, whoever writes meanwhile.
func TestXattrAmongWriters(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	v, ctx := c.volume(), context.Background()
	f := create(t, c, "f")
	var (
		mu      sync.Mutex
		sizes   = map[uint64]uint64{} // by change value
		changes []vfs.DirChange
	)
	look := func() {
		a, err := v.GetAttr(ctx, f)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if was, ok := sizes[a.Change]; ok && was != a.Size {
			t.Errorf("change %d with %d bytes, was with %d", a.Change, a.Size, was)
		}
		sizes[a.Change] = a.Size
	}
	done := make(chan struct{})
	var wg, watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				look()
			}
		}
	})
	const rounds = 300
	wg.Go(func() {
		for i := range uint64(rounds) {
			how := vfs.FileSync
			if i%3 == 0 {
				how = vfs.Unstable
			}
			if _, _, err := v.Write(ctx, &vfs.Root, f, i, []byte{1}, how); err != nil {
				t.Error(err)
				return
			}
			look()
		}
	})
	wg.Go(func() {
		for i := range rounds {
			look()
			ch, err := v.SetXattr(ctx, &vfs.Root, f, "a", fmt.Append(nil, i), vfs.XattrEither)
			if err != nil {
				t.Error(err)
				return
			}
			look()
			mu.Lock()
			changes = append(changes, ch)
			mu.Unlock()
		}
	})
	wg.Wait()
	close(done)
	watching.Wait()
	compared := 0
	for _, ch := range changes {
		before, ok := sizes[ch.Before]
		after, ok2 := sizes[ch.After]
		if !ok || !ok2 {
			continue // nobody saw one of them
		}
		if compared++; before != after {
			t.Errorf("%+v: %d bytes before, %d after", ch, before, after)
		}
	}
	if compared == 0 {
		t.Error("no change was seen from both sides")
	}
	t.Logf("%d of %d changes were seen from both sides", compared, len(changes))
}

// TestXattrHoldsWrites: a write that comes while the command is under way is not shown under the change value that the
// command gave, at no moment.
func TestXattrHoldsWrites(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	v, ctx := c.volume(), context.Background()
	f := create(t, c, "f")
	write(t, c, f, 0, []byte{1}, vfs.Unstable)
	before, err := v.GetAttr(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	var late sync.WaitGroup
	var seen []vfs.Attr
	c.meta.mu.Lock()
	c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) {
		if cmd.GetSetXattr() == nil {
			return
		}
		written := make(chan struct{})
		late.Go(func() {
			defer close(written)
			write(t, c, f, 1, []byte{2}, vfs.Unstable)
		})
		select {
		case <-written:
		case <-time.After(50 * time.Millisecond): // it waits, as it should
		}
	}
	c.meta.fail = func(cmd *metapb.Command) error {
		if cmd.GetAcquireLease() == nil {
			return nil
		}
		// The command's result is known, and the buffered writes have no value above it yet.
		got := make(chan vfs.Attr, 1)
		late.Go(func() {
			if a, err := v.GetAttr(ctx, f); err == nil {
				got <- a
			}
		})
		select {
		case a := <-got:
			seen = append(seen, a)
		case <-time.After(time.Minute): // it asks the metadata, which waits for this
		}
		return nil
	}
	c.meta.mu.Unlock()
	ch, err := v.SetXattr(ctx, &vfs.Root, f, "a", nil, vfs.XattrEither)
	if err != nil {
		t.Fatal(err)
	}
	late.Wait()
	c.meta.mu.Lock()
	defer c.meta.mu.Unlock()
	c.meta.fail, c.meta.applied = nil, nil
	if ch.Before != before.Change || len(seen) == 0 {
		t.Fatalf("%+v, change was %d, seen %d times meanwhile", ch, before.Change, len(seen))
	}
	for _, a := range seen {
		if a.Change == ch.After && a.Size != before.Size {
			t.Errorf("change %d, which follows on %d, was shown with %d bytes, before there were %d", a.Change, ch.Before, a.Size, before.Size)
		}
	}
}
