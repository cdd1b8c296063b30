package node

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// provision makes what the first node's metadata has to hold. Each step is idempotent.
func (n *Node) provision(ctx context.Context) error {
	for _, shard := range []uint16{clusterShard, namespaceShard} {
		if err := n.voter.RaiseLevel(ctx, shard, raftmeta.NewestLevel); err != nil {
			return err
		}
	}
	rec := n.record()
	rec.Version, rec.Key = 1, n.id.Identity().Key()
	if rec.Group != "" {
		if _, err := n.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: rec.Group}}}); err != nil {
			return err
		}
	}
	_, err := n.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: rec}}})
	if err != nil && vfs.KindOf(err) != vfs.KindChanged { // it is there, perhaps with other addresses
		return err
	}
	f := n.dir.state.First
	err = provision.Pool(ctx, n.meta, func() (*metapb.Pool, error) {
		p, err := placement.ParseProfile(f.Pool)
		if err != nil {
			return nil, err
		}
		// The groups are the guardian's to make, when there are stores.
		return &metapb.Pool{Id: provision.DefaultPool, Name: "default", K: uint32(p.K), M: uint32(p.M), Domain: f.Domain, GroupsPerStore: groupsPerStore}, nil
	})
	if err != nil {
		return err
	}
	if err := provision.Key(ctx, n.meta); err != nil {
		return err
	}
	return provision.FS(ctx, n.meta)
}

// record is what the node is now. Its roles are those that it may have, whether it is in them now or not.
func (n *Node) record() *metapb.Node {
	r := n.cfg.record(n.dir.state.id(), n.opt.Release)
	r.Roles = n.id.Identity().Roles()
	return r
}

// register makes the node's record what the node is now.
func (n *Node) register(ctx context.Context) error {
	look, cancel := context.WithTimeout(ctx, statusTimeout)
	err := n.directory.refresh(look, n.meta)
	cancel()
	if err != nil {
		if removed := n.standing(ctx); removed != nil {
			return removed
		}
		if vfs.KindOf(err) == vfs.KindPerm || vfs.KindOf(err) == vfs.KindUnauthorized {
			return vfs.Errorf(vfs.KindUnavailable, "nodes", "%w", err)
		}
		return err
	}
	level, err := n.level(ctx)
	if err != nil {
		return err
	}
	rec := n.record()
	for _, old := range n.directory.records() {
		if old.Name != rec.Name {
			continue
		}
		if !bytes.Equal(old.Id, rec.Id) {
			return removedError(rec.Name) // and the name was given to another one
		}
		rec.Version, rec.State, rec.Key, rec.LocalVolumes = old.Version, old.State, old.Key, old.LocalVolumes
		if level < levelService {
			rec.Local = ""
		}
		if level < levelGateways {
			rec.Several = false
		}
		if len(old.Key) == 0 && level >= levelCluster {
			rec.Key = n.id.Identity().Key()
		}
		if rec.Group != old.Group {
			n.log.Info("the node's group is what the cluster says, not what its configuration says", "group", old.Group, "configured", rec.Group)
			rec.Group = old.Group
		}
		if sameRecord(old, rec) {
			return nil
		}
		rec.Version++
		_, err := n.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: rec}}})
		if err != nil {
			return err
		}
		return n.directory.refresh(ctx, n.meta)
	}
	return removedError(rec.Name)
}

// levelCluster is the feature level of shard 0 from which records of nodes have states and keys.
const levelCluster = 4

// levelService is the one from which they say what local volumes a node has.
const levelService = 5

// levelGateways is the one from which they say that there are several gateways.
const levelGateways = 6

// level is the feature level of shard 0.
func (n *Node) level(ctx context.Context) (uint32, error) {
	r, err := n.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	return r.GetShardInfo().GetLevel(), err
}

// group is the node group that shard 0 says this node is in.
func (n *Node) group() string {
	group, _ := n.knownGroup()
	return group
}

// sameRecord compares without roles' order.
func sameRecord(a, b *metapb.Node) bool {
	x, y := a.CloneVT(), b.CloneVT()
	slices.Sort(x.Roles)
	slices.Sort(y.Roles)
	return string(x.Id) == string(y.Id) && proto.Equal(x, y)
}
