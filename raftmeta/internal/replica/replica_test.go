package replica

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/types"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

var cluster = []byte("0123456789abcdef")

func format(t *testing.T, dir string, log Backend, shards ...uint16) []Info {
	t.Helper()
	is, err := Format(vfile.OS{}, dir, cluster, "n1", shards, log)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func TestFormatAgainKeepsIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "meta")
	a := format(t, dir, WAL, 0, 1)
	b := format(t, dir, Bolt, 0, 1, 2)
	if a[0] != b[0] || a[1] != b[1] {
		t.Fatalf("identities changed: %v, %v", a, b)
	}
	if b[2].Log != Bolt || b[2].ID == b[1].ID || !strings.HasPrefix(b[2].ID, "n1.") {
		t.Fatalf("new replica %+v", b[2])
	}
	n, err := OpenNode(vfile.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if fmt.Sprint(n.Shards) != "[0 1 2]" || n.Name != "n1" || string(n.Cluster) != string(cluster) {
		t.Fatalf("node %+v", n)
	}
}

func TestRefusals(t *testing.T) {
	base := t.TempDir()
	dir := func(name string) string {
		d := filepath.Join(base, name)
		format(t, d, WAL, 1)
		return d
	}
	replace := func(path, old, new string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), old) {
			t.Fatalf("%s has no %q: %s", path, old, b)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shard := func(d, f string) string { return filepath.Join(d, "shard-00001", f) }
	openAll := func(d string, o LogOptions) error {
		n, err := OpenNode(vfile.OS{}, d)
		if err != nil {
			return err
		}
		defer n.Close()
		i, err := ReadInfo(vfile.OS{}, d, 1)
		if err != nil {
			return err
		}
		l, err := OpenLogs(n.ShardDir(1), i, o)
		if err != nil {
			return err
		}
		return l.Close()
	}
	for _, c := range []struct {
		name string
		do   func(d string) error
		kind vfs.Kind
		text string
	}{
		{"untouched", func(d string) error { return openAll(d, LogOptions{}) }, vfs.KindOK, ""},
		{"other backend", func(d string) error { return openAll(d, LogOptions{Backend: Bolt}) }, vfs.KindIncompatible, "configure raft-wal"},
		{"unknown backend", func(d string) error {
			replace(shard(d, replicaFile), "raft-wal", "raft-foo")
			return openAll(d, LogOptions{})
		}, vfs.KindCorrupt, "damaged"},
		{"newer node format", func(d string) error {
			replace(filepath.Join(d, nodeFile), `"version": 1`, `"version": 2`)
			return openAll(d, LogOptions{})
		}, vfs.KindIncompatible, "newer"},
		{"newer replica format", func(d string) error {
			replace(shard(d, replicaFile), `"version": 1`, `"version": 2`)
			return openAll(d, LogOptions{})
		}, vfs.KindIncompatible, "newer"},
		{"foreign file", func(d string) error {
			replace(filepath.Join(d, nodeFile), nodeMagic, "something")
			return openAll(d, LogOptions{})
		}, vfs.KindIncompatible, "magic"},
		{"garbage", func(d string) error {
			replace(filepath.Join(d, nodeFile), "{", "<")
			return openAll(d, LogOptions{})
		}, vfs.KindCorrupt, ""},
		{"vote gone", func(d string) error { os.Remove(shard(d, stableFile)); return openAll(d, LogOptions{}) }, vfs.KindCorrupt, "damaged"},
		{"log gone", func(d string) error { os.RemoveAll(shard(d, walDir)); return openAll(d, LogOptions{}) }, vfs.KindCorrupt, "damaged"},
		{"identity gone", func(d string) error { os.Remove(shard(d, replicaFile)); return openAll(d, LogOptions{}) }, vfs.KindCorrupt, "damaged"},
		{"in use", func(d string) error {
			n, err := OpenNode(vfile.OS{}, d)
			if err != nil {
				return err
			}
			defer n.Close()
			return openAll(d, LogOptions{})
		}, vfs.KindBusy, "in use"},
		{"not formatted", func(d string) error { return openAll(t.TempDir(), LogOptions{}) }, vfs.KindNotFound, "not a metadata directory"},
		{"other cluster", func(d string) error { _, err := Format(vfile.OS{}, d, []byte("other"), "n1", nil, WAL); return err }, vfs.KindIncompatible, "belongs"},
		{"other node", func(d string) error { _, err := Format(vfile.OS{}, d, cluster, "n2", nil, WAL); return err }, vfs.KindIncompatible, "belongs"},
		{"format over other things", func(string) error {
			d := t.TempDir()
			os.WriteFile(filepath.Join(d, "precious"), nil, 0o600)
			_, err := Format(vfile.OS{}, d, cluster, "n1", nil, WAL)
			return err
		}, vfs.KindIncompatible, "precious"},
		{"bad node name", func(string) error { _, err := Format(vfile.OS{}, t.TempDir(), cluster, "N/1", nil, WAL); return err }, vfs.KindInvalid, "node name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.do(dir(strings.ReplaceAll(c.name, " ", "-")))
			if vfs.KindOf(err) != c.kind || (err != nil && !strings.Contains(err.Error(), c.text)) {
				t.Fatalf("got %v, want kind %v with %q", err, c.kind, c.text)
			}
		})
	}
}

