package raftmeta

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// valve forwards connections to a node, and holds each one that carries more to the node than a limit, for the test to cut it.
type valve struct {
	node   string
	ln     net.Listener
	target func() (string, error)
	wg     sync.WaitGroup

	held   chan chan struct{} // connections that are held; closing the channel cuts one
	opened chan struct{}      // closed when nothing is held any more

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newValve(t *testing.T, node string, target func() (string, error)) *valve {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{node: node, ln: ln, target: target, held: make(chan chan struct{}), opened: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	v.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			v.wg.Go(func() { v.forward(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		v.open()
		v.mu.Lock()
		for c := range v.conns {
			c.Close()
		}
		v.mu.Unlock()
		v.wg.Wait()
	})
	return v
}

// valveLimit is less than the state of the test's shard, and more than anything else that is sent at once.
const valveLimit = 300 << 10

// next waits for a connection that is held.
func (v *valve) next(t *testing.T) (cut func()) {
	t.Helper()
	select {
	case ch := <-v.held:
		return func() { close(ch) }
	case <-time.After(patience):
		t.Fatal("no stream reached the limit")
		return nil
	}
}

// open lets everything pass.
func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.opened:
	default:
		close(v.opened)
	}
}

func (v *valve) track(c net.Conn, add bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if add {
		v.conns[c] = struct{}{}
	} else {
		delete(v.conns, c)
		c.Close()
	}
}

func (v *valve) forward(from net.Conn) {
	v.track(from, true)
	defer v.track(from, false)
	addr, err := v.target()
	if err != nil {
		return
	}
	to, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	v.track(to, true)
	defer v.track(to, false)
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(from, to)
		from.Close()
	})
	defer back.Wait()
	defer to.Close()
	var sent int64
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if sent += int64(n); sent < valveLimit {
			continue
		}
		cut := make(chan struct{})
		select {
		case v.held <- cut:
			<-cut
			return
		case <-v.opened:
		}
	}
}

// kill replaces node i's directory by what a kill leaves of it now, after its server was stopped: that one's last deeds are undone.
func (c *cluster) kill(i int) {
	c.t.Helper()
	image := filepath.Join(c.t.TempDir(), "image")
	if err := copyLive(image, c.path(i)); err != nil {
		c.t.Fatal(err)
	}
	c.stop(i)
	if err := os.RemoveAll(c.path(i)); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(image, c.path(i)); err != nil {
		c.t.Fatal(err)
	}
}

// copyLive copies a directory from which files may vanish meanwhile.
func copyLive(to, from string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
}

// A new replica's snapshot is interrupted in the middle of the stream: by a broken connection, by the end of the leader that sends it, and by
// the end of the receiver. It gets there in the end.
func TestSnapshotIsInterrupted(t *testing.T) {
	var valved atomic.Pointer[valve] // before the node of that number; nil: none
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) {
		keepers(i, o)
		direct := o.Resolver
		o.Resolver = ResolverFunc(func(ctx context.Context, node string) (string, error) {
			if v := valved.Load(); v != nil && v.node == node && node != o.Nodes[i] {
				return v.ln.Addr().String(), nil
			}
			return direct.Resolve(ctx, node)
		})
	})
	cl := c.gateway(1, "gw")
	w := (&creators{t: t, cl: cl, shard: 1, long: true}).start(4)
	w.more(20)
	lost := (c.leader(1) + 1) % 3
	old := c.replicaOf(lost)
	c.stop(lost)
	c.wipe(lost)
	v := newValve(t, c.names[lost], func() (string, error) { return c.Resolve(context.Background(), c.names[lost]) })
	valved.Store(v)
	c.dropLog(lost, w)
	c.start(lost)
	none := func() {
		t.Helper()
		if st, _ := c.status(lost, 1); st.State != 0 {
			t.Fatalf("the replica has a state already: %+v", st)
		}
	}
	cut := v.next(t)
	none()
	cut()
	cut = v.next(t)
	none()
	l := c.leader(1)
	c.stop(l)
	c.start(l)
	cut()
	cut = v.next(t)
	none()
	c.kill(lost)
	cut()
	v.open()
	c.start(lost)
	c.votes(lost, old)
	c.needed(lost, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
	es, err := os.ReadDir(filepath.Join(c.path(lost), "shard-00001", "snapshots"))
	if err != nil || len(es) != 1 {
		t.Errorf("snapshots of the new replica: %v, %v", es, err)
	}
}
