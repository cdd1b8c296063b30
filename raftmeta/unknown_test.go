package raftmeta

import (
	"context"
	"errors"
	"testing"

	"github.com/rackfs/rackfs/internal/faultproxy"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A command of which the answer was lost, and then the origin, was perhaps executed: that is what its caller is told, and not that it
// had no effect, after which it would be done once more under the next origin. One that
// is sent for the first time after that is certainly refused.
func TestOutcomeLostWithTheOrigin(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	other := c.gateway(1, "other")
	var proxies []*faultproxy.Proxy
	addrs := map[string]string{}
	for _, n := range c.names {
		p, err := faultproxy.Listen(func(ctx context.Context) (string, error) { return c.Resolve(ctx, n) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		proxies, addrs[n] = append(proxies, p), p.Addr()
	}
	each := func(do func(p *faultproxy.Proxy)) {
		for _, p := range proxies {
			do(p)
		}
	}
	ctx := testContext(t)
	cl := c.clientWith(func(o *ClientOptions) {
		o.AttemptTimeout = patience
		o.Resolver = ResolverFunc(func(_ context.Context, node string) (string, error) { return addrs[node], nil })
	})
	register := func(cl *Client, incarnation string) {
		t.Helper()
		if _, err := cl.Register(ctx, 1, metapb.OriginKind_ORIGIN_GATEWAY, "gw", []byte(incarnation)); err != nil {
			t.Fatal(err)
		}
	}
	register(cl, "incarnation 0001")
	if _, err := cl.Apply(ctx, 1, createCmd("f")); err != nil {
		t.Fatal(err)
	}
	apply := func(cmd *metapb.Command) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := cl.Apply(ctx, 1, cmd)
			done <- err
		}()
		return done
	}
	remove := &metapb.Command{Fs: testFS, Op: &metapb.Command_Remove{Remove: &metapb.Remove{
		Parent: uint64(vfs.RootIno), Name: []byte("f"), What: uint32(vfs.RemoveAny),
	}}}

	each(func(p *faultproxy.Proxy) { p.Set(faultproxy.Conditions{Hold: true}, faultproxy.FromTarget) })
	done := apply(remove)
	c.eventually("the removal", func() bool {
		_, err := other.Query(ctx, 1, lookupQuery("f"))
		return vfs.KindOf(err) == vfs.KindNotFound
	})
	register(c.client(), "incarnation 0002") // which ends the first one
	each(func(p *faultproxy.Proxy) {
		p.Cut()
		p.Set(faultproxy.Conditions{}, faultproxy.FromTarget)
	})
	err := <-done
	if vfs.KindOf(err) != vfs.KindUnknown || !errors.Is(err, vfs.KindUnknownOrigin.Err("")) {
		t.Errorf("a removal that was executed, and of which nothing is known any more: %v", err)
	}

	if err := <-apply(createCmd("g")); vfs.KindOf(err) != vfs.KindUnknownOrigin {
		t.Errorf("a command of an origin that had ended: %v", err)
	}
	register(cl, "incarnation 0003")
	if _, err := cl.Apply(ctx, 1, createCmd("f")); err != nil {
		t.Errorf("under the next origin: %v", err)
	}
}
