package volume

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// SetAttr implements vfs.FS.
func (v *Volume) SetAttr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	const op = "setattr"
	if s.Empty() {
		return v.GetAttr(ctx, ino)
	}
	return detached(ctx, v, op, func(ctx context.Context) (vfs.Attr, error) {
		return v.setAttr(ctx, c, ino, s, opened)
	}, nil)
}

func (v *Volume) setAttr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	const op = "setattr"
	e := v.acquire(ino)
	defer v.release(e)
	// No write passes while the size changes, and none may later take back what
	// this sets.
	if err := e.gate.Acquire(ctx, gateWide); err != nil {
		return vfs.Attr{}, vfs.Wrap(op, err)
	}
	defer e.gate.Release(gateWide)
	for {
		e.mu.Lock()
		leased := e.leased() && e.known
		dead := e.dead
		e.mu.Unlock()
		if dead {
			return vfs.Attr{}, vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
		}
		if leased {
			return v.setLeased(ctx, c, e, s, opened)
		}
		a, err := v.setUnleased(ctx, c, e, s, opened)
		if err == nil {
			return a, nil
		}
		// Perhaps we hold the lease without knowing: an open took it meanwhile, or
		// one that was given up.
		if k := vfs.KindOf(err); k != vfs.KindFenced && k != vfs.KindUnavailable {
			return vfs.Attr{}, err
		}
		e.mu.Lock()
		now := e.leased()
		e.mu.Unlock()
		if now {
			continue
		}
		if vfs.KindOf(err) != vfs.KindFenced {
			return vfs.Attr{}, err
		}
		if err := v.ensureLease(ctx, e, op); err != nil {
			return vfs.Attr{}, err
		}
	}
}

// setUnleased is SetAttr of an inode whose data nobody here changes.
func (v *Volume) setUnleased(ctx context.Context, c *vfs.Cred, e *inode, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	x := v.watches.begin()
	defer v.watches.end(x)
	ask := &metapb.SetAttr{Ino: uint64(e.ino), Set: pbSetAttr(&s), Opened: opened}
	if s.Size != nil {
		e.mu.Lock()
		if e.isShared() {
			ask.LeaseEpoch = e.sharing.epoch
		}
		e.mu.Unlock()
	}
	r, err := v.apply(ctx, "setattr", c, &metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: ask}})
	if err != nil {
		if kindOfCommand(err) == vfs.KindFenced {
			e.mu.Lock()
			e.unshare(ask.LeaseEpoch)
			e.mu.Unlock()
		}
		return vfs.Attr{}, err
	}
	return v.touched(ctx, x, attrOf(r.GetAttr().GetAttr()), "setattr")
}

// setLeased is SetAttr of an inode that may be dirty.
func (v *Volume) setLeased(ctx context.Context, c *vfs.Cred, e *inode, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	const op = "setattr"
	now, err := v.inodeAttr(ctx, e, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	if !vfs.CallOf(ctx).Repeated() { // what was done before is told, whatever is permitted now
		if err := vfs.CheckSetAttr(c, &now, &s, opened, op); err != nil {
			return vfs.Attr{}, err // before anything is flushed for it
		}
		if v.inTick(c, e, &now, &s) {
			return now, nil
		}
	}
	e.mu.Lock()
	keep := uint64(maxOffset)
	if s.Size != nil && !e.over.setID && !e.unansweredFrom(*s.Size) { // what falls with a write falls though its bytes are cut off, and so that nobody writes it again
		keep = *s.Size
	}
	e.mu.Unlock()
	if err := v.settle(ctx, e, keep); err != nil {
		return vfs.Attr{}, err
	}
	defer v.thaw(e)
	e.mu.Lock()
	ask := &metapb.SetAttr{
		Ino: uint64(e.ino), Set: pbSetAttr(&s), Opened: opened,
		LeaseEpoch: e.lease.Epoch, Change: e.top(),
	}
	gen := e.gen
	e.mu.Unlock()
	r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: ask}})
	if err == nil && r.GetAttr().GetLease() == nil { // whoever has the lease is told it: this is the outcome of another command of the same call
		return v.toldAgain(ctx, e, op)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch kindOfCommand(err) {
	case vfs.KindOK:
	case vfs.KindFenced, vfs.KindUnknownOrigin:
		v.loseLease(e, err)
		return vfs.Attr{}, err
	default:
		return vfs.Attr{}, err
	}
	a := attrOf(r.GetAttr().GetAttr())
	if s.Size != nil {
		v.cutDirty(e, *s.Size)
		e.ext.cut(min(*s.Size, now.Size))
		e.extChanged(span{min(*s.Size, now.Size), maxOffset})
	}
	if len(e.chunks) == 0 {
		e.over = overlay{}
	}
	e.learn(a)
	e.extend(r.GetAttr().GetLease())
	e.extChange = a.Change
	e.fresh = e.gen == gen
	return e.attr(), nil
}

