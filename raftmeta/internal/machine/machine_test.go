package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(abandons) != "" { // a child process of TestPebbleGivesUp
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// node is a replica without Raft: the test is the log.
type node struct {
	t     *testing.T
	dir   string
	host  *Host
	snaps *snapstore.Store
	fatal error
}

func open(t *testing.T, dir string) *node {
	t.Helper()
	n := &node{t: t, dir: dir}
	var err error
	if n.snaps, err = snapstore.Open(vfile.OS{}, filepath.Join(dir, "snapshots"), 1, quiet); err != nil {
		t.Fatal(err)
	}
	n.host, err = Open(Options{
		Dir: filepath.Join(dir, "state"), Shard: 1, Cluster: []byte("c"), MemTableBytes: 1 << 20, CacheBytes: 1 << 20,
		OnFatal: func(err error) { n.fatal = err }, Logger: quiet,
	}, n.snaps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

func (n *node) close() {
	if err := n.host.Close(); err != nil {
		n.t.Errorf("close: %v", err)
	}
}

// crash opens a copy of the directory as it is now, which is what a killed process leaves.
func (n *node) crash() *node {
	n.t.Helper()
	to := n.t.TempDir()
	if err := os.CopyFS(to, os.DirFS(n.dir)); err != nil {
		n.t.Fatal(err)
	}
	return open(n.t, to)
}

// log is entry i of every test: entry 1 makes a file system, later ones a directory each.
func log(i uint64) *raft.Log {
	mode := uint32(0o755)
	cmd := &metapb.Command{Fs: 1, Time: &metapb.Time{Sec: int64(i)}}
	switch i {
	case 1:
		cmd.Op = &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "g", Incarnation: make([]byte, 16)}}
	case 2:
		cmd.Id = &metapb.Identity{Origin: 1, Seq: i}
		cmd.Op = &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{RootMode: mode, HashKey: make([]byte, 16)}}
	default:
		cmd.Id = &metapb.Identity{Origin: 1, Seq: i}
		cmd.Op = &metapb.Command_Create{Create: &metapb.Create{
			Parent: uint64(vfs.RootIno), Name: fmt.Appendf(nil, "d%d", i), Type: uint32(vfs.TypeDir), Attr: &metapb.AttrSet{Mode: &mode},
		}}
	}
	b, err := (&metapb.Entry{Format: 1, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		panic(err)
	}
	return &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: b}
}

// apply feeds entries lo to hi, in batches as Raft would.
func (n *node) apply(lo, hi uint64) {
	n.t.Helper()
	for i := lo; i <= hi; {
		var batch []*raft.Log
		for j := i; j <= hi && j < i+i%5+1; j++ {
			batch = append(batch, log(j))
		}
		i += uint64(len(batch))
		for k, r := range n.host.ApplyBatch(batch) {
			r := r.(Response)
			if r.Err != nil {
				n.t.Fatalf("entry %d: %v", batch[k].Index, r.Err)
			}
			for _, res := range r.Results {
				if res.Kind != 0 {
					n.t.Fatalf("entry %d: %v %s", batch[k].Index, vfs.Kind(res.Kind), res.Text)
				}
			}
		}
	}
}

func (n *node) has(i uint64) bool {
	n.t.Helper()
	v, c, err := n.host.View()
	if err != nil {
		n.t.Fatal(err)
	}
	defer v.Release()
	r := fsm.Query(v, c, &metapb.Query{Fs: 1, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(vfs.RootIno), Name: fmt.Appendf(nil, "d%d", i)}}})
	return r.Kind == 0
}

// same replays the log up to hi at n and checks that it ends with the state of a node that never crashed.
func (n *node) same(hi uint64) {
	n.t.Helper()
	n.apply(1, hi)
	want := open(n.t, n.t.TempDir())
	want.apply(1, hi)
	a, b := n.host.Status(), want.host.Status()
	if a.State != hi || !bytes.Equal(a.Digest, b.Digest) {
		n.t.Fatalf("state %d digest %x, want %d %x", a.State, a.Digest, hi, b.Digest)
	}
	if !n.has(hi) || !n.has(3) || n.has(hi+1) {
		n.t.Fatal("contents differ")
	}
}

// sink makes a sink as Raft does when it takes a snapshot at index.
func (n *node) sink(index uint64) *snapstore.Sink {
	n.t.Helper()
	s, err := n.snaps.Create(1, index, 1, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}, 1, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return s.(*snapstore.Sink)
}

