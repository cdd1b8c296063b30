package raftmeta

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Voters of a release that knows only the first protocol of Raft streams, and of one that knows the second, are one shard: while they are
// upgraded one after the other, and were taken back before, each of them leads, and speaks to each of the others as that one can.
func TestReleasesMix(t *testing.T) {
	c, as := pkiCluster(t, wire.ModeTLS)
	var older [3]atomic.Bool
	secure := c.opt
	c.opt = func(i int, o *Options) {
		secure(i, o)
		if older[i].Load() {
			o.raftProtocol = mux.Raft1
		}
	}
	cl := c.clientWith(func(o *ClientOptions) { o.Security = as("gw", "gateway") })
	ctx := testContext(t)
	if _, err := cl.Register(ctx, 1, metapb.OriginKind_ORIGIN_GATEWAY, "gw", make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Apply(ctx, 1, &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o755, HashKey: []byte("0123456789abcdef"),
	}}}); err != nil {
		t.Fatal(err)
	}
	files := 0
	create := func(n int) {
		t.Helper()
		for range n {
			if _, err := cl.Apply(ctx, 1, createCmd(fmt.Sprintf("file-%d", files))); err != nil {
				t.Fatal(err)
			}
			files++
		}
	}
	restart := func(i int, old bool) {
		t.Helper()
		c.stop(i)
		create(20)
		older[i].Store(old)
		c.start(i)
		create(5)
	}
	leads := func(i int) bool {
		l := c.leader(1)
		if l != i {
			_ = c.server(l).TransferLeadership(1, c.names[i]) // it may not have caught up
		}
		return l == i
	}
	lead := func(i int) {
		t.Helper()
		c.eventually("the voter to lead", func() bool { return leads(i) })
		create(10)
		if older[i].Load() {
			return
		}
		c.eventually("each follower to be spoken to as it can", func() bool {
			if !leads(i) { // another one was elected meanwhile
				return false
			}
			want := 0
			for j := range older {
				if older[j].Load() {
					want++
				}
			}
			tr := c.server(i).shards[1].trans
			tr.mu.Lock()
			defer tr.mu.Unlock()
			return len(tr.speak) == want
		})
	}
	for _, step := range []struct {
		node int
		old  bool
	}{{0, true}, {1, true}, {2, true}, {0, false}, {1, false}, {2, false}} {
		restart(step.node, step.old)
		for i := range c.servers {
			lead(i)
		}
		c.sameState(1)
	}
	for i := range files {
		if _, err := cl.Query(ctx, 1, lookupQuery(fmt.Sprintf("file-%d", i))); err != nil {
			t.Fatalf("file %d of %d: %v", i, files, err)
		}
	}
}
