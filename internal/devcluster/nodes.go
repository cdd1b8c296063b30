package devcluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const devZone = "dev"

// rackOf is the rack of a block node: each has one of its own, so that racks can be reserved.
func rackOf(node string) string { return "rack-" + strings.TrimPrefix(node, "store-") }

// recordNodes makes records of the block nodes, so that they can be put into groups. They have no addresses, which change at each start
// and are those of their stores. A cluster that is not at the feature level for it yet gets them at a later start.
func (c *Cluster) recordNodes(ctx context.Context, meta *raftmeta.Client) error {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, n := range r.GetNodes().GetNodes() {
		known[n.Name] = true
	}
	for _, n := range c.stores {
		if known[n.name] {
			continue
		}
		id := sha256.Sum256(fmt.Appendf(nil, "%s/%s", c.dir.shape.Cluster, n.name))
		_, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{
			Name: n.name, Id: id[:16], Version: 1, Roles: []string{blockstore.RoleBlock}, Rack: rackOf(n.name), Zone: devZone, Release: release(),
		}}}})
		if vfs.KindOf(err) == vfs.KindNotSupported {
			return nil
		}
		if err != nil {
			return vfs.Wrap("record node "+n.name, err)
		}
	}
	return nil
}
