package upkeep

import (
	"context"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// large is a group of many blocks that nobody stores: its members' lists are made up, the sockets they come through are real.
type large struct {
	blocks uint64
	pages  atomic.Int64
	onPage func(n int64)
}

func (l *large) page(slot uint8, after *segment.Key, limit int) (out []store.Entry, more bool) {
	next := uint64(testShard)<<shardShift + 1
	if after != nil {
		next = after.Block + 1
	}
	end := uint64(testShard)<<shardShift + 1 + l.blocks
	for ; next < end && len(out) < limit; next++ {
		out = append(out, store.Entry{Key: keyOf(1, next, int(slot)), Length: 256 << 10, Epoch: 1, BlockLen: 1 << 20, K: 4, M: 2})
	}
	return out, next < end
}

func (l *large) serve(slot uint8) wire.Handler {
	return func(_ context.Context, call *wire.Call) error {
		if call.Op == blockstore.OpFence {
			return nil
		}
		var r blockstore.ListRequest
		if err := r.Decode(call.Meta); err != nil {
			return err
		}
		entries, more := l.page(slot, r.After, int(r.Limit))
		var payload []byte
		for _, e := range entries {
			info := infoOf(e)
			payload = info.Append(payload)
		}
		if n := l.pages.Add(1); l.onPage != nil {
			l.onPage(n)
		}
		reply := blockstore.ListReply{More: more}
		return call.Reply(reply.Append(nil), payload)
	}
}

// listing is a store that lists the group too, or nothing of it.
type listing struct {
	Store
	l    *large
	none bool
}

func (s *listing) List(_ context.Context, pg uint32, after *segment.Key, limit int) ([]store.Entry, bool, error) {
	if s.none {
		return nil, false, nil
	}
	out, more := s.l.page(0, after, limit)
	return out, more, nil
}

// Stat knows of no shard: of what the list lacks none has come.
func (s *listing) Stat(context.Context, segment.Key) (store.Entry, segment.Owner, error) {
	return store.Entry{}, segment.Owner{}, vfs.KindNotFound.Err("test")
}

func (s *listing) Fence(context.Context, []segment.Epoch) error { return nil }
func (s *listing) Info() store.Info {
	return store.Info{Cluster: testCluster, MetadataIncarnation: fsm.FirstIncarnation}
}

// Query answers that all blocks are live.
func (l *large) Query(_ context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	switch {
	case q.GetBlockStates() != nil:
		r := &metapb.BlockStatesR{}
		for range q.GetBlockStates().Ids {
			r.States, r.Pgs = append(r.States, metapb.BlockState_BLOCK_LIVE), append(r.Pgs, 1)
		}
		return &metapb.QueryResult{R: &metapb.QueryResult_BlockStates{BlockStates: r}}, nil
	case q.GetShardInfo() != nil:
		return &metapb.QueryResult{R: &metapb.QueryResult_ShardInfo{ShardInfo: &metapb.ShardInfoR{
			Shard: uint32(shard), Incarnation: fsm.FirstIncarnation, Cluster: testCluster[:],
		}}}, nil
	}
	return nil, vfs.Errorf(vfs.KindNotSupported, "test", "query")
}

func (l *large) Apply(context.Context, uint16, *metapb.Command) (*metapb.Result, error) {
	return nil, vfs.Errorf(vfs.KindNotSupported, "test", "command")
}

// newLarge returns the keeper of slot 0, its map, and the group.
func newLarge(t testing.TB, l *large, none bool) (*Keeper, view, *group) {
	r := &metapb.ClusterMapR{Version: 1}
	pg := &metapb.PlacementGroup{Id: 1, Epoch: 1}
	for i := range uint32(6) {
		address := "127.0.0.1:1"
		if i > 0 {
			s := wire.NewServer(l.serve(uint8(i)), wire.ServerOptions{Security: wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: "n"}}, Logger: quiet()})
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.Serve(ln) }()
			t.Cleanup(func() { s.Close(); <-done })
			address = ln.Addr().String()
		}
		r.Stores = append(r.Stores, &metapb.Store{Id: i + 1, Node: string(rune('a' + i)), Address: address})
		pg.Slots = append(pg.Slots, &metapb.Slot{Store: i + 1})
	}
	r.Pools = []*metapb.Pool{{Id: 1, K: 4, M: 2, Pgs: []*metapb.PlacementGroup{pg}}}
	k, err := New(Options{
		Store: &listing{l: l, none: none}, ID: 1, Meta: l, Logger: quiet(),
		Dial: func(_, address string) Conn { return dialAs("a", blockstore.RoleBlock, address) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	m := newClusterMap(r)
	k.cmap.Store(m)
	return k, view{m, k.peers}, m.groups[1]
}

// A survey's memory does not grow with the group.
func TestSurveyMemory(t *testing.T) {
	const blocks, bound = 100_000, 4 << 20
	l := &large{blocks: blocks}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	k, v, g := newLarge(t, l, true)
	var base, most uint64
	l.onPage = func(n int64) {
		switch {
		case n == 20:
			base = heap()
		case n > 20 && n%40 == 0:
			most = max(most, heap())
		}
	}
	s, err := k.survey(context.Background(), v, g, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.scanned != blocks || s.missing != blocks || s.spare[1] != blocks {
		t.Fatalf("survey %+v", s)
	}
	if base == 0 || most > base+bound {
		t.Fatalf("%d bytes of heap at the beginning, up to %d later", base, most)
	}
}

func BenchmarkSurvey(b *testing.B) {
	for _, c := range []struct {
		name string
		none bool
	}{{"clean", false}, {"empty", true}} {
		b.Run(c.name, func(b *testing.B) {
			l := &large{blocks: 100_000}
			k, v, g := newLarge(b, l, c.none)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.survey(context.Background(), v, g, 0, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/600_000, "ns/shard")
		})
	}
}

// BenchmarkRepair fills a store that is empty: 4+2, blocks of 1 MiB, everything in one process and in memory.
func BenchmarkRepair(b *testing.B) {
	r := newRig(b, rigOptions{stores: 6, k: 4, m: 2, pgs: 4, capacity: 512 << 20})
	for range 64 {
		r.write(1 << 20)
	}
	n := r.nodes[0]
	for b.Loop() {
		n = r.replace(n)
		if st := n.heal(); st.Clean != 4 || st.Rebuilt != 64 {
			b.Fatalf("status %+v", st)
		}
	}
	b.SetBytes(64 * 256 << 10)
}
