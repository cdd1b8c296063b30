package replica

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// lived is the directory of a replica that has lived a while: several segments, a log that was cut at both ends, a
// term and a vote. It returns what a reader must find.
func lived(t *testing.T, log Backend) (dir string, info Info, first, last uint64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "meta")
	info = format(t, dir, log, 1)[0]
	l, err := OpenLogs(filepath.Join(dir, shardName(1)), info, LogOptions{WALSegmentBytes: minSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	last = 60
	for i := uint64(1); i <= last; {
		var batch []*raft.Log
		for j := i; j <= last && j < i+1+i%4; j++ {
			batch = append(batch, livedEntry(j))
		}
		i += uint64(len(batch))
		if err := l.StoreLogs(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.DeleteRange(1, 9); err != nil {
		t.Fatal(err)
	}
	if err := l.DeleteRange(56, 60); err != nil {
		t.Fatal(err)
	}
	if err := l.StoreLogs([]*raft.Log{livedEntry(56), livedEntry(57)}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{l.Stable.SetUint64([]byte("CurrentTerm"), 7), l.Stable.SetUint64([]byte("LastVoteTerm"), 7), l.Stable.Set([]byte("LastVoteCand"), []byte("m1.abc"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, info, 10, 57
}

func livedEntry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 7, Type: raft.LogCommand, Data: bytes.Repeat(fmt.Appendf(nil, "entry %d.", i), 1+int(i%7)*700)}
}

// inspect opens the replica and compares everything with what must be there.
func inspect(dir string, info Info, first, last uint64) error {
	l, err := OpenLogs(filepath.Join(dir, shardName(1)), info, LogOptions{WALSegmentBytes: minSegmentBytes})
	if err != nil {
		return err
	}
	defer l.Close()
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil {
			return err
		}
		if want := livedEntry(i); e.Index != i || e.Term != want.Term || e.Type != want.Type || !bytes.Equal(e.Data, want.Data) || e.Extensions != nil {
			return vfs.Errorf(vfs.KindInternal, "test", "entry %d is another one, without an error", i)
		}
	}
	if n, err := l.LastIndex(); err != nil || n != last {
		return vfs.Errorf(vfs.KindInternal, "test", "last index %d, want %d: %v", n, last, err)
	}
	for key, want := range map[string]uint64{"CurrentTerm": 7, "LastVoteTerm": 7} {
		if v, err := l.Stable.GetUint64([]byte(key)); err != nil || v != want {
			return vfs.Errorf(vfs.KindOf(err), "test", "%s %d: %w", key, v, err)
		}
	}
	if v, err := l.Stable.Get([]byte("LastVoteCand")); err != nil || string(v) != "m1.abc" {
		return vfs.Errorf(vfs.KindOf(err), "test", "vote for %q: %w", v, err)
	}
	return nil
}

// One bit that flips anywhere in the log, its list of segments, the stable store or the tail is either harmless or an error of KindCorrupt:
// never a panic, never another entry, never a log that forgot what it acknowledged.
func TestFlippedBits(t *testing.T) {
	trials := 12
	if os.Getenv("RACKFS_LONG") != "" {
		trials = 5000
	}
	for _, log := range []Backend{WAL, Bolt} {
		t.Run(string(log), func(t *testing.T) {
			dir, info, first, last := lived(t, log)
			if err := inspect(dir, info, first, last); err != nil {
				t.Fatal(err)
			}
			var files []string
			err := filepath.WalkDir(filepath.Join(dir, shardName(1)), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && d.Name() != replicaFile {
					rel, _ := filepath.Rel(dir, path)
					files = append(files, rel)
				}
				return err
			})
			if err != nil || len(files) < 3 {
				t.Fatalf("files %q: %v", files, err)
			}
			for _, file := range files {
				t.Run(filepath.Base(file), func(t *testing.T) {
					noticed := 0
					for seed := range trials {
						rng := rand.New(rand.NewPCG(uint64(seed), 3))
						hurt := filepath.Join(t.TempDir(), "meta")
						if err := os.CopyFS(hurt, os.DirFS(dir)); err != nil {
							t.Fatal(err)
						}
						at, bit := flipUsed(t, filepath.Join(hurt, file), rng)
						switch err := inspect(hurt, info, first, last); {
						case err == nil:
						case vfs.KindOf(err) == vfs.KindCorrupt, errors.Is(err, raft.ErrLogNotFound):
							noticed++ // Raft reads what is behind its snapshot, and does not start without
						default:
							t.Errorf("seed %d, byte %d, bit %d: %v", seed, at, bit, err)
						}
						os.RemoveAll(hurt)
					}
					t.Logf("%d of %d flips were noticed, the others were harmless", noticed, trials)
					if noticed == 0 {
						t.Error("no flip was noticed: the test shows nothing")
					}
				})
			}
		})
	}
}

// flipUsed flips a bit of a byte that is not zero, or next to one that is not: preallocated space is no target.
func flipUsed(t *testing.T, path string, rng *rand.Rand) (at, bit int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var used []int
	for i := range b {
		if b[i] != 0 || i > 0 && b[i-1] != 0 {
			used = append(used, i)
		}
	}
	at, bit = used[rng.IntN(len(used))], rng.IntN(8)
	b[at] ^= 1 << bit
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return at, bit
}

// A replica that a release without checksums made is read, and what is added has them.
func TestReplicaOfAnOlderRelease(t *testing.T) {
	for _, log := range []Backend{WAL, Bolt} {
		t.Run(string(log), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "meta")
			info := format(t, dir, log, 1)[0]
			shard := filepath.Join(dir, shardName(1))
			for _, f := range []string{tailFile, stableFile} {
				if err := os.Remove(filepath.Join(shard, f)); err != nil {
					t.Fatal(err)
				}
			}
			info.Checked = false
			stable, err := openBolt(filepath.Join(shard, stableFile))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(stable.SetUint64([]byte("CurrentTerm"), 5), stable.SetUint64([]byte("LastVoteTerm"), 5), stable.Set([]byte("LastVoteCand"), []byte("m1.abc")), stable.Close()); err != nil {
				t.Fatal(err)
			}
			var old closingStore
			if log == WAL {
				old, err = openWAL(filepath.Join(shard, walDir), LogOptions{WALSegmentBytes: minSegmentBytes, Files: vfile.OS{}}, new(fault))
			} else {
				old, err = openBolt(filepath.Join(shard, boltLogFile))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(old.StoreLogs([]*raft.Log{entry(1), entry(2)}), old.Close()); err != nil {
				t.Fatal(err)
			}
			for next := uint64(3); next <= 4; next++ {
				l, err := OpenLogs(shard, info, LogOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for i := uint64(1); i < next; i++ {
					var e raft.Log
					if err := l.GetLog(i, &e); err != nil || string(e.Data) != string(entry(i).Data) || e.Extensions != nil {
						t.Errorf("entry %d: %+v, %v", i, e, err)
					}
				}
				if term, err := l.Stable.GetUint64([]byte("CurrentTerm")); err != nil || term < 5 {
					t.Errorf("term %d, %v", term, err)
				}
				if err := errors.Join(l.StoreLog(entry(next)), l.Stable.SetUint64([]byte("CurrentTerm"), 5+next), l.Close()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
