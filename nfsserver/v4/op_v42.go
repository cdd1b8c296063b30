package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// The operations of minor version 2 (RFC 7862) that need more of a file system
// than vfs.FS promises each assert an optional interface of the export's FS;
// where the assertion fails, NFS4ERR_NOTSUPP:
//
//	ALLOCATE, DEALLOCATE  vfs.Allocator: reserve and punch ranges (op_range.go)
//	CLONE                 vfs.Cloner: share ranges between files of one file system (op_range.go)
//	GETXATTR and its kin  RFC 8276, see op_xattr.go; xattr_support then tells true
//
// SEEK uses vfs.Seeker if there is one. IO_ADVISE works with every file system.

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
