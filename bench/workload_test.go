package bench

import (
	"context"
	"crypto/sha256"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// tiny are options with which every phase runs and nothing takes time.
var tiny = Options{
	Seed: 11, Time: time.Millisecond,
	Files: 3, FileSize: 16 << 10, StreamSize: 1 << 20, RandomSize: 1 << 20, TreeFiles: 12, Entries: 40,
	Shards: 2, ShardSize: 1 << 20, RecordSize: 128 << 10, CheckpointSize: 1<<20 + PageSize,
}

// collected runs workloads on one target and returns what was emitted.
func collected(t *testing.T, fs FS, d Durability, workloads []Workload) (*Results, error) {
	t.Helper()
	var out Results
	r := Run{
		Targets: []*Target{{Name: "t", Spec: "test", Durability: d, FS: fs}}, Workloads: workloads, Options: tiny, Workers: []int{3}, Repeats: 1,
		Emit: func(x Record) error {
			switch {
			case x.Sample != nil:
				out.Samples = append(out.Samples, *x.Sample)
			case x.Skipped != nil:
				out.Skipped = append(out.Skipped, *x.Skipped)
			}
			return nil
		},
	}
	err := r.Do(t.Context())
	return &out, err
}

func plainDir(t *testing.T) (FS, Durability) {
	t.Helper()
	fs, d, err := NewDir(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	d.Names, d.Data = Memory, Disk // whatever the file system of temporary files is
	return fs, d
}

// memClients is a state.StateStore for one server.
type memClients struct{ sync.Map }

func (m *memClients) PutClient(_ context.Context, r state.ClientRecord) error {
	m.Store(string(r.Owner), r)
	return nil
}
func (m *memClients) RemoveClient(_ context.Context, r state.ClientRecord) error {
	m.Delete(string(r.Owner))
	return nil
}
func (m *memClients) Clients(context.Context) ([]state.ClientRecord, error) { return nil, nil }

// memServer is an NFS server over a file system in memory.
func memServer(t *testing.T) FS {
	t.Helper()
	srv, err := nfsserver.New(t.Context(), nfsserver.Config{
		Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Store: &memClients{}, Name: "test",
		Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: memfs.New(memfs.Options{}), Rules: export.Everyone(export.ReadWrite, export.SquashNone)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	fs, err := NewNFS(t.Context(), NFSConfig{Addr: ln.Addr().String(), Path: "/default", Sessions: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return fs
}

// TestWorkloads runs all of them on a directory and on an NFS server: every phase has a sample with its operations, bytes and latencies, and
// nothing is left behind.
func TestWorkloads(t *testing.T) {
	dir, d := plainDir(t)
	for name, fs := range map[string]FS{"directory": dir, "nfs": memServer(t)} {
		t.Run(name, func(t *testing.T) {
			out, err := collected(t, fs, d, Workloads())
			if err != nil {
				t.Fatal(err)
			}
			checkSamples(t, out, nil)
			root, err := fs.Root(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := fs.List(t.Context(), root, func(e Entry) error { t.Errorf("%s was left", e.Name); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkSamples checks that all phases of all workloads have their sample, but those that are left out.
func checkSamples(t *testing.T, out *Results, skipped []string) {
	t.Helper()
	const workers = 3
	exact := map[string]int64{ // operations of phases that time does not end
		"metadata-private/list": -1, "metadata-shared/list": -1, "large-directory/fill": int64(tiny.Entries), "large-directory/list": int64(tiny.Entries), "large-directory/empty": int64(tiny.Entries),
		"tree/copy": int64(tiny.TreeFiles), "tree/read": int64(tiny.TreeFiles), "tree/remove": int64(tiny.TreeFiles), "tree/walk": int64(len(planTree(tiny.Seed, tiny.TreeFiles))),
		"checkpoint/restore": workers,
	}
	seen := map[string]bool{}
	for _, s := range out.Samples {
		id := s.Workload + "/" + s.Phase
		seen[id] = true
		if s.Ops < 1 || s.Seconds <= 0 || s.Latency.Calls < 1 || s.Latency.P50 > s.Latency.P99 || s.Latency.P99 > s.Latency.Max*1.001 || s.Workers != workers {
			t.Errorf("%s: %+v", id, s)
		}
		if want, ok := exact[id]; ok && want > 0 && s.Ops != want {
			t.Errorf("%s: %d operations, want %d", id, s.Ops, want)
		}
		h, err := s.Latency.Decode()
		if err != nil || h.TotalCount() != s.Latency.Calls {
			t.Errorf("%s: a histogram of %d calls: %v", id, s.Latency.Calls, err)
		}
		bytes := strings.Contains("small-files streams random training checkpoint mixed", s.Workload) || id == "tree/copy" || id == "tree/read"
		if bytes != (s.Bytes > 0) {
			t.Errorf("%s: %d bytes", id, s.Bytes)
		}
	}
	for _, w := range Workloads() {
		for _, p := range w.Phases(&Env{Workers: workers, Options: tiny}) {
			if id := w.Name + "/" + p.Name; seen[id] == slices.Contains(skipped, id) {
				t.Errorf("%s: sample %v", id, seen[id])
			}
		}
	}
}

// TestLies: each workload fails on a file system that does wrong what the workload is about. Without this a fast number could be a broken
// file system's.
func TestLies(t *testing.T) {
	names := []string{forgets, repeats, inflates, keeps, stays}
	content := []string{flips, loses, truncates}
	for workload, lies := range map[string][]string{
		"metadata-private": names,
		"metadata-shared":  names,
		"small-files":      content,
		"streams":          {flips, loses},
		"random":           {flips, loses, stale},
		"tree":             {flips, loses, truncates, forgets, repeats, inflates, keeps},
		"large-directory":  {forgets, repeats, inflates, keeps},
		"locks":            {overlocks, loses, stale},
		"training":         {flips, loses},
		"mixed":            {flips, loses, stale, truncates, forgets, repeats, inflates, keeps, stays},
		"checkpoint":       {flips, loses, truncates, stays},
	} {
		w, err := WorkloadsNamed([]string{workload})
		if err != nil {
			t.Fatal(err)
		}
		for _, lie := range append(lies, nothingBad) {
			fs, d := plainDir(t)
			_, err := collected(t, &liar{FS: fs, lie: lie, pairs: make(chan struct{})}, d, w)
			// Some lies are noticed by what comes after them.
			found := []vfs.Kind{vfs.KindCorrupt}
			switch lie {
			case nothingBad:
				found = []vfs.Kind{vfs.KindOK}
			case stays:
				found = append(found, vfs.KindNotFound)
			case keeps:
				found = append(found, vfs.KindNotEmpty)
			}
			if !slices.Contains(found, vfs.KindOf(err)) {
				t.Errorf("%s where %s: %v", workload, lie, err)
			}
		}
	}
}

// fresh are files as a directory has them, by content.
func fresh(t *testing.T, dir string) map[string][32]byte {
	out := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			rel, _ := filepath.Rel(dir, path)
			out[rel] = sha256.Sum256(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSeedDecides: what a workload writes follows from the seed alone.
func TestSeedDecides(t *testing.T) {
	var all []map[string][32]byte
	for _, seed := range []uint64{1, 1, 2} {
		dir := t.TempDir()
		fs, _, err := NewDir(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		e := &Env{FS: fs, Dir: dir, Options: tiny, Workers: 1, Pattern: NewPattern(seed), bufs: [][]byte{make([]byte, pieceSize)}}
		e.Options.Seed, e.Options.Time = seed, time.Hour
		for _, p := range tree(e)[:2] {
			if _, err := (&phaseRun{env: e}).run(t.Context(), &p); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, fresh(t, dir))
	}
	if len(all[0]) != tiny.TreeFiles {
		t.Errorf("%d files", len(all[0]))
	}
	same := func(a, b map[string][32]byte) bool {
		for k, v := range a {
			if b[k] != v {
				return false
			}
		}
		return len(a) == len(b)
	}
	if !same(all[0], all[1]) || same(all[0], all[2]) {
		t.Error("equal seeds differ, or different ones do not")
	}
}
