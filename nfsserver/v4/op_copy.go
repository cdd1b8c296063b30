package v4

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// COPY (RFC 7862, 15.2) within this server. It is done while its client waits as long as that is not long, which clones never are;
// then the client that allows it gets a stateid, and hears of the end by CB_OFFLOAD; another gets a short answer and asks for
// the rest. All bytes of an answer are durable.
//
// What is copied while the client waits is written under its call, so a repetition, by whichever server, copies what was not (vfs.Call).
//
// A copy that goes on in the background has its files open, so CLOSE does not end it. It ends with its client. Where clients outlive this server
// (state.SessionStore), the record of the client names the copy before COPY is answered, and the copy writes under a call of its own (ownCopy). Whoever takes the client over ends that call, calls the client with how far it came,
// and answers a COPY that is sent again because its answer was lost with the same stateid (copyowed.go). Where the file system has no such calls, a COPY is answered short instead. Clients that must find their state again when this
// server is killed also begin such copies again.

const (
	// copySyncBytes and copySyncTime bound what a client waits for.
	copySyncBytes = 64 << 20
	copySyncTime  = 2 * time.Second

	// maxCopies are under way at once in the background, of all clients.
	maxCopies = 16
	// copyKept is how long the end of one is remembered for OFFLOAD_STATUS, and for how long its client is called.
	copyKept = 2 * time.Minute
	// copyPause is how long a request waits before it tries again what may be done in part.
	copyPause = 50 * time.Millisecond
	// copyRetry is how long one waits before it tries again what failed for now, copyPatience how long in all.
	copyRetry    = time.Second
	copyPatience = 5 * time.Minute
	// maxSourceServers bounds ca_source_server.
	maxSourceServers = 64
)

// opCopy is COPY: from the saved filehandle to the current one.
func (c *compound) opCopy() status {
	src := c.decodeStateid()
	dst := c.decodeStateid()
	from, to, count := c.d.Uint64(), c.d.Uint64(), c.d.Uint64()
	c.d.Bool() // consecutive: it always is
	wait := c.d.Bool()
	others := c.d.Count(maxSourceServers, 8)
	for range others {
		skipNetloc(&c.d)
	}
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if r, ok := c.begunCopy(); ok {
		c.changed()
		id := state.Stateid{Seqid: 1, Other: r.ID}
		c.appendWrite(&id, 0, nfsv4.UNSTABLE4, vfs.Verifier{}, false)
		return nfsv4.NFS4_OK
	}
	if others > 0 {
		return nfsv4.NFS4ERR_NOTSUPP // the source is on another server (RFC 7862, 4.1)
	}
	end, st := c.startPair(src, dst)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	size := c.saved.attr.Size // after the stateid was checked it could only be newer
	switch {
	case count == 0 && from <= size:
		count = size - from
	case from >= size:
		// The standard says NFS4ERR_INVAL. But Linux writes back only the range that it copies, so a file may be longer for
		// its users than it is here; after this error the client (6.1) reads and writes by itself.
		return nfsv4.NFS4ERR_XDEV
	default:
		count = min(count, size-from) // likewise; short
	}
	if to > vfs.MaxSize || count > vfs.MaxSize-to {
		return nfsv4.NFS4ERR_FBIG
	}
	same := c.saved.export.FSID == c.cur.export.FSID
	if same && c.saved.ino == c.cur.ino && from < to+count && to < from+count {
		return nfsv4.NFS4ERR_INVAL
	}
	buf := c.readBuffer()
	if buf == nil {
		return nfsv4.NFS4ERR_DELAY
	}
	defer func() {
		if buf != nil {
			buf.release()
		}
	}()
	c.changed()
	c.call.Final = true // as WRITE
	c.opCall.InParts = true
	job := newCopying(copyEnd{c.saved.export.FS, c.saved.ino, from}, copyEnd{c.cur.export.FS, c.cur.ino, to}, same, c.fsCred(), count)
	began := c.s.cfg.Now()
	for sure := uint64(0); ; {
		err := job.run(c.ctx, c.copyBuffer(buf), func() bool {
			return job.bytes < c.s.copies.syncBytes.Load() && c.s.cfg.Now().Sub(began) < copySyncTime || job.done == 0 || job.done < sure
		})
		background := err == nil && job.done < job.n && !wait && c.s.canCallBack(c.clientID())
		if background && c.s.sessions != nil { // what is told of it later is durable
			_, err = job.commit(c.ctx)
		}
		if background && err == nil {
			if id, ok := c.s.copies.start(c, job, buf); ok {
				buf = nil
				c.appendWrite(&id, 0, nfsv4.UNSTABLE4, vfs.Verifier{}, false)
				return nfsv4.NFS4_OK
			}
		}
		if err == nil || job.done > 0 && !c.copyDoubt(err) {
			// Short if it is not all; the client asks again.
			verifier, err2 := job.commit(c.ctx)
			if err2 == nil {
				c.appendWrite(nil, job.done, nfsv4.FILE_SYNC4, verifier, true)
				return nfsv4.NFS4_OK
			}
			if k := vfs.KindOf(err); k != vfs.KindNoSpace && k != vfs.KindQuota {
				err = err2 // else what was lost was lost for want of space: it is no use to copy it again
			}
		}
		if !c.copyDoubt(err) {
			return statusOf(err, !c.opCall.Doubtful())
		}
		buf.release()
		if buf = c.copyLater(); buf == nil { // nobody hears it
			return nfsv4.NFS4ERR_IO
		}
		sure = job.done + copyBytes // what failed may be done in part, so it is not left to another call
		c.opCall.Repeat()
	}
}

