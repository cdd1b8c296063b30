package nodegroup

import (
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// roleGateway is the role of nodes that serve NFS.
const roleGateway = "gateway"

// MayServe refuses node self as a gateway of a group ("": the shared part of the cluster) that has another one, unless both say that there are
// several: one that takes itself for the only one gives nothing back that the other wants.
func MayServe(op string, nodes []*metapb.Node, self, group string, several bool) error {
	for _, n := range nodes {
		if n.Name == self || n.Group != group || !slices.Contains(n.Roles, roleGateway) || several && n.Several {
			continue
		}
		of := "the shared part of the cluster"
		if group != "" {
			of = "node group " + group
		}
		return vfs.Errorf(vfs.KindExists, op, "node %s is the gateway of %s already: several need `nfs.several: true` in the configuration of each, those that are there first; "+
			"or leave the role out, or put one of the two into another node group", n.Name, of)
	}
	return nil
}
