package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// opPutRootFH is PUTROOTFH and PUTPUBFH (RFC 8881, 18.20, 18.21).
func (c *compound) opPutRootFH() status {
	c.cur = c.pseudoObject(c.table.Root())
	return nfsv4.NFS4_OK
}

// opPutFH is PUTFH (RFC 8881, 18.19).
func (c *compound) opPutFH() status {
	fh := c.d.Opaque(nfsv4.NFS4_FHSIZE)
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	o, st := c.resolve(fh)
	if st == nfsv4.NFS4_OK {
		c.cur = o
	}
	return st
}

// opGetFH is GETFH (RFC 8881, 18.8).
func (c *compound) opGetFH() status {
	c.r.B = xdr.AppendUint32(c.r.B, handle.Size)
	c.r.B = c.enc.ring.Append(c.r.B, c.cur.handle())
	return nfsv4.NFS4_OK
}

// opSaveFH is SAVEFH; the current stateid is saved too (RFC 8881, 16.2.3.1.2).
func (c *compound) opSaveFH() status {
	c.saved = c.cur
	return nfsv4.NFS4_OK
}

// opRestoreFH is RESTOREFH.
func (c *compound) opRestoreFH() status {
	if !c.saved.set() {
		return nfsv4.NFS4ERR_NOFILEHANDLE
	}
	c.cur = c.saved
	return nfsv4.NFS4_OK
}

// opLookup is LOOKUP (RFC 8881, 18.13).
func (c *compound) opLookup() status {
	name, st := c.decodeName()
	if st != nfsv4.NFS4_OK {
		return st
	}
	o, st := c.lookup(name)
	if st == nfsv4.NFS4_OK {
		c.cur = o
	}
	return st
}

// lookup finds name in the current filehandle's directory.
func (c *compound) lookup(name string) (object, status) {
	if c.cur.pseudo() {
		n := c.cur.node.Lookup(name, c.from)
		if n == nil {
			return object{}, nfsv4.NFS4ERR_NOENT
		}
		o := c.pseudoObject(n)
		return o, c.inside(&o, nfsv4.NFS4ERR_STALE)
	}
	a, err := c.cur.export.FS.Lookup(c.ctx, c.fsCred(), c.cur.ino, name)
	if err != nil {
		return object{}, c.typeStatus(&c.cur, true, statusOf(err, true))
	}
	o := c.sibling(&a)
	return o, c.inside(&o, nfsv4.NFS4ERR_ACCESS) // another project's directory may lie in this one
}

// opLookupP is LOOKUPP (RFC 8881, 18.14).
func (c *compound) opLookupP() status {
	o, st := c.parent()
	if st == nfsv4.NFS4_OK {
		c.cur = o
	}
	return st
}

// parent is the parent directory of the current filehandle's. Above an export's
// root lies the pseudo file system, whatever the file system has there.
func (c *compound) parent() (object, status) {
	if c.cur.pseudo() || c.cur.ino == c.cur.export.RootIno() {
		if n := c.cur.node; n.Parent != n {
			o := c.pseudoObject(n.Parent)
			return o, c.inside(&o, nfsv4.NFS4ERR_STALE)
		}
		return object{}, nfsv4.NFS4ERR_NOENT
	}
	a, err := c.cur.export.FS.Parent(c.ctx, c.fsCred(), c.cur.ino)
	if err != nil {
		return object{}, c.typeStatus(&c.cur, true, statusOf(err, true))
	}
	o := c.sibling(&a)
	return o, c.inside(&o, nfsv4.NFS4ERR_ACCESS)
}

// appendFlavors appends SECINFO4resok: AUTH_SYS, and AUTH_NONE, whose callers
// act as the anonymous user.
func (c *compound) appendFlavors() {
	c.r.B = xdr.AppendUint32(c.r.B, 2)
	c.r.B = xdr.AppendUint32(c.r.B, uint32(rpc.AuthSys))
	c.r.B = xdr.AppendUint32(c.r.B, uint32(rpc.AuthNone))
}

