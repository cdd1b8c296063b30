package machine

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// BenchmarkLookup looks names up at random in a directory of which the cache of records has all or a part: 16 MiB, as rackfs dev gives a replica, are about 130,000 names
// with their inodes, 4 MiB a third of 100,000.
func BenchmarkLookup(b *testing.B) {
	for _, x := range []struct{ entries, cacheMiB int }{{10_000, 16}, {100_000, 4}, {100_000, 16}, {100_000, 128}} {
		entries := x.entries
		b.Run(fmt.Sprintf("%d/%dMiB", entries, x.cacheMiB), func(b *testing.B) {
			h := benchHost(b, int64(x.cacheMiB)<<20)
			fillDirectory(b, h, entries)
			v, c, err := h.View()
			if err != nil {
				b.Fatal(err)
			}
			defer v.Release()
			rng := rand.New(rand.NewPCG(1, 2))
			ask := func(n int) {
				// As many as a call brings of 16 workers.
				for n > 0 {
					a := fsm.NewAsker(v, c)
					for range min(n, 8) {
						n--
						q := &metapb.Query{Fs: 1, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(vfs.RootIno), Name: entryName(rng.IntN(entries))}}}
						if r := a.Query(q); r.Kind != 0 {
							b.Fatal(vfs.Kind(r.Kind), r.Text)
						}
					}
				}
			}
			ask(4 * entries)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime()
			ask(b.N)
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func entryName(i int) []byte { return fmt.Appendf(nil, "file-%07d", i) }

// benchHost has what rackfs dev gives a replica, but for the cache of records.
func benchHost(b *testing.B, cache int64) *Host {
	b.Helper()
	dir := b.TempDir()
	snaps, err := snapstore.Open(vfile.OS{}, filepath.Join(dir, "snapshots"), 1, quiet)
	if err != nil {
		b.Fatal(err)
	}
	blocks := pebble.NewCache(32 << 20)
	defer blocks.Unref()
	h, err := Open(Options{
		Dir: filepath.Join(dir, "state"), Shard: 1, Cluster: []byte("c"), MemTableBytes: 8 << 20, CacheBytes: cache, BlockCache: blocks,
		OnFatal: func(err error) { b.Error(err) }, Logger: quiet,
	}, snaps)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.Close(); err != nil {
			b.Error(err)
		}
	})
	return h
}

// fillDirectory makes entries files in the root, by entries of the log with 64 commands each.
func fillDirectory(b *testing.B, h *Host, entries int) {
	b.Helper()
	mode := uint32(0o644)
	index := uint64(0)
	apply := func(cmds ...*metapb.Command) {
		index++
		enc, err := (&metapb.Entry{Format: 1, Commands: cmds}).MarshalVT()
		if err != nil {
			b.Fatal(err)
		}
		r := h.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: enc}).(Response)
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		for _, res := range r.Results {
			if res.Kind != 0 {
				b.Fatal(vfs.Kind(res.Kind), res.Text)
			}
		}
	}
	apply(&metapb.Command{Fs: 1, Time: &metapb.Time{Sec: 1}, Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "g", Incarnation: make([]byte, 16),
	}}})
	apply(&metapb.Command{Fs: 1, Time: &metapb.Time{Sec: 1}, Id: &metapb.Identity{Origin: 1, Seq: 1}, Op: &metapb.Command_CreateNamespace{
		CreateNamespace: &metapb.CreateNamespace{RootMode: 0o755, HashKey: make([]byte, 16)},
	}})
	var cmds []*metapb.Command
	for i := range entries {
		cmds = append(cmds, &metapb.Command{
			Fs: 1, Time: &metapb.Time{Sec: int64(i)}, Id: &metapb.Identity{Origin: 1, Slot: uint32(len(cmds)), Seq: uint64(i + 2)},
			Op: &metapb.Command_Create{Create: &metapb.Create{
				Parent: uint64(vfs.RootIno), Name: entryName(i), Type: uint32(vfs.TypeFile), Attr: &metapb.AttrSet{Mode: &mode},
			}},
		})
		if len(cmds) == 64 || i == entries-1 {
			apply(cmds...)
			cmds = cmds[:0]
		}
	}
}
