package v4

import (
	"bytes"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// opGetAttr is GETATTR (RFC 8881, 18.7).
func (c *compound) opGetAttr() status {
	want := decodeBitmap(&c.d)
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if !want.and(writeOnly).empty() {
		return nfsv4.NFS4ERR_INVAL
	}
	src, st := c.source(&c.cur, want)
	if st != nfsv4.NFS4_OK {
		return st
	}
	c.r.B = c.enc.append(c.r.B, want, &src)
	return nfsv4.NFS4_OK
}

// opSetAttr is SETATTR (RFC 8881, 18.30).
func (c *compound) opSetAttr() status {
	id := c.decodeStateid()
	s, mask, st := decodeSetAttr(&c.d, c.enc.supported, settable)
	if st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_ROFS
	}
	end, st := c.changing(&c.cur)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	opened := false
	if s.Size != nil {
		io, st := c.checkIO(&c.cur, id, vfs.OpenWrite)
		if st != nfsv4.NFS4_OK {
			return c.typeStatus(&c.cur, false, st)
		}
		opened = !io.Special
	}
	c.changed()
	a, err := c.cur.export.FS.SetAttr(c.ctx, c.fsCred(), c.cur.ino, s, opened)
	if err != nil {
		return statusOf(err, true)
	}
	c.cur.attr, c.cur.hasAttr = a, true
	c.r.B = appendBitmap(c.r.B, mask)
	return nfsv4.NFS4_OK
}

// opVerify is VERIFY (RFC 8881, 18.31).
func (c *compound) opVerify() status {
	same, st := c.sameAttrs()
	if st == nfsv4.NFS4_OK && !same {
		return nfsv4.NFS4ERR_NOT_SAME
	}
	return st
}

// opNVerify is NVERIFY (RFC 8881, 18.15).
func (c *compound) opNVerify() status {
	same, st := c.sameAttrs()
	if st == nfsv4.NFS4_OK && same {
		return nfsv4.NFS4ERR_SAME
	}
	return st
}

// sameAttrs decodes attributes and compares them with the object's, as they
// would be encoded.
func (c *compound) sameAttrs() (bool, status) {
	mask := decodeBitmap(&c.d)
	vals := c.d.Opaque(c.d.Len())
	if c.d.Err() != nil {
		return false, nfsv4.NFS4ERR_BADXDR
	}
	if !mask.without(c.enc.supported).empty() {
		return false, nfsv4.NFS4ERR_ATTRNOTSUPP
	}
	if mask.has(nfsv4.FATTR4_RDATTR_ERROR) || !mask.and(writeOnly).empty() {
		return false, nfsv4.NFS4ERR_INVAL
	}
	src, st := c.source(&c.cur, mask)
	if st != nfsv4.NFS4_OK {
		return false, st
	}
	c.scratch = c.enc.append(c.scratch[:0], mask, &src)
	d := xdr.NewDecoder(c.scratch)
	decodeBitmap(&d)
	return bytes.Equal(d.Opaque(d.Len()), vals), nfsv4.NFS4_OK
}
