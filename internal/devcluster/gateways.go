package devcluster

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// moreGateway is a gateway besides the first one: NFS only.
type moreGateway struct {
	name    string
	nfs     net.Listener
	peers   net.Listener // for other gateways
	meta    *raftmeta.Client
	gateway *gateway.Gateway
}

// listenMore listens for the gateways besides the first one, on the ports after that one's.
func (c *Cluster) listenMore() error {
	host, port, err := net.SplitHostPort(c.cfg.NFSAddr)
	if err != nil {
		return err
	}
	base, err := strconv.Atoi(port)
	if err != nil && c.cfg.Gateways > 1 {
		return vfs.Errorf(vfs.KindInvalid, "listen for NFS", "--nfs %s: several gateways need a port that is a number", c.cfg.NFSAddr)
	}
	for i := 1; i < c.cfg.Gateways; i++ {
		at := 0
		if base != 0 {
			at = base + i
		}
		ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(at)))
		if err != nil {
			return vfs.Errorf(vfs.KindInvalid, "listen for NFS", "gateway %d listens on the port %d after that of --nfs, choose another one: %w", i+1, i, err)
		}
		c.more = append(c.more, &moreGateway{name: gatewayNameOf(i), nfs: ln})
	}
	if c.cfg.Gateways < 2 {
		return nil
	}
	// Gateways carry requests to each other within this machine.
	if c.peers, err = listenPeers(); err != nil {
		return err
	}
	for _, m := range c.more {
		if m.peers, err = listenPeers(); err != nil {
			return err
		}
	}
	return nil
}

func listenPeers() (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "listen for other gateways", "%w", err)
	}
	return ln, nil
}

// startMore starts them.
func (c *Cluster) startMore(ctx context.Context) error {
	for _, m := range c.more {
		id, err := c.ca.Issue(m.name, []string{blockstore.RoleGateway}, nil, time.Now())
		if err != nil {
			return err
		}
		if m.meta, err = c.metaClient(id); err != nil {
			return err
		}
		gc, err := c.gatewayConfig(m.name, m.meta, id, m.peers)
		if err != nil {
			return err
		}
		if m.gateway, err = gateway.Start(ctx, gc); err != nil {
			return err
		}
	}
	return nil
}

// metaClient is a gateway's client of the metadata.
func (c *Cluster) metaClient(id *pki.Identity) (*raftmeta.Client, error) {
	return raftmeta.NewClient(raftmeta.ClientOptions{
		Nodes: c.voters.names(), Resolver: &c.voters, Logger: c.log,
		Security: func(node string) wire.Security { return wire.Security{Mode: wire.ModeTLS, TLS: id.ClientTLS(node)} },
	})
}

// gatewayConfig is that of one gateway, without metrics: those are the first one's.
func (c *Cluster) gatewayConfig(name string, meta *raftmeta.Client, id *pki.Identity, ln net.Listener) (gateway.Config, error) {
	delegations, err := state.ParseDelegating(c.cfg.Delegations)
	security := func(node string) wire.Security { return wire.Security{Mode: c.cfg.dataMode(), TLS: id.ClientTLS(node)} }
	var peers *gateway.Peers
	if ln != nil {
		peers = &gateway.Peers{Listener: ln, Address: ln.Addr().String(), Client: security, Server: wire.Security{Mode: c.cfg.dataMode(), TLS: id.ServerTLS()}}
	}
	return gateway.Config{
		Name: name, Group: c.cfg.gatewayGroup, Several: c.cfg.Gateways > 1, Cluster: [16]byte(c.dir.shape.clusterID()), Meta: meta,
		BlockSecurity: security, Peers: peers,
		Rules: c.cfg.rules(), Lease: c.cfg.Lease, Release: release(), Raw: c.raw,
		ReencodeInterval: c.cfg.reencodeInterval, FoldAge: c.cfg.foldAge, NoAtime: c.cfg.NoAtime, Delegations: delegations, ReplyCache: int64(c.cfg.ReplyCache), Logger: c.log,
	}, err
}

// stopMore ends what listenMore and startMore began, but the clients of the metadata.
func (c *Cluster) stopMore(ctx context.Context) error {
	var errs []error
	for _, m := range c.more {
		m.nfs.Close()
		if m.gateway != nil {
			errs = append(errs, m.gateway.Stop(ctx))
		}
		if m.peers != nil {
			m.peers.Close()
		}
	}
	return errors.Join(errs...)
}

func (m *moreGateway) closeMeta() {
	if m.meta != nil {
		m.meta.Close()
	}
}

// NFSAddrs are where the gateways serve NFS, the first one first.
func (c *Cluster) NFSAddrs() []string {
	addrs := []string{c.NFSAddr()}
	for _, m := range c.more {
		addrs = append(addrs, m.nfs.Addr().String())
	}
	return addrs
}
