package volume

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var (
	_ vfs.Allocator = (*Volume)(nil)
	_ vfs.Seeker    = (*Volume)(nil)
	_ vfs.Cloner    = (*Volume)(nil)
)

// rangeCalls is how many commands of a call on a range a shard below feature level 9 remembers, which keeps all outcomes of a request in one record. What is done after as many pieces
// would be done again by a repetition. From that level on it remembers by place what was done, in any number of pieces.
const rangeCalls = 64

// Deallocate implements vfs.Allocator.
func (v *Volume) Deallocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "deallocate"
	return v.ranged(ctx, ino, off, n, op, func(ctx context.Context, e *inode) error {
		return v.inPieces(ctx, c, e, off, off+n, false, op, func(ask rangeAsk) *metapb.Command {
			return &metapb.Command{Op: &metapb.Command_PunchHole{PunchHole: &metapb.PunchHole{
				Ino: uint64(ino), LeaseEpoch: ask.epoch, Change: ask.change, Offset: ask.at, Length: off + n - ask.at, Call: ask.call,
			}}}
		}, func(done span, _ *metapb.RangeResult) {
			e.ext.put(segment{off: done.off, end: done.end})
		})
	})
}

// Allocate implements vfs.Allocator. What is free is what StatFS says; a part of a range that is too large may stay allocated.
func (v *Volume) Allocate(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "allocate"
	return v.ranged(ctx, ino, off, n, op, func(ctx context.Context, e *inode) error {
		// What is reserved for writes to come serves this as well.
		v.releaseFree(ctx, func(uint32, *allotment) bool { return true })
		st, err := v.StatFS(ctx, ino)
		if err != nil {
			return err
		}
		_, free := v.capacity(st.UsedBytes)
		e.mu.Lock()
		used := e.attr().Used
		e.mu.Unlock()
		// At least this much of the range is in holes, so nothing is begun that cannot be ended.
		if least := n - min(n, used); least > free {
			return vfs.Errorf(vfs.KindNoSpace, op, "%d bytes, %d are free: remove files or ask for less", n, free)
		} else if least > st.AvailBytes {
			return vfs.Errorf(vfs.KindQuota, op, "%d bytes, the limit leaves %d: remove files or ask for less", n, st.AvailBytes)
		}
		return v.inPieces(ctx, c, e, off, off+n, false, op, func(ask rangeAsk) *metapb.Command {
			return &metapb.Command{Op: &metapb.Command_Allocate{Allocate: &metapb.Allocate{
				Ino: uint64(ino), LeaseEpoch: ask.epoch, Change: ask.change, Offset: ask.at, Length: off + n - ask.at, MaxBytes: free, Call: ask.call,
			}}}
		}, func(_ span, r *metapb.RangeResult) { free -= min(free, r.GetBytes()) })
	})
}

// Clone implements vfs.Cloner. Below feature level 5 a clone of more than some hundred blocks grows piece by piece in ascending order.
func (v *Volume) Clone(ctx context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	const op = "clone"
	_, err := detached(ctx, v, op, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, v.clone(ctx, c, src, srcOff, dst, dstOff, n)
	}, nil)
	return err
}

func (v *Volume) clone(ctx context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	const op = "clone"
	d := v.acquire(dst)
	defer v.release(d)
	s := d
	if src != dst {
		s = v.acquire(src)
		defer v.release(s)
	}
	for _, e := range []*inode{s, d} { // which of them is no file is told in this order
		if _, err := v.fileAttr(ctx, e, op); err != nil {
			return err
		}
	}
	// In the order of inode numbers, so that two clones do not wait for each other.
	first, second := s, d
	if src > dst {
		first, second = d, s
	}
	leave, err := v.still(ctx, first, op)
	if err != nil {
		return err
	}
	defer leave()
	if second != first {
		leave, err := v.still(ctx, second, op)
		if err != nil {
			return err
		}
		defer leave()
	}
	s.mu.Lock()
	size, srcEpoch := s.attr().Size, s.epoch()
	shared := s.isShared()
	s.mu.Unlock()
	if shared { // what is known here is nothing
		a, err := v.fileAttr(ctx, s, op)
		if err != nil {
			return err
		}
		size = a.Size
	}
	call := v.dataCallOf(ctx)
	inParts := call != nil && call.InParts // else it is one change, remembered as others are
	all, err := vfs.CheckClone(src, srcOff, size, dst, dstOff, n, op)
	before := vfs.KindOf(err) == vfs.KindInvalid && call.Repeated() && !inParts && max(srcOff, dstOff) < vfs.MaxSize
	switch {
	case before:
		// It may have been done when the source was another one. The shard knows; and of what was not done it is asked for more than any source has, which it refuses.
		n = vfs.MaxSize - max(srcOff, dstOff)
	case err != nil || all == 0:
		return err
	default:
		n = all
	}
	pieces := func() error {
		return v.inPieces(ctx, c, d, dstOff, dstOff+n, !inParts, op, func(ask rangeAsk) *metapb.Command {
			done := ask.at - dstOff
			if !inParts {
				ask.call = nil
			}
			return &metapb.Command{Op: &metapb.Command_CloneRange{CloneRange: &metapb.CloneRange{
				Ino: uint64(dst), LeaseEpoch: ask.epoch, Change: ask.change, Offset: ask.at, Length: n - done,
				SrcIno: uint64(src), SrcLeaseEpoch: srcEpoch, SrcOffset: srcOff + done, Whole: true, Call: ask.call,
			}}}
		}, func(span, *metapb.RangeResult) { d.ext = extentMap{} })
	}
	if before {
		return pieces()
	}
	err = pieces()
	if vfs.KindOf(err) == vfs.KindQuota {
		// What is reserved here for writes to come serves this as well.
		v.releaseFree(ctx, func(uint32, *allotment) bool { return true })
		err = pieces()
	}
	if vfs.KindOf(err) == vfs.KindTooMany {
		// A page in thousands of pieces: it becomes one block soon.
		v.noteClone(src, srcOff, n)
		v.noteClone(dst, dstOff, n)
		return vfs.Errorf(vfs.KindUnavailable, op, "inode %d or %d is in too many pieces; they are being put together: %w", src, dst, err)
	}
	if inParts && vfs.KindOf(err) == vfs.KindChanged {
		return vfs.Errorf(vfs.KindXDev, op, "a part of it was done before: clone less at a time, or copy: %w", err)
	}
	if shared && err != nil {
		s.mu.Lock()
		s.unshare(srcEpoch) // it may have been this one that is not true any more
		s.mu.Unlock()
	}
	return err
}