// A crash while a replica's directory is made leaves nothing that counts.
func TestHalfMadeReplica(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "meta")
	format(t, dir, WAL)
	if err := os.MkdirAll(filepath.Join(dir, "shard-00001.tmp", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	n, err := OpenNode(vfile.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Shards) != 0 {
		t.Fatalf("shards %v", n.Shards)
	}
	n.Close()
	format(t, dir, WAL, 1)
}

func entry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d", i)}
}

// syncFS counts data syncs and, between a write and the sync that makes it durable, the bytes at risk.
type syncFS struct {
	vfile.FS
	syncs  atomic.Int64
	dirty  atomic.Int64 // writes not yet synced
	noSync atomic.Bool  // syncs do nothing
}

func (s *syncFS) Create(name string) (vfile.File, error) {
	f, err := s.FS.Create(name)
	return &syncFile{f, s}, err
}

func (s *syncFS) Open(name string) (vfile.File, error) {
	f, err := s.FS.Open(name)
	return &syncFile{f, s}, err
}

type syncFile struct {
	vfile.File
	s *syncFS
}

func (f *syncFile) WriteAt(p []byte, off int64) (int, error) {
	f.s.dirty.Add(1)
	return f.File.WriteAt(p, off)
}

func (f *syncFile) SyncData() error {
	if f.s.noSync.Load() {
		return nil
	}
	f.s.syncs.Add(1)
	f.s.dirty.Store(0)
	return f.File.SyncData()
}

// StoreLogs of raft-wal returns after exactly one data sync that follows its last write.
func TestWALSyncsBeforeItAcknowledges(t *testing.T) {
	fs := &syncFS{FS: vfile.OS{}}
	w, err := openWAL(t.TempDir(), LogOptions{WALSegmentBytes: minSegmentBytes, Files: fs}, new(fault))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := uint64(1); i <= 50; i++ {
		before := fs.syncs.Load()
		if err := w.StoreLogs([]*raft.Log{entry(2*i - 1), entry(2 * i)}); err != nil {
			t.Fatal(err)
		}
		if n := fs.syncs.Load() - before; n != 1 || fs.dirty.Load() != 0 {
			t.Fatalf("batch %d: %d syncs, %d unsynced writes", i, n, fs.dirty.Load())
		}
	}
}

// What a power cut leaves of raft-wal's segments contains every acknowledged entry; without the sync it
// does not, so that this test can fail.
func TestWALPowerCut(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		t.Run(fmt.Sprintf("noSync=%v", noSync), func(t *testing.T) {
			lost := 0
			for seed := range int64(20) {
				lost += powerCut(t, seed, noSync)
			}
			if !noSync && lost > 0 || noSync && lost == 0 {
				t.Fatalf("%d acknowledged entries were lost", lost)
			}
		})
	}
}

// memMeta is raft-wal's list of segments, durable at once as bbolt's is after a commit.
type memMeta struct {
	mu    sync.Mutex
	state types.PersistentState
}

func (m *memMeta) Load(string) (types.PersistentState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, nil
}

func (m *memMeta) CommitState(s types.PersistentState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Segments = slices.Clone(s.Segments)
	m.state = s
	return nil
}

