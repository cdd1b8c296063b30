package raftmeta

import (
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// What a node that serves its own SSD may do at the metadata port: ask for the file systems, the nodes, the shard and the keys of gossip, and
// change its own record. A node that is a block server too may do what either may.

// checkQuery refuses a query that a peer which is not trusted may not ask.
func checkQuery(p wire.Peer, q *metapb.Query) error {
	if p.HasRole(RoleLocal) {
		switch q.Q.(type) {
		case *metapb.Query_FileSystems, *metapb.Query_ShardInfo, *metapb.Query_Nodes, *metapb.Query_RetiredNodes:
			return nil
		case *metapb.Query_Keys:
			if q.GetKeys().GetKind() == gossipKind {
				return nil
			}
		}
		if !p.HasRole(RoleBlock) {
			return vfs.Errorf(vfs.KindPerm, "raftmeta.query", "node %s serves local volumes and may ask for the file systems, the nodes, the shard and the keys of gossip only", p.Name)
		}
	}
	return checkBlockQuery(p.Name, q)
}

// onlyOwnRecord reports whether commands change nothing but the record of the node itself, which is there.
func onlyOwnRecord(node string, cmds [][]byte) bool {
	for _, enc := range cmds {
		var c metapb.Command
		if err := c.UnmarshalVT(enc); err != nil {
			return false
		}
		n := c.GetPutNode().GetNode()
		if n.GetName() != node || n.GetVersion() <= 1 {
			return false
		}
	}
	return true
}

// checkCommandsOf refuses commands that a peer which is not trusted may not propose to shard 0, unless it is a block server: then there is more to look at.
func checkCommandsOf(p wire.Peer, shard uint16, cmds [][]byte) error {
	if p.HasRole(RoleBlock) || shard == 0 && onlyOwnRecord(p.Name, cmds) {
		return nil
	}
	return vfs.Errorf(vfs.KindPerm, "raftmeta.propose", "node %s serves local volumes and may change its own record, and nothing else", p.Name)
}
