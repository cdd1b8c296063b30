package fsm

import (
	"bytes"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// pebbleView reads a database as the engine does.
type pebbleView struct{ r pebble.Reader }

func (v pebbleView) Get(k []byte) ([]byte, bool, error) {
	b, c, err := v.r.Get(k)
	if err == pebble.ErrNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	b = bytes.Clone(b)
	return b, true, c.Close()
}

func (v pebbleView) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	it, err := v.r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && fn(it.Key(), it.Value()); ok = it.Next() {
	}
	return it.Close()
}

type pebbleBatch struct{ b *pebble.Batch }

func (w pebbleBatch) Set(k, v []byte) error { return w.b.Set(k, v, nil) }
func (w pebbleBatch) Delete(k []byte) error { return w.b.Delete(k, nil) }

func openPebble(b *testing.B) *pebble.DB {
	b.Helper()
	cache := pebble.NewCache(128 << 20)
	defer cache.Unref()
	o := &pebble.Options{FS: pvfs.NewMem(), DisableWAL: true, MemTableSize: 16 << 20, Cache: cache, Logger: quiet{}}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open("db", o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCreate applies entries of 64 creates, each by another slot, into 100
// directories, one Pebble commit per entry. The time of decoding the entry, of
// Pebble's flushes and compactions and of the garbage collector is included:
// compare cpu-ns/op.
//
// call makes each an operation of an NFS client's call, share records its open, both as an OPEN of level 3 does.
func BenchmarkCreate(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkCreate(b, func(*metapb.Command, int) {}) })
	call := func(c *metapb.Command, i int) {
		c.Call = &metapb.Call{Session: []byte("session-00000001"), Client: 1, Slot: uint32(i) % 64, Seq: uint64(i/64 + 1)}
	}
	share := func(c *metapb.Command, i int) {
		c.GetCreate().Share = &metapb.ClientOpen{
			Client: 1, Stateid: fmt.Appendf(nil, "%012d", i), Owner: []byte("open id: 0123456789"), Access: 2, State: make([]byte, 16),
		}
	}
	b.Run("call", func(b *testing.B) { benchmarkCreate(b, call) })
	b.Run("share", func(b *testing.B) { benchmarkCreate(b, share) })
	b.Run("call and share", func(b *testing.B) {
		benchmarkCreate(b, func(c *metapb.Command, i int) { call(c, i); share(c, i) })
	})
}

func benchmarkCreate(b *testing.B, set func(c *metapb.Command, i int)) {
	const perEntry, dirs = 64, 100
	db := openPebble(b)
	m, err := Open(pebbleView{db}, Options{Shard: 1, Cluster: testCluster, Cache: NewCache(64 << 20), limits: benchLimits()})
	if err != nil {
		b.Fatal(err)
	}
	index := uint64(0)
	apply := func(entry []byte) {
		batch := db.NewBatch()
		index++
		res, err := m.Apply(index, entry, pebbleBatch{batch})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range res {
			if r.Kind != 0 {
				b.Fatal(vfs.Kind(r.Kind), r.Text)
			}
		}
		if err := batch.Commit(pebble.NoSync); err != nil {
			b.Fatal(err)
		}
		m.Flushed()
	}
	rig := &rig{t: b, seqs: make(map[slotKey]uint64), me: 1}
	entry := func(cmds ...*metapb.Command) []byte {
		for _, c := range cmds {
			rig.stamp(c)
		}
		return encodeEntry(b, cmds...)
	}
	apply(entry(&metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}},
		&metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
			Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "a", Incarnation: incarnation(1)}}},
		raiseCmd(2), raiseCmd(levelPOSIX)))
	for i := range dirs {
		c := createCmd(1, fmt.Sprint("d", i))
		c.GetCreate().Type = uint32(vfs.TypeDir)
		apply(entry(c))
	}
	var entries [][]byte
	for n := 0; n < b.N; n += perEntry {
		var cmds []*metapb.Command
		for i := range perEntry {
			c := createCmd(uint64(2+(n/4096)%dirs), fmt.Sprintf("file-%09d", n+i))
			c.Id = &metapb.Identity{Origin: 1, Slot: uint32(i)}
			c.Cred = &metapb.Cred{Uid: 1000, Gid: 1000}
			c.GetCreate().Open = uint32(vfs.OpenWrite)
			mode := uint32(0o777)
			c.GetCreate().Attr.Mode = &mode
			set(c, n+i)
			cmds = append(cmds, c)
		}
		for _, c := range cmds {
			c.Cred = nil
		}
		entries = append(entries, entry(cmds...))
	}
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime()
	for _, e := range entries {
		apply(e)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// benchLimits let one client have any number of opens.
func benchLimits() limits {
	l := levelLimits
	l.clientOpens = 1 << 30
	return l
}
