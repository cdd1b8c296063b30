package volume

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Filler = (*Volume)(nil)

// fillAhead is how many pieces of a Fill, of up to chunkSize, are in memory: the one that is being filled, and those whose blocks are written, or wait for their turn.
const fillAhead = 6

// Fence implements vfs.Filler, as do Fill and EndCall.
func (v *Volume) Fence(ctx context.Context, ino vfs.Ino, call *vfs.Call, off uint64) (done uint64, err error) {
	const op = "fence"
	if !v.cfg.Keep {
		return 0, vfs.KindNotSupported.Err(op)
	}
	r, err := v.apply(ctx, op, nil, &metapb.Command{Op: &metapb.Command_FenceCall{FenceCall: &metapb.FenceCall{
		Call: pbDataCallID(call), Ino: uint64(ino), Offset: off,
	}}})
	return r.GetRange().GetDone(), err
}

func (v *Volume) EndCall(ctx context.Context, call *vfs.Call) error {
	_, err := v.apply(ctx, "end call", nil, &metapb.Command{Op: &metapb.Command_ReleaseSession{ReleaseSession: &metapb.ReleaseSession{
		Client: call.Client, Session: call.Session[:],
	}}})
	return err
}

// Fill passes by what is buffered: blocks are written in any order, as soon as there is one, and become part of the file in theirs, by commands that are carried out once and one after the other. So the row of the
// call has one range at any time.
func (v *Volume) Fill(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, call *vfs.Call) (vfs.Filling, error) {
	const op = "fill"
	if !v.cfg.Keep {
		return nil, vfs.KindNotSupported.Err(op)
	}
	e := v.acquire(ino)
	if _, err := v.fileAttr(ctx, e, op); err != nil {
		v.release(e)
		return nil, err
	}
	f := &filling{v: v, e: e, cred: *c, call: call, start: off, next: off, done: off, room: semaphore.NewWeighted(fillAhead), changed: make(chan struct{})}
	f.ctx, f.stop = context.WithCancel(v.ctx)
	return f, nil
}

// filling is a vfs.Filling.
type filling struct {
	v     *Volume
	e     *inode
	cred  vfs.Cred
	call  *vfs.Call
	start uint64
	room  *semaphore.Weighted // pieces that there may be
	ctx   context.Context     // of blocks that are written; ends with the first error
	stop  context.CancelFunc

	// Of Put and End.
	next uint64 // where the next byte belongs
	last *fillPiece

	mu      sync.Mutex // guards the fields below
	queue   []*fillPiece
	busy    bool // somebody commits
	done    uint64
	err     error
	ended   bool          // the inode is released when the queue is empty
	changed chan struct{} // closed when done, err or the queue have changed
}

// fillPiece is what lies in one chunk.
type fillPiece struct {
	piece
	reserved int64 // of the dirty bytes
	exts     []newExtent
	ready    bool // its blocks are written
}

func (f *filling) Put(ctx context.Context, p []byte) error {
	const op = "fill"
	if f.next > vfs.MaxSize || uint64(len(p)) > vfs.MaxSize-f.next {
		return vfs.KindTooBig.Err(op)
	}
	for len(p) > 0 {
		if err := f.failed(); err != nil {
			return err
		}
		if f.last == nil {
			if err := f.begin(ctx); err != nil {
				return err
			}
		}
		w := f.last
		n := copy(w.buf.b[w.n:chunkSize-w.off%chunkSize], p)
		w.n += n
		f.next += uint64(n)
		p = p[n:]
		if f.next%chunkSize == 0 {
			f.launch()
		}
	}
	return nil
}