// ctimeTick is the granularity of the ctime of a SETATTR that sets what is so already, as that of local file systems is the kernel's clock tick (10 ms at 100 Hz): so
// long after ctime it changes nothing that anybody could see (decision 102).
const ctimeTick = 10 * time.Millisecond

// inTick reports whether s, which c may do, changes nothing of e, whose attributes are a: all that it sets is so and durable, and ctime is of the same tick.
func (v *Volume) inTick(c *vfs.Cred, e *inode, a *vfs.Attr, s *vfs.SetAttr) bool {
	if since := v.cfg.Now().Sub(a.Ctime); since < 0 || since >= ctimeTick || !keeps(c, a, s) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.over.setID // else the metadata has another mode than a
}

// keeps reports whether s, which c may do, leaves everything in a as it is but ctime.
func keeps(c *vfs.Cred, a *vfs.Attr, s *vfs.SetAttr) bool {
	switch {
	case s.Size != nil, s.AtimeSet != vfs.TimeKeep, s.MtimeSet != vfs.TimeKeep, s.Btime != nil:
		return false
	case s.UID != nil && *s.UID != a.UID, s.GID != nil && *s.GID != a.GID:
		return false
	case (s.UID != nil || s.GID != nil) && vfs.ModeAfterChown(a) != a.Mode:
		return false
	}
	return s.Mode == nil || vfs.ModeAfterChmod(c, a, *s.Mode) == a.Mode
}

// toldAgain are the attributes of e after a change that was done before, for the same call. Others may have written since: nothing of that is cut off, and the attributes of then are not those of now.
func (v *Volume) toldAgain(ctx context.Context, e *inode, op string) (vfs.Attr, error) {
	e.mu.Lock()
	e.forget()
	e.mu.Unlock()
	return v.inodeAttr(ctx, e, op)
}

// settle makes everything below keep durable, and lets nothing be under way
// above it until thaw.
func (v *Volume) settle(ctx context.Context, e *inode, keep uint64) error {
	e.mu.Lock()
	seq := e.seq
	if keep < maxOffset {
		e.frozen = (keep + chunkSize - 1) / chunkSize
	}
	e.mu.Unlock()
	err := v.sync(ctx, e, span{0, keep}, seq, anyLosses, "setattr")
	for err == nil {
		e.mu.Lock()
		busy := false
		for _, ch := range e.chunks {
			busy = busy || len(ch.flushing) > 0
		}
		wait := e.notify
		if !busy {
			// What is dirty in the chunk of keep itself is above it, and must not be flushed any more either.
			e.frozen = 0
		}
		e.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			err = vfs.Wrap("setattr", ctx.Err())
		case <-v.ctx.Done():
			err = vfs.Errorf(vfs.KindUnavailable, "setattr", "the volume is closed")
		}
	}
	v.thaw(e)
	return err
}

// thaw lets everything be flushed again, and wakes those who waited for bytes
// that could not be flushed meanwhile or were cut off.
func (v *Volume) thaw(e *inode) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frozen = ^uint64(0)
	e.wake()
}

// cutDirty drops what is dirty at and above size. e.mu is held, and nothing is
// being flushed.
func (v *Volume) cutDirty(e *inode, size uint64) {
	freed := 0
	for i, ch := range e.chunks {
		freed += ch.dirty.cut(&v.pool, size)
		if len(ch.dirty) == 0 && len(ch.flushing) == 0 {
			v.quota.settle(ch.hold, 0)
			ch.hold = nil
			delete(e.chunks, i)
		}
	}
	v.dirty.clean(e)
	if freed > 0 {
		v.dirty.add(-int64(freed))
	}
	e.over.size = min(e.over.size, size)
}
