package volume

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// chunk is the dirty part of 4 MiB of a file.
type chunk struct {
	dirty    pieces    // take writes
	flushing pieces    // immutable, older than dirty
	joined   pieces    // made of some of flushing, and written in their place
	since    time.Time // of the oldest write in dirty

	hold      *hold      // what dirty may add to the file, where there is a limit
	unlimited bool       // something in dirty was accepted when no limit was known
	calls     []dataCall // who wrote dirty and may not know it yet
	// The same of flushing.
	leaving          *hold
	leavingUnlimited bool
	leavingCalls     []dataCall
}

// Write implements vfs.FS.
func (v *Volume) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	const op = "write"
	fail := func(err error) (vfs.Stable, vfs.Verifier, error) { return 0, vfs.Verifier{}, err }
	if off > vfs.MaxSize || uint64(len(p)) > vfs.MaxSize-off {
		return fail(vfs.KindTooBig.Err(op))
	}
	e := v.acquire(ino)
	defer v.release(e)
	if len(p) == 0 {
		if _, err := v.fileAttr(ctx, e, op); err != nil {
			return fail(err)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return s, v.verifier(e.losses), nil
	}
	var w written
	var short error
	losses := anyLosses
	call := v.dataCallOf(ctx)
	whole := span{off, off + uint64(len(p))}
	few := [1]span{whole}
	todo, epoch, ask := few[:], uint64(0), call.Repeated()
	for short == nil {
		if ask { // what was done here before, too
			var err error
			if todo, epoch, err = v.missing(ctx, e, call, whole, op); err != nil {
				return fail(err)
			}
			w, losses, ask = written{}, anyLosses, false
		}
		if len(todo) == 0 {
			break
		}
		// A write is buffered in parts that each lie in one chunk.
		at := todo[0].off
		n := min(todo[0].end-at, chunkSize-at%chunkSize)
		part := p[at-off : at-off+n]
		now, m, err := v.buffer(ctx, c, e, at, part, call, epoch)
		if err == errShared {
			if err = v.writeThrough(ctx, c, e, at, part, call); err == errNotShared {
				ask = call.Begun() // a half of it may be done
				continue
			}
			if err == nil {
				m = len(part)
				s = vfs.FileSync // so is what was buffered before, if anything was
			}
		} else if m > 0 {
			w = now
			losses = min(losses, w.losses)
		}
		if todo[0].off += uint64(m); todo[0].off == todo[0].end {
			todo = todo[1:]
		}
		switch {
		case err == nil:
		case err == errAsk:
			ask = true
		case at+uint64(m) > off && vfs.KindOf(err) == vfs.KindQuota:
			short = &vfs.ShortWrite{N: int(at + uint64(m) - off), Err: err}
		default:
			return fail(err)
		}
	}
	done := len(p)
	if short, ok := short.(*vfs.ShortWrite); ok {
		done = short.N
	}
	if w == (written{}) && call.Repeated() {
		s = vfs.FileSync // all of it was durable, or is
	}
	if losses == anyLosses {
		e.mu.Lock()
		losses = e.losses
		e.mu.Unlock()
	}
	if s == vfs.Unstable {
		return s, v.verifier(losses), short
	}
	if err := v.sync(ctx, e, span{off, off + uint64(done)}, w.seq, losses, op); err != nil {
		return fail(err)
	}
	return vfs.FileSync, v.verifier(losses), short
}

// errElsewhere says that another gateway may be doing the call.
var errElsewhere = vfs.Errorf(vfs.KindUnavailable, "write", "the client may be served by another gateway by now")

// written says where a buffered write stands in its inode's history.
type written struct{ seq, losses uint64 }

// errShared says that a write cannot be buffered, because the file is shared.
var errShared = vfs.Errorf(vfs.KindBusy, "write", "the file is shared")

// anyLosses is for a sync that is not about particular bytes.
const anyLosses = ^uint64(0)

