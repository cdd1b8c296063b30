package raftmeta

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/internal/faultproxy"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// doubtful is a cluster and a client with all patience, whose every connection can be made to say nothing.
func doubtful(t *testing.T) (c *cluster, cl *Client, proxies []*faultproxy.Proxy) {
	c = newCluster(t, 3, []uint16{1}, nil)
	c.gateway(1, "other") // makes the file system
	addrs := map[string]string{}
	for _, n := range c.names {
		p, err := faultproxy.Listen(func(ctx context.Context) (string, error) { return c.Resolve(ctx, n) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		proxies, addrs[n] = append(proxies, p), p.Addr()
	}
	cl = c.clientWith(func(o *ClientOptions) {
		o.AttemptTimeout = patience
		o.Resolver = ResolverFunc(func(_ context.Context, node string) (string, error) { return addrs[node], nil })
	})
	if _, err := cl.Register(testContext(t), 1, metapb.OriginKind_ORIGIN_GATEWAY, "gw", []byte("incarnation 0001")); err != nil {
		t.Fatal(err)
	}
	return c, cl, proxies
}

// A leader whose machine says nothing any more is not waited for once the others have another one.
func TestSilentLeader(t *testing.T) {
	c, cl, proxies := doubtful(t)
	ctx := testContext(t)
	old := slices.Index(c.names, cl.shard(1).target())
	proxies[old].Set(faultproxy.Conditions{Hold: true}, faultproxy.ToTarget, faultproxy.FromTarget)
	done := make(chan error, 2)
	go func() {
		_, err := cl.Apply(ctx, 1, createCmd("f"))
		done <- err
	}()
	go func() {
		_, err := cl.Query(ctx, 1, lookupQuery("nothing"))
		done <- err
	}()
	for c.leader(1) == old { // an attempt may fail
		c.server(old).HandOver()
	}
	for range 2 {
		select {
		case <-done: // a query finds nothing; what counts is the answer
		case <-ctx.Done():
			t.Fatal("the client still waits for the old leader")
		}
	}
	if _, err := cl.Query(ctx, 1, lookupQuery("f")); err != nil {
		t.Error(err)
	}
}

// A leader that is slow is waited for as long as the others follow it.
func TestSlowLeader(t *testing.T) {
	c, cl, proxies := doubtful(t)
	ctx := testContext(t)
	l := c.leader(1)
	term := func() (newest uint64) {
		for i := range c.servers {
			st, _ := c.status(i, 1)
			newest = max(newest, st.Term)
		}
		return newest
	}
	before := term()
	if _, err := cl.Query(ctx, 1, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}}); err != nil {
		t.Fatal(err)
	}
	proxies[l].Set(faultproxy.Conditions{Hold: true}, faultproxy.FromTarget)
	var answered atomic.Bool
	done := make(chan error, 1)
	go func() {
		_, err := cl.Apply(ctx, 1, createCmd("f"))
		answered.Store(true)
		done <- err
	}()
	s := cl.shard(1)
	for range 3 {
		if n := s.followed(ctx, c.names[l]); n != "" && term() == before {
			t.Fatalf("%s is thought to lead, %s does", n, c.names[l])
		}
	}
	if answered.Load() && term() == before {
		t.Error("answered by somebody else")
	}
	proxies[l].Set(faultproxy.Conditions{}, faultproxy.FromTarget)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
