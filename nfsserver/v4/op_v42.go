package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// The operations of minor version 2 (RFC 7862) that need more of a file system
// than vfs.FS promises belong here, each beside the optional interface it
// asserts of the export's FS; where the assertion fails, NFS4ERR_NOTSUPP:
//
//	ALLOCATE, DEALLOCATE  reserve and punch ranges
//	SEEK                  where data and holes begin
//	COPY, CLONE           ranges between files of one file system
//	GETXATTR and its kin  RFC 8276; xattr_support then tells true
//
// IO_ADVISE and SEEK work with every file system.

// opIOAdvise is IO_ADVISE (RFC 7862, 15.5). No hint changes anything, and it
// says so.
func (c *compound) opIOAdvise() status {
	id := c.decodeStateid()
	c.d.Uint64() // offset
	c.d.Uint64() // count
	decodeBitmap(&c.d)
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	temporary, st := c.startIO(id, vfs.OpenRead)
	if st != nfsv4.NFS4_OK {
		return st
	}
	c.endIO(temporary, vfs.OpenRead)
	c.r.B = appendBitmap(c.r.B, bitmap{})
	return nfsv4.NFS4_OK
}

// opSeek is SEEK (RFC 7862, 15.11). A file is one range of data that ends in
// the hole at its end.
func (c *compound) opSeek() status {
	id := c.decodeStateid()
	offset := c.d.Uint64()
	what := nfsv4.DataContent4(c.d.Int32())
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if what != nfsv4.NFS4_CONTENT_DATA && what != nfsv4.NFS4_CONTENT_HOLE {
		return nfsv4.NFS4ERR_UNION_NOTSUPP
	}
	temporary, st := c.startIO(id, vfs.OpenRead)
	if st != nfsv4.NFS4_OK {
		return st
	}
	c.endIO(temporary, vfs.OpenRead)
	if st := c.load(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	size := c.cur.attr.Size
	if offset >= size {
		return nfsv4.NFS4ERR_NXIO
	}
	if what == nfsv4.NFS4_CONTENT_HOLE {
		c.r.B = xdr.AppendUint64(xdr.AppendBool(c.r.B, true), size)
	} else {
		c.r.B = xdr.AppendUint64(xdr.AppendBool(c.r.B, false), offset)
	}
	return nfsv4.NFS4_OK
}
