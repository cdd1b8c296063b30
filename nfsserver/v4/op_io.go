package v4

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// inlineRead is the largest READ, in bytes, whose data is read straight into
// the reply; longer ones go out from a buffer of their own by writev.
const inlineRead = 16 << 10

// readMemoryWait is how long a READ waits for memory before its client is told
// to come again, and the connection's worker is free for something else.
const readMemoryWait = 5 * time.Second

// readBuffer holds one READ's data until it was written to the client.
type readBuffer struct {
	b       []byte
	release func() // puts it and its memory back
}

// startIO decides whether a stateid allows want on the current filehandle. With
// a special stateid it opens the file for the caller, who calls end after the transfer.
func (c *compound) startIO(id state.Stateid, want vfs.OpenFlags) (end func(), st status) {
	return c.startIOOf(&c.cur, id, want)
}

func (c *compound) startIOOf(o *object, id state.Stateid, want vfs.OpenFlags) (end func(), st status) {
	if o.pseudo() {
		return nil, nfsv4.NFS4ERR_ISDIR
	}
	io, st := c.checkIO(o, id, want)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	if !io.Special {
		return nothing, nfsv4.NFS4_OK
	}
	var settled func() // ends what keeps the file from being delegated
	if want&vfs.OpenWrite != 0 {
		settled, st = c.changing(o)
	} else {
		settled, st = c.reading(o)
	}
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	if _, err := c.vfsOpen(o, want, true, nil); err != nil {
		settled()
		return nil, c.typeStatus(o, false, statusOf(err, true))
	}
	c.s.remember(o.export.FSID, o.export.FS)
	f := o.file()
	return func() {
		c.s.closeFile(c.ctx, f, want)
		settled()
	}, nfsv4.NFS4_OK
}

// checkIO asks package state about a stateid, and opens the file again if it is that of an open which an earlier server
// instance had.
func (c *compound) checkIO(o *object, id state.Stateid, want vfs.OpenFlags) (state.IO, status) {
	io, eff, st := c.s.cfg.State.CheckIO(c.now, c.clientID(), o.file(), id, want)
	if st = c.apply(eff, st); st != nfsv4.NFS4_OK || !io.Revive {
		return io, st
	}
	if st := c.revive(o, id); st != nfsv4.NFS4_OK {
		return io, st
	}
	io, eff, st = c.s.cfg.State.CheckIO(c.now, c.clientID(), o.file(), id, want)
	if st = c.apply(eff, st); st == nfsv4.NFS4_OK && io.Revive {
		st = nfsv4.NFS4ERR_DELAY
	}
	return io, st
}

// reviveIf revives the open that id names, if it is one to be revived.
func (c *compound) reviveIf(id state.Stateid) status {
	if !c.s.cfg.State.Revivable(c.clientID(), id) {
		return nfsv4.NFS4_OK
	}
	return c.revive(&c.cur, id)
}

// revive opens o for reading as id once was, with the permission that the caller has now.
func (c *compound) revive(o *object, id state.Stateid) status {
	end, st := c.reading(o) // somebody may have got it for writing since, because nothing told that it is open
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	share := state.ReviveShare(c.clientID(), id)
	ctx := c.ctx
	c.ctx = vfs.WithCall(ctx, c.opCall.Beside()) // a server that finds its record does not do it
	_, err := c.vfsOpen(o, vfs.OpenRead, true, &share)
	c.ctx = ctx
	if err != nil {
		return c.typeStatus(o, false, statusOf(err, true))
	}
	c.s.remember(o.export.FSID, o.export.FS)
	eff, st := c.s.cfg.State.Revive(c.now, c.clientID(), o.file(), id, vfs.OpenRead)
	if st = c.apply(eff, st); st == nfsv4.NFS4ERR_DELAY {
		return nfsv4.NFS4_OK // another request was faster, or it will be seen that it is not there
	}
	return st
}

// opRead is READ (RFC 8881, 18.22).
func (c *compound) opRead() status {
	id := c.decodeStateid()
	offset, count := c.d.Uint64(), int(c.d.Uint32())
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	count = min(count, c.s.cfg.MaxIO)
	if st := c.tooBig(8 + count + xdr.Pad(count)); st != nfsv4.NFS4_OK {
		return st
	}
	end, st := c.startIO(id, vfs.OpenRead)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	if offset > vfs.MaxSize {
		c.r.B = xdr.AppendUint32(xdr.AppendBool(c.r.B, true), 0)
		return nfsv4.NFS4_OK
	}
	if count <= inlineRead {
		return c.readInline(offset, count)
	}
	buf := c.readBuffer()
	if buf == nil {
		return nfsv4.NFS4ERR_DELAY
	}
	w, err := view(c.ctx, c.cur.export.FS, c.cur.ino, offset, buf.b[:count])
	if err != nil {
		buf.release()
		return c.typeStatus(&c.cur, false, statusOf(err, true))
	}
	c.r.B = xdr.AppendBool(c.r.B, w.EOF)
	if w.Lent == nil {
		c.r.AttachOpaque(buf.b[:w.N], buf.release)
	} else {
		// What is lent stays in the server's memory for as long as the client takes to read it: the buffer, which is not used, counts for it.
		c.r.AttachOpaques(w.Lent, func() { w.End(); buf.release() })
	}
	c.observe(w.N, 0)
	return nfsv4.NFS4_OK
}

