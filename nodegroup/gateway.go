package nodegroup

import (
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// roleGateway is the role of nodes that serve NFS.
const roleGateway = "gateway"

// OneGateway refuses node self as a gateway of a group ("": the shared part of the cluster) that has another one. A file system is served by the
// gateways of its group, and has to have one: leases of files are not recalled between gateways.
func OneGateway(op string, nodes []*metapb.Node, self, group string) error {
	for _, n := range nodes {
		if n.Name == self || n.Group != group || !slices.Contains(n.Roles, roleGateway) {
			continue
		}
		of := "the shared part of the cluster"
		if group != "" {
			of = "node group " + group
		}
		return vfs.Errorf(vfs.KindExists, op, "node %s is the gateway of %s already: a second one there has to wait for a later version, for leases are not recalled between gateways yet; "+
			"leave the role out, or put one of the two into another node group", n.Name, of)
	}
	return nil
}