// buffer puts p, which lies in one chunk, into the dirty pieces. n is how much of it was accepted: less than all only with
// an error of KindQuota.
//
// If epoch is not 0, under no other lease (errAsk): what the call has written before is known as of that one.
func (v *Volume) buffer(ctx context.Context, c *vfs.Cred, e *inode, off uint64, p []byte, call *vfs.Call, epoch uint64) (w written, n int, err error) {
	const op = "write"
	fail := func(err error) (written, int, error) { return written{}, 0, err }
	reserved, err := v.dirty.reserve(ctx, int64(len(p)), v.cfg.StallTimeout, op)
	if err != nil {
		return fail(err)
	}
	taken := int64(0)
	defer func() {
		if taken != reserved {
			v.dirty.add(taken - reserved)
		}
	}()
	if err := e.gate.Acquire(ctx, 1); err != nil {
		return fail(vfs.Wrap(op, err))
	}
	defer e.gate.Release(1)
	var got admission
	for step := roomAsk; ; {
		if err := v.ensureLease(ctx, e, op); err != nil {
			return fail(err)
		}
		e.mu.Lock()
		if e.isShared() && !e.dead {
			e.mu.Unlock()
			return fail(errShared)
		}
		if !e.mayWrite() || e.dead {
			e.mu.Unlock() // lost meanwhile
			continue
		}
		if epoch != 0 && e.lease.Epoch != epoch {
			e.mu.Unlock()
			return fail(errAsk)
		}
		if !call.Serving() { // under the lease: whoever is to do the call instead gets that after this
			e.mu.Unlock()
			return fail(errElsewhere)
		}
		if e.err != nil {
			err := e.err
			e.err = nil
			e.mu.Unlock()
			return fail(vfs.Wrap(op, err))
		}
		if got = v.admit(e, off, len(p), step == roomNone); got.n > 0 {
			break
		}
		e.mu.Unlock()
		if step == roomNone && !got.unknown {
			return fail(vfs.Errorf(vfs.KindQuota, op, "inode %d: the limit of its project or file system leaves no room for %d bytes", e.ino, len(p)))
		}
		var err error
		if step, err = v.makeRoom(ctx, e, off, len(p), &got, step); err != nil {
			return fail(err)
		}
	}
	defer e.mu.Unlock()
	if got.n < len(p) {
		err = vfs.Errorf(vfs.KindQuota, op, "inode %d: the limit of its project or file system leaves room for %d of %d bytes", e.ino, got.n, len(p))
		p = p[:got.n]
	}
	now := v.cfg.Now()
	end := off + uint64(len(p))
	before := e.attr()
	e.seq++
	e.shown = e.top() + changeStep
	if vfs.ModeAfterWrite(c, &before) != before.Mode {
		e.over.setID = true
	}
	e.over.seq = e.seq
	e.over.size = max(e.over.size, end)
	e.over.time, e.over.times = now, true

	ch := e.chunks[off/chunkSize]
	if ch == nil {
		if e.chunks == nil {
			e.chunks = make(map[uint64]*chunk)
		}
		ch = &chunk{}
		e.chunks[off/chunkSize] = ch
		v.dirty.soil(e)
	}
	if len(ch.dirty) == 0 {
		ch.since = now
	}
	ch.join(&got)
	// A long file written in order will fill this chunk too.
	grow := off%chunkSize == 0 && off == before.Size && off > 0 && len(p) >= 64<<10
	taken = int64(ch.dirty.write(&v.pool, off, p, e.seq, grow))
	call.Begin()
	ch.wrote(call, span{off, end})
	if (len(ch.dirty) == 1 && ch.dirty[0].n == chunkSize || len(ch.calls) >= chunkCalls) && len(ch.flushing) == 0 {
		v.flushChunk(e, ch, false)
	}
	return written{e.seq, e.losses}, len(p), err
}

