package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of what a node says of its local volumes.
const (
	maxLocalVolumes = 64
	maxLocalProblem = 1024 // bytes
)

const roleLocal = "local"

// checkLocal refuses what a node of level 5 cannot say of its local volumes.
func checkLocal(n *metapb.Node, op string) error {
	if len(n.LocalVolumes) > maxLocalVolumes {
		return vfs.Errorf(vfs.KindTooMany, op, "%d local volumes of node %s, at most %d", len(n.LocalVolumes), n.Name, maxLocalVolumes)
	}
	seen := map[uint32]bool{}
	for _, v := range n.LocalVolumes {
		switch {
		case v.GetFs() == 0 || seen[v.Fs]:
			return vfs.Errorf(vfs.KindInvalid, op, "node %s names file system %d twice, or none", n.Name, v.GetFs())
		case len(v.Problem) > maxLocalProblem:
			return vfs.Errorf(vfs.KindInvalid, op, "a problem of %d bytes, at most %d", len(v.Problem), maxLocalProblem)
		}
		seen[v.Fs] = true
		if v.At == nil {
			return vfs.Errorf(vfs.KindInvalid, op, "node %s does not say when its volume of file system %d was so", n.Name, v.Fs)
		}
		if err := checkTime(v.At); err != nil {
			return err
		}
	}
	return nil
}
