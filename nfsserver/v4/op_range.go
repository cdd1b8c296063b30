package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// The operations of minor version 2 on ranges of files, each over an optional interface of the export's FS.

// decodeRange decodes what ALLOCATE and DEALLOCATE have: stateid, offset, length.
func (c *compound) decodeRange() (id state.Stateid, offset, length uint64, st status) {
	id = c.decodeStateid()
	offset, length = c.d.Uint64(), c.d.Uint64()
	switch {
	case c.d.Err() != nil:
		return id, 0, 0, nfsv4.NFS4ERR_BADXDR
	case c.cur.pseudo():
		return id, 0, 0, nfsv4.NFS4ERR_ISDIR
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return id, 0, 0, st
	}
	switch {
	case length == 0:
		return id, 0, 0, nfsv4.NFS4ERR_INVAL
	case offset > vfs.MaxSize || length > vfs.MaxSize-offset:
		return id, 0, 0, nfsv4.NFS4ERR_FBIG
	}
	return id, offset, length, nfsv4.NFS4_OK
}

// opAllocate is ALLOCATE (RFC 7862, 15.1).
func (c *compound) opAllocate() status {
	return c.onRange(func(a vfs.Allocator, offset, length uint64) error {
		return a.Allocate(c.ctx, c.fsCred(), c.cur.ino, offset, length)
	})
}

// opDeallocate is DEALLOCATE (RFC 7862, 15.4).
func (c *compound) opDeallocate() status {
	return c.onRange(func(a vfs.Allocator, offset, length uint64) error {
		return a.Deallocate(c.ctx, c.fsCred(), c.cur.ino, offset, length)
	})
}

func (c *compound) onRange(do func(a vfs.Allocator, offset, length uint64) error) status {
	id, offset, length, st := c.decodeRange()
	if st != nfsv4.NFS4_OK {
		return st
	}
	a, ok := c.cur.export.FS.(vfs.Allocator)
	if !ok {
		return nfsv4.NFS4ERR_NOTSUPP
	}
	end, st := c.startIO(id, vfs.OpenWrite)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	if err := do(a, offset, length); err != nil {
		return c.typeStatus(&c.cur, false, statusOf(err, false))
	}
	return nfsv4.NFS4_OK
}

// opSeek is SEEK (RFC 7862, 15.11). Of a file system that does not know its holes a file is one range of data that ends in
// the hole at its end.
func (c *compound) opSeek() status {
	id := c.decodeStateid()
	offset := c.d.Uint64()
	what := nfsv4.DataContent4(c.d.Int32())
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	find := vfs.SeekData
	switch what {
	case nfsv4.NFS4_CONTENT_DATA:
	case nfsv4.NFS4_CONTENT_HOLE:
		find = vfs.SeekHole
	default:
		return nfsv4.NFS4ERR_UNION_NOTSUPP
	}
	end, st := c.startIO(id, vfs.OpenRead)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	res, st := c.seek(offset, find)
	if st != nfsv4.NFS4_OK {
		return st
	}
	if offset >= res.Size {
		return nfsv4.NFS4ERR_NXIO
	}
	c.r.B = xdr.AppendUint64(xdr.AppendBool(c.r.B, res.Offset >= res.Size), res.Offset)
	return nfsv4.NFS4_OK
}

func (c *compound) seek(offset uint64, find vfs.SeekFor) (vfs.SeekResult, status) {
	if s, ok := c.cur.export.FS.(vfs.Seeker); ok {
		res, err := s.Seek(c.ctx, c.cur.ino, offset, find)
		return res, c.typeStatus(&c.cur, false, statusOf(err, true))
	}
	if st := c.load(&c.cur); st != nfsv4.NFS4_OK {
		return vfs.SeekResult{}, st
	}
	res := vfs.SeekResult{Offset: c.cur.attr.Size, Size: c.cur.attr.Size}
	if find == vfs.SeekData {
		res.Offset = min(res.Offset, offset)
	}
	return res, nfsv4.NFS4_OK
}

// opClone is CLONE (RFC 7862, 15.13): from the saved filehandle to the current one.
func (c *compound) opClone() status {
	src := c.decodeStateid()
	dst := c.decodeStateid()
	from, to, count := c.d.Uint64(), c.d.Uint64(), c.d.Uint64()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	end, st := c.startPair(src, dst)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	if c.saved.export.FSID != c.cur.export.FSID {
		return nfsv4.NFS4ERR_XDEV
	}
	cl, ok := c.cur.export.FS.(vfs.Cloner)
	if !ok {
		return nfsv4.NFS4ERR_NOTSUPP
	}
	c.changed()
	if err := cl.Clone(c.ctx, c.fsCred(), c.saved.ino, from, c.cur.ino, to, count); err != nil {
		return statusOf(err, false)
	}
	return nfsv4.NFS4_OK
}

// startPair is startIO of the saved filehandle, the source, and the current one.
func (c *compound) startPair(src, dst state.Stateid) (end func(), st status) {
	if !c.saved.set() {
		return nil, nfsv4.NFS4ERR_NOFILEHANDLE
	}
	if c.saved.pseudo() || c.cur.pseudo() {
		return nil, nfsv4.NFS4ERR_WRONG_TYPE
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return nil, st
	}
	for _, o := range []*object{&c.saved, &c.cur} {
		if st := c.load(o); st != nfsv4.NFS4_OK {
			return nil, st
		}
		if o.attr.Type != vfs.TypeFile {
			return nil, nfsv4.NFS4ERR_WRONG_TYPE
		}
	}
	endSrc, st := c.startIOOf(&c.saved, src, vfs.OpenRead)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	endDst, st := c.startIO(dst, vfs.OpenWrite)
	if st != nfsv4.NFS4_OK {
		endSrc()
		return nil, st
	}
	return func() {
		endDst()
		endSrc()
	}, nfsv4.NFS4_OK
}
