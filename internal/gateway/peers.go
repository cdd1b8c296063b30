package gateway

import (
	"context"
	"net"

	"github.com/rackfs/rackfs/internal/relay"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver/v4"
)

// Peers is how gateways carry NFS requests to each other (package relay).
type Peers struct {
	Listener net.Listener // where others carry requests to; the gateway closes it
	Address  string       // host:port, as others reach it
	// Server and Client secure connections from and to other gateways.
	Server wire.Security
	Client func(gateway string) wire.Security
}

// newRelay makes what carries requests to other gateways, nil if that is not to be.
func (g *Gateway) newRelay() (v4.Peers, error) {
	metrics, err := relay.NewMetrics(g.cfg.Registerer)
	if err != nil {
		return nil, err
	}
	p := g.cfg.Peers
	if p == nil || !g.handsOver {
		return nil, nil
	}
	g.relay, err = relay.New(relay.Config{
		Name: g.cfg.Name, Address: p.Address, Server: p.Server, Client: p.Client, Metrics: metrics, Logger: g.cfg.Logger,
		Find: func(ctx context.Context, client uint64) (relay.Place, error) {
			at, err := g.cfg.Meta.PlaceOfNFSClient(ctx, client)
			return relay.Place(at), err
		},
	})
	if err != nil {
		return nil, err
	}
	return g.relay, nil
}

// serveRelay begins to take requests from others.
func (g *Gateway) serveRelay() {
	if g.relay == nil {
		return
	}
	g.members.all[clusterShard].address = g.cfg.Peers.Address
	g.background.Go(func() {
		if err := g.relay.Serve(g.cfg.Peers.Listener, g.nfs); err != nil {
			g.cfg.Logger.Error("gateway: requests are not taken from other gateways any more: clients with connections to several are handed over each time", "err", err)
		}
	})
}