// opSecinfo is SECINFO (RFC 8881, 18.29). It consumes the current filehandle.
func (c *compound) opSecinfo() status {
	name, st := c.decodeName()
	if st != nfsv4.NFS4_OK {
		return st
	}
	if _, st := c.lookup(name); st != nfsv4.NFS4_OK {
		return st
	}
	c.appendFlavors()
	c.cur = object{stateid: state.Invalid}
	return nfsv4.NFS4_OK
}

// opSecinfoNoName is SECINFO_NO_NAME (RFC 8881, 18.45). It consumes the current
// filehandle.
func (c *compound) opSecinfoNoName() status {
	style := nfsv4.SecinfoStyle4(c.d.Int32())
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	switch style {
	case nfsv4.SECINFO_STYLE4_CURRENT_FH:
	case nfsv4.SECINFO_STYLE4_PARENT:
		if _, st := c.parent(); st != nfsv4.NFS4_OK {
			return st
		}
	default:
		return nfsv4.NFS4ERR_BADXDR
	}
	c.appendFlavors()
	c.cur = object{stateid: state.Invalid}
	return nfsv4.NFS4_OK
}

// opReadLink is READLINK (RFC 8881, 18.24).
func (c *compound) opReadLink() status {
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_WRONG_TYPE
	}
	target, err := c.cur.export.FS.ReadLink(c.ctx, c.cur.ino)
	if err != nil {
		return statusOf(err, true)
	}
	c.r.B = xdr.AppendString(c.r.B, target)
	return nfsv4.NFS4_OK
}

// opAccess is ACCESS (RFC 8881, 18.1).
func (c *compound) opAccess() status {
	want := c.d.Uint32()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if st := c.load(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	supported, granted := c.access(&c.cur)
	c.r.B = xdr.AppendUint32(c.r.B, want&supported)
	c.r.B = xdr.AppendUint32(c.r.B, want&granted)
	return nfsv4.NFS4_OK
}

// access is what this server can tell about o, and what of it the caller may do.
func (c *compound) access(o *object) (supported, granted uint32) {
	const write = nfsv4.ACCESS4_MODIFY | nfsv4.ACCESS4_EXTEND
	if o.pseudo() {
		return nfsv4.ACCESS4_READ | nfsv4.ACCESS4_LOOKUP | write | nfsv4.ACCESS4_DELETE, nfsv4.ACCESS4_READ | nfsv4.ACCESS4_LOOKUP
	}
	cred, a := c.fsCred(), &o.attr
	writable := c.needWritable(o) == nfsv4.NFS4_OK
	if a.IsDir() {
		supported = nfsv4.ACCESS4_READ | nfsv4.ACCESS4_LOOKUP | write | nfsv4.ACCESS4_DELETE
		if a.Permits(cred, vfs.AccessExec) {
			granted |= nfsv4.ACCESS4_LOOKUP
		}
		if writable && a.Permits(cred, vfs.AccessWrite) {
			granted |= write | nfsv4.ACCESS4_DELETE
		}
	} else {
		supported = nfsv4.ACCESS4_READ | write | nfsv4.ACCESS4_EXECUTE
		if a.Permits(cred, vfs.AccessExec) {
			granted |= nfsv4.ACCESS4_EXECUTE
		}
		if writable && a.Permits(cred, vfs.AccessWrite) {
			granted |= write
		}
	}
	if a.Permits(cred, vfs.AccessRead) {
		granted |= nfsv4.ACCESS4_READ
	}
	s, g := c.xattrAccess(o, writable)
	if o.export.Admits(o.rule, &c.req.Cred) < export.Admitted {
		granted, g = granted&nfsv4.ACCESS4_LOOKUP, 0
	}
	return supported | s, granted | g
}
