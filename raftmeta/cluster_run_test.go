package raftmeta

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestCreateAndLookup(t *testing.T) {
	c := newCluster(t, 3, []uint16{0, 1}, nil)
	cl := c.gateway(1, "gw")
	ctx := testContext(t)
	r, err := cl.Apply(ctx, 1, createCmd("hello"))
	if err != nil {
		t.Fatal(err)
	}
	ino := r.GetCreate().GetAttr().GetIno()
	q, err := cl.Query(ctx, 1, lookupQuery("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got := q.GetAttr().GetAttr().GetIno(); got != ino || ino == 0 {
		t.Fatalf("created inode %d, looked up %d", ino, got)
	}
	if _, err := cl.Apply(ctx, 1, createCmd("hello")); vfs.KindOf(err) != vfs.KindExists {
		t.Fatalf("second exclusive create: %v", err)
	}
	if _, err := cl.Query(ctx, 1, lookupQuery("other")); vfs.KindOf(err) != vfs.KindNotFound {
		t.Fatalf("lookup of nothing: %v", err)
	}
	// The other shard is a different state.
	if _, err := cl.Query(ctx, 0, lookupQuery("hello")); err == nil {
		t.Fatal("shard 0 knows a file of shard 1")
	}
	if _, err := cl.Apply(ctx, 0, createCmd("hello")); vfs.KindOf(err) != vfs.KindUnknownOrigin {
		t.Fatalf("command to a shard without registration: %v", err)
	}
}

// creators create names from many goroutines and note which were acknowledged. A
// Guarded create that took effect twice would be answered KindExists.
type creators struct {
	t     *testing.T
	cl    *Client
	shard uint16
	long  bool // symbolic links with long targets, which fill the log
	next  atomic.Int64
	stop  chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex
	acked []string
}

func startCreators(t *testing.T, cl *Client, shard uint16, n int) *creators {
	return (&creators{t: t, cl: cl, shard: shard}).start(n)
}

func (w *creators) start(n int) *creators {
	t, cl, shard := w.t, w.cl, w.shard
	w.stop = make(chan struct{})
	ctx := testContext(t)
	for range n {
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			random := make([]byte, 3000) // what can be compressed would make small snapshots
			for {
				rand.Read(random)
				select {
				case <-w.stop:
					return
				default:
				}
				name := fmt.Sprintf("f%06d", w.next.Add(1))
				cmd := createCmd(name)
				if w.long {
					cmd.GetCreate().Type, cmd.GetCreate().Target = uint32(vfs.TypeSymlink), []byte(base64.StdEncoding.EncodeToString(random))
				}
				if _, err := cl.Apply(ctx, shard, cmd); err != nil {
					t.Errorf("create %s: %v", name, err)
					return
				}
				w.mu.Lock()
				w.acked = append(w.acked, name)
				w.mu.Unlock()
			}
		}()
	}
	return w
}

func (w *creators) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// more waits until n more creates were acknowledged.
func (w *creators) more(n int) {
	w.t.Helper()
	want := w.count() + n
	eventually(w.t, fmt.Sprintf("%d acknowledged creates", want), func() bool { return w.count() >= want || w.t.Failed() })
}

func (w *creators) end() []string {
	close(w.stop)
	w.wg.Wait()
	return w.acked
}

