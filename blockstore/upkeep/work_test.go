package upkeep

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// leaderFunc is the leader of shard 0.
type leaderFunc func(*metapb.WorkRequest) (*metapb.WorkReply, error)

func (f leaderFunc) Work(_ context.Context, _ uint16, r *metapb.WorkRequest) (*metapb.WorkReply, error) {
	return f(r)
}

// asking is another keeper of a node's store, which asks a leader and works by itself.
func (n *node) asking(l background.Leader, patience time.Duration) *Keeper {
	n.r.t.Helper()
	k, err := New(Options{
		Store: n.store, ID: n.id, Meta: n.r.meta, Logger: quiet(), Leader: l, Patience: patience,
		Dial:  func(_, address string) Conn { return dialAs(n.name, blockstore.RoleBlock, address) },
		Retry: 10 * time.Millisecond, MapInterval: 10 * time.Millisecond,
	})
	if err != nil {
		n.r.t.Fatal(err)
	}
	return k
}

// lacks counts the shards of the rig's files that a store should have by a map, and has not.
func (n *node) lacks(m *clusterMap) (missing int) {
	for _, f := range n.r.files {
		g := m.groups[f.b.PG]
		i := g.slotOf(n.id)
		shape, err := blockstore.ShapeOf(int(f.b.Len), g.k, g.m)
		if err != nil {
			n.r.t.Fatal(err)
		}
		if i >= 0 && shape.Stored(i) && n.has(f, i, shape.ShardLen) != nil {
			missing++
		}
	}
	return missing
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Shard 0 answers nobody: what a store lacks is rebuilt all the same, after a while and with the last map that it read. Only that the
// slot is filled is told when the shard is back.
func TestRepairWithoutShard0(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 14})
	r.writeMany(28)
	n := r.replace(r.nodes[2])
	var mu sync.Mutex
	asked := 0
	k := n.asking(leaderFunc(func(*metapb.WorkRequest) (*metapb.WorkReply, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return nil, vfs.Errorf(vfs.KindUnavailable, "test", "shard 0 has no leader")
	}), 300*time.Millisecond)
	defer k.Close()
	m, err := k.refresh(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n.lacks(m) == 0 {
		t.Fatal("nothing is missing")
	}
	for _, other := range r.nodes { // which admit repairers by the map that they read last
		if _, err := other.keeper.refresh(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	r.meta.hook(func(shard uint16, _ *metapb.Query) error {
		if shard == clusterShard {
			return vfs.Errorf(vfs.KindUnavailable, "test", "shard 0 has no leader")
		}
		return nil
	})
	k.Start()
	await(t, "repair without shard 0", func() bool { return n.lacks(m) == 0 })
	mu.Lock()
	if asked == 0 {
		t.Error("nobody was asked")
	}
	mu.Unlock()
	r.meta.hook(nil)
	if _, unfinished := r.slotsOf(n.id); unfinished == 0 {
		t.Fatal("slots were declared filled without shard 0")
	}
	await(t, "the end of filling", func() bool { _, unfinished := r.slotsOf(n.id); return unfinished == 0 })
}

// A repair whose permission is taken back in the middle, again and again, goes on where it was, and ends.
func TestRepairIsTakenBack(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 2})
	r.writeMany(28)
	n := r.replace(r.nodes[2])
	var mu sync.Mutex
	taken, kinds := 0, map[metapb.WorkKind]int{}
	k := n.asking(leaderFunc(func(q *metapb.WorkRequest) (*metapb.WorkReply, error) {
		mu.Lock()
		defer mu.Unlock()
		reply := &metapb.WorkReply{LapseMilliseconds: uint64(time.Hour / time.Millisecond)}
		for i, w := range q.Tasks {
			kinds[w.Kind]++
			rate := uint64(0)
			if ledger.ClassOf(w.Kind) == ledger.Repair && taken < 3 {
				if rate = 1 << 20; w.Running {
					taken++
					continue
				}
			}
			reply.Grants = append(reply.Grants, &metapb.WorkGrant{Task: uint32(i), BytesPerSecond: rate})
		}
		return reply, nil
	}), 0)
	defer k.Close()
	k.Start()
	await(t, "the end of filling", func() bool { _, unfinished := r.slotsOf(n.id); return unfinished == 0 })
	mu.Lock()
	defer mu.Unlock()
	if taken < 3 || kinds[metapb.WorkKind_WORK_SURVEY] == 0 {
		t.Errorf("taken back %d times, asked for %v", taken, kinds)
	}
	if missing := n.lacks(newClusterMap(r.cluster())); missing > 0 {
		t.Errorf("%d shards are missing", missing)
	}
}