// copyDoubt reports whether what failed so may succeed, and some of the copy may be done: to NFS4ERR_DELAY, or a short answer, the client would make a new call of it, which would do that twice.
func (c *compound) copyDoubt(err error) bool {
	k := vfs.KindOf(err)
	return (k.Retryable() || k == vfs.KindUnknownOrigin || k == vfs.KindFenced) && c.opCall.Doubtful()
}

// copyLater waits a little, with no memory that others need, and then for a buffer; nil if nobody waits for the answer any more.
func (c *compound) copyLater() *readBuffer {
	for !c.opCall.Ended() {
		select {
		case <-time.After(copyPause):
		case <-c.ctx.Done():
			return nil
		}
		if buf := c.readBuffer(); buf != nil {
			return buf
		}
	}
	return nil
}

// copyBuffer is room for copyBytes.
func (c *compound) copyBuffer(b *readBuffer) []byte { return b.b[:min(len(b.b), copyBytes)] }

func skipNetloc(d *xdr.Decoder) {
	switch nfsv4.NetlocType4(d.Int32()) {
	case nfsv4.NL4_NAME, nfsv4.NL4_URL:
		d.Opaque(d.Len())
	case nfsv4.NL4_NETADDR:
		d.Opaque(d.Len())
		d.Opaque(d.Len())
	default:
		d.Fail(xdr.ErrLength)
	}
}

// appendWrite appends COPY4resok.
func (c *compound) appendWrite(id *state.Stateid, n uint64, how nfsv4.StableHow4, v vfs.Verifier, synchronous bool) {
	b := c.r.B
	if id == nil {
		b = xdr.AppendUint32(b, 0)
	} else {
		b = appendStateid(xdr.AppendUint32(b, 1), *id)
	}
	b = xdr.AppendUint64(b, n)
	b = xdr.AppendInt32(b, int32(how))
	b = append(b, v[:]...)
	b = xdr.AppendBool(b, true) // consecutive
	c.r.B = xdr.AppendBool(b, synchronous)
}

// copies are those that go on in the background, and those that ended lately.
type copies struct {
	syncBytes atomic.Uint64 // copySyncBytes

	ctx    context.Context // ends with stop
	stop   context.CancelFunc
	active sync.WaitGroup

	mu   sync.Mutex // guards the fields below, and done, status, ended of the copies
	jobs map[[12]byte]*offload
	told map[state.ClientID]bool // clients that are being told what they are owed
}

// offload is one of them.
type offload struct {
	id      state.Stateid
	client  state.ClientID
	cancel  context.CancelFunc // ends it without a callback
	stopped chan struct{}      // closed when it writes no more

	left   bool // the client goes to another server, which is to tell it that the copy is lost
	done   uint64
	status status
	ended  time.Time // zero: it goes on
}