func (n *node) snapshot(index uint64) {
	n.t.Helper()
	s := n.sink(index)
	p, err := n.host.Snapshot()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := p.Persist(s); err != nil {
		n.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) newest() *snapstore.Reader {
	n.t.Helper()
	r, err := n.snaps.Newest()
	if err != nil || r == nil {
		n.t.Fatalf("no snapshot: %v", err)
	}
	n.t.Cleanup(func() { r.Close() })
	return r
}

func TestCrashWithoutFlush(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 200)
	c := n.crash()
	if got := c.host.Status().State; got != 0 {
		t.Logf("%d entries were on disk", got)
	}
	c.same(200)
}

// After a snapshot at an index the log before it may go, whether or not the state's process lives on.
func TestCrashAfterSnapshot(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 120)
	n.snapshot(120)
	n.apply(121, 150)
	c := n.crash()
	if got := c.host.Status().State; got < 120 {
		t.Fatalf("only %d entries survived a snapshot at 120", got)
	}
	c.apply(121, 150)
	c.same(150)
}

// What was applied between the request for a snapshot and its checkpoint is in it; that does no harm.
func TestSnapshotNewerThanItsLabel(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 50)
	s := n.sink(50)
	p, err := n.host.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	n.apply(51, 60)
	if err := errors.Join(p.Persist(s), s.Close()); err != nil {
		t.Fatal(err)
	}
	m := open(t, t.TempDir())
	m.receive(n.newest(), 50)
	if got := m.host.Status(); got.State != 60 || got.Applied < 60 {
		t.Fatalf("restored %d", got.State)
	}
	m.apply(51, 70)
	m.same(70)
}

func TestCrashBeforeTheSnapshotIsComplete(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 50)
	s := n.sink(50)
	p, err := n.host.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Persist(s); err != nil {
		t.Fatal(err)
	}
	c := n.crash() // before Close
	if l, err := c.snaps.List(); err != nil || len(l) != 0 {
		t.Fatalf("snapshots %v %v", l, err)
	}
	if es, _ := os.ReadDir(filepath.Join(c.dir, "snapshots")); len(es) != 0 {
		t.Fatalf("left over: %v", es)
	}
	c.same(60)
	if err := s.Cancel(); err != nil {
		t.Fatal(err)
	}
}

// transfer writes the stream of r to a snapshot of n, as InstallSnapshot does.
func (n *node) transfer(r *snapstore.Reader, index uint64) string {
	n.t.Helper()
	s := n.sink(index)
	if _, err := io.Copy(s, r); err != nil {
		n.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		n.t.Fatal(err)
	}
	return s.ID()
}

// receive is transfer and the restore that follows it.
func (n *node) receive(r *snapstore.Reader, index uint64) {
	n.t.Helper()
	id := n.transfer(r, index)
	_, src, err := n.snaps.Open(id)
	if err != nil {
		n.t.Fatal(err)
	}
	defer src.Close()
	if err := n.host.Restore(src); err != nil {
		n.t.Fatal(err)
	}
}

func TestStreamAndRestore(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 300)
	n.snapshot(300)
	m := open(t, t.TempDir())
	m.apply(1, 10)
	m.receive(n.newest(), 300)
	if err := m.host.Wait(context.Background(), 300); err != nil {
		t.Fatal(err)
	}
	m.apply(301, 320)
	m.same(320)
	if es, _ := filepath.Glob(filepath.Join(m.dir, "state", "db-*")); len(es) != 1 {
		t.Fatalf("stores left: %v", es)
	}
	m.crash().same(320)
}

