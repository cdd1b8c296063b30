package v4

import (
	"encoding/binary"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// object is what a current or saved filehandle stands for: a directory of the
// pseudo file system (export nil) or an inode of an export. With it goes the
// current or saved stateid.
type object struct {
	node   *export.Node // the pseudo directory, or the place of the export
	export *export.Export
	rule   *export.Rule
	ino    vfs.Ino

	attr    vfs.Attr // valid if hasAttr
	hasAttr bool

	stateid state.Stateid
}

func (o *object) set() bool { return o.node != nil }

func (o *object) pseudo() bool { return o.export == nil }

// file names the inode to package state.
func (o *object) file() state.File { return state.File{FS: uint64(o.export.FSID), Ino: o.ino} }

func (o *object) handle() handle.Handle {
	if o.pseudo() {
		return handle.Handle{Kind: handle.Pseudo, Ino: o.node.ID}
	}
	return handle.Handle{Kind: handle.Inode, FS: o.export.FSID, Export: o.export.ID, Ino: uint64(o.ino)}
}

// pseudoObject stands for n, or for the root of the export that covers it.
func (c *compound) pseudoObject(n *export.Node) object {
	o := object{node: n, stateid: state.Invalid}
	if e := n.Covered(c.from); e != nil {
		o.export, o.rule, o.ino = e, e.Rule(c.from), e.RootIno()
	}
	return o
}

// sibling is another inode of the current filehandle's export.
func (c *compound) sibling(a *vfs.Attr) object {
	return object{
		node: c.cur.node, export: c.cur.export, rule: c.cur.rule, ino: a.Ino,
		attr: *a, hasAttr: true, stateid: state.Invalid,
	}
}

// resolve finds what a filehandle that a client sent stands for, under the rules
// in force now.
func (c *compound) resolve(fh []byte) (object, status) {
	h, err := c.enc.ring.Decode(fh)
	if err != nil {
		return object{}, statusOf(err, true)
	}
	if h.Kind == handle.Pseudo {
		n := c.table.Node(h.Ino)
		if n == nil || n.Covered(c.from) != nil || !n.Visible(c.from) {
			return object{}, nfsv4.NFS4ERR_STALE
		}
		return c.pseudoObject(n), nfsv4.NFS4_OK
	}
	n := c.table.ByExport(h.Export)
	if n == nil || n.Export.FSID != h.FS {
		return object{}, nfsv4.NFS4ERR_STALE
	}
	rule := n.Export.Rule(c.from)
	if rule == nil {
		return object{}, nfsv4.NFS4ERR_ACCESS
	}
	o := object{node: n, export: n.Export, rule: rule, ino: vfs.Ino(h.Ino), stateid: state.Invalid}
	if st := c.inside(&o, nfsv4.NFS4ERR_STALE); st != nfsv4.NFS4_OK {
		return object{}, st
	}
	return o, nfsv4.NFS4_OK
}

// inside refuses what does not belong to the project of a secured export. An inode's project does not change
// while it has a name in it, so it is looked at once, when o comes into the compound.
func (c *compound) inside(o *object, otherwise status) status {
	if o.pseudo() || o.export.Project == 0 {
		return nfsv4.NFS4_OK
	}
	if st := c.load(o); st != nfsv4.NFS4_OK {
		return st
	}
	if o.attr.Project != o.export.Project {
		return otherwise
	}
	return nfsv4.NFS4_OK
}

// load makes o's attributes valid.
func (c *compound) load(o *object) status {
	if o.hasAttr {
		return nfsv4.NFS4_OK
	}
	if o.pseudo() {
		o.attr = c.table.Attr(o.node)
	} else {
		a, err := o.export.FS.GetAttr(c.ctx, o.ino)
		if err != nil {
			return statusOf(err, true)
		}
		o.attr = a
	}
	o.hasAttr = true
	return nfsv4.NFS4_OK
}

// changed forgets attributes that an operation may have made old.
func (c *compound) changed() { c.cur.hasAttr, c.saved.hasAttr = false, false }

// source is where the attributes want of o come from. o's own are loaded.
func (c *compound) source(o *object, want bitmap) (attrSource, status) {
	if !want.and(heldAttrs).empty() {
		if _, st := c.askHolder(o); st != nfsv4.NFS4_OK {
			return attrSource{}, st
		}
	}
	if st := c.load(o); st != nfsv4.NFS4_OK {
		return attrSource{}, st
	}
	s := attrSource{attr: &o.attr, handle: o.handle(), mounted: uint64(o.attr.Ino), fsid: c.fsid(o), xattrs: xattrsOf(o) != nil}
	if o.pseudo() {
		s.stat = &vfs.StatFS{}
		return s, nfsv4.NFS4_OK
	}
	if o.ino == o.export.RootIno() {
		s.mounted = o.node.ID
	}
	if !want.and(statAttrs).empty() {
		st, err := o.export.FS.StatFS(c.ctx, o.ino)
		if err != nil {
			return s, statusOf(err, true)
		}
		s.stat = &st
	}
	return s, nfsv4.NFS4_OK
}

func (c *compound) fsid(o *object) fsid {
	id := fsid{major: clusterNumber(c.s.cfg.Cluster)}
	if !o.pseudo() {
		id.minor = uint64(o.export.FSID)
	}
	return id
}

// clusterNumber is the cluster's part of every fsid.
func clusterNumber(id [16]byte) uint64 {
	return binary.BigEndian.Uint64(id[:8]) ^ binary.BigEndian.Uint64(id[8:])
}

// needWritable fails unless o lies where the caller may change something.
func (c *compound) needWritable(o *object) status {
	if o.pseudo() || o.rule.Access != export.ReadWrite {
		return nfsv4.NFS4ERR_ROFS
	}
	return nfsv4.NFS4_OK
}

// typeStatus refines what an operation on a directory (wantDir) or regular file
// that is something else is answered with (RFC 8881, 15.1): the vfs tells
// only that the type is wrong, the protocol tells symlinks apart.
func (c *compound) typeStatus(o *object, wantDir bool, st status) status {
	if st != nfsv4.NFS4ERR_NOTDIR && st != nfsv4.NFS4ERR_WRONG_TYPE && st != nfsv4.NFS4ERR_INVAL && st != nfsv4.NFS4ERR_ISDIR {
		return st
	}
	if c.load(o) != nfsv4.NFS4_OK {
		return st
	}
	if s := checkType(o.attr.Type, wantDir); s != nfsv4.NFS4_OK {
		return s
	}
	return st
}

// checkType is the status of using an object of type t as a directory
// (wantDir), else as a regular file.
func checkType(t vfs.Type, wantDir bool) status {
	switch {
	case wantDir && t == vfs.TypeDir, !wantDir && t == vfs.TypeFile:
		return nfsv4.NFS4_OK
	case t == vfs.TypeSymlink:
		return nfsv4.NFS4ERR_SYMLINK
	case wantDir:
		return nfsv4.NFS4ERR_NOTDIR
	case t == vfs.TypeDir:
		return nfsv4.NFS4ERR_ISDIR
	}
	return nfsv4.NFS4ERR_WRONG_TYPE
}