func (cs *copies) init() {
	cs.syncBytes.Store(copySyncBytes)
	cs.jobs, cs.told = make(map[[12]byte]*offload), make(map[state.ClientID]bool)
	cs.ctx, cs.stop = context.WithCancel(context.Background())
}

// start lets job go on in the background with buf, unless too many do.
func (cs *copies) start(c *compound, job *copying, buf *readBuffer) (state.Stateid, bool) {
	s, ring, fh := c.s, c.enc.ring, c.cur.handle() // c is used again for another request
	// Its own opens: the client may close the files.
	open := func(o *object, f vfs.OpenFlags) bool {
		_, err := o.export.FS.Open(c.ctx, &vfs.Root, o.ino, f, true)
		c.s.remember(o.export.FSID, o.export.FS)
		return err == nil
	}
	src, dst := c.saved.file(), c.cur.file()
	end, st := c.changing(&c.cur)
	if st != nfsv4.NFS4_OK {
		return state.Stateid{}, false
	}
	if !open(&c.saved, vfs.OpenRead) {
		end()
		return state.Stateid{}, false
	}
	if !open(&c.cur, vfs.OpenWrite) {
		end()
		c.s.closeFile(c.ctx, src, vfs.OpenRead)
		return state.Stateid{}, false
	}
	closeBoth := func(ctx context.Context) {
		s.closeFile(ctx, dst, vfs.OpenWrite)
		s.closeFile(ctx, src, vfs.OpenRead)
		end()
	}
	ctx, cancel := context.WithCancel(cs.ctx)
	o := &offload{id: state.Stateid{Seqid: 1}, client: c.clientID(), cancel: cancel, stopped: make(chan struct{}), done: job.done}
	rand.Read(o.id.Other[:])
	if !cs.add(o) {
		cancel()
		closeBoth(c.ctx)
		return state.Stateid{}, false
	}
	dstFH := ring.Append(nil, fh)
	rec := state.CopyRecord{ID: o.id.Other, Handle: dstFH}
	if !c.ownCopy(job, &rec) || !s.recordCopy(c.ctx, o, rec) {
		job.own = nil // what is left is the request's
		cs.remove(o)
		cancel()
		closeBoth(c.ctx)
		return state.Stateid{}, false
	}
	data := c.copyBuffer(buf)
	go func() {
		defer cs.active.Done()
		defer cancel()
		verifier, err := cs.carryOn(ctx, job, o, data)
		buf.release()
		closeBoth(ctx)
		sure := job.own == nil || err == nil
		if !sure {
			sure, err = job.stop(ctx, err)
		}
		left := cs.end(o, job.done, statusOf(err, false), s.cfg.Now())
		close(o.stopped)
		switch k := vfs.KindOf(err); {
		case job.own != nil && (k == vfs.KindSuperseded || k == vfs.KindExpired): // the client is another server's, or none's
		case ctx.Err() != nil && cs.ctx.Err() == nil && !left: // OFFLOAD_CANCEL, or the client is gone
			s.settleCopy(ctx, o.client, o.id)
		case left || !sure:
			s.cfg.State.OweCopy(o.client, o.id.Other)
		default:
			s.tellOffload(o.client, dstFH, o.id, job.done, verifier, err)
		}
	}()
	return o.id, true
}

// add counts o if there is room.
func (cs *copies) add(o *offload) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	running := 0
	for _, j := range cs.jobs {
		if j.ended.IsZero() {
			running++
		}
	}
	if running >= maxCopies || cs.ctx.Err() != nil {
		return false
	}
	cs.jobs[o.id.Other] = o
	cs.active.Add(1)
	return true
}

// remove takes back an add.
func (cs *copies) remove(o *offload) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.jobs, o.id.Other)
	cs.active.Done()
}