func (f *filling) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// begin has room for the next piece.
func (f *filling) begin(ctx context.Context) error {
	const op = "fill"
	wait, stop := context.WithCancel(ctx)
	defer context.AfterFunc(f.ctx, stop)()
	defer stop()
	if err := f.room.Acquire(wait, 1); err != nil {
		if err := f.failed(); err != nil {
			return err
		}
		return vfs.Wrap(op, err)
	}
	n := int(chunkSize - f.next%chunkSize)
	reserved, err := f.v.dirty.reserve(wait, int64(n), f.v.cfg.StallTimeout, op)
	if err != nil {
		f.room.Release(1)
		return err
	}
	f.v.dirty.flushStarted(reserved)
	f.last = &fillPiece{piece: piece{off: f.next, buf: f.v.pool.get(n)}, reserved: reserved}
	return nil
}

// launch has the last piece written.
func (f *filling) launch() {
	p := f.last
	f.last = nil
	f.mu.Lock()
	f.queue = append(f.queue, p)
	f.mu.Unlock()
	if !f.v.spawn(func() { f.settled(p, f.write(p)) }) {
		f.settled(p, vfs.Errorf(vfs.KindUnavailable, "fill", "the volume is closed"))
	}
}

// write makes extents of a piece.
func (f *filling) write(p *fillPiece) error {
	step := uint64(chunkSize)
	inline := p.n <= inlineMax
	if inline {
		step = pageSize
	}
	for at := p.off; at < p.end(); {
		to := min(p.end(), at-at%step+step)
		s := segment{off: at, end: to}
		if inline {
			s.inline = slices.Clone(p.data()[at-p.off : to-p.off])
		}
		p.exts = append(p.exts, newExtent{seg: s, src: &p.piece})
		at = to
	}
	if inline {
		return nil
	}
	return f.writeBlock(&p.exts[0])
}

func (f *filling) writeBlock(x *newExtent) error {
	soon, stop := context.WithTimeout(f.ctx, f.v.cfg.StallTimeout)
	defer stop()
	err := f.v.writeBlock(soon, f.e, x)
	if err != nil && soon.Err() != nil {
		err = vfs.Errorf(vfs.KindUnavailable, "fill", "the cluster takes no data: %w", err)
	}
	return err
}

// settled notes that a piece is written, or that it cannot be, and commits what is to come next, unless somebody does.
func (f *filling) settled(p *fillPiece, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.ready = true
	f.fail(err)
	if f.busy {
		return
	}
	f.busy = true
	for len(f.queue) > 0 && f.queue[0].ready {
		n, exts := 1, slices.Clone(f.queue[0].exts)
		for n < len(f.queue) && f.queue[n].ready {
			exts = append(exts, f.queue[n].exts...)
			n++
		}
		if f.err == nil {
			f.mu.Unlock()
			err := f.commit(exts)
			f.mu.Lock()
			if err == nil {
				f.done = exts[len(exts)-1].seg.end
			}
			f.fail(err)
		}
		for _, p := range f.queue[:n] {
			f.v.settleIDs(p.exts)
			f.v.pool.put(p.buf)
			f.v.dirty.flushDone(p.reserved)
			f.room.Release(1)
		}
		f.queue = slices.Delete(f.queue, 0, n)
		f.wake()
	}
	f.busy = false
	f.release()
}

// fail keeps the first error. f.mu is held.
func (f *filling) fail(err error) {
	if err != nil && f.err == nil {
		f.err = err
		f.stop()
		f.wake()
	}
}

// wake tells who waits to look again. f.mu is held.
func (f *filling) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// release ends f when nothing is under way any more. f.mu is held.
func (f *filling) release() {
	if f.ended && len(f.queue) == 0 && f.e != nil {
		f.stop()
		f.v.release(f.e)
		f.e = nil
	}
}

func (f *filling) Done() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done - f.start
}