func (m *memMeta) GetStable([]byte) ([]byte, error) { return nil, nil }
func (m *memMeta) SetStable([]byte, []byte) error   { return nil }
func (m *memMeta) Close() error                     { return nil }

func memWAL(t *testing.T, files vfile.FS, meta *memMeta) (*wal.WAL, error) {
	t.Helper()
	if err := vfile.MkdirAllSync(files, "w"); err != nil {
		t.Fatal(err)
	}
	return openSegments("w", meta, LogOptions{WALSegmentBytes: 4096, Files: files, Logger: hclog.NewNullLogger()}, new(fault))
}

// powerCut appends entries, over several segments, cuts power and returns how many acknowledged ones are gone.
func powerCut(t *testing.T, seed int64, noSync bool) int {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	disk := vfile.NewMem(-1)
	fs := &syncFS{FS: disk}
	meta := &memMeta{}
	w, err := memWAL(t, fs, meta)
	if err != nil {
		t.Fatal(err)
	}
	fs.noSync.Store(noSync)
	n := uint64(1 + rng.IntN(200))
	for i := uint64(1); i <= n; i++ {
		if err := w.StoreLog(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	after := &memMeta{}
	left := disk.CrashClone(rng, 0.5, func() { after.state, _ = meta.Load("") })
	w.Close()
	w, err = memWAL(t, left, after)
	if err != nil {
		if noSync {
			return int(n) // damaged beyond opening
		}
		t.Fatalf("seed %d: %v", seed, err)
	}
	defer w.Close()
	lost := 0
	for i := uint64(1); i <= n; i++ {
		var l raft.Log
		if err := w.GetLog(i, &l); err != nil || string(l.Data) != string(entry(i).Data) {
			lost++
		}
	}
	if !noSync {
		// It goes on, whatever the power cut did to the end of a segment.
		last, err := w.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.StoreLog(entry(last + 1)); err != nil {
			t.Fatalf("seed %d: %d entries, append of %d: %v", seed, n, last+1, err)
		}
	}
	return lost
}

// A replica is replaced by one with another id; the newest directory that was set aside stays; a crash between the two
// leaves no replica, and the next call goes on.
func TestReplace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "meta")
	first := format(t, dir, WAL, 1, 2)
	n, err := OpenNode(vfile.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	now := time.Unix(1e9, 0)
	ids := map[string]bool{first[0].ID: true}
	replace := func(wantAside int64) {
		t.Helper()
		info, aside, err := n.Replace(1, WAL, now)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := ReadInfo(vfile.OS{}, dir, 1); err != nil || have != info || ids[info.ID] || info.Cluster != first[0].Cluster || !strings.HasPrefix(info.ID, "n1.") {
			t.Fatalf("replica %+v, on disk %+v, %v", info, have, err)
		}
		ids[info.ID] = true
		found, err := filepath.Glob(filepath.Join(dir, "shard-00001.damaged-*"))
		if err != nil || len(found) != 1 || filepath.Base(found[0]) != aside || !strings.Contains(aside, time.Unix(wantAside, 0).UTC().Format("150405")) {
			t.Fatalf("set aside %q, said %q, %v", found, aside, err)
		}
		l, err := OpenLogs(n.ShardDir(1), info, LogOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if last, err := l.LastIndex(); err != nil || last != 0 {
			t.Errorf("a new replica with %d entries, %v", last, err)
		}
		l.Close()
		now = now.Add(time.Second)
	}
	replace(1e9)
	replace(1e9 + 1)
	// Killed after the rename.
	if err := os.Rename(n.ShardDir(1), n.ShardDir(1)+damagedInfix+now.UTC().Format("20060102T150405.000000000Z")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	replace(1e9 + 2)
	if have, err := ReadInfo(vfile.OS{}, dir, 2); err != nil || have != first[1] {
		t.Errorf("the other shard's replica: %+v, %v", have, err)
	}
	again, err := OpenNode(vfile.OS{}, dir)
	if err == nil {
		again.Close()
		t.Fatal("the directory is not locked")
	}
	n.Close()
	if n, err = OpenNode(vfile.OS{}, dir); err != nil || !slices.Equal(n.Shards, []uint16{1, 2}) {
		t.Fatalf("shards %v, %v", n, err)
	}
}
