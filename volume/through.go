package volume

import (
	"context"
	"slices"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// aloneAfter is how many changes of a shared file this gateway makes without seeing one by another before it asks for the file
// alone; each time that it was recalled doubles that, up to aloneMax.
const (
	aloneAfter = 64
	aloneMax   = 64 << 10
)

// settlePause is between two tries to write down what is buffered of a file that another gateway wants.
const settlePause = 20 * time.Millisecond

// sharing is what this gateway knows of a file whose lease is shared.
type sharing struct {
	epoch  uint64 // 0: it is not, as far as is known
	change uint64 // after the newest command of this gateway
	own    int    // such commands in a row, with no other's between them
	want   int    // how many it takes to ask for the file alone; 0: aloneAfter
}

// through is a write under way. Those that overlap are done one after the other: a client that was told to try again must not be
// overtaken by what it tried first.
type through struct {
	at   span
	done chan struct{}
}

// enter waits until no write through of s is under way and begins one.
func (e *inode) enter(ctx context.Context, s span, op string) (leave func(), err error) {
	for {
		e.mu.Lock()
		i := slices.IndexFunc(e.throughs, func(t *through) bool { return t.at.off < s.end && s.off < t.at.end })
		if i < 0 {
			t := &through{at: s, done: make(chan struct{})}
			e.throughs = append(e.throughs, t)
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.throughs = slices.DeleteFunc(e.throughs, func(o *through) bool { return o == t })
				close(t.done)
			}, nil
		}
		wait := e.throughs[i].done
		e.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, vfs.Wrap(op, ctx.Err())
		}
	}
}

// errNotShared says that the file is not shared as it was; the write goes on as the lease is by then.
var errNotShared = vfs.Errorf(vfs.KindFenced, "write", "the lease of the file is another one")

// isShared reports whether e is written through, as far as is known. e.mu is held.
func (e *inode) isShared() bool { return !e.leased() && e.sharing.epoch != 0 }

// share notes a shared lease. e.mu is held.
func (e *inode) share(epoch uint64) {
	if epoch > e.sharing.epoch && epoch > e.lease.Epoch {
		e.sharing.epoch, e.sharing.own = epoch, 0
	}
}

// unshare forgets that of an epoch, which ended. e.mu is held.
func (e *inode) unshare(epoch uint64) {
	if e.sharing.epoch == epoch {
		e.sharing.epoch = 0
	}
}

// epoch is what a command names that changes bytes of e. e.mu is held.
func (e *inode) epoch() uint64 {
	if e.leased() {
		return e.lease.Epoch
	}
	return e.sharing.epoch
}

// committed counts a command of this gateway under the shared lease, after which the file is at that change value. e.mu is held.
func (s *sharing) committed(change uint64) {
	if s.own++; change != s.change+1 {
		s.own = 0
	}
	s.change = change
}

// alone asks for e alone if nobody else has changed it for a while.
func (v *Volume) alone(ctx context.Context, e *inode, op string) error {
	e.mu.Lock()
	epoch, ask := e.sharing.epoch, e.isShared() && e.sharing.own >= max(e.sharing.want, aloneAfter)
	if ask {
		e.sharing.own = 0 // once
	}
	e.mu.Unlock()
	if !ask {
		return nil
	}
	if err := e.leasing.Acquire(ctx, 1); err != nil {
		return vfs.Wrap(op, err)
	}
	defer e.leasing.Release(1)
	_, err := v.acquireLease(ctx, e, op, nil, &metapb.AcquireLease{Alone: epoch})
	return err
}

// writeThrough makes p, which lies in one chunk, durable and part of a shared file. errNotShared if the file is not shared, or not
// any more; then nothing was changed.
func (v *Volume) writeThrough(ctx context.Context, c *vfs.Cred, e *inode, off uint64, p []byte, call *vfs.Call) error {
	const op = "write"
	if err := v.alone(ctx, e, op); err != nil {
		return err
	}
	own := v.pool.get(len(p)) // the caller may give up, and use p for something else
	copy(own.b, p)
	w := &piece{off: off, n: len(p), buf: own}
	_, err := detached(ctx, v, op, func(ctx context.Context) (struct{}, error) {
		defer v.pool.put(own)
		leave, err := e.enter(ctx, span{w.off, w.end()}, op)
		if err != nil {
			return struct{}{}, err
		}
		defer leave()
		return struct{}{}, v.putThrough(ctx, c, e, w, w.off, w.end(), call)
	}, nil)
	return err
}

