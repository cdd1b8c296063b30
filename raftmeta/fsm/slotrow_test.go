package fsm

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Commands of one seq come in any order. Each finds its own result and no other, the row is what encoding the whole record gives, and
// a row stays what it was when another is made of it, also if that happens twice.
func TestSlotRow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		const seq, client = 7, 9
		want := &metapb.SlotRecord{Seq: seq, Client: client}
		var row *slotRow
		var older []*slotRow
		var encoded []string
		order := rng.Perm(1 + rng.IntN(80))
		for n, op := range order {
			v := &metapb.SlotResult{OpIndex: uint32(op), Op: uint32(rng.IntN(2) * 40), Origin: uint64(rng.IntN(2) * 1000), Result: &metapb.Result{
				Of: &metapb.Result_Origin{Origin: &metapb.OriginResult{Origin: uint64(op + 1)}},
			}}
			if rng.IntN(3) == 0 {
				v.Result = &metapb.Result{Kind: uint32(rng.IntN(4))}
			}
			if rng.IntN(4) == 0 && row != nil { // made and dropped
				if _, err := row.add(seq, client, &metapb.SlotResult{OpIndex: 5000, Result: &metapb.Result{Kind: 1}}); err != nil {
					t.Fatal(err)
				}
			}
			next, err := row.add(seq, client, v)
			if err != nil {
				t.Fatal(err)
			}
			row = next
			older, encoded = append(older, row), append(encoded, string(row.enc))
			want.Results = append(want.Results, v)
			whole, err := want.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			var a, b metapb.SlotRecord
			if a.UnmarshalVT(whole) != nil || b.UnmarshalVT(row.enc) != nil || !proto.Equal(&a, &b) {
				t.Fatalf("after %d results: %v, want %v", n+1, &b, &a)
			}
			if len(row.ops) != n+1 {
				t.Fatalf("%d results, want %d", len(row.ops), n+1)
			}
		}
		for i, r := range older {
			if string(r.enc) != encoded[i] {
				t.Fatalf("row %d changed after it was made", i)
			}
		}
		for n, op := range order {
			got, err := row.stored(uint32(op))
			if err != nil || got == nil || !proto.Equal(got, want.Results[n]) {
				t.Fatalf("op %d: %v, %v, want %v", op, got, err, want.Results[n])
			}
			if n > 0 { // before it was added there was none
				if got, err := older[n-1].stored(uint32(op)); got != nil || err != nil {
					t.Fatalf("op %d was found before it was added: %v, %v", op, got, err)
				}
			}
		}
	}
}

func BenchmarkSlotRow(b *testing.B) {
	b.ReportAllocs()
	order := rand.New(rand.NewPCG(1, 2)).Perm(128)
	r := &metapb.Result{Of: &metapb.Result_Create{Create: &metapb.CreateResult{Attr: &metapb.Attr{Ino: 1, Mode: 0o644, Mtime: &metapb.Time{Sec: 1e9}}}}}
	for b.Loop() {
		var row *slotRow
		for _, op := range order {
			if row != nil {
				if v, err := row.find(uint32(op)); v != nil || err != nil {
					b.Fatal(v, err)
				}
			}
			var err error
			if row, err = row.with(&metapb.Identity{Seq: 1, OpIndex: uint32(op)}, r); err != nil {
				b.Fatal(err)
			}
		}
	}
}