// view reads into p, or what fs lends.
func view(ctx context.Context, fs vfs.FS, ino vfs.Ino, off uint64, p []byte) (w vfs.View, err error) {
	if x, ok := fs.(vfs.Viewer); ok {
		return x.View(ctx, ino, off, p)
	}
	w.N, w.EOF, err = fs.Read(ctx, ino, off, p)
	return w, err
}

// readBuffer takes a buffer out of the memory for READs; nil if there is none for now.
// A compound that has one does not wait for another: those who wait hold nothing, so the
// buffers in use come back.
func (c *compound) readBuffer() *readBuffer {
	size := int64(c.s.cfg.MaxIO)
	if !c.s.readMemory.TryAcquire(size) {
		if c.buffered {
			return nil
		}
		ctx, stop := context.WithTimeout(c.ctx, readMemoryWait)
		defer stop()
		if c.s.readMemory.Acquire(ctx, size) != nil {
			return nil
		}
	}
	c.buffered = true
	return c.s.buffers.Get().(*readBuffer)
}

func (c *compound) readInline(offset uint64, count int) status {
	at := len(c.r.B)
	c.r.B = xdr.AppendUint32(xdr.AppendUint32(c.r.B, 0), 0)
	c.r.B = slices.Grow(c.r.B, count+3) // with room for padding
	n, eof, err := c.cur.export.FS.Read(c.ctx, c.cur.ino, offset, c.r.B[at+8:at+8+count])
	if err != nil {
		return c.typeStatus(&c.cur, false, statusOf(err, true))
	}
	if eof {
		xdr.PutUint32(c.r.B, at, 1)
	}
	xdr.PutUint32(c.r.B, at+4, uint32(n))
	end := at + 8 + n
	c.r.B = append(c.r.B[:end], make([]byte, xdr.Pad(n))...)
	c.observe(n, 0)
	return nfsv4.NFS4_OK
}

func (c *compound) observe(read, written int) {
	if o := c.s.cfg.Observer; o != nil {
		o.Data(read, written)
	}
}

// opWrite is WRITE (RFC 8881, 18.32). The data stays in the record's buffer.
func (c *compound) opWrite() status {
	id := c.decodeStateid()
	offset := c.d.Uint64()
	how := nfsv4.StableHow4(c.d.Int32())
	data := c.d.Opaque(c.d.Len())
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	var stable vfs.Stable
	switch how {
	case nfsv4.UNSTABLE4:
		stable = vfs.Unstable
	case nfsv4.DATA_SYNC4:
		stable = vfs.DataSync
	case nfsv4.FILE_SYNC4:
		stable = vfs.FileSync
	default:
		return nfsv4.NFS4ERR_BADXDR
	}
	if len(data) > c.s.cfg.MaxIO {
		data = data[:c.s.cfg.MaxIO]
	}
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_ISDIR
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	if offset > vfs.MaxSize || uint64(len(data)) > vfs.MaxSize-offset {
		return nfsv4.NFS4ERR_FBIG
	}
	end, st := c.startIO(id, vfs.OpenWrite)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	c.call.Final = true // what is buffered leaves no trace
	got, verifier, err := c.cur.export.FS.Write(c.ctx, c.fsCred(), c.cur.ino, offset, data, stable)
	if err != nil {
		n, short := shortWrite(err)
		if !short {
			// What may be in the file, or get there, is not to be written again by another call.
			return c.typeStatus(&c.cur, false, statusOf(err, !c.opCall.Doubtful()))
		}
		data = data[:n] // the client sends the rest again, and is told why not
	}
	committed := nfsv4.UNSTABLE4
	switch got {
	case vfs.DataSync:
		committed = nfsv4.DATA_SYNC4
	case vfs.FileSync:
		committed = nfsv4.FILE_SYNC4
	}
	b := xdr.AppendUint32(c.r.B, uint32(len(data)))
	b = xdr.AppendInt32(b, int32(committed))
	c.r.B = append(b, verifier[:]...)
	c.observe(0, len(data))
	return nfsv4.NFS4_OK
}

// shortWrite reports whether err is that of a write of only n bytes.
func shortWrite(err error) (n int, ok bool) {
	var short *vfs.ShortWrite
	if !errors.As(err, &short) {
		return 0, false
	}
	return short.N, true
}

// opCommit is COMMIT (RFC 8881, 18.3).
func (c *compound) opCommit() status {
	offset, count := c.d.Uint64(), c.d.Uint32()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_ISDIR
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	if offset > vfs.MaxSize || uint64(count) > vfs.MaxSize-offset {
		return nfsv4.NFS4ERR_INVAL
	}
	c.changed()
	verifier, err := c.cur.export.FS.Commit(c.ctx, c.cur.ino, offset, uint64(count))
	if err != nil {
		return c.typeStatus(&c.cur, false, statusOf(err, true))
	}
	c.r.B = append(c.r.B, verifier[:]...)
	return nfsv4.NFS4_OK
}
