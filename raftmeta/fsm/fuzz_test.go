package fsm

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// scripted are the messages of the scripts in testdata behind a word, as seeds.
func scripted[M proto.Message](f *testing.F, word string, fresh func() M) (all []M) {
	files, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal("no scripts: ", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			line, ok := strings.CutPrefix(line, word+" ")
			if m := fresh(); ok && prototext.Unmarshal([]byte(line), m) == nil {
				all = append(all, m)
			}
		}
	}
	if len(all) < 10 {
		f.Fatalf("%d seeds", len(all))
	}
	return all
}

// fuzzRig is a namespace with one of everything that commands may meet.
func fuzzRig(t testing.TB) *rig {
	r := newNamespaceRig(t, Options{MaxLevel: Level, limits: tiny})
	file := createCmd(1, "file")
	file.GetCreate().Open = uint32(vfs.OpenWrite)
	dir := createCmd(1, "dir")
	dir.GetCreate().Type = uint32(vfs.TypeDir)
	alloc := &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 3}}}
	r.apply(file, dir, alloc)
	r.flush()
	return r
}

// FuzzCommand gives a machine whatever a client may get into the log: any
// command that decodes and is known. It is answered, never a reason to stop, for an
// entry that stops one voter stops all; and the invariants hold.
func FuzzCommand(f *testing.F) {
	for _, c := range scripted(f, "apply", func() *metapb.Command { return new(metapb.Command) }) {
		b, err := c.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c metapb.Command
		if c.UnmarshalVT(b) != nil || c.Op == nil || len(c.ProtoReflect().GetUnknown()) > 0 {
			return // refused before the log
		}
		if l := c.GetRaiseLevel(); l != nil && l.Level > Level {
			return // a voter stops in front of what it does not know (TestStops)
		}
		for _, newest := range []bool{false, true} {
			r := fuzzRig(t)
			if newest {
				r.raise()
			}
			twice(t, r, c.CloneVT())
		}
	})
}

// twice runs a command that may come again.
func twice(t *testing.T, r *rig, c *metapb.Command) {
	for _, cmd := range []*metapb.Command{c, c.CloneVT()} {
		r.stamp(cmd)
		r.index++
		res, err := r.m.Apply(r.index, encodeEntry(t, cmd), r)
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		if len(res) != 1 || res[0] == nil {
			t.Fatalf("%v: answered %v", cmd, res)
		}
		r.check()
	}
}

// FuzzQuery asks anything. There is an answer, no larger than a call can carry.
func FuzzQuery(f *testing.F) {
	for _, q := range scripted(f, "query", func() *metapb.Query { return new(metapb.Query) }) {
		q.Fs = 1
		b, err := q.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	r := fuzzRig(f)
	const mayAllocate = 4 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		defer func() {
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > mayAllocate {
				t.Fatalf("%d bytes allocated for a query of %d", after.TotalAlloc-before.TotalAlloc, len(b))
			}
		}()
		var q metapb.Query
		if q.UnmarshalVT(b) != nil {
			return
		}
		if res := Query(r.store, nil, &q); res == nil || res.SizeVT() > answerBytesMax+1<<16 {
			t.Fatalf("%v: answer of %d bytes", &q, res.SizeVT())
		}
	})
}
