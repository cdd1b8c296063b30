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
//	COPY                  any vfs.FS; vfs.Cloner and vfs.Copier make it quick (op_copy.go)
//	GETXATTR and its kin  RFC 8276, see op_xattr.go; xattr_support then tells true
//
// SEEK uses vfs.Seeker if there is one. IO_ADVISE works with every file system.

// advices are the hints of IO_ADVISE that a vfs.Advisor can follow.
var advices = [...]struct {
	hint   int
	advice vfs.Advice
}{
	{int(nfsv4.IO_ADVISE4_SEQUENTIAL), vfs.AdviseSequential},
	{int(nfsv4.IO_ADVISE4_WILLNEED), vfs.AdviseWillNeed},
	{int(nfsv4.IO_ADVISE4_DONTNEED), vfs.AdviseDontNeed},
}

// opIOAdvise is IO_ADVISE (RFC 7862, 15.5). It answers which hints are followed: none, unless the file system is a
// vfs.Advisor.
func (c *compound) opIOAdvise() status {
	id := c.decodeStateid()
	offset, count := c.d.Uint64(), c.d.Uint64()
	hints := decodeBitmap(&c.d)
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	end, st := c.startIO(id, vfs.OpenRead)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	var followed bitmap
	if x, ok := c.cur.export.FS.(vfs.Advisor); ok {
		for _, a := range advices {
			if !hints.has(a.hint) {
				continue
			}
			// A hint that fails is one that is not followed.
			if done, err := x.Advise(c.ctx, c.cur.ino, offset, count, a.advice); done && err == nil {
				followed = followed.or(bits4(a.hint))
			}
		}
	}
	c.r.B = appendBitmap(c.r.B, followed)
	return nfsv4.NFS4_OK
}