func (f *filling) End(ctx context.Context) (uint64, error) {
	if p := f.last; p != nil && p.n > 0 {
		f.launch()
	} else if p != nil { // its first bytes did not come
		f.last = nil
		f.v.pool.put(p.buf)
		f.v.dirty.flushDone(p.reserved)
		f.room.Release(1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.release()
	f.ended = true
	for len(f.queue) > 0 {
		wait := f.changed
		f.mu.Unlock()
		select {
		case <-wait:
			f.mu.Lock()
		case <-ctx.Done():
			f.mu.Lock()
			f.fail(vfs.Errorf(vfs.KindUnknown, "fill", "given up: %w", ctx.Err()))
			return f.done - f.start, f.err
		}
	}
	return f.done - f.start, f.err
}

// commit makes extents part of the file, in place of what was written there before.
func (f *filling) commit(exts []newExtent) error {
	const op = "fill"
	v := f.v
	ctx := patient(vfs.WithCall(v.ctx, f.call))
	leave, err := v.still(ctx, f.e, op)
	if err != nil {
		return err
	}
	defer leave()
	err = f.put(ctx, exts)
	if vfs.KindOf(err) == vfs.KindQuota {
		// What is reserved here for writes to come serves this as well.
		v.releaseFree(ctx, func(uint32, *allotment) bool { return true })
		err = f.put(ctx, exts)
	}
	return err
}

// put runs the command, in parts if it is too large.
func (f *filling) put(ctx context.Context, exts []newExtent) error {
	err := f.putAll(ctx, exts)
	if vfs.KindOf(err) != vfs.KindTooMany {
		return err
	}
	if len(exts) > 1 {
		for i := range exts {
			if err := f.put(ctx, exts[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	// It replaces too many pieces for one command. The block that was written for all is not used.
	s := exts[0].seg
	half := s.off + (s.end-s.off)/2/pageSize*pageSize
	if half == s.off {
		return err
	}
	for _, part := range []segment{{off: s.off, end: half}, {off: half, end: s.end}} {
		x := []newExtent{{seg: part, src: exts[0].src}}
		if err := f.writeBlock(&x[0]); err != nil {
			return err
		}
		err := f.put(ctx, x)
		f.v.settleIDs(x)
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *filling) putAll(ctx context.Context, exts []newExtent) error {
	const op = "fill"
	v, e := f.v, f.e
	e.mu.Lock()
	epoch, gen, shared := e.epoch(), e.gen, e.isShared()
	e.mu.Unlock()
	at := span{exts[0].seg.off, exts[len(exts)-1].seg.end}
	cd := &metapb.CommitData{
		Ino: uint64(e.ino), Epoch: epoch, Size: at.end, Mtime: pbTime(v.cfg.Now()), Extents: pbExtents(exts),
		Calls: []*metapb.DataCall{pbDataCall(f.call, at)}, Once: true,
	}
	if !f.cred.IsRoot() {
		cd.ClearSetid, cd.ClearSetidUid = true, f.cred.UID
	}
	r, err := v.apply(ctx, op, nil, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: cd}})
	e.mu.Lock()
	defer e.mu.Unlock()
	switch kindOfCommand(err) {
	case vfs.KindOK:
	case vfs.KindFenced, vfs.KindUnknownOrigin: // the blocks are of no use any more, if the origin has ended
		if e.lease.Epoch == epoch {
			v.loseLease(e, err)
		} else if shared {
			e.unshare(epoch)
		}
		return vfs.Errorf(vfs.KindUnavailable, op, "inode %d: %w", e.ino, err)
	case vfs.KindChanged: // a late command of this call has done a part of it
		return vfs.Errorf(vfs.KindUnavailable, op, "inode %d: %w", e.ino, err)
	default:
		return err
	}
	c := r.GetCommit()
	v.quota.learn(c.GetAttr().GetProject(), c.GetLimited())
	v.noteFragments(e, exts)
	switch {
	case e.leased() && e.lease.Epoch == epoch:
		a := attrOf(c.GetAttr())
		e.ext = extentMap{} // if a late command had done it, it was with other blocks
		e.extChanged(at)
		if len(e.chunks) == 0 {
			e.over = overlay{}
		}
		e.learn(a)
		e.extend(c.GetLease())
		e.extChange = a.Change
		e.fresh = e.gen == gen
	case shared:
		e.sharing.committed(c.GetAttr().GetChange())
	}
	return nil
}
