package fsm

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// BenchmarkCheckState is the check of a state of 100,000 files of one block each, in parts of 50,000 records; B/op is what it allocates in all.
func BenchmarkCheckState(b *testing.B) {
	const files, batch = 100_000, 1000
	r := newNamespaceRig(b, Options{})
	r.raise()
	for range files / batch {
		var cmds []*metapb.Command
		first := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: batch}}}).GetBlocks().First
		for range batch {
			c := createCmd(1, fmt.Sprintf("f%d-%d", first, len(cmds)))
			c.GetCreate().Open = 2
			cmds = append(cmds, c)
		}
		var commits []*metapb.Command
		for i, res := range r.apply(cmds...) {
			f := res.GetCreate()
			commits = append(commits, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: f.Attr.Ino, Epoch: f.Lease.Epoch, Size: 100,
				Extents: []*metapb.NewExtent{{Length: 100, Block: first + uint64(i), ProfileK: 4, ProfileM: 2}}}}})
		}
		for _, res := range r.apply(commits...) {
			if res.Kind != 0 {
				b.Fatal(res.Text)
			}
		}
		r.flush()
	}
	runtime.GC()
	b.ReportAllocs()
	for b.Loop() {
		rep, err := CheckState(context.Background(), r.store, CheckOptions{Records: 50_000})
		if err != nil || rep.Found != 0 || rep.Inodes != files+1 {
			b.Fatal(rep, err)
		}
		b.ReportMetric(float64(rep.Parts), "parts")
	}
	b.ReportMetric(float64(files)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}
