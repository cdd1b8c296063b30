package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// removedFile is the list of nodes that were removed, as it was known last.
const removedFile = "removed.json"

// revocations are the certificates that are refused, of nodes that were removed while these are there.
func revocations(retired []*metapb.RetiredNode, nodes []*metapb.Node) []pki.Revocation {
	var out []pki.Revocation
	for _, r := range retired {
		x := pki.Revocation{Name: r.Name, ID: hex.EncodeToString(r.Id), Key: r.Key}
		for _, n := range nodes {
			if n.Name == r.Name {
				x.Now = n.Key
			}
		}
		out = append(out, x)
	}
	return out
}

func sameRevocations(a, b []pki.Revocation) bool {
	return slices.EqualFunc(a, b, func(x, y pki.Revocation) bool {
		return x.Name == y.Name && x.ID == y.ID && bytes.Equal(x.Key, y.Key) && bytes.Equal(x.Now, y.Now)
	})
}

// retired asks shard 0 which nodes were removed. A leader of an older release knows of none.
func retired(ctx context.Context, meta querier) ([]*metapb.RetiredNode, error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_RetiredNodes{RetiredNodes: &metapb.RetiredNodesQ{}}})
	if k := vfs.KindOf(err); err != nil && (k == vfs.KindNotSupported || k == vfs.KindInvalid || k == vfs.KindPerm) {
		return nil, nil
	}
	return r.GetRetiredNodes().GetNodes(), err
}

// fates is what becomes of the replicas of nodes, as raftmeta.Options.Fates. A node without the role meta any more that has replicas is gone for them.
func fates(retired []*metapb.RetiredNode, nodes []*metapb.Node) map[string]raftmeta.Fate {
	out := map[string]raftmeta.Fate{}
	for _, r := range retired {
		out[r.Name] = raftmeta.Gone
	}
	for _, n := range nodes {
		switch {
		case !slices.Contains(n.Roles, RoleMeta):
			out[n.Name] = raftmeta.Gone
		case n.State == metapb.NodeState_NODE_DRAINING:
			out[n.Name] = raftmeta.Leaves
		default:
			delete(out, n.Name)
		}
	}
	return out
}

// fates asks shard 0. Who was removed is asked first: one that joined again since is among the nodes then.
func (n *Node) fates(ctx context.Context) (map[string]raftmeta.Fate, error) {
	gone, err := retired(ctx, n.meta)
	if err != nil {
		return nil, err
	}
	r, err := n.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return nil, err
	}
	return fates(gone, r.GetNodes().GetNodes()), nil
}

// removedError is what a node says that was removed itself.
func removedError(name string) error {
	return vfs.Errorf(vfs.KindPerm, "nodes", "node %s was removed from the cluster: to bring the machine back, empty its data directory and disks and let it join anew with a token", name)
}

// pathStanding answers whether the caller belongs to the cluster.
const pathStanding = "/v1/standing"

// standing asks the meta nodes whether this node was removed, which the others do not say: they only refuse its certificate. An error of
// KindPerm if one says so, nil if none does.
func (n *Node) standing(ctx context.Context) error {
	for _, p := range n.directory.controls() {
		if p.Name == n.cfg.Name {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, statusTimeout)
		err := n.renewer.call(ask, p, http.MethodGet, pathStanding, nil, new(struct{}))
		cancel()
		if vfs.KindOf(err) == vfs.KindPerm && strings.Contains(err.Error(), "was removed") {
			return removedError(n.cfg.Name)
		}
	}
	return nil
}

// keyed puts the hash of the node's key into its record, if it joined before records had one.
func (n *Node) keyed(ctx context.Context) {
	for _, r := range n.directory.records() {
		if r.Name == n.cfg.Name && len(r.Key) == 0 {
			ask, cancel := context.WithTimeout(ctx, attemptTimeout)
			err := n.register(ask)
			cancel()
			if err != nil {
				n.log.Debug("the node's record has no key", "err", err)
			}
		}
	}
}

// watchStanding ends the node when it learns that it was removed.
func (n *Node) watchStanding(ctx context.Context, err error) {
	if err == nil {
		n.keyed(ctx)
		if id := hex.EncodeToString(n.dir.state.id()); n.directory.removed(id) {
			err = removedError(n.cfg.Name)
		}
	} else {
		err = n.standing(ctx)
	}
	if err != nil {
		select {
		case n.failed <- err:
		default:
		}
	}
}
