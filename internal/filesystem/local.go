package filesystem

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A file system of kind local is a record only: it has no namespace and no pool. Each node of its group that has the role local serves a directory of its own
// disk under its path, to its own workloads (internal/localnode).

// roleLocal is the role of the nodes that serve file systems of kind local.
const roleLocal = "local"

// Unreplicated is what is said of every file system of kind local.
const Unreplicated = "unreplicated: each node has its own files on its own disk, and they are lost with it"

// checkLocal refuses what a file system of kind local cannot have.
func (r *Request) checkLocal(op string) error {
	switch {
	case r.Group == "":
		return vfs.Errorf(vfs.KindInvalid, op, "kind local needs the node group whose nodes have the disks: --group NAME")
	case r.Profile != "" || r.Domain != "":
		return vfs.Errorf(vfs.KindInvalid, op, "kind local is unreplicated, so it has neither profile nor failure domain: leave --profile and --domain out")
	}
	return r.Settings.checkLocal(op)
}

func (s *Settings) checkLocal(op string) error {
	switch {
	case s.QuotaBytes != 0 || s.QuotaInodes != 0:
		return vfs.Errorf(vfs.KindInvalid, op, "kind local has no limits of its own: set quotas of the file system that the nodes' directories (local.dir) are on, and leave --quota out")
	case s.Squash != "" || s.AnonUID|s.AnonGID != 0 || len(s.Groups) != 0:
		return vfs.Errorf(vfs.KindInvalid, op, "users of kind local are those of the node: whether its root is nobody is set on each node by nfs.root_squash; leave squash and groups out")
	case len(s.Allow) != 0:
		return vfs.Errorf(vfs.KindInvalid, op, "kind local is mounted by workloads of the node that has it and by nobody else; their networks are set on each node by local.clients: leave --allow out")
	}
	return nil
}

// MountFrom refuses a mount of the directory from of a file system of this kind if that cannot be: what everybody asks who mounts, or offers
// to. "" and "/" are the whole of it.
func MountFrom(kind, name, from string) error {
	if kind != Local || from == "" || from == "/" {
		return nil
	}
	return vfs.Errorf(vfs.KindNotSupported, "mount", "%s is of kind local, which is mounted whole: the disk is its node's, and what a job leaves in a directory is the next job's too; mount %s and use %s in it", name, name, from)
}

// HasAPI refuses file systems of this kind where a gateway would have to reach the files: storage API, browser, import.
func HasAPI(kind, name string) error {
	if kind != Local {
		return nil
	}
	return vfs.Errorf(vfs.KindNotSupported, "storage", "%s is of kind local: its files are on the disks of single nodes, and only workloads of the node that has them reach them: mount it there", name)
}

// needLocalNode refuses a group that has no node to serve a local file system.
func needLocalNode(ctx context.Context, meta Meta, group, op string) error {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return vfs.Wrap(op, err)
	}
	for _, n := range r.GetNodes().GetNodes() {
		if n.Group == group && slices.Contains(n.Roles, roleLocal) {
			return nil
		}
	}
	return vfs.Errorf(vfs.KindInvalid, op, "no node of group %s has the role local: let one join with it and local.dir set, and put it into the group with `rackfs group add`", group)
}

// Place is one node's part of a file system of kind local.
type Place struct {
	Node    string
	Address string              // host:port of its NFS server, for its own workloads
	Volume  *metapb.LocalVolume // nil: it has not said anything of it yet
}

// Places are the nodes that have a file system of kind local.
func Places(fs *metapb.FileSystem, nodes []*metapb.Node) (out []Place) {
	if fs.Kind != Local {
		return nil
	}
	for _, n := range nodes {
		if n.Group != fs.Group || !slices.Contains(n.Roles, roleLocal) {
			continue
		}
		p := Place{Node: n.Name, Address: n.Local}
		for _, v := range n.LocalVolumes {
			if v.Fs == fs.Id {
				p.Volume = v
			}
		}
		out = append(out, p)
	}
	return out
}