// Commit implements vfs.FS.
func (v *Volume) Commit(ctx context.Context, ino vfs.Ino, off, n uint64) (vfs.Verifier, error) {
	const op = "commit"
	e := v.acquire(ino)
	defer v.release(e)
	e.mu.Lock()
	leased, seq := e.leased() && !e.dead, e.seq
	e.mu.Unlock()
	if !leased {
		// Nothing can be dirty here. Say so only of a file that exists.
		if _, err := v.fileAttr(ctx, e, op); err != nil {
			return vfs.Verifier{}, err
		}
	}
	end := off + n
	if n == 0 || end < off {
		end = maxOffset
	}
	if err := v.sync(ctx, e, span{off, end}, seq, anyLosses, op); err != nil {
		return vfs.Verifier{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return v.verifier(e.losses), nil
}

// sync waits until every write of r up to seq is durable. It fails if something
// was lost since the inode had lost losses times, and returns the error of a loss that
// nobody was told.
func (v *Volume) sync(ctx context.Context, e *inode, r span, seq, losses uint64, op string) error {
	timer := time.NewTimer(v.cfg.StallTimeout)
	defer timer.Stop()
	request := vfs.RequestOf(ctx)
	e.mu.Lock()
	e.syncing++
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.syncing--
		e.mu.Unlock()
	}()
	for {
		e.mu.Lock()
		if err := e.err; err != nil {
			e.err = nil
			e.mu.Unlock()
			return vfs.Wrap(op, err)
		}
		if e.losses > losses {
			err := e.lastLoss
			e.mu.Unlock()
			return vfs.Wrap(op, err)
		}
		if e.dead {
			e.mu.Unlock()
			return vfs.KindStale.Err(op)
		}
		if !e.pending(r.off, r.end, seq) {
			if e.request == request {
				e.request = 0
			}
			e.mu.Unlock()
			return nil
		}
		e.request = request
		v.flushLocked(e, r.off, r.end)
		wait := e.notify
		e.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return vfs.Wrap(op, ctx.Err())
		case <-v.ctx.Done():
			return vfs.Errorf(vfs.KindUnavailable, op, "the volume is closed")
		case <-timer.C:
			return vfs.Errorf(vfs.KindUnavailable, op, "the cluster takes no data")
		}
	}
}

// pending reports whether a write up to seq of [off, end) is not durable.
// e.mu is held.
func (e *inode) pending(off, end, seq uint64) bool {
	old := func(ps pieces) bool {
		i, j := ps.touching(off, end)
		for _, p := range ps[i:j] {
			if p.seq <= seq {
				return true
			}
		}
		return false
	}
	for _, ch := range e.in(off, end) {
		if old(ch.flushing) || old(ch.dirty) {
			return true
		}
	}
	return false
}

// in lists the chunks of [off, end). e.mu is held.
func (e *inode) in(off, end uint64) []*chunk {
	var out []*chunk
	first, last := off/chunkSize, (end-1)/chunkSize
	if off >= end {
		return nil
	}
	if last-first < uint64(len(e.chunks)) {
		for i := first; i <= last; i++ {
			if ch := e.chunks[i]; ch != nil {
				out = append(out, ch)
			}
		}
		return out
	}
	for i, ch := range e.chunks {
		if i >= first && i <= last {
			out = append(out, ch)
		}
	}
	return out
}

// dropDirty loses what is dirty: its bytes are gone and err, if not nil, is
// told to the next Write or Commit. What is being flushed is cut loose: its flush frees it, it is not read any
// more, and nothing of it is made durable under a later lease. e.mu is held.
func (v *Volume) dropDirty(e *inode, err error) {
	freed := 0
	lost := false
	for i, ch := range e.chunks {
		lost = lost || len(ch.dirty)+len(ch.flushing) > 0
		freed += ch.dirty.buffered()
		ch.dirty.release(&v.pool)
		ch.dirty = nil
		v.quota.settle(ch.hold, 0)
		ch.hold = nil
		delete(e.chunks, i)
	}
	v.dirty.clean(e)
	if freed > 0 {
		v.dirty.add(-int64(freed))
	}
	if lost && err != nil {
		v.lost(e, err)
	}
	e.wake()
}

// lost counts a loss. e.mu is held.
func (v *Volume) lost(e *inode, err error) {
	e.losses++
	e.err, e.lastLoss = err, err
	v.cfg.Logger.Error("buffered writes were lost", "fs", v.cfg.FS, "inode", uint64(e.ino), "err", err)
}
