package devcluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/localnode"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A dev cluster with Config.LocalListen has one node more, with the role local: its volumes are in the data directory. When the node is made, so are a
// node group with it and a file system of kind local; what becomes of them later is left to commands, as it is in a real cluster.
const (
	localNodeName  = "local-1"
	localGroup     = "local"
	localFS        = "scratch"
	localListening = "listen for local volumes"
)

// listenLocal takes the address of local volumes.
func (c *Cluster) listenLocal() (err error) {
	if c.cfg.LocalListen == "" {
		return nil
	}
	if c.localLn, err = net.Listen("tcp", c.cfg.LocalListen); err != nil {
		return vfs.Errorf(vfs.KindInvalid, localListening, "choose another address with --local, or --local '' for none: %w", err)
	}
	return nil
}

// startLocal serves local volumes.
func (c *Cluster) startLocal(ctx context.Context) (err error) {
	if c.localLn == nil {
		return nil
	}
	if err := c.provisionLocal(ctx); vfs.KindOf(err) == vfs.KindNotSupported {
		c.log.Warn("local volumes need a newer feature level of the metadata; there are none until it is raised and this is started again", "err", err)
		return nil
	} else if err != nil {
		return err
	}
	squash := export.SquashNone
	if c.cfg.RootSquash {
		squash = export.SquashRoot
	}
	c.local, err = localnode.Start(ctx, localnode.Config{
		Dir: c.dir.sub(localNodeName), Node: localNodeName, Cluster: [16]byte(c.dir.shape.clusterID()), Clients: c.cfg.LocalClients,
		Group: func() (string, bool) {
			ctx, cancel := context.WithTimeout(context.Background(), quotasTimeout)
			defer cancel()
			n, err := c.localRecord(ctx)
			return n.GetGroup(), err == nil && n != nil
		},
		List: localnode.ListFrom(c.meta), Squash: squash, Lease: c.cfg.Lease, Release: release(), Logger: c.log,
	})
	if err != nil {
		return err
	}
	if err := c.local.Refresh(ctx); err != nil {
		return err
	}
	c.listens("serve local volumes", func() error { return c.local.Serve(c.localLn) })
	c.local.Report(c.meta, c.localRecord, func(context.Context) error { return nil })
	return nil
}

// endLocal ends what startLocal began.
func (c *Cluster) endLocal(ctx context.Context) error {
	if c.localLn != nil {
		c.localLn.Close()
	}
	if c.local == nil {
		return nil
	}
	return c.local.Stop(ctx)
}

// localRecord is the record of the node with local volumes, nil if there is none.
func (c *Cluster) localRecord(ctx context.Context) (*metapb.Node, error) {
	r, err := c.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return nil, err
	}
	for _, n := range r.GetNodes().GetNodes() {
		if n.Name == localNodeName {
			return n, nil
		}
	}
	return nil, nil
}

// provisionLocal makes the node's record, and with it a group and a file system.
func (c *Cluster) provisionLocal(ctx context.Context) error {
	const op = "provision local volumes"
	apply := func(cmd *metapb.Command) error {
		_, err := c.meta.Apply(ctx, clusterShard, cmd)
		return vfs.Wrap(op, err)
	}
	rec, err := c.localRecord(ctx)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if rec == nil {
		if err := apply(&metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: localGroup}}}); err != nil && vfs.KindOf(err) != vfs.KindExists {
			return err
		}
		id := sha256.Sum256(fmt.Appendf(nil, "%s/%s", c.dir.shape.Cluster, localNodeName))
		rec = &metapb.Node{Name: localNodeName, Id: id[:16], Roles: []string{"local"}, Zone: devZone, Group: localGroup, Release: release()}
	}
	if address := c.localLn.Addr().String(); rec.Local != address {
		rec.Version++
		rec.Local = address
		if err := apply(&metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: rec}}}); err != nil {
			return err
		}
	}
	list, err := filesystem.List(ctx, c.meta)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if rec.Version > 1 || slices.ContainsFunc(list.GetFileSystems(), func(fs *metapb.FileSystem) bool { return fs.Name == localFS }) {
		return nil
	}
	_, err = filesystem.Create(ctx, c.meta, nil, filesystem.Request{Name: localFS, Kind: filesystem.Local, Group: localGroup}, time.Now())
	return vfs.Wrap(op, err)
}
