package api

import (
	"fmt"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// LocalVolume is one node's part of a file system of kind local.
type LocalVolume struct {
	FS         string    `json:"fs" doc:"Name of the file system"`
	Node       string    `json:"node"`
	Address    string    `json:"address" doc:"Where workloads of that node, and nobody else, mount it"`
	TotalBytes uint64    `json:"total_bytes" doc:"Of the disk that it is on"`
	FreeBytes  uint64    `json:"free_bytes"`
	Problem    string    `json:"problem,omitempty" doc:"Why it is not served, or not as it should be"`
	At         time.Time `json:"at,omitzero" doc:"When the node said so"`
}

// LocalVolumes are the parts of file systems of kind local that nodes have.
func LocalVolumes(list []*metapb.FileSystem, nodes []*metapb.Node) (out []LocalVolume) {
	for _, fs := range list {
		if fs.State != metapb.FileSystemState_FS_ACTIVE {
			continue
		}
		for _, p := range filesystem.Places(fs, nodes) {
			v := LocalVolume{FS: fs.Name, Node: p.Node, Address: p.Address}
			if p.Volume == nil {
				v.Problem = "the node has not said yet that it serves it"
			} else {
				v.TotalBytes, v.FreeBytes, v.Problem, v.At = p.Volume.Total, p.Volume.Free, p.Volume.Problem, instant(p.Volume.At)
			}
			out = append(out, v)
		}
	}
	return out
}

// LocalOf adds the local volumes of a node to its status and returns what ails them. dead: nothing is heard of the node.
func (n *NodeStatus) LocalOf(all []LocalVolume, dead bool) (problems []string) {
	for _, v := range all {
		if v.Node != n.Name {
			continue
		}
		n.LocalVolumes = append(n.LocalVolumes, v)
		if v.Problem != "" {
			problems = append(problems, fmt.Sprintf("its volume of %s: %s", v.FS, v.Problem))
		}
		if dead {
			problems = append(problems, fmt.Sprintf("its volume of %s is not reachable, and if the node is lost so are the files in it", v.FS))
		}
	}
	return problems
}
