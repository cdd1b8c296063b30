package devcluster

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/internal/wire"
)

// A gateway that could not start, because the metadata stopped answering in the middle, starts at the next attempt, with all its metrics.
func TestGatewayStartsAgain(t *testing.T) {
	t.Parallel()
	c := startQuick(t, quick(t))
	defer c.mustStop(t)
	id, err := c.ca.Issue(gatewayName, []string{blockstore.RoleGateway}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	gc, err := c.gatewayConfig("again", c.meta, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	gc.Registerer = metrics
	count := func() int {
		t.Helper()
		fs, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return len(fs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	security := gc.BlockSecurity
	gc.BlockSecurity = func(node string) wire.Security { // it is asked for when the cluster map is there, and much is to come
		cancel()
		return security(node)
	}
	if _, err := gateway.Start(ctx, gc); err == nil || ctx.Err() == nil {
		t.Fatalf("it started: %v, %v", err, ctx.Err())
	}
	if n := count(); n > 0 {
		t.Errorf("%d metrics are left of a gateway that did not start", n)
	}
	gc.BlockSecurity = security
	g, err := gateway.Start(t.Context(), gc)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(); n < 20 {
		t.Errorf("%d metrics", n)
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
