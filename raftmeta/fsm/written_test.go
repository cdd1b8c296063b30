package fsm

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// What a row says was written is what a map of bytes says, in whatever pieces it came; results beside it stay; a row that was read from the store goes on as one
// that was not, byte for byte; and a row stays what it was when another is made of it.
func TestWrittenRow(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	type place struct {
		op      uint32
		fs      uint32
		ino, at uint64
	}
	for range 200 {
		const seq, client = 7, 9
		bytes := make(map[place]bool)
		var row *slotRow
		var older []*slotRow
		var encoded []string
		results := 0
		for range 1 + rng.IntN(60) {
			if rng.IntN(4) == 0 {
				next, err := row.add(seq, client, &metapb.SlotResult{OpIndex: uint32(results + 1<<16), Result: &metapb.Result{Kind: 1}})
				if err != nil {
					t.Fatal(err)
				}
				row, results = next, results+1
			} else {
				off := uint64(rng.IntN(40))
				w := written{uint32(rng.IntN(2)), uint32(rng.IntN(2)), uint64(rng.IntN(2)), off, off + 1 + uint64(rng.IntN(8))}
				had := uint64(0)
				for at := w.off; at < w.end; at++ {
					if p := (place{w.op, w.fs, w.ino, at}); bytes[p] {
						had++
					} else {
						bytes[p] = true
					}
				}
				if row != nil {
					if got := row.wrote(&w); got != had {
						t.Fatalf("%d bytes of %+v are written, want %d", got, w, had)
					}
					row.write(seq, client, written{9, 9, 9, 0, 1}) // made and dropped
				}
				if row = row.write(seq, client, w); row.wrote(&w) != w.end-w.off {
					t.Fatalf("%+v is not written", w)
				}
			}
			if err := checkWritten(row.written); err != nil {
				t.Fatal(err)
			}
			n := uint64(0)
			for _, w := range row.written {
				n += w.end - w.off
			}
			if n != uint64(len(bytes)) || len(row.ops) != results {
				t.Fatalf("%d bytes and %d results, want %d and %d", n, len(row.ops), len(bytes), results)
			}
			b, err := row.record()
			if err != nil {
				t.Fatal(err)
			}
			older, encoded = append(older, row), append(encoded, string(b))
			read, err := decodeSlot(b)
			if err != nil {
				t.Fatal(err)
			}
			var want, got metapb.SlotRecord
			again, err := read.record()
			if err != nil || string(again) != string(b) || want.UnmarshalVT(b) != nil || got.UnmarshalVT(read.enc) != nil {
				t.Fatal("a row that was read is another one", err)
			}
			if want.Written = nil; !proto.Equal(&want, &got) || read.last != row.last {
				t.Fatalf("%v, want %v", &got, &want)
			}
			if rng.IntN(3) == 0 {
				row = read
			}
		}
		for i, r := range older {
			if b, err := r.record(); err != nil || string(b) != encoded[i] {
				t.Fatalf("row %d changed after it was made: %v", i, err)
			}
		}
	}
	row := (*slotRow)(nil)
	for i := range uint64(maxWritten) {
		if row = row.write(1, 1, written{off: 2 * i, end: 2*i + 1}); row == nil {
			t.Fatalf("no room for part %d", i)
		}
	}
	if row.write(1, 1, written{off: 1 << 20, end: 1<<20 + 1}) != nil {
		t.Error("a row takes any number of parts")
	}
	if row.write(1, 1, written{off: 1, end: 2}) == nil {
		t.Error("what joins two parts is refused")
	}
	for _, bad := range [][]written{{{off: 1, end: 1}}, {{off: 0, end: 2}, {off: 2, end: 3}}, {{op: 1, off: 0, end: 2}, {off: 3, end: 4}}} {
		if checkWritten(bad) == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
