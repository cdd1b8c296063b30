package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// commitData makes flushed bytes part of a file.
func (x *call) commitData(c *metapb.CommitData) (*metapb.Result, error) {
	const op = "data.commit"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	calls := x.level >= levelCalledData && (c.Once || len(c.Calls) > 0)
	if calls {
		if done, err := x.checkCalls(c); err != nil || done {
			return x.committed(n, 0, err)
		}
	}
	if !x.holds(n) && !n.lease.shared() || n.lease.epoch != c.Epoch {
		return nil, vfs.Errorf(vfs.KindFenced, op, "write lease epoch %d, not %d", n.lease.epoch, c.Epoch)
	}
	if c.Change > n.lease.limit {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "change %d is above the lease's limit %d", c.Change, n.lease.limit)
	}
	if c.Size > vfs.MaxSize {
		return nil, vfs.KindTooBig.Err(op)
	}
	if err := checkTime(c.Mtime); err != nil {
		return nil, err
	}
	size := max(n.attr.Size, c.Size)
	if err := checkExtents(c.Extents, size); err != nil {
		return nil, err
	}
	n = n.clone()
	used := n.attr.Used
	end := uint64(0) // of what this command wrote
	for _, e := range c.Extents {
		if err := x.putNew(n, e, end); err != nil {
			return nil, err
		}
		if t := x.touched(); t > x.opts.limits.keys {
			return nil, vfs.Errorf(vfs.KindTooMany, op, "more than %d records: split the range", x.opts.limits.keys)
		}
		end = e.Offset + uint64(e.Length)
	}
	taken, err := x.chargeCommit(n, used, c)
	if err != nil {
		return nil, err
	}
	n.attr.Size = size
	if c.Mtime != nil {
		n.attr.Mtime = timeOf(c.Mtime)
		if n.attr.Mtime.After(n.attr.Ctime) { // a chmod may have come after the write
			n.attr.Ctime = n.attr.Mtime
		}
	}
	if c.ClearSetid {
		n.attr.Mode = vfs.ModeAfterWrite(&vfs.Cred{UID: c.ClearSetidUid}, &n.attr)
	}
	if c.Change > n.attr.Change {
		n.attr.Change = c.Change
	} else {
		n.bump() // readers without the lease must see that something changed
	}
	x.renew(n)
	x.setInode(x.fs, n)
	if calls {
		if err := x.remember(c); err != nil {
			return nil, err
		}
	}
	return x.committed(n, taken, nil)
}

// committed is the result of a CommitData that has made n, or would have if err is not nil.
func (x *call) committed(n *inode, taken uint64, err error) (*metapb.Result, error) {
	if err != nil {
		return nil, err
	}
	limited, err := x.limited(n.attr.Project)
	if err != nil {
		return nil, err
	}
	return &metapb.Result{Of: &metapb.Result_Commit{Commit: &metapb.CommitResult{
		Attr: toWire(&n.attr), Lease: leaseToWire(n.lease), Taken: taken, Limited: limited,
	}}}, nil
}

// recharge counts what changed in n.attr.Used since it was before.
func (x *call) recharge(n *inode, before uint64) error {
	return x.charge(x.fs, n.attr.Project, clampInt(n.attr.Used)-clampInt(before), 0)
}

// checkExtents refuses what makes no sense by itself.
func checkExtents(list []*metapb.NewExtent, size uint64) error {
	const op = "data.commit"
	end := uint64(0)
	for i, e := range list {
		if e.Length == 0 || e.Offset < end || e.Offset > size || uint64(e.Length) > size-e.Offset {
			return vfs.Errorf(vfs.KindInvalid, op, "extent %d: %d bytes at %d: not ascending, or beyond the size %d", i, e.Length, e.Offset, size)
		}
		end = e.Offset + uint64(e.Length)
		ways := 0
		if len(e.Inline) > 0 {
			ways++
			if uint64(len(e.Inline)) != uint64(e.Length) || e.Offset/pageSize != (end-1)/pageSize {
				return vfs.Errorf(vfs.KindInvalid, op, "extent %d: %d inline bytes for %d at %d", i, len(e.Inline), e.Length, e.Offset)
			}
		}
		if e.Block != 0 {
			ways++
			if e.Length > blockMax || e.ProfileK < 1 || e.ProfileK > maxK || e.ProfileM > maxM {
				return vfs.Errorf(vfs.KindInvalid, op, "extent %d: block of %d bytes, profile %d+%d", i, e.Length, e.ProfileK, e.ProfileM)
			}
		}
		if e.Zero {
			ways++
		}
		if ways != 1 {
			return vfs.Errorf(vfs.KindInvalid, op, "extent %d is not one of inline, block and zero", i)
		}
	}
	return nil
}

// putNew replaces the range of e. end is where the extents before it in this
// command end. It changes n in place.
func (x *call) putNew(n *inode, e *metapb.NewExtent, end uint64) error {
	p := extent{
		start: e.Offset, end: e.Offset + uint64(e.Length), gen: n.cutGen,
		inline: e.Inline, block: e.Block,
	}
	if e.Block != 0 {
		p.blockLen, p.pg, p.k, p.m = e.Length, e.Pg, e.ProfileK, e.ProfileM
		if err := x.mayMake(p.block, "data.commit"); err != nil {
			return err
		}
		if err := x.makeBlock(n, &p); err != nil {
			return err
		}
	}
	if len(e.Inline) > 0 {
		if page := p.start &^ (pageSize - 1); page < max(end, n.attr.Size) {
			return x.mergeInline(n, p, page, end)
		}
	} else if err := x.clear(n, p.start, p.end); err != nil {
		return err
	}
	if e.Zero {
		return nil
	}
	return x.putExtent(n, p)
}

// mergeInline puts p together with the inline pieces of its page that no block
// separates from it. Holes between them become zeros.
func (x *call) mergeInline(n *inode, p extent, page, end uint64) error {
	// What this command wrote before p may lie beyond the old size, which ends
	// a listing of live extents; the size follows later.
	view := n
	if end > n.attr.Size {
		view = n.clone()
		view.attr.Size = end
	}
	list, err := x.live(view, page, page+pageSize)
	if err != nil {
		return err
	}
	lo, hi := p.start, p.end
	for i := len(list) - 1; i >= 0; i-- {
		if e := &list[i]; e.start < p.start {
			if e.block != 0 {
				break
			}
			if !e.reserved {
				lo = min(lo, e.start)
			}
		}
	}
	for i := range list {
		if e := &list[i]; e.end > p.end {
			if e.block != 0 {
				break
			}
			if !e.reserved {
				hi = max(hi, e.end)
			}
		}
	}
	whole := make([]byte, hi-lo)
	for i := range list {
		e := &list[i]
		if e.end <= lo || e.start >= hi {
			continue
		}
		if e.block == 0 && !e.reserved {
			copy(whole[e.start-lo:], e.inline)
		}
		if err := x.cutOut(n, e, lo, hi); err != nil {
			return err
		}
	}
	copy(whole[p.start-lo:], p.inline)
	p.start, p.end, p.inline = lo, hi, whole
	return x.putExtent(n, p)
}
