package export

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// RootID is the id of the pseudo file system's root directory.
const RootID = 1

// Node is a directory of the pseudo file system, or the place of an export.
type Node struct {
	ID     uint64
	Name   string
	Parent *Node // the root is its own
	// Export, if not nil, covers this node with its root for the clients that it has a rule for. For others the node is a
	// directory like any other, with the secured exports below it, if there are some for them.
	Export   *Export
	children []*Node // by ID, the order of listings
	byName   map[string]*Node
}

// Table is one snapshot of the exports. It is immutable.
type Table struct {
	root     *Node
	nodes    map[uint64]*Node
	byExport map[uint32]*Node
	change   uint64
	made     time.Time
}

// NewTable builds the pseudo file system of exports. It refuses paths that are
// not absolute and clean, nested or equal paths, and ids used twice. made is the
// time that pseudo directories show. Only a secured export may lie in another one, of the same file system.
func NewTable(exports []Export, made time.Time) (*Table, error) {
	const op = "export.table"
	root := &Node{ID: RootID, byName: map[string]*Node{}}
	root.Parent = root
	t := &Table{
		root:     root,
		nodes:    map[uint64]*Node{RootID: root},
		byExport: map[uint32]*Node{},
		made:     made,
	}
	sorted := slices.Clone(exports)
	slices.SortFunc(sorted, func(a, b Export) int { return strings.Compare(a.Path, b.Path) })
	sum := fnv.New64a()
	for i := range sorted {
		e := &sorted[i]
		if e.ID == 0 || e.FSID == 0 || e.FS == nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "export %q needs an id, a file system id and a file system", e.Path)
		}
		if _, ok := t.byExport[e.ID]; ok {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "export id %d is used twice", e.ID)
		}
		if e.Project != 0 && e.RootIno() == vfs.RootIno {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "export %q is of project %d and needs the project's directory as its root", e.Path, e.Project)
		}
		for _, r := range e.Rules {
			if !r.Clients.IsValid() || r.Access > ReadWrite || r.Squash > SquashAll {
				return nil, vfs.Errorf(vfs.KindInvalid, op, "export %q has a rule with an invalid prefix, access or squash", e.Path)
			}
		}
		if !slices.IsSorted(e.Groups) {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "export %q has groups that are not ascending", e.Path)
		}
		n, err := t.place(e)
		if err != nil {
			return nil, err
		}
		n.Export = e
		t.byExport[e.ID] = n
		sum.Write([]byte(e.Path))
		sum.Write([]byte{0})
	}
	for _, n := range t.nodes {
		slices.SortFunc(n.children, func(a, b *Node) int { return cmp.Compare(a.ID, b.ID) })
	}
	t.change = sum.Sum64()
	return t, nil
}

// place makes the nodes of e's path and returns the last.
func (t *Table) place(e *Export) (*Node, error) {
	const op = "export.table"
	rest, ok := strings.CutPrefix(e.Path, "/")
	if !ok {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "export path %q must begin with /", e.Path)
	}
	n := t.root
	path := ""
	for part := range strings.SplitSeq(rest, "/") {
		if vfs.CheckName(part, op) != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "export path %q has a part that cannot be a name", e.Path)
		}
		if n.Export != nil && (e.Project == 0 || n.Export.FSID != e.FSID) {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "export path %q lies in the export %q", e.Path, n.Export.Path)
		}
		path += "/" + part
		c := n.byName[part]
		if c == nil {
			c = &Node{ID: nodeID(path), Name: part, Parent: n, byName: map[string]*Node{}}
			if t.nodes[c.ID] != nil {
				return nil, vfs.Errorf(vfs.KindInvalid, op, "the ids of %q and another path collide; rename one", path)
			}
			t.nodes[c.ID] = c
			n.children = append(n.children, c)
			n.byName[part] = c
		}
		n = c
	}
	if n.Export != nil || len(n.children) > 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "another export has the path %q or lies below it", e.Path)
	}
	return n, nil
}

// nodeID is the id of a pseudo directory: a hash of its path, above the cookies
// 0 to 2 that READDIR reserves and below 2^63, because it serves as cookie too.
func nodeID(path string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(path))
	return h.Sum64()>>1 | 1<<62
}

// Root is the root of the pseudo file system.
func (t *Table) Root() *Node { return t.root }

// Node finds a pseudo directory by id, nil if it does not exist (any more).
func (t *Table) Node(id uint64) *Node { return t.nodes[id] }

// ByExport finds the place of an export, nil if it does not exist (any more).
func (t *Table) ByExport(id uint32) *Node { return t.byExport[id] }

// FileSystems are those of the exports, each once, by their ids.
func (t *Table) FileSystems() map[uint32]vfs.FS {
	all := make(map[uint32]vfs.FS)
	for _, n := range t.byExport {
		all[n.Export.FSID] = n.Export.FS
	}
	return all
}

// Covered is the export whose root n is for client, nil if n is a pseudo directory for it.
func (n *Node) Covered(client netip.Addr) *Export {
	if n.Export == nil || n.Export.Rule(client) == nil {
		return nil
	}
	return n.Export
}

// Visible reports whether client may see n.
func (n *Node) Visible(client netip.Addr) bool {
	if n.Covered(client) != nil || n.Parent == n {
		return true
	}
	return slices.ContainsFunc(n.children, func(c *Node) bool { return c.Visible(client) })
}

// Lookup finds a visible child, nil if there is none.
func (n *Node) Lookup(name string, client netip.Addr) *Node {
	if c := n.byName[name]; c != nil && c.Visible(client) {
		return c
	}
	return nil
}

// Children are the visible children with an id above after, in order of id.
func (n *Node) Children(after uint64, client netip.Addr) []*Node {
	var out []*Node
	for _, c := range n.children {
		if c.ID > after && c.Visible(client) {
			out = append(out, c)
		}
	}
	return out
}

// Attr are the attributes of n as a directory of the pseudo file system.
func (t *Table) Attr(n *Node) vfs.Attr {
	return vfs.Attr{
		Ino: vfs.Ino(n.ID), Type: vfs.TypeDir, Mode: 0o555, Nlink: uint32(2 + len(n.children)),
		Change: t.change, Atime: t.made, Mtime: t.made, Ctime: t.made, Btime: t.made,
	}
}