// carryOn copies the rest. What fails for now is tried again.
func (cs *copies) carryOn(ctx context.Context, job *copying, o *offload, buf []byte) (v vfs.Verifier, err error) {
	failing := time.Time{}
	if job.own != nil {
		ctx = vfs.WithCall(ctx, job.own.call)
	}
	for {
		before := job.done
		err = job.run(ctx, buf, func() bool {
			cs.mu.Lock()
			o.done = job.progress()
			cs.mu.Unlock()
			return ctx.Err() == nil
		})
		if err2 := job.settle(ctx); err == nil {
			err = err2
		}
		if job.own == nil || err == nil {
			// Also what was copied before a failure or the end of this server.
			durable, cancel := context.WithTimeout(context.WithoutCancel(ctx), copyPatience)
			if v2, err2 := job.commit(durable); err2 == nil {
				v = v2
			} else if err == nil {
				err = err2
			}
			cancel()
		}
		if err == nil && job.own != nil && job.done < job.n {
			err = vfs.Wrap("nfs.copy", ctx.Err())
		}
		if job.done > before {
			failing = time.Time{}
		}
		now := time.Now()
		if failing.IsZero() {
			failing = now
		}
		for again := true; again; again = job.own != nil && err != nil { // once, or until it is known from where on
			if err == nil || ctx.Err() != nil || !job.mayGoOn(err) || now.Sub(failing) > copyPatience {
				return v, err
			}
			select {
			case <-time.After(copyRetry):
			case <-ctx.Done():
				return v, err
			}
			if job.own != nil {
				job.own.call.Repeat()
				err = job.ask(ctx, job.own.call)
				now = time.Now()
			}
		}
	}
}

// mayGoOn reports whether what failed so may succeed.
func (c *copying) mayGoOn(err error) bool {
	k := vfs.KindOf(err)
	return k.Retryable() || c.own != nil && (k == vfs.KindUnknown || k == vfs.KindFenced || k == vfs.KindUnknownOrigin)
}

// stop ends an own copy that failed with err, or was cancelled: done is what it has come to, and never will be more, if sure. Else that is to be asked again.
func (c *copying) stop(ctx context.Context, failed error) (sure bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackTimeout)
	defer cancel()
	switch err := c.ask(ctx, c.own.fence); vfs.KindOf(err) {
	case vfs.KindOK:
		return true, failed
	case vfs.KindSuperseded, vfs.KindExpired:
		return false, err
	}
	return false, failed
}

func (cs *copies) end(o *offload, done uint64, st status, now time.Time) (left bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	o.done, o.status, o.ended = done, st, now
	return o.left
}

// leave stops the copies of a client that goes to another server, and returns when they have.
func (cs *copies) leave(ctx context.Context, client state.ClientID) error {
	cs.mu.Lock()
	var stopping []*offload
	for _, o := range cs.jobs {
		if o.client == client && o.ended.IsZero() {
			o.left = true
			o.cancel()
			stopping = append(stopping, o)
		}
	}
	cs.mu.Unlock()
	for _, o := range stopping {
		select {
		case <-o.stopped:
		case <-ctx.Done():
			return vfs.Wrap("nfs.copy", ctx.Err())
		}
	}
	return nil
}

