package devcluster

import (
	"context"

	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// admitStores finds out which store of the cluster each node has, makes and
// records those that take the place of lost ones, and begins to serve them.
func (c *Cluster) admitStores(ctx context.Context, meta *raftmeta.Client) error {
	for _, n := range c.stores {
		if n.store == nil && !n.lost {
			c.fail(n, n.err)
			continue
		}
		err := c.admitStore(ctx, meta, n)
		if err == nil {
			continue
		}
		if !c.dir.shape.Formed || ctx.Err() != nil {
			return vfs.Wrap(n.name, err)
		}
		c.fail(n, err)
	}
	return nil
}

// admitTries is how often it is decided again what a store is because the map changed meanwhile.
const admitTries = 5

func (c *Cluster) admitStore(ctx context.Context, meta *raftmeta.Client, n *blockNode) error {
	for try := 1; ; try++ {
		err := c.tryAdmitStore(ctx, meta, n)
		if vfs.KindOf(err) != vfs.KindChanged || try == admitTries {
			return err
		}
	}
}

func (c *Cluster) tryAdmitStore(ctx context.Context, meta *raftmeta.Client, n *blockNode) error {
	m, err := provision.ClusterMap(ctx, meta) // of now: the one before may have been replaced
	if err != nil {
		return err
	}
	if n.store == nil {
		// Whether it may be replaced is asked before anything is made in its directory.
		if _, err := nodegroup.Admit(m, n.name, nil, true, n.first); err != nil {
			return err
		}
		incarnation, err := provision.Incarnation(ctx, meta)
		if err != nil {
			return err
		}
		if n.store, err = c.openStore(ctx, n, true, incarnation); err != nil {
			n.store = nil
			return err
		}
		n.err = nil
	}
	info := n.store.Info()
	if n.Admission, err = nodegroup.Admit(m, n.name, info.Store[:], info.Used == 0, n.first); err != nil {
		return err
	}
	if !n.serves() {
		if err := c.serve(n); err != nil {
			return err
		}
	}
	cmd := &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: c.record(n)}}}
	if n.Replaces != 0 {
		cmd = &metapb.Command{Op: &metapb.Command_ReplaceStore{ReplaceStore: &metapb.ReplaceStore{
			Old: n.Replaces, New: c.record(n), ExpectMapVersion: n.Version,
		}}}
	}
	if _, err := meta.Apply(ctx, clusterShard, cmd); err != nil {
		return err
	}
	if n.Replaces != 0 {
		c.log.Warn("a lost block store is replaced by a new one, which is being filled from the others", "node", n.name, "lost", n.Replaces, "store", n.ID)
	}
	return nil
}
