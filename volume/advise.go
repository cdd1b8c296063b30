package volume

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Advisor = (*Volume)(nil)

// Advise implements vfs.Advisor. What is read ahead is bounded as for a stream.
func (v *Volume) Advise(ctx context.Context, ino vfs.Ino, off, n uint64, a vfs.Advice) (bool, error) {
	const op = "advise"
	e := v.acquire(ino)
	defer v.release(e)
	end := off + n
	if n == 0 || end < off || end > maxOffset {
		end = maxOffset
	}
	switch a {
	case vfs.AdviseSequential:
		e.expect(off)
	case vfs.AdviseWillNeed:
		var one [1]byte // looking at a byte makes the extents known, far ahead
		if _, err := v.look(ctx, e, off, one[:], nil); err != nil {
			return false, vfs.Wrap(op, err)
		}
		for _, s := range e.blocksIn(off, min(end, off+windowMax)) {
			v.cache.prefetch(s.block, s.blockOff, uint32(s.end-s.off))
		}
	case vfs.AdviseDontNeed:
		for _, s := range e.blocksIn(off, end) {
			v.cache.drop(s.block.ID, s.blockOff, uint32(s.end-s.off))
		}
	default:
		return false, nil
	}
	return true, nil
}

// expect begins a stream at off, so that its first read already reads ahead.
func (e *inode) expect(off uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	copy(e.streams[1:], e.streams[:])
	e.streams[0] = stream{next: max(off, 1), ahead: off, window: windowFirst}
}

// blocksIn are the blocks, or parts of them, that are known to lie in [off, end).
func (e *inode) blocksIn(off, end uint64) (list []segment) {
	e.mu.Lock()
	defer e.mu.Unlock()
	segs, _ := e.ext.find(off, end, nil)
	for _, s := range segs {
		if s.block.ID != 0 {
			list = append(list, s)
		}
	}
	return list
}

// drop forgets the units that [off, off+n) of a block covers whole, to the last byte or to that of the block.
func (c *blockCache) drop(block uint64, off, n uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := (off + unitSize - 1) / unitSize; i*unitSize < off+n; i++ {
		if u := c.units[unitKey{block, i}]; u != nil && u.buf != nil && i*unitSize+uint32(u.n) <= off+n {
			c.remove(u)
		}
	}
}