// A restore that a crash interrupted, at whatever point, is done when the replica is opened.
func TestCrashDuringRestore(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 100)
	n.snapshot(100)
	for _, c := range []struct {
		name string
		step func(m *node, id string)
	}{
		{"received only", func(*node, string) {}},
		{"half linked", func(m *node, id string) {
			if err := os.MkdirAll(filepath.Join(m.dir, "state", "db-000002"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(m.dir, "state", "db-000002", "000001.sst"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"linked", func(m *node, id string) {
			if err := linkCheckpoint(vfile.OS{}, filepath.Join(m.dir, "snapshots", id, "db"), filepath.Join(m.dir, "state", "db-000002")); err != nil {
				t.Fatal(err)
			}
		}},
		{"switched", func(m *node, id string) {
			state := filepath.Join(m.dir, "state")
			if err := linkCheckpoint(vfile.OS{}, filepath.Join(m.dir, "snapshots", id, "db"), filepath.Join(state, "db-000002")); err != nil {
				t.Fatal(err)
			}
			if err := setCurrent(vfile.OS{}, state, "db-000002"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, t.TempDir())
			m.apply(1, 10)
			id := m.transfer(n.newest(), 100)
			c.step(m, id)
			k := m.crash()
			if got := k.host.Status().State; got != 100 {
				t.Fatalf("state %d after restart", got)
			}
			k.apply(101, 110) // entries up to 100 are in no log any more
			k.same(110)
		})
	}
}

func TestViewDoesNotChange(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 20)
	v, _, err := n.host.View()
	if err != nil {
		t.Fatal(err)
	}
	n.apply(21, 30)
	if v.Applied() != 20 {
		t.Fatalf("view of %d", v.Applied())
	}
	r := fsm.Query(v, nil, &metapb.Query{Fs: 1, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(vfs.RootIno), Name: []byte("d25")}}})
	if vfs.Kind(r.Kind) != vfs.KindNotFound {
		t.Fatalf("an old view shows a new file: %v", vfs.Kind(r.Kind))
	}
	v.Release()
	if !n.has(25) {
		t.Fatal("a new view lacks it")
	}
}

func TestWait(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 5)
	done := make(chan error, 2)
	go func() { done <- n.host.Wait(context.Background(), 9) }()
	n.apply(6, 8)
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(10 * time.Millisecond): // a late failure would be missed, never a false one
	}
	n.host.Reached(9) // an entry that only Raft reads
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.host.Wait(ctx, 99); !errors.Is(err, context.Canceled) {
		t.Fatalf("wait: %v", err)
	}
}

// An entry that this release does not understand stops the replica before it is applied.
func TestFatalEntry(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 10)
	n.snapshot(10)
	future, err := (&metapb.Entry{Format: 77}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	out := n.host.ApplyBatch([]*raft.Log{log(11), {Index: 12, Type: raft.LogCommand, Data: future}, log(13)})
	for i, r := range out {
		if r.(Response).Err == nil {
			t.Errorf("entry %d of the fatal round was answered", 11+i)
		}
	}
	if n.fatal == nil || vfs.KindOf(n.fatal) != vfs.KindIncompatible {
		t.Fatalf("fatal: %v", n.fatal)
	}
	if r := n.host.Apply(log(13)).(Response); r.Err == nil {
		t.Fatal("an entry after the fatal one was applied")
	}
	if _, err := n.host.Snapshot(); err == nil {
		t.Fatal("snapshot of a stopped machine")
	}
	if _, _, err := n.host.View(); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("view of a stopped machine: %v", err)
	}
	if err := n.host.Wait(context.Background(), 11); err == nil {
		t.Fatal("waited for a stopped machine")
	}
	c := n.crash()
	if got := c.host.Status().State; got != 10 {
		t.Fatalf("state %d", got)
	}
	c.apply(11, 20)
	c.same(20)
}

func TestDamagedState(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 10)
	n.close()
	if err := os.RemoveAll(filepath.Join(n.dir, "state", "db-000001")); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: filepath.Join(n.dir, "state"), Logger: quiet}, n.snaps)
	if vfs.KindOf(err) != vfs.KindCorrupt {
		t.Fatalf("open: %v", err)
	}
}

// When the log is replayed after a restart, entries that the state has already are told no digest: it would be that of the state, not of the
// entry, and another replica that is there right now would differ.
func TestReplayTellsNoWrongDigest(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 100)
	want := map[uint64][]byte{}
	for i := uint64(1); i <= 100; i++ {
		if d, ok := n.host.DigestAt(i); ok {
			want[i] = d
		}
	}
	if err := n.host.db.Flush(); err != nil {
		t.Fatal(err)
	}
	c := n.crash()
	for i := uint64(1); i <= 120; i++ {
		c.host.ApplyBatch([]*raft.Log{log(i)})
	}
	for i := uint64(1); i <= 100; i++ {
		if d, ok := c.host.DigestAt(i); ok && !bytes.Equal(d, want[i]) {
			t.Fatalf("entry %d: digest %x, was %x", i, d, want[i])
		}
	}
	if d, ok := c.host.DigestAt(100); !ok || !bytes.Equal(d, want[100]) {
		t.Error("the digest of the newest entry is not known")
	}
	if _, ok := c.host.DigestAt(110); !ok {
		t.Error("the digest of a new entry is not known")
	}
}
