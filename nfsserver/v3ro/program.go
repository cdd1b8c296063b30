package v3ro

import (
	"context"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// serveNFS serves program 100003.
func (s *Server) serveNFS(ctx context.Context, req *rpc.Request) {
	switch req.Proc {
	case procNull:
		return
	case procSetAttr, procWrite, procCreate, procMkdir, procSymlink, procMknod, procRemove, procRmdir, procRename, procLink, procCommit:
		fail(req, stROFS)
		return
	}
	if req.Proc > procCommit {
		req.ProcUnavail()
		return
	}
	c := s.begin(ctx, req)
	d := xdr.NewDecoder(req.Body)
	fh := d.Opaque(maxHandle)
	a := args{}
	switch req.Proc {
	case procLookup:
		a.name = d.String(maxName)
	case procAccess:
		a.mask = d.Uint32()
	case procRead:
		a.offset, a.count = d.Uint64(), d.Uint32()
	case procReadDir:
		a.offset, _ = d.Uint64(), d.Uint64()
		a.count = d.Uint32()
	case procReadDirPlus:
		a.offset, _ = d.Uint64(), d.Uint64()
		a.dirCount, a.count = d.Uint32(), d.Uint32()
	}
	if d.Err() != nil {
		req.GarbageArgs()
		return
	}
	least := export.Mounting
	if req.Proc == procRead || req.Proc == procReadLink || req.Proc == procReadDir || req.Proc == procReadDirPlus {
		least = export.Admitted
	}
	st := c.resolve(fh, least)
	if st == stOK {
		st = c.run(&a)
	}
	if st != stOK {
		fail(req, st)
	}
}

// args are the arguments of a call besides the handle.
type args struct {
	name            string
	mask            uint32
	offset          uint64 // or cookie
	count, dirCount uint32
}

// fail answers with a status other than OK.
func fail(req *rpc.Request, st status) {
	req.Reply.Truncate(req.Reply.Start())
	b := xdr.AppendUint32(req.Reply.B, uint32(st))
	for range failureWords(req.Proc) {
		b = xdr.AppendUint32(b, 0)
	}
	req.Reply.B = b
}

// run answers a call about an object that was found, or says why not.
func (c *call) run(a *args) status {
	v := view{object: c.attr}
	b := xdr.AppendOpaque(nil, []byte("file")) // the engine has one object
	switch c.req.Proc {
	case procReadDir, procReadDirPlus:
		return c.list(a)
	case procRead:
		return c.read(a)
	case procLookup:
		child, st := c.lookup(a.name)
		if st != stOK {
			return st
		}
		v.child, v.handle = &child, c.handleOf(child.Ino)
		b = xdr.AppendString(b, entryName)
	case procAccess:
		b = xdr.AppendUint32(b, a.mask&c.access())
	case procReadLink:
		if c.attr.Type != vfs.TypeSymlink {
			return stInval
		}
		var err error
		if v.target, err = c.export.FS.ReadLink(c.ctx, c.attr.Ino); err != nil {
			return statusOf(err)
		}
	case procFSStat:
		var err error
		if v.stat, err = c.export.FS.StatFS(c.ctx, c.attr.Ino); err != nil {
			return statusOf(err)
		}
	}
	e, err := c.s.takeEngine(c.ctx)
	if err != nil {
		return statusOf(err)
	}
	results, err := e.call(c.ctx, &v, nfsProgram, c.req.Proc, b)
	c.s.putEngine(e)
	if err != nil {
		return c.broken(err)
	}
	if results = c.correct(&v, results); results == nil {
		return stServerFault
	}
	c.req.Reply.B = append(c.req.Reply.B, results...)
	return stOK
}

func (c *call) broken(err error) status {
	c.s.cfg.Logger.Warn("nfs3: a call was given up", "remote", c.from, "xid", c.req.XID, "request", c.req.ID(), "proc", c.req.Proc, "err", err)
	return statusOf(err)
}

// read answers READ (RFC 1813, 3.3.6): attributes, count, whether it is the end, the data. The data goes out of the buffer that it was read into.
func (c *call) read(a *args) status {
	switch {
	case c.attr.IsDir():
		return stIsDir
	case c.attr.Type != vfs.TypeFile:
		return stInval
	case !c.mayRead():
		return stAccess
	}
	offset, count := min(a.offset, vfs.MaxSize), int(min(a.count, maxRead))
	wait, stop := context.WithTimeout(c.ctx, patience)
	err := c.s.reads.Acquire(wait, maxRead)
	stop()
	if err != nil {
		return stJukebox
	}
	buf := c.s.buffers.Get().(*[]byte)
	release := func() {
		c.s.buffers.Put(buf)
		c.s.reads.Release(maxRead)
	}
	attached := false
	defer func() { // also if the file system panics
		if !attached {
			release()
		}
	}()
	n, eof, err := c.export.FS.Read(c.ctx, c.attr.Ino, offset, (*buf)[:count])
	if err != nil {
		return statusOf(err)
	}
	attached = true
	b := appendPostOp(xdr.AppendUint32(c.req.Reply.B, uint32(stOK)), &c.attr, c.fsid)
	c.req.Reply.B = xdr.AppendBool(xdr.AppendUint32(b, uint32(n)), eof)
	c.req.Reply.AttachOpaque((*buf)[:n], release)
	return stOK
}

// Where things are in results that begin with a status.
const (
	afterStatus = 4
	afterAttr   = afterStatus + 4 + fattrSize // after a status and a post_op_attr
)

// correct writes over what go-nfs could not know. nil: it answered something else than was to be.
func (c *call) correct(v *view, b []byte) []byte {
	if len(b) < 4 || status(be32(b, 0)) != stOK {
		return nil
	}
	switch c.req.Proc {
	case procGetAttr:
		return c.setAttr(b, afterStatus, &v.object)
	case procLookup:
		at := afterStatus + 4 + len(v.handle) + xdr.Pad(len(v.handle))
		if b = c.setPostOp(b, at, v.child); b == nil {
			return nil
		}
		return c.setPostOp(b, at+4+fattrSize, &v.object)
	}
	if b = c.setPostOp(b, afterStatus, &v.object); b == nil {
		return nil
	}
	switch c.req.Proc {
	case procFSInfo: // rtmax rtpref rtmult wtmax wtpref wtmult dtpref maxfilesize
		const words = 7
		if len(b) < afterAttr+4*words+8 {
			return nil
		}
		o := b[afterAttr:afterAttr]
		for _, w := range [words]uint32{maxRead, maxRead, 4096, maxWrite, maxWrite, 4096, maxListing} {
			o = xdr.AppendUint32(o, w)
		}
		xdr.AppendUint64(o, vfs.MaxSize)
	case procFSStat: // six numbers, and one of 4 bytes where go-nfs has 8
		const size = afterAttr + 6*8 + 4
		if len(b) < size {
			return nil
		}
		return b[:size]
	case procPathConf: // linkmax
		if len(b) < afterAttr+4 {
			return nil
		}
		xdr.PutUint32(b, afterAttr, vfs.LinkMax)
	}
	return b
}

func (c *call) setPostOp(b []byte, at int, a *vfs.Attr) []byte {
	if len(b) < at+4 || be32(b, at) != 1 {
		return nil
	}
	return c.setAttr(b, at+4, a)
}

// setAttr writes attributes over those that go-nfs made of them.
func (c *call) setAttr(b []byte, at int, a *vfs.Attr) []byte {
	if len(b) < at+fattrSize || be64(b, at+fattrFileID) != uint64(a.Ino) {
		return nil
	}
	appendAttr(b[at:at], a, c.fsid)
	return b
}