// checkFiles compares the root directory with the acknowledged names.
func checkFiles(t *testing.T, cl *Client, shard uint16, acked []string) {
	t.Helper()
	ctx := testContext(t)
	have := map[string]bool{}
	var cookie uint64
	for {
		r, err := cl.Query(ctx, shard, &metapb.Query{Fs: testFS, Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{
			Dir: uint64(vfs.RootIno), Cookie: cookie, MaxEntries: 1000,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetReadDir().GetEntries() {
			if have[string(e.Name)] {
				t.Fatalf("%s is listed twice", e.Name)
			}
			have[string(e.Name)] = true
			cookie = e.Cookie
		}
		if r.GetReadDir().GetEof() {
			break
		}
	}
	for _, name := range acked {
		if !have[name] {
			t.Errorf("%s was acknowledged and is not there", name)
		}
	}
	if len(have) != len(acked) {
		t.Errorf("%d names, %d acknowledged creates", len(have), len(acked))
	}
}

// A server that is about to go gives its leadership away, and keeps it where nobody else votes.
func TestHandOver(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	for old := c.leader(1); ; { // an attempt may fail, and then nothing happened
		c.server(old).HandOver()
		if c.leader(1) != old {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("leadership is not given away")
		}
	}
	alone := newCluster(t, 1, []uint16{1}, nil)
	before := alone.server(alone.leader(1)).Status()[0].Term
	alone.server(0).HandOver()
	if now := alone.server(alone.leader(1)).Status()[0].Term; now != before {
		t.Errorf("term %d, was %d", now, before)
	}
}

// Creates go on while the leader is stopped and started again and again: each takes effect once.
func TestExactlyOnceOverLeaderChanges(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 8)
	for range 3 {
		w.more(50)
		l := c.leader(1)
		c.stop(l)
		w.more(50)
		c.start(l)
	}
	w.more(20)
	if err := c.server(c.leader(1)).TransferLeadership(1, ""); err != nil {
		t.Logf("transfer: %v", err) // it may fail, and then nothing happened
	}
	w.more(50)
	acked := w.end()
	checkFiles(t, cl, 1, acked)
	c.sameState(1)
}

// sameState waits until all running replicas have applied the same and compares their digests.
func (c *cluster) sameState(shard uint16) {
	c.t.Helper()
	var digest string
	c.eventually("equal applied indexes", func() bool {
		var state uint64
		for i := range c.servers {
			st, ok := c.status(i, shard)
			if !ok {
				continue
			}
			if st.Err != "" {
				c.t.Fatalf("node %d: %s", i, st.Err)
			}
			if state == 0 {
				state, digest = st.State, string(st.Digest)
			}
			if st.State != state {
				return false
			}
			if string(st.Digest) != digest {
				c.t.Fatalf("replicas differ at %d: %x and %x", state, digest, st.Digest)
			}
		}
		return state > 0
	})
}

func TestRestartOfAll(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(100)
	acked := w.end()
	c.close()
	for i := range c.servers {
		c.start(i)
	}
	checkFiles(t, cl, 1, acked)
	c.sameState(1)
}

func TestSnapshotAndRestart(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, func(_ int, o *Options) { o.TrailingLogs = 1 })
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	for range 3 {
		w.more(50)
		for i := range c.servers {
			if err := c.server(i).Snapshot(1); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.more(10)
	acked := w.end()
	c.close()
	for i := range c.servers {
		c.start(i)
	}
	checkFiles(t, cl, 1, acked)
	c.sameState(1)
}

// A replica that was away while the others dropped the log it needs gets the state itself.
func TestReplicaBehindTheSnapshot(t *testing.T) {
	for _, log := range []Backend{WAL, Bolt} {
		t.Run(string(log), func(t *testing.T) { testReplicaBehind(t, log) })
	}
}

func testReplicaBehind(t *testing.T, log Backend) {
	c := newClusterLog(t, 3, []uint16{1}, log, func(_ int, o *Options) { o.TrailingLogs, o.WALSegmentBytes = 1, 1<<20 })
	cl := c.gateway(1, "gw")
	// raft-wal keeps entries that it was told to delete until their segment is full.
	w := (&creators{t: t, cl: cl, shard: 1, long: true}).start(4)
	w.more(20)
	away := (c.leader(1) + 1) % 3
	c.stop(away)
	w.more(400)
	for i := range c.servers {
		if i != away {
			if err := c.server(i).Snapshot(1); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.more(20)
	c.start(away)
	w.more(20)
	c.eventually("the replica to catch up", func() bool {
		a, _ := c.status(away, 1)
		l, _ := c.status(c.leader(1), 1)
		return a.State > 0 && a.State+5 >= l.State
	})
	if es, err := os.ReadDir(filepath.Join(c.path(away), "shard-00001", "snapshots")); err != nil || len(es) == 0 {
		t.Fatalf("the replica caught up without a snapshot (%v)", err)
	}
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
	// Its state is good enough to lead with, before and after a restart.
	leads := func() {
		c.eventually("the replica to lead", func() bool {
			l := c.leader(1)
			if l == away {
				return true
			}
			if err := c.server(l).TransferLeadership(1, c.names[away]); err != nil {
				t.Logf("transfer: %v", err) // it may not have caught up
			}
			return false
		})
	}
	leads()
	checkFiles(t, cl, 1, acked)
	c.stop(away)
	c.start(away)
	leads()
	checkFiles(t, cl, 1, acked)
	c.sameState(1)
}

// Without a majority nothing is acknowledged, a caller's context is honoured, and the client then uses
// a new identity, not the one whose outcome is open.
func TestNoMajority(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	l := c.leader(1)
	for i := range c.servers {
		if i != l {
			c.stop(i)
		}
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := cl.Apply(ctx, 1, createCmd("alone"))
		done <- err
	}()
	s := cl.shard(1)
	c.eventually("the command to be sent", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.proposing > 0
	})
	cancel(cause)
	if err := <-done; vfs.KindOf(err) != vfs.KindUnknown || !errors.Is(err, cause) {
		t.Fatalf("apply without a majority: %v", err)
	}
	qctx, qcancel := context.WithCancel(context.Background())
	qcancel()
	if _, err := cl.Query(qctx, 1, lookupQuery("alone")); vfs.KindOf(err) != vfs.KindCanceled {
		t.Fatalf("query without a majority: %v", err)
	}
	for i := range c.servers {
		if i != l {
			c.start(i)
		}
	}
	// The client went on: the file appears although its caller left.
	ctx = testContext(t)
	c.eventually("the abandoned command's effect", func() bool {
		_, err := cl.Query(ctx, 1, lookupQuery("alone"))
		return err == nil
	})
	if _, err := cl.Apply(ctx, 1, createCmd("alone")); vfs.KindOf(err) != vfs.KindExists {
		t.Fatalf("create again: %v", err)
	}
}

func TestOversizedCommand(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	cmd := createCmd("big")
	cmd.GetCreate().Target = make([]byte, maxCallBytes)
	if _, err := cl.Apply(testContext(t), 1, cmd); vfs.KindOf(err) != vfs.KindTooMany {
		t.Fatalf("oversized command: %v", err)
	}
}

func TestUnknownCommandStaysOutOfTheLog(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	if _, err := cl.Apply(testContext(t), 1, &metapb.Command{Fs: testFS}); vfs.KindOf(err) != vfs.KindNotSupported {
		t.Fatalf("command without operation: %v", err)
	}
	if _, err := cl.Apply(testContext(t), 1, createCmd("after")); err != nil {
		t.Fatal(err)
	}
}
