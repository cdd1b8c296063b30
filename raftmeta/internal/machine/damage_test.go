package machine

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// One bit that flips anywhere in the state, or in the snapshot, is either harmless or stops this replica, with an error of KindCorrupt: the
// process goes on, and nothing that was committed is answered wrong.
func TestFlippedBitsInTheState(t *testing.T) {
	trials := 40
	if os.Getenv("RACKFS_LONG") != "" {
		trials = 3000
	}
	n := open(t, t.TempDir())
	n.apply(1, 200)
	n.snapshot(200)
	n.apply(201, 300)
	n.close()
	var files []string
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(n.dir, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil || len(files) < 5 {
		t.Fatalf("files %q: %v", files, err)
	}
	noticed := 0
	for seed := range trials {
		rng := rand.New(rand.NewPCG(uint64(seed), 4))
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(n.dir)); err != nil {
			t.Fatal(err)
		}
		file := files[seed%len(files)]
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			continue
		}
		at, bit := rng.IntN(len(b)), rng.IntN(8)
		b[at] ^= 1 << bit
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
		switch err := survey(t, dir); vfs.KindOf(err) {
		case vfs.KindOK:
		case vfs.KindCorrupt, vfs.KindIncompatible: // a number of a version may flip too
			noticed++
		default:
			t.Errorf("%s, byte %d, bit %d: %v", file, at, bit, err)
		}
	}
	t.Logf("%d of %d flips were noticed, the others were harmless", noticed, trials)
	if noticed == 0 {
		t.Error("no flip was noticed: the test shows nothing")
	}
}

// survey opens a node as at a restart, replays the log from its snapshot on, adds to it, and reads everything.
func survey(t *testing.T, dir string) error {
	t.Helper()
	snaps, err := snapstore.Open(vfile.OS{}, filepath.Join(dir, "snapshots"), 1, quiet)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var fatal error
	failed := func() error {
		mu.Lock()
		defer mu.Unlock()
		return fatal
	}
	h, err := Open(Options{
		Dir: filepath.Join(dir, "state"), Shard: 1, Cluster: []byte("c"), MemTableBytes: 1 << 20, CacheBytes: 1 << 20,
		OnFatal: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			fatal = err
		}, Logger: quiet,
	}, snaps)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := uint64(201); i <= 330; i++ {
		if r := h.ApplyBatch([]*raft.Log{log(i)})[0].(Response); r.Err != nil {
			if failed() == nil {
				return vfs.Errorf(vfs.KindInternal, "test", "entry %d failed and nobody was told: %w", i, r.Err)
			}
			return failed()
		}
	}
	if err := h.db.Flush(); err != nil && failed() == nil {
		return classify(err)
	}
	v, c, err := h.View()
	if err != nil {
		return failed()
	}
	defer v.Release()
	for i := uint64(3); i <= 330; i++ {
		r := fsm.Query(v, c, &metapb.Query{Fs: 1, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(vfs.RootIno), Name: fmt.Appendf(nil, "d%d", i)}}})
		if r.Kind != 0 {
			if failed() == nil {
				return vfs.Errorf(vfs.KindInternal, "test", "d%d: %v %s, and nobody was told", i, vfs.Kind(r.Kind), r.Text)
			}
			return failed()
		}
	}
	return failed()
}

// abandons is set for a process in which a store is abandoned.
const abandons = "RACKFS_TEST_ABANDONS"

// When Pebble gives up, here because its manifest cannot be written or the directory of it not be synced, the replica stops and says why; the process goes on, the host closes, and a
// restart, with a disk that works, finds everything.
func TestPebbleGivesUp(t *testing.T) {
	if os.Getenv(abandons) == "" { // Pebble's goroutines stay: in a process of its own
		for _, what := range []string{"manifest", "directory"} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestPebbleGivesUp$", "-test.v")
			cmd.Env = append(os.Environ(), abandons+"="+what)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", what, err, out)
			}
		}
		return
	}
	directory := os.Getenv(abandons) == "directory"
	dir := t.TempDir()
	var bad, moved atomic.Bool // moved: the name of the manifest was, and is not synced yet
	disk := errorfs.Wrap(pebblevfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		hit := strings.Contains(op.Path, "MANIFEST") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite
		if directory {
			moved.CompareAndSwap(false, bad.Load() && strings.Contains(op.Path, "marker.manifest"))
			hit = moved.Load() && op.Kind == errorfs.OpFileSync
		}
		if bad.Load() && hit {
			return syscall.EIO
		}
		return nil
	}))
	snaps, err := snapstore.Open(vfile.OS{}, filepath.Join(dir, "snapshots"), 1, quiet)
	if err != nil {
		t.Fatal(err)
	}
	fatal := make(chan error, 8)
	open := func() *Host {
		h, err := Open(Options{
			Dir: filepath.Join(dir, "state"), Shard: 1, Cluster: []byte("c"), MemTableBytes: 1 << 20, CacheBytes: 1 << 20,
			OnFatal: func(err error) { fatal <- err }, Logger: quiet, PebbleFS: disk,
		}, snaps)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := open()
	n := &node{t: t, dir: dir, host: h, snaps: snaps}
	n.apply(1, 50)
	if directory { // the first flush after an open makes a manifest, whose name the directory gets
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		h = open()
		n.host = h
		n.apply(1, 50)
	}
	bad.Store(true)
	persisted := make(chan error, 1)
	go func() {
		p, err := h.Snapshot()
		if err == nil {
			err = p.Persist(n.sink(50))
		}
		persisted <- err
	}()
	if err := <-fatal; vfs.KindOf(err) != vfs.KindIO || !strings.Contains(err.Error(), syscall.EIO.Error()) {
		t.Fatalf("fatal: %v", err)
	}
	if err := <-persisted; err == nil {
		t.Error("a snapshot was taken of a store that gave up")
	}
	if r := h.Apply(log(51)).(Response); r.Err == nil {
		t.Error("an entry was applied afterwards")
	}
	closed := make(chan error, 1)
	go func() { closed <- h.Close() }()
	select {
	case err := <-closed:
		t.Logf("close: %v", err)
	case <-time.After(10 * closeTimeout):
		t.Fatal("the host does not close")
	}
	c := n.crash()
	c.same(60)
}