// putThrough makes [off, end) of a piece part of the file: blocks, then a command.
func (v *Volume) putThrough(ctx context.Context, c *vfs.Cred, e *inode, p *piece, off, end uint64, call *vfs.Call) error {
	const op = "write"
	inline := end-off <= inlineMax
	step := uint64(chunkSize)
	if inline {
		step = pageSize
	}
	var exts []newExtent
	for at := off; at < end; {
		to := min(end, at-at%step+step)
		s := segment{off: at, end: to}
		if inline {
			s.inline = slices.Clone(p.data()[at-p.off : to-p.off])
		}
		exts = append(exts, newExtent{seg: s, src: p})
		at = to
	}
	if !inline {
		soon, stop := context.WithTimeout(ctx, v.cfg.StallTimeout)
		defer stop()
		if err := v.writeBlock(soon, e, &exts[0]); err != nil {
			if soon.Err() != nil {
				err = vfs.Errorf(vfs.KindUnavailable, op, "the cluster takes no data: %w", err)
			}
			return err
		}
		defer v.settleIDs(exts)
	}
	err := v.commitThrough(ctx, c, e, exts, call, op)
	if vfs.KindOf(err) == vfs.KindQuota {
		// What is reserved here for writes to come serves this as well.
		v.releaseFree(ctx, func(uint32, *allotment) bool { return true })
		err = v.commitThrough(ctx, c, e, exts, call, op)
	}
	if half := off + (end-off)/2/pageSize*pageSize; vfs.KindOf(err) == vfs.KindTooMany && half > off {
		// It replaces too many pieces for one command. The block that was written for all is not used.
		if err := v.putThrough(ctx, c, e, p, off, half, call); err != nil {
			return err
		}
		return v.putThrough(ctx, c, e, p, half, end, call)
	}
	return err
}

// commitThrough runs the command of putThrough and waits for its outcome, however long it takes: else a later write could be overtaken by it.
func (v *Volume) commitThrough(ctx context.Context, c *vfs.Cred, e *inode, exts []newExtent, call *vfs.Call, op string) error {
	e.mu.Lock()
	epoch, shared := e.sharing.epoch, e.isShared()
	e.mu.Unlock()
	if !shared {
		return errNotShared
	}
	cd := &metapb.CommitData{
		Ino: uint64(e.ino), Epoch: epoch, Size: exts[len(exts)-1].seg.end, Mtime: pbTime(v.cfg.Now()), Extents: pbExtents(exts),
	}
	if !c.IsRoot() {
		cd.ClearSetid, cd.ClearSetidUid = true, c.UID
	}
	if call != nil {
		if !call.Serving() {
			return errElsewhere
		}
		cd.Calls, cd.Once = []*metapb.DataCall{pbDataCall(call, span{exts[0].seg.off, exts[len(exts)-1].seg.end})}, true
		call.Begin()
	}
	r, err := v.apply(ctx, op, nil, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: cd}})
	e.mu.Lock()
	defer e.mu.Unlock()
	switch kindOfCommand(err) {
	case vfs.KindOK:
	case vfs.KindFenced:
		e.unshare(epoch)
		return errNotShared
	case vfs.KindChanged: // a part of it was written for the same call by another command
		if call == nil {
			return err
		}
		return errAsk
	case vfs.KindUnknownOrigin: // it was done or never will be, so it may be sent again
		return vfs.Errorf(vfs.KindUnavailable, op, "inode %d: %w", e.ino, err)
	default:
		return err
	}
	e.sharing.committed(r.GetCommit().GetAttr().GetChange())
	v.quota.learn(r.GetCommit().GetAttr().GetProject(), r.GetCommit().GetLimited())
	v.noteFragments(e, exts)
	return nil
}