// ranged runs f for a range of a file that nobody writes to meanwhile and of which nothing is dirty.
func (v *Volume) ranged(ctx context.Context, ino vfs.Ino, off, n uint64, op string, f func(context.Context, *inode) error) error {
	if n == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "no bytes")
	}
	if err := vfs.CheckEnd(off, n, op); err != nil {
		return err
	}
	_, err := detached(ctx, v, op, func(ctx context.Context) (struct{}, error) {
		e := v.acquire(ino)
		defer v.release(e)
		leave, err := v.still(ctx, e, op)
		if err != nil {
			return struct{}{}, err
		}
		defer leave()
		return struct{}{}, f(ctx, e)
	}, nil)
	return err
}

// still keeps writers out of e, takes its lease and makes all of it durable, until leave.
func (v *Volume) still(ctx context.Context, e *inode, op string) (leave func(), err error) {
	if err := e.gate.Acquire(ctx, gateWide); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	err = v.ensureLease(ctx, e, op)
	if err == nil {
		err = v.settle(ctx, e, maxOffset)
	}
	if err != nil {
		e.gate.Release(gateWide)
		return nil, vfs.Wrap(op, err)
	}
	return func() {
		v.thaw(e)
		e.gate.Release(gateWide)
	}, nil
}

// rangeAsk is what a command for a piece of a range names.
type rangeAsk struct {
	epoch, change, at uint64
	call              *metapb.Call // nil: nobody's
}

// inPieces runs commands for [at, end) of e, which is still, as often as it takes, or until one was done before, if all is done by one (once). took gets each piece that was done; e.mu
// is held.
func (v *Volume) inPieces(ctx context.Context, c *vfs.Cred, e *inode, at, end uint64, once bool, op string,
	cmd func(rangeAsk) *metapb.Command, took func(span, *metapb.RangeResult)) error {
	var id *metapb.Call
	call := v.dataCallOf(ctx)
	if call != nil {
		id = pbDataCallID(call)
	}
	for at < end {
		e.mu.Lock()
		ask, gen := rangeAsk{epoch: e.epoch(), change: e.top(), at: at, call: id}, e.gen
		shared := e.isShared()
		e.mu.Unlock()
		r, err := v.apply(ctx, op, c, cmd(ask))
		if err == nil || vfs.KindOf(err) == vfs.KindUnknown {
			call.Begin()
		}
		e.mu.Lock()
		if err == nil && r.GetRange().GetDone() <= at {
			err = vfs.Errorf(vfs.KindInternal, op, "inode %d: no progress at %d", e.ino, at)
		}
		if err != nil {
			if k := vfs.KindOf(err); (k == vfs.KindFenced || k == vfs.KindUnknownOrigin) && e.lease.Epoch == ask.epoch {
				v.loseLease(e, err)
			} else if k == vfs.KindFenced && shared {
				e.unshare(ask.epoch)
				err = vfs.Errorf(vfs.KindUnavailable, op, "inode %d: %w", e.ino, err)
			}
			e.mu.Unlock()
			return err
		}
		res := r.GetRange()
		piece := span{at, min(res.Done, end)}
		a := attrOf(res.GetAttr())
		switch {
		case !e.leased() || e.lease.Epoch != ask.epoch:
		case res.GetBefore() || res.GetLease() == nil: // done before, under another lease perhaps, and told again: how the file is now it does not say
			e.ext = extentMap{}
			e.extChanged(piece)
		default:
			took(piece, res)
			e.extChanged(piece)
			if len(e.chunks) == 0 {
				e.over = overlay{}
			}
			e.learn(a)
			e.extend(res.GetLease())
			e.extChange = a.Change
			e.fresh = e.gen == gen
		}
		e.mu.Unlock()
		at = piece.end
		if once && res.GetBefore() { // it was all there was to do then, as long as the source was
			return nil
		}
	}
	return nil
}

// noteClone remembers the chunks of a range as fragments.
func (v *Volume) noteClone(ino vfs.Ino, off, n uint64) {
	f := &v.fragments
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		f.at = make(map[fragmentKey]time.Time)
	}
	for at := off / chunkSize * chunkSize; at < off+n && len(f.at) < maxFragments; at += chunkSize {
		f.at[fragmentKey{ino, at}] = v.cfg.Now()
	}
}
