package nodegroup

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// All members of a group are told of its dead blocks, the store that a slot moves from among them; one that does not
// answer misses it, and holds up nobody.
func TestHints(t *testing.T) {
	r := newRig(t, 6, 2, 1, 12)
	var mu sync.Mutex
	told := map[uint32][]segment.Key{}
	r.hinted = func(store uint32, keys []segment.Key) {
		mu.Lock()
		defer mu.Unlock()
		told[store] = append(told[store], keys...)
	}
	g := r.pool().Pgs[0]
	moved := g.CloneVT()
	moved.Epoch++
	in := func(store uint32) bool {
		return slices.ContainsFunc(moved.Slots, func(s *metapb.Slot) bool { return s.Store == store })
	}
	to := uint32(1)
	for in(to) {
		to++
	}
	moved.Slots[1].Previous, moved.Slots[1].Store, moved.Slots[1].Filling = moved.Slots[1].Store, to, true
	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: 1, Changes: []*metapb.PGChange{{ExpectEpoch: g.Epoch, Pg: moved}}}}})
	away := moved.Slots[2].Store
	r.stop(away)

	h := NewHinter(HinterOptions{Meta: r.meta, Connect: func(_, addr string) Conn { return dial(addr, blockstore.RoleMeta) }, Every: time.Millisecond, Logger: quiet()})
	run(t, h)
	const blocks = hintBatch + 10
	var dead []*metapb.DeadBlock
	for i := range uint64(blocks) {
		dead = append(dead, &metapb.DeadBlock{Id: 1<<48 | i, Pg: moved.Id})
	}
	dead = append(dead, &metapb.DeadBlock{Id: 7, Pg: 9999}) // of a group that is gone
	h.Dead(dead)
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		if st := h.Status(); st.Queue == 0 && st.Told+st.Dropped == 4*blocks {
			if st.Dropped != blocks {
				t.Errorf("%+v, one store of four is away", st)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", h.Status())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := []uint32{moved.Slots[0].Store, moved.Slots[1].Store, moved.Slots[1].Previous}
	for id, keys := range told {
		if !slices.Contains(want, id) {
			t.Errorf("store %d is no member and was told of %d blocks", id, len(keys))
		}
	}
	for _, id := range want {
		if n := len(told[id]); n != blocks || told[id][0] != (segment.Key{PG: moved.Id, Block: 1 << 48}) {
			t.Errorf("store %d was told of %d blocks of %d", id, n, blocks)
		}
	}
}

// However many blocks die while nobody can be told, what waits is bounded.
func TestHintsAreBounded(t *testing.T) {
	h := NewHinter(HinterOptions{Logger: quiet()})
	const n = 1000
	batch := make([]*metapb.DeadBlock, n)
	for range hintQueue/n + 5 {
		h.Dead(batch)
	}
	if st := h.Status(); st.Queue != hintQueue || st.Dropped != (hintQueue/n+5)*n-hintQueue {
		t.Fatalf("%+v", st)
	}
}