// GiveBack gives up the lease of an inode because another gateway wants to change it: it keeps new writes out, makes durable what is buffered, and
// shares the file if it is open for writing here. It returns when the lease is gone. If ctx ends before what is buffered is durable, that is
// lost, as if the lease had been. It is also right if the lease is not known here.
func (v *Volume) GiveBack(ctx context.Context, ino vfs.Ino) error {
	const op = "lease.recall"
	e := v.acquire(ino)
	defer v.release(e)
	// In the order of those who change more than bytes.
	if err := e.gate.Acquire(ctx, gateWide); err != nil {
		return vfs.Wrap(op, err)
	}
	defer e.gate.Release(gateWide)
	if err := e.leasing.Acquire(ctx, 1); err != nil {
		return vfs.Wrap(op, err)
	}
	defer e.leasing.Release(1)
	e.mu.Lock()
	known := e.leased()
	e.mu.Unlock()
	if !known { // perhaps we have it, and an answer did not come
		r, err := v.applyOnce(ctx, op, nil, &metapb.Command{Op: &metapb.Command_AcquireLease{AcquireLease: &metapb.AcquireLease{Ino: uint64(ino)}}})
		if k := vfs.KindOf(err); k == vfs.KindStale || err == nil && r.GetHeld() != nil {
			return nil
		} else if err != nil {
			return err
		}
		v.granted(e, r.GetLease().GetLease(), attrOf(r.GetLease().GetAttr()))
	}
	var told error // of a loss, which is the next writer's to hear
	err := v.settle(ctx, e, maxOffset)
	for ; err != nil && ctx.Err() == nil && v.ctx.Err() == nil; err = v.settle(ctx, e, maxOffset) {
		switch k := vfs.KindOf(err); {
		case k == vfs.KindStale: // it was removed meanwhile
			return nil
		case !k.Retryable():
			told = err
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
		case <-v.ctx.Done():
		}
	}
	if err == nil {
		defer v.thaw(e)
	}
	if v.ctx.Err() != nil {
		return vfs.Errorf(vfs.KindUnavailable, op, "the volume is closed")
	}
	writing := v.openFor(e, vfs.OpenWrite)
	e.mu.Lock()
	if e.err == nil {
		e.err = told
	}
	if !e.leased() {
		e.mu.Unlock()
		return nil
	}
	epoch, change := e.lease.Epoch, e.top()
	if len(e.chunks) > 0 { // another content than was shown under that value
		change = min(change+changeStep, max(e.lease.ChangeLimit, e.meta.Change))
		err = vfs.Errorf(vfs.KindFenced, op, "another gateway wants inode %d, and what is buffered could not be written: %w", ino, err)
	} else {
		err = nil
	}
	// Before the metadata is told: from then on others may change the file, and no reader may find here what was before.
	v.loseLease(e, err)
	e.ended = epoch
	e.sharing.want = min(2*max(e.sharing.want, aloneAfter/2), aloneMax)
	e.mu.Unlock()
	cmd := &metapb.Command{Op: &metapb.Command_ReleaseLease{ReleaseLease: &metapb.ReleaseLease{Ino: uint64(ino), Epoch: epoch, Change: change}}}
	if writing {
		cmd = &metapb.Command{Op: &metapb.Command_ShareLease{ShareLease: &metapb.ShareLease{Ino: uint64(ino), Epoch: epoch, Change: change}}}
	}
	r, err := v.applyOnce(v.ctx, op, nil, cmd)
	switch kindOfCommand(err) {
	case vfs.KindOK:
		v.granted(e, r.GetLease().GetLease(), attrOf(r.GetLease().GetAttr()))
	case vfs.KindFenced, vfs.KindStale, vfs.KindUnknownOrigin:
	default: // it may be ours without our knowing
		e.mu.Lock()
		e.ended = epoch - 1
		e.mu.Unlock()
		return err
	}
	return nil
}

// openFor reports whether e is open for that here.
func (v *Volume) openFor(e *inode, f vfs.OpenFlags) bool {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	return e.opens[openIndex(f)] > 0
}
