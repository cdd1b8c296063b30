package node

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// Maintenance is what a voter can do for an operator: make a backup of the metadata, check the cluster.
type Maintenance struct {
	Server   *raftmeta.Server
	Meta     *raftmeta.Client
	Security func(node string) wire.Security // of connections to block servers
	Grace    time.Duration                   // of dead blocks
	Release  string
	Logger   *slog.Logger
}

// shards are all of the cluster.
func (m *Maintenance) shards() []uint16 {
	return []uint16{provision.ClusterShard, provision.NamespaceShard}
}

// Backup writes a backup of the metadata.
func (m *Maintenance) Backup(ctx context.Context, out io.Writer) error {
	_, _, err := backup.Write(ctx, backup.Options{
		Meta: m.Meta, Source: m.Server, Shards: m.shards(), Release: m.Release, Grace: m.Grace, Now: time.Now,
	}, out)
	return err
}

// Check verifies the cluster.
func (m *Maintenance) Check(ctx context.Context, progress func(clustercheck.Progress)) (*clustercheck.Report, error) {
	return clustercheck.Run(ctx, clustercheck.Options{
		Meta: m.Meta, Replicas: m.Server, Shards: m.shards(), Progress: progress,
		Connect: func(node, address string) clustercheck.Conn {
			return wire.NewClient(wire.Dialer("tcp", address), wire.ClientOptions{Security: m.Security(node), Logger: m.Logger})
		},
	})
}

// maintenance is what a node offers of it: as long as it has no voter, a reason.
type maintenance struct{ n *Node }

func (m maintenance) of() (*Maintenance, error) {
	n := m.n
	n.mu.Lock()
	voter := n.voter
	n.mu.Unlock()
	if voter == nil {
		return nil, vfs.Errorf(vfs.KindNotSupported, "maintenance", "node %s does not have the role meta, or has just started: ask a node that has", n.cfg.Name)
	}
	return &Maintenance{Server: voter, Meta: n.meta, Security: n.blockSecurity, Grace: n.cfg.GCGrace, Release: n.opt.Release, Logger: n.log}, nil
}

// Backup implements api.Maintenance.
func (m maintenance) Backup(ctx context.Context, out io.Writer) error {
	x, err := m.of()
	if err != nil {
		return err
	}
	return x.Backup(ctx, out)
}

// Check implements api.Maintenance.
func (m maintenance) Check(ctx context.Context, progress func(clustercheck.Progress)) (*clustercheck.Report, error) {
	x, err := m.of()
	if err != nil {
		return nil, err
	}
	return x.Check(ctx, progress)
}
