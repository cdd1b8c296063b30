package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Query answers q from v. It runs concurrently with Apply; c may be nil.
func Query(v View, c *Cache, q *metapb.Query) *metapb.QueryResult {
	return &metapb.QueryResult{Kind: uint32(vfs.KindNotSupported)}
}
