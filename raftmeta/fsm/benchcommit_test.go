package fsm

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// BenchmarkCommit applies entries of 64 CommitData of 64 bytes in the metadata, each of another file, one Pebble commit per entry. "call" names the request that wrote, of one of
// 64 slots, as a flush does; "once" has it carried out once, as a write to a shared file does. Compare cpu-ns/op.
func BenchmarkCommit(b *testing.B) {
	call := func(c *metapb.CommitData, i int) {
		c.Calls = []*metapb.DataCall{{
			Call:   &metapb.Call{Session: []byte("session-00000001"), Client: 1, Slot: uint32(i) % 64, Seq: uint64(i/64 + 1), OpIndex: 2},
			Offset: c.Extents[0].Offset, End: c.Extents[0].Offset + uint64(c.Extents[0].Length),
		}}
	}
	b.Run("plain", func(b *testing.B) { benchmarkCommit(b, func(*metapb.CommitData, int) {}) })
	b.Run("call", func(b *testing.B) { benchmarkCommit(b, call) })
	b.Run("once", func(b *testing.B) {
		benchmarkCommit(b, func(c *metapb.CommitData, i int) { call(c, i); c.Once = true })
	})
}

func benchmarkCommit(b *testing.B, set func(c *metapb.CommitData, i int)) {
	const perEntry, files = 64, 64
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
			Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "a", Incarnation: incarnation(1)}}}))
	for l := uint32(2); l <= Level; l++ {
		apply(entry(raiseCmd(l)))
	}
	for i := range files {
		c := createCmd(1, fmt.Sprint("f", i))
		c.GetCreate().Open = uint32(vfs.OpenWrite)
		apply(entry(c))
	}
	data := make([]byte, 64)
	var entries [][]byte
	for n := 0; n < b.N; n += perEntry {
		var cmds []*metapb.Command
		for i := range perEntry {
			off := uint64((n/perEntry)%256) * pageSize
			c := &metapb.CommitData{
				Ino: uint64(2 + i), Epoch: 1, Size: off + uint64(len(data)), Extents: []*metapb.NewExtent{{Offset: off, Length: uint32(len(data)), Inline: data}},
			}
			set(c, n+i)
			cmds = append(cmds, &metapb.Command{Id: &metapb.Identity{Origin: 1, Slot: uint32(i)}, Op: &metapb.Command_CommitData{CommitData: c}})
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
}
