package v4_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

// hookedReads is a file system whose reads a test watches.
type hookedReads struct {
	vfs.FS
	hook atomic.Pointer[func() error]
}

func (h *hookedReads) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
	if f := h.hook.Load(); f != nil {
		if err := (*f)(); err != nil {
			return 0, false, err
		}
	}
	return h.FS.Read(ctx, ino, off, p)
}

// newReads is a server with memory for n READs, and a file of 100,000 bytes.
func newReads(t *testing.T, n int) (*world, *hookedReads, []byte) {
	mem := memfs.New(memfs.Options{})
	h := &hookedReads{FS: mem}
	w := newWorldWith(t, mem, h, v4.Config{MaxIO: v4.DefaultMaxIO, ReadMemory: n * v4.DefaultMaxIO})
	content := pattern(100_000)
	w.connect("maker", 1).ok(ops(root(), open("o", wr, 0, unchecked(), named("f")), write(current, 0, nfsv4.FILE_SYNC4, content), closeFile(current))...)
	return w, h, content
}

// The memory of a READ comes back however it ends: with one buffer, every further READ
// would be told to come again.
func TestReadMemoryComesBack(t *testing.T) {
	w, h, content := newReads(t, 1)
	c := w.connect("a", 1)
	check := func() {
		t.Helper()
		if got := readOK(last(c.ok(ops(at("f"), read(anonymous, 0, 50_000))...))).Data; !bytes.Equal(got, content[:50_000]) {
			t.Fatal("data differ")
		}
	}
	t.Run("success", func(*testing.T) { check(); check() })
	t.Run("short", func(*testing.T) {
		for range 2 {
			c.ok(ops(at("f"), read(anonymous, 99_999, 50_000))...)
			c.ok(ops(at("f"), read(anonymous, 200_000, 50_000))...)
		}
		check()
	})
	t.Run("error", func(*testing.T) {
		fail := func() error { return vfs.KindIO.Err("test") }
		h.hook.Store(&fail)
		for range 2 {
			c.fails(nfsv4.NFS4ERR_IO, ops(at("f"), read(anonymous, 0, 50_000))...)
		}
		h.hook.Store(nil)
		check()
	})
	t.Run("a later operation fails", func(*testing.T) {
		for range 2 {
			c.fails(nfsv4.NFS4ERR_NOTDIR, ops(at("f"), read(anonymous, 0, 50_000), lookup("x"))...)
		}
		check()
	})
	t.Run("broken connection", func(*testing.T) {
		gone := w.connect("b", 1)
		reading, goOn := make(chan struct{}), make(chan struct{})
		wait := func() error {
			close(reading)
			<-goOn
			return nil
		}
		h.hook.Store(&wait)
		args := encodeCompound(t, 1, append([]nfsv4.NfsArgop4{gone.sequence()}, ops(at("f"), read(anonymous, 0, 50_000))...)...)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := gone.send(args); err == nil {
				t.Error("a READ was answered over a broken connection")
			}
		})
		<-reading
		h.hook.Store(nil)
		gone.conn.Close()
		wg.Wait()
		close(goOn)
		check()
	})
}

// Without memory a READ waits for that of another, and a COMPOUND that has some does not.
func TestReadMemoryIsBounded(t *testing.T) {
	w, h, content := newReads(t, 1)
	var now, most atomic.Int64
	count := func() error {
		defer now.Add(-1)
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond) // so that others meet this one, if they may
		return nil
	}
	h.hook.Store(&count)
	var wg sync.WaitGroup
	for _, owner := range []string{"a", "b", "c", "d"} {
		c := w.connect(owner, 1)
		wg.Go(func() {
			for range 20 {
				if got := readOK(last(c.ok(ops(at("f"), read(anonymous, 0, 50_000))...))).Data; !bytes.Equal(got, content[:50_000]) {
					t.Error("data differ")
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d READs at once with memory for one", most.Load())
	}
	c := w.connect("e", 1)
	c.fails(nfsv4.NFS4ERR_DELAY, ops(at("f"), read(anonymous, 0, 20_000), read(anonymous, 20_000, 20_000))...)
	// What fits the reply itself takes none.
	c.ok(ops(at("f"), read(anonymous, 0, 20_000), read(anonymous, 20_000, 10_000))...)
}