// tellOffload is CB_OFFLOAD (RFC 7862, 16.1).
func (s *Server) tellOffload(client state.ClientID, fh []byte, id state.Stateid, done uint64, v vfs.Verifier, err error) {
	var info nfsv4.OffloadInfo4 = &nfsv4.OffloadInfo4_NFS4_OK{CoaResok4: nfsv4.WriteResponse4{
		WrCount: done, WrCommitted: nfsv4.FILE_SYNC4, WrWriteverf: v,
	}}
	if err != nil && done == 0 {
		info = &nfsv4.OffloadInfo4_default{CoaStatus: statusOf(err, false), CoaBytesCopied: 0}
	}
	// Also when this server ends: a client that hears nothing waits for ever.
	limit := copyKept
	if s.copies.ctx.Err() != nil {
		limit = callbackTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err2 := s.callOffload(ctx, client, fh, id, info); err2 != nil {
		s.cfg.Logger.Warn("nfs: a client was not told that its copy ended", "client", client, "bytes", done, "err", err2)
		s.cfg.State.OweCopy(client, id.Other)
		return
	}
	s.cfg.State.CopyTold(client, id.Other, err == nil)
}

// callOffload calls a client with the end of a copy until it answers.
func (s *Server) callOffload(ctx context.Context, client state.ClientID, fh []byte, id state.Stateid, info nfsv4.OffloadInfo4) error {
	res, err := s.callBack(ctx, client, &nfsv4.NfsCbArgop4_OP_CB_OFFLOAD{Opcboffload: nfsv4.CbOffload4args{
		CoaFh: fh, CoaStateid: id, CoaOffloadInfo: info,
	}})
	if err != nil {
		return err
	}
	if r, ok := res.(*nfsv4.NfsCbResop4_OP_CB_OFFLOAD); ok && r.Opcboffload.CorStatus != nfsv4.NFS4_OK {
		s.cfg.Logger.Info("nfs: the end of a copy is of no interest to its client", "client", client, "status", r.Opcboffload.CorStatus)
	}
	return nil
}

// find is the copy of a client with a stateid, nil if there is none.
func (cs *copies) find(client state.ClientID, id state.Stateid) *offload {
	if o := cs.jobs[id.Other]; o != nil && o.client == client && (id.Seqid == 0 || id.Seqid == o.id.Seqid) {
		return o
	}
	return nil
}

// tick forgets copies that ended long ago and stops those of clients that are gone.
func (cs *copies) tick(s *Server) {
	cs.tellOwed(s)
	s.settleCopies()
	now := s.cfg.Now()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for id, o := range cs.jobs {
		_, alive := s.cfg.State.Backchannels(o.client)
		switch {
		case !o.ended.IsZero() && (!alive || now.Sub(o.ended) > copyKept):
			delete(cs.jobs, id)
		case o.ended.IsZero() && !alive:
			o.cancel()
		}
	}
}

func (cs *copies) shutdown(ctx context.Context) {
	cs.mu.Lock()
	cs.stop() // nothing begins after this
	cs.mu.Unlock()
	done := make(chan struct{})
	go func() {
		cs.active.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		<-done // callbacks are bounded, and so is a commit
	}
}

// opOffloadStatus is OFFLOAD_STATUS (RFC 7862, 15.9).
func (c *compound) opOffloadStatus() status {
	id := c.decodeStateid()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	done, st, complete, known := c.s.copies.status(c.clientID(), id)
	if r, ok := c.owed(id); ok {
		end, err := c.s.endOf(c.ctx, c.clientID(), &r)
		if err != nil {
			return statusOf(err, false)
		}
		done, st, complete, known = end.done, end.status, true, true
	}
	if !known {
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	c.r.B = xdr.AppendUint64(c.r.B, done)
	if complete {
		c.r.B = xdr.AppendUint32(xdr.AppendUint32(c.r.B, 1), uint32(st))
	} else {
		c.r.B = xdr.AppendUint32(c.r.B, 0)
	}
	return nfsv4.NFS4_OK
}

// status is how a copy of a client stands.
func (cs *copies) status(client state.ClientID, id state.Stateid) (done uint64, st status, complete, known bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	o := cs.find(client, id)
	if o == nil {
		return 0, 0, false, false
	}
	return o.done, o.status, !o.ended.IsZero(), true
}

// opOffloadCancel is OFFLOAD_CANCEL (RFC 7862, 15.8).
func (c *compound) opOffloadCancel() status {
	id := c.decodeStateid()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	found := c.s.copies.forget(c.clientID(), id)
	r, owed := c.owed(id)
	switch {
	case owed:
		if _, err := c.s.endOf(c.ctx, c.clientID(), &r); err != nil {
			return statusOf(err, false)
		}
		return c.apply(c.s.cfg.State.EndCopy(c.clientID(), id.Other), nfsv4.NFS4_OK)
	case !found:
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	return nfsv4.NFS4_OK
}

// forget cancels a copy of a client, or forgets one that has ended. It reports whether there was one.
func (cs *copies) forget(client state.ClientID, id state.Stateid) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	o := cs.find(client, id)
	if o == nil {
		return false
	}
	o.cancel()
	if !o.ended.IsZero() {
		delete(cs.jobs, id.Other)
	}
	return true
}
