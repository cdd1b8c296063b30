package machine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// TestListing: a listing with attributes has those that each inode has, whether the cache has some, all or none of them.
func TestListing(t *testing.T) {
	n := open(t, t.TempDir())
	for _, last := range []uint64{40, 1500} { // of the larger one the cache keeps nothing
		n.apply(n.host.Status().State+1, last)
		v, c, err := n.host.View()
		if err != nil {
			t.Fatal(err)
		}
		defer v.Release()
		ask := func(c *fsm.Cache, q *metapb.Query) *metapb.QueryResult {
			t.Helper()
			q.Fs = 1
			r := fsm.Query(v, c, q)
			if r.Kind != 0 {
				t.Fatalf("%v: %v %s", q, vfs.Kind(r.Kind), r.Text)
			}
			return r
		}
		for _, with := range []*fsm.Cache{nil, fsm.NewCache(1 << 20), c, c} {
			r := ask(with, &metapb.Query{Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{Dir: uint64(vfs.RootIno), Attrs: true}}})
			list := r.GetReadDir().Entries
			if len(list) != int(last)-2 {
				t.Fatalf("%d entries", len(list))
			}
			for _, e := range list {
				want := ask(nil, &metapb.Query{Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: e.Ino}}}).GetAttr().Attr
				if !proto.Equal(e.Attr, want) {
					t.Fatalf("%s is listed with %v, it has %v", e.Name, e.Attr, want)
				}
			}
		}
	}
}

// TestGetSorted compares it with Get, also of keys that are not there.
func TestGetSorted(t *testing.T) {
	n := open(t, t.TempDir())
	n.apply(1, 300)
	v, _, err := n.host.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	for _, step := range []uint64{1, 7, 1000} {
		key := func(i int) []byte {
			return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32([]byte("i/"), 1), uint64(i)*step)
		}
		seen := 0
		err := v.GetSorted(400, key, func(i int, got []byte) bool {
			want, ok, err := v.Get(key(i))
			if err != nil {
				t.Fatal(err)
			}
			if ok != (got != nil) || !bytes.Equal(got, want) {
				t.Errorf("%d: %x, not %x", i, got, want)
			}
			if ok {
				seen++
			}
			return true
		})
		if err != nil || seen == 0 && step < 1000 {
			t.Errorf("step %d: %d values, %v", step, seen, err)
		}
	}
	last := 0
	if err := v.GetSorted(400, func(i int) []byte { return fmt.Appendf(nil, "%03d", i) }, func(i int, _ []byte) bool { last = i; return i < 5 }); err != nil || last != 5 {
		t.Errorf("it went on to %d, %v", last, err)
	}
}
