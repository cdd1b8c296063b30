package v4

import (
	"bytes"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// Extended attributes (RFC 8276), of file systems that are vfs.Xattrs. The generated types predate them.

// Bits of ACCESS (RFC 8276, 8.5).
const (
	accessXattrRead  = 0x40
	accessXattrWrite = 0x80
	accessXattrList  = 0x100
)

// setxattr_option4.
const (
	setXattrEither = iota
	setXattrCreate
	setXattrReplace
)

// xattrsOf is the extended attributes of the file system that o lies in; nil if it has none.
func xattrsOf(o *object) vfs.Xattrs {
	if o.pseudo() {
		return nil
	}
	x, _ := o.export.FS.(vfs.Xattrs)
	return x
}

// xattrStatus is statusOf for operations on extended attributes.
func xattrStatus(err error, idempotent bool) status {
	if vfs.KindOf(err) == vfs.KindTooBig {
		return errXattr2Big
	}
	return statusOf(err, idempotent)
}

// decodeXattrName decodes xattrkey4 and checks it. Names are bytes, as those of files; '/' is nothing special.
func (c *compound) decodeXattrName() (string, status) {
	p := c.d.Opaque(c.d.Len())
	switch {
	case c.d.Err() != nil:
		return "", nfsv4.NFS4ERR_BADXDR
	case len(p) == 0:
		return "", nfsv4.NFS4ERR_INVAL
	case len(p) > vfs.XattrNameMax:
		return "", nfsv4.NFS4ERR_NAMETOOLONG
	case bytes.IndexByte(p, 0) >= 0:
		return "", nfsv4.NFS4ERR_BADCHAR
	}
	return string(p), nfsv4.NFS4_OK
}

// opGetXattr is GETXATTR (RFC 8276, 8.4.1).
func (c *compound) opGetXattr() status {
	x := xattrsOf(&c.cur)
	if x == nil {
		return nfsv4.NFS4ERR_NOTSUPP
	}
	name, st := c.decodeXattrName()
	if st != nfsv4.NFS4_OK {
		return st
	}
	value, err := x.GetXattr(c.ctx, c.fsCred(), c.cur.ino, name)
	if err != nil {
		return xattrStatus(err, true)
	}
	if st := c.tooBig(4 + len(value) + xdr.Pad(len(value))); st != nfsv4.NFS4_OK {
		return st
	}
	c.r.B = xdr.AppendOpaque(c.r.B, value)
	return nfsv4.NFS4_OK
}

// opSetXattr is SETXATTR (RFC 8276, 8.4.2).
func (c *compound) opSetXattr() status {
	x := xattrsOf(&c.cur)
	if x == nil {
		return nfsv4.NFS4ERR_NOTSUPP
	}
	option := c.d.Uint32()
	name, st := c.decodeXattrName()
	value := c.d.Opaque(c.d.Len())
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if st != nfsv4.NFS4_OK {
		return st
	}
	var how vfs.XattrHow
	switch option {
	case setXattrEither:
		how = vfs.XattrEither
	case setXattrCreate:
		how = vfs.XattrCreate
	case setXattrReplace:
		how = vfs.XattrReplace
	default:
		return nfsv4.NFS4ERR_INVAL
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	end, st := c.changing(&c.cur)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	ch, err := x.SetXattr(c.ctx, c.fsCred(), c.cur.ino, name, value, how)
	if err != nil {
		return xattrStatus(err, how != vfs.XattrCreate)
	}
	c.r.B = appendChangeInfo(c.r.B, ch)
	return nfsv4.NFS4_OK
}

// opRemoveXattr is REMOVEXATTR (RFC 8276, 8.4.4).
func (c *compound) opRemoveXattr() status {
	x := xattrsOf(&c.cur)
	if x == nil {
		return nfsv4.NFS4ERR_NOTSUPP
	}
	name, st := c.decodeXattrName()
	if st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	end, st := c.changing(&c.cur)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	ch, err := x.RemoveXattr(c.ctx, c.fsCred(), c.cur.ino, name)
	if err != nil {
		return xattrStatus(err, false)
	}
	c.r.B = appendChangeInfo(c.r.B, ch)
	return nfsv4.NFS4_OK
}

// xattrsFixed is what LISTXATTRS4resok takes besides names: cookie, count and eof.
const xattrsFixed = 8 + 4 + 4

// opListXattrs is LISTXATTRS (RFC 8276, 8.4.3). The count of the caller bounds the whole LISTXATTRS4resok.
func (c *compound) opListXattrs() status {
	x := xattrsOf(&c.cur)
	if x == nil {
		return nfsv4.NFS4ERR_NOTSUPP
	}
	cookie, maxCount := c.d.Uint64(), c.d.Uint32()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	room, tooBig := c.room()
	if int64(maxCount) <= int64(room) {
		room, tooBig = int(maxCount), nfsv4.NFS4ERR_TOOSMALL
	}
	if room -= xattrsFixed; room < 0 {
		return tooBig
	}
	page, err := x.ListXattrs(c.ctx, c.fsCred(), c.cur.ino, cookie, min(room, vfs.XattrListMax))
	if err != nil {
		return xattrStatus(err, true)
	}
	cookieAt := len(c.r.B)
	c.r.B = xdr.AppendUint32(xdr.AppendUint64(c.r.B, 0), 0)
	n := 0
	for ; n < len(page.Names); n++ {
		name := &page.Names[n]
		if room -= 4 + len(name.Name) + xdr.Pad(len(name.Name)); room < 0 {
			break
		}
		c.r.B = xdr.AppendString(c.r.B, name.Name)
		cookie = name.Cookie
	}
	if n == 0 && len(page.Names) > 0 {
		return tooBig
	}
	xdr.PutUint32(c.r.B, cookieAt, uint32(cookie>>32))
	xdr.PutUint32(c.r.B, cookieAt+4, uint32(cookie))
	xdr.PutUint32(c.r.B, cookieAt+8, uint32(n))
	c.r.B = xdr.AppendBool(c.r.B, page.EOF && n == len(page.Names))
	return nfsv4.NFS4_OK
}

// xattrAccess is what of the bits of ACCESS for extended attributes this server can tell about o, and what of it the
// caller may do.
func (c *compound) xattrAccess(o *object, writable bool) (supported, granted uint32) {
	if c.minor < 2 || xattrsOf(o) == nil || (o.attr.Type != vfs.TypeFile && o.attr.Type != vfs.TypeDir) {
		return 0, 0
	}
	const op = "access"
	if vfs.CheckXattr(c.fsCred(), &o.attr, vfs.AccessRead, op) == nil {
		granted |= accessXattrRead
	}
	if vfs.CheckXattrList(c.fsCred(), &o.attr, op) == nil {
		granted |= accessXattrList
	}
	if writable && vfs.CheckXattr(c.fsCred(), &o.attr, vfs.AccessWrite, op) == nil {
		granted |= accessXattrWrite
	}
	return accessXattrRead | accessXattrWrite | accessXattrList, granted
}
