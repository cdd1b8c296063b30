package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// base is where in the file the first byte of e's block would lie; negative offsets wrap.
func (e *extent) base() uint64 { return e.start - uint64(e.blockOff) }

// place is base plus blockMax, which is never negative: the offset of a block is below that.
func (e *extent) place() uint64 { return e.base() + blockMax }

// ownPlace reports whether e of n lies where the record of its block says that the block belongs.
func (x *call) ownPlace(r *metapb.BlockRecord, n *inode, e *extent) bool {
	return r.Fs == x.fs && r.Ino == uint64(n.attr.Ino) && r.Offset == e.base()
}

// referBack changes how many extents of n, at the place of e, point into its block.
func (x *call) referBack(n *inode, e *extent, by int) error {
	var r metapb.BackReference
	key := appendBack(nil, e.block, uint64(n.attr.Ino), e.place())
	if _, err := x.getRecord(key, &r); err != nil {
		return err
	}
	if by < 0 && r.Refs < uint32(-by) {
		return corrupt("block %#x has %d references of inode %d at %d", e.block, r.Refs, n.attr.Ino, e.start)
	}
	if r.Refs = uint32(int64(r.Refs) + int64(by)); r.Refs == 0 {
		x.del(key)
		return nil
	}
	return x.setRecord(key, &r)
}

// cloneRange shares blocks of one range with another.
func (x *call) cloneRange(c *metapb.CloneRange) (*metapb.Result, error) {
	const op = "data.clone"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	src, err := x.file(c.SrcIno, op)
	if err != nil {
		return nil, err
	}
	if err := checkRange(c.Offset, c.Length, op); err != nil {
		return nil, err
	}
	id := x.rangeOf(c.Call, c.Offset, c.Length)
	if id != nil { // whatever became of the source
		if _, w, row, err := x.rowOf(c.Ino, id, op); err != nil {
			return nil, err
		} else if row != nil {
			if done, err := row.once(&w, op); err != nil || done {
				return changedBefore(n, w.end), err
			}
		}
	}
	if err := checkClone(c, src); err != nil {
		return nil, err
	}
	if err := x.checkEpoch(n, c.LeaseEpoch, op); err != nil {
		return nil, err
	}
	if err := x.checkEpoch(src, c.SrcLeaseEpoch, op); err != nil {
		return nil, err
	}
	n = n.clone()
	used := n.attr.Used
	end := c.Offset + c.Length
	budget, whole := x.opts.limits.ranges, c.Whole && x.level >= levelService
	if whole {
		budget = x.opts.limits.keys - x.opts.limits.keys/16 // the rest is for what every command writes
	}
	old, end, err := x.wholePages(n, c.Offset, end, max(1, budget/2/recordsToCut))
	if err != nil {
		return nil, err
	}
	limit := max(1, (budget-recordsToCut*len(old))/recordsToShare)
	list, srcEnd, err := x.wholePages(src, c.SrcOffset, c.SrcOffset+(end-c.Offset), limit)
	if err != nil {
		return nil, err
	}
	end = c.Offset + (srcEnd - c.SrcOffset)
	if whole && end != c.Offset+c.Length {
		return nil, tooMuchToClone(c)
	}
	for i := range old {
		if e := &old[i]; e.start < end {
			if err := x.cutOut(n, e, c.Offset, end); err != nil {
				return nil, err
			}
		}
	}
	for _, e := range list {
		lo, hi := max(e.start, c.SrcOffset), min(e.end, srcEnd)
		if lo >= hi || e.reserved {
			continue
		}
		p := e.slice(lo, hi)
		p.start, p.end, p.gen = c.Offset+(lo-c.SrcOffset), c.Offset+(hi-c.SrcOffset), n.cutGen
		if err := x.refer(n, &p, 1); err != nil {
			return nil, err
		}
		if err := x.putExtent(n, p); err != nil {
			return nil, err
		}
	}
	if x.touched() > x.opts.limits.keys {
		if whole {
			return nil, tooMuchToClone(c)
		}
		return nil, vfs.Errorf(vfs.KindTooMany, op, "more than %d records in one page of a file", x.opts.limits.keys)
	}
	n.attr.Size = max(n.attr.Size, end)
	if err := x.rememberRange(c.Ino, id, end, op); err != nil {
		return nil, err
	}
	return x.rangeChanged(n, used, end, c.LeaseEpoch, c.Change, op)
}

func tooMuchToClone(c *metapb.CloneRange) error {
	return vfs.Errorf(vfs.KindXDev, "data.clone", "%d bytes are in too many pieces to be cloned at once: clone less at a time, or copy", c.Length)
}

// Records that are written to take an extent away (two pieces of it, its block, and that in two queues, or a
// back reference), and to share one.
const (
	recordsToCut   = 5
	recordsToShare = 3
)

// checkClone refuses ranges that cannot share blocks. The length may be any: inline pieces lie in one page of both files if
// the offsets are those of pages.
func checkClone(c *metapb.CloneRange, src *inode) error {
	const op = "data.clone"
	size := src.attr.Size
	switch {
	case c.Offset%pageSize != 0 || c.SrcOffset%pageSize != 0:
		return vfs.Errorf(vfs.KindInvalid, op, "from %d to %d: not multiples of %d", c.SrcOffset, c.Offset, pageSize)
	case c.SrcOffset > size || c.Length > size-c.SrcOffset:
		return vfs.Errorf(vfs.KindInvalid, op, "%d bytes at %d of %d", c.Length, c.SrcOffset, size)
	case c.Ino == c.SrcIno && c.Offset < c.SrcOffset+c.Length && c.SrcOffset < c.Offset+c.Length:
		return vfs.Errorf(vfs.KindInvalid, op, "%d bytes from %d to %d of the same file overlap", c.Length, c.SrcOffset, c.Offset)
	}
	return nil
}

// wholePages lists the live extents of [from, to), about limit of them, up to a multiple of the page size or to, which
// it returns. from is a multiple; it is a page at least.
func (x *call) wholePages(n *inode, from, to uint64, limit int) (list []extent, end uint64, err error) {
	list, end, err = x.someLive(n, from, to, limit)
	if err != nil || end == to {
		return list, end, err
	}
	if end = end &^ (pageSize - 1); end > from {
		return list, end, nil
	}
	end = min(from+pageSize, to)
	list, err = x.live(n, from, end)
	return list, end, err
}
