package devcluster_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/floating"
	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// takers are a cluster and an address that gateways of it take.
type takers struct {
	t       *testing.T
	ctx     context.Context
	c       *devcluster.Cluster
	asks    *raftmeta.Client
	address netip.Prefix
}

func newTakers(t *testing.T, address string) *takers {
	t.Helper()
	kclient.RequireNet(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopCluster(t, c) })
	asks, err := devcluster.MetaClient(c, "asks")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(asks.Close)
	return &takers{t, ctx, c, asks, netip.MustParsePrefix(address)}
}

// name is that of the address's origin.
func (x *takers) name() string { return "address " + x.address.Addr().String() }

// take has a gateway take the address as soon as it is ready.
func (x *takers) take(gateway string, ready func() bool, connections *floating.Connections) *floating.Pool {
	x.t.Helper()
	p, err := floating.Start(floating.Config{
		Addresses: []netip.Prefix{x.address}, Ready: ready, Connections: connections, Logger: slog.New(slog.DiscardHandler),
		Client: func() (*raftmeta.Client, error) { return devcluster.MetaClient(x.c, gateway) },
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return p
}

// A gateway that stops while it registers an address leaves no registration: else nobody has the address until its lease is over, which the gateway that comes back notices, too.
func TestStopsWhileItTakesAnAddress(t *testing.T) {
	x := newTakers(t, "127.77.0.241/8")
	for i := range 40 {
		takes := make(chan struct{})
		looked := sync.OnceFunc(func() { close(takes) })
		p := x.take("gateway", func() bool {
			looked()
			return true
		}, new(floating.Connections))
		<-takes
		time.Sleep(time.Duration(i) * 250 * time.Microsecond) // somewhere between the look and the answer to the registration
		p.Close()
		r, err := x.asks.Query(x.ctx, 0, &metapb.Query{Q: &metapb.Query_Origins{Origins: &metapb.OriginsQ{Names: true}}})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(r.GetOrigins().GetNames(), x.name()) {
			t.Fatalf("stop %d: %q is registered", i, x.name())
		}
	}
}

// An address goes on to a third gateway before the clients of the first one have found out that their connections ended, as when two stop at the same time: the third one knows them. Else they
// wait for their own retransmission, whose intervals double.
func TestAddressGoesOnAtOnce(t *testing.T) {
	x := newTakers(t, "127.77.0.240/8")
	pool := func(name string, connections *floating.Connections) *floating.Pool {
		t.Helper()
		p := x.take(name, func() bool { return true }, connections)
		for !slices.Contains(p.Held(), x.address.Addr()) {
			if x.ctx.Err() != nil {
				t.Fatal("nobody has the address")
			}
			time.Sleep(time.Millisecond)
		}
		return p
	}
	// known waits until the leader has heard something new, and returns how many bytes of connections it knows.
	version := uint64(0)
	known := func() int {
		t.Helper()
		for {
			v, list, err := x.asks.Connected(x.ctx, x.name(), version)
			if err == nil && v != version { // an error: that node does not lead
				version = v
				return len(list)
			}
			if x.ctx.Err() != nil {
				t.Fatalf("nothing new is heard: %v", err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	// come has a client connect, whose connection its pool closes.
	come := func(of *floating.Connections) {
		t.Helper()
		ln, err := net.Listen("tcp", x.address.Addr().String()+":0")
		if err != nil {
			t.Fatal(err)
		}
		ln = of.Listen(ln)
		defer ln.Close()
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if _, err := ln.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	const (
		one   = 8               // bytes
		tells = 2 * time.Second // who takes an address tells those connections for a little longer
	)
	// goesOn is whether nobody was held up for so long that they were told often enough.
	goesOn := func() bool {
		of := new(floating.Connections)
		first := pool("first", of)
		come(of)
		for n := known(); n != one; n = known() {
		}
		first.Close()
		atSecond := new(floating.Connections)
		began := time.Now()
		second := pool("second", atSecond)
		n := known()
		if late := time.Since(began) > tells; n != one {
			second.Close()
			if !late {
				t.Fatalf("the second holder says that there were %d bytes of connections, not %d", n, one)
			}
			return false
		}
		come(atSecond)
		second.Close() // at once
		began = time.Now()
		third := pool("third", new(floating.Connections))
		defer third.Close()
		_, list, err := x.asks.Connected(x.ctx, x.name(), 0)
		if late := time.Since(began) > tells; err != nil || len(list) != 2*one {
			if !late {
				t.Fatalf("the third holder says that there were %d bytes of connections, not %d: %v", len(list), 2*one, err)
			}
			return false
		}
		for n := known(); n != 0; n = known() { // they have been told often enough
		}
		return true
	}
	for range 10 {
		if goesOn() {
			return
		}
	}
	t.Error("ten times it took too long to tell")
}
