package machine

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"
)

// TestBatch: the store gets of each key what was written last, in the order of keys.
func TestBatch(t *testing.T) {
	db, err := pebble.Open("db", &pebble.Options{FS: pvfs.NewMem(), DisableWAL: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	var b batch
	for round := range 200 {
		b.reset()
		touched := map[string]bool{}
		for range rnd.IntN(60) {
			k := fmt.Appendf(nil, "%0*d", 1+rnd.IntN(3), rnd.IntN(40))
			touched[string(k)] = true
			if rnd.IntN(3) == 0 {
				delete(want, string(k))
				if err := b.Delete(k); err != nil {
					t.Fatal(err)
				}
				continue
			}
			v := bytes.Repeat([]byte{byte(round)}, rnd.IntN(5))
			want[string(k)] = string(v)
			if err := b.Set(k, v); err != nil {
				t.Fatal(err)
			}
		}
		p := db.NewBatch()
		if err := b.into(p); err != nil {
			t.Fatal(err)
		}
		var last []byte
		for r := p.Reader(); ; {
			_, k, _, ok, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if last != nil && bytes.Compare(last, k) >= 0 {
				t.Fatalf("%q comes after %q", k, last)
			}
			last = bytes.Clone(k)
			delete(touched, string(k))
		}
		if len(touched) > 0 {
			t.Fatalf("%v were written and are not in the batch", touched)
		}
		if err := db.Apply(p, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	if err := (live{db}).Scan([]byte{0}, []byte{255}, func(k, v []byte) bool { got[string(k)] = string(v); return true }); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("the store has %v, not %v", got, want)
	}
}
