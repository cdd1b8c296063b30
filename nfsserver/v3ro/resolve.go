package v3ro

import (
	"context"
	"net/netip"

	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// call is one call about a file.
type call struct {
	s     *Server
	ctx   context.Context
	req   *rpc.Request
	table *export.Table
	from  netip.Addr

	export *export.Export
	cred   vfs.Cred // the anonymous user
	attr   vfs.Attr // of the object
	fsid   uint64
}

func (s *Server) begin(ctx context.Context, req *rpc.Request) *call {
	return &call{s: s, ctx: ctx, req: req, table: s.cfg.Exports.Table(), from: req.Conn.RemoteAddr().Addr()}
}

// enter makes e the export that the call is about. least is what the caller has to be allowed.
func (c *call) enter(e *export.Export, least export.Admission) status {
	r := e.Rule(c.from)
	if r == nil {
		return stAccess
	}
	rule := *r
	rule.Access, rule.Squash = export.ReadOnly, export.SquashAll
	if e.Admits(&rule, &c.req.Cred) < least {
		return stAccess
	}
	c.export, c.cred, c.fsid = e, rule.Cred(&c.req.Cred), fsidOf(c.s.cfg.Cluster, e.FSID)
	return stOK
}

// resolve finds what a handle stands for, under the rules in force now.
func (c *call) resolve(fh []byte, least export.Admission) status {
	h, err := c.s.cfg.Ring().Decode(fh)
	if err != nil {
		return statusOf(err)
	}
	if h.Kind != handle.Inode {
		return stBadHandle // pseudo directories are NFSv4's
	}
	n := c.table.ByExport(h.Export)
	if n == nil || n.Export.FSID != h.FS {
		return stStale
	}
	if st := c.enter(n.Export, least); st != stOK {
		return st
	}
	if c.attr, err = c.export.FS.GetAttr(c.ctx, vfs.Ino(h.Ino)); err != nil {
		return statusOf(err)
	}
	if !c.inside(&c.attr) {
		return stStale
	}
	return stOK
}

// inside reports whether an inode is one that the export offers: a secured one has only those of its project.
func (c *call) inside(a *vfs.Attr) bool {
	return c.export.Project == 0 || a.Project == c.export.Project
}

// handleOf is the handle of an inode of the export.
func (c *call) handleOf(ino vfs.Ino) []byte {
	return c.s.cfg.Ring().Append(nil, handle.Handle{Kind: handle.Inode, FS: c.export.FSID, Export: c.export.ID, Ino: uint64(ino)})
}

// lookup finds a name in the object.
func (c *call) lookup(name string) (vfs.Attr, status) {
	if !c.attr.IsDir() {
		return vfs.Attr{}, stNotDir
	}
	switch name {
	case ".":
		return c.attr, stOK
	case "..":
		return c.parent()
	}
	if len(name) > vfs.NameMax {
		return vfs.Attr{}, stNameTooLong
	}
	a, err := c.export.FS.Lookup(c.ctx, &c.cred, c.attr.Ino, name)
	if err != nil {
		return a, statusOf(err)
	}
	if !c.inside(&a) {
		return a, stAccess // another project's directory
	}
	return a, stOK
}

// parent is the directory above the object, which is inside the export.
func (c *call) parent() (vfs.Attr, status) {
	if c.attr.Ino == c.export.RootIno() {
		return c.attr, stAccess // the way out
	}
	a, err := c.export.FS.Parent(c.ctx, &c.cred, c.attr.Ino)
	if err != nil {
		return a, statusOf(err)
	}
	if !c.inside(&a) {
		return a, stAccess
	}
	return a, stOK
}

// mayRead reports whether the caller may read the object: who may execute a file may read it, for a client reads it to do so.
func (c *call) mayRead() bool {
	return c.attr.Permits(&c.cred, vfs.AccessRead) || c.attr.Type == vfs.TypeFile && c.attr.Permits(&c.cred, vfs.AccessExec)
}

// access is what the caller may do with the object.
func (c *call) access() (granted uint32) {
	search := c.attr.Permits(&c.cred, vfs.AccessExec)
	switch {
	case c.attr.IsDir() && search:
		granted |= accessLookup
	case !c.attr.IsDir() && search:
		granted |= accessExecute
	}
	rule := export.Rule{Squash: export.SquashAll}
	if c.export.Admits(&rule, &c.req.Cred) < export.Admitted {
		return granted & accessLookup
	}
	if c.attr.Permits(&c.cred, vfs.AccessRead) {
		granted |= accessRead
	}
	return granted
}
