package node

import (
	"context"

	"github.com/rackfs/rackfs/internal/floating"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func (n *Node) startGateway(ctx context.Context) error {
	// Of two that came at once the one whose name sorts first serves. If one of them says that there are several, neither: who serves already may be either.
	for _, o := range n.directory.records() {
		if o.Name < n.cfg.Name || o.Several || n.cfg.Several {
			if err := nodegroup.MayServe("gateway", []*metapb.Node{o}, n.cfg.Name, n.group(), n.cfg.Several); err != nil {
				return err
			}
		}
	}
	var peers *gateway.Peers
	if ln := n.listeners[listenPeers]; ln != nil {
		peers = &gateway.Peers{
			Listener: ln, Address: n.cfg.advertised(RoleGateway, n.cfg.PeersListen), Client: n.blockSecurity,
			Server: wire.Security{Mode: n.dataMode(), TLS: n.id.ServerTLS()},
		}
	}
	var g *gateway.Gateway
	err := n.patiently(ctx, "start the gateway", func(try context.Context) (err error) {
		g, err = gateway.Start(try, gateway.Config{
			Name: n.cfg.Name, Cluster: [16]byte(n.dir.state.Settings.ID()), Meta: n.meta, BlockSecurity: n.blockSecurity,
			Several: n.cfg.Several, Peers: peers, Group: n.group, Zone: func() string { return n.cfg.Zone }, Rack: func() string { return n.cfg.Rack },
			Rules: n.cfg.rules(), Lease: n.cfg.Lease, OriginLease: n.cfg.OwnLease, Release: n.opt.Release, NoAtime: n.cfg.NoAtime,
			Delegations: n.cfg.Delegations, ReplyCache: n.cfg.ReplyCache,
			Registerer: n.reg, Logger: n.log,
		})
		return err
	})
	if err != nil {
		return err
	}
	n.gateway = g
	n.files.Store(g)
	if err := n.serveAPI(); err != nil {
		return err
	}
	connections := new(floating.Connections)
	ln := connections.Listen(n.listeners[listenNFS])
	n.serving.Go(func() {
		if err := g.Serve(ln); err != nil {
			n.failed <- vfs.Wrap("serve NFS", err)
		}
	})
	if len(n.cfg.Addresses) > 0 {
		n.floating, err = floating.Start(floating.Config{
			Addresses: n.cfg.Addresses, Connections: connections, Lease: n.cfg.OwnLease, Logger: n.log,
			Ready: func() bool { return g.Origin(clusterShard) != 0 },
			Client: func() (*raftmeta.Client, error) {
				return raftmeta.NewClient(raftmeta.ClientOptions{NodesFunc: n.metaNodes, Resolver: n.directory, Logger: n.log, Security: n.metaSecurity})
			},
		})
		if err != nil {
			return err
		}
	}
	if ln := n.listeners[listenNFS3]; ln != nil {
		ln := connections.Listen(ln)
		n.serving.Go(func() {
			if err := g.ServeV3(ln); err != nil {
				n.failed <- vfs.Wrap("serve NFSv3", err)
			}
		})
	}
	return nil
}
