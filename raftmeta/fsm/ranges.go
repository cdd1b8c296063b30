package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func checkRange(offset, length uint64, op string) error {
	switch {
	case length == 0:
		return vfs.Errorf(vfs.KindInvalid, op, "no bytes")
	case offset > vfs.MaxSize || length > vfs.MaxSize-offset:
		return vfs.KindTooBig.Err(op)
	}
	return nil
}

// punchHole makes a piece of a range a hole.
func (x *call) punchHole(c *metapb.PunchHole) (*metapb.Result, error) {
	const op = "data.punch"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkRange(c.Offset, c.Length, op); err != nil {
		return nil, err
	}
	id := x.rangeOf(c.Call, c.Offset, c.Length)
	before, end, err := x.rangeBegun(n, id, c.Offset+c.Length, op)
	if err != nil || before != nil {
		return before, err
	}
	if err := x.checkEpoch(n, c.LeaseEpoch, op); err != nil {
		return nil, err
	}
	n = n.clone()
	used := n.attr.Used
	list, done, err := x.someLive(n, c.Offset, end, max(1, x.opts.limits.ranges/recordsToCut))
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := x.cutOut(n, &list[i], c.Offset, end); err != nil {
			return nil, err
		}
	}
	if err := x.rememberRange(c.Ino, id, done, op); err != nil {
		return nil, err
	}
	return x.rangeChanged(n, used, done, c.LeaseEpoch, c.Change, op)
}

// allocate puts reserved extents into holes of a piece of a range.
func (x *call) allocate(c *metapb.Allocate) (*metapb.Result, error) {
	const op = "data.allocate"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkRange(c.Offset, c.Length, op); err != nil {
		return nil, err
	}
	id := x.rangeOf(c.Call, c.Offset, c.Length)
	before, end, err := x.rangeBegun(n, id, c.Offset+c.Length, op)
	if err != nil || before != nil {
		return before, err
	}
	if err := x.checkEpoch(n, c.LeaseEpoch, op); err != nil {
		return nil, err
	}
	n = n.clone()
	used := n.attr.Used
	holes, done, err := x.holes(n, c.Offset, end, x.opts.limits.ranges)
	if err != nil {
		return nil, err
	}
	total := uint64(0)
	for _, h := range holes {
		total += h.len()
	}
	if total > c.MaxBytes {
		return nil, vfs.Errorf(vfs.KindNoSpace, op, "%d bytes, %d are free: remove files or ask for less", total, c.MaxBytes)
	}
	for i, h := range holes {
		// Where a void record gives way that is up to recordsToCut more.
		if i > 0 && x.touched() >= x.opts.limits.ranges {
			done = h.start
			break
		}
		if err := x.putExtent(n, h); err != nil {
			return nil, err
		}
		n.reservedEnd = max(n.reservedEnd, h.end)
	}
	n.attr.Size = max(n.attr.Size, done)
	if err := x.rememberRange(c.Ino, id, done, op); err != nil {
		return nil, err
	}
	return x.rangeChanged(n, used, done, c.LeaseEpoch, c.Change, op)
}

// holes lists reserved extents for up to limit holes of [from, to), and how far that is.
func (x *call) holes(n *inode, from, to uint64, limit int) (list []extent, done uint64, err error) {
	at := from
	fill := func(end uint64) bool { // whether there is room for more
		for at < end && len(list) < limit {
			h := extent{start: at, end: min(end, at+reservedMax), gen: n.cutGen, reserved: true}
			list = append(list, h)
			at = h.end
		}
		return len(list) < limit
	}
	// Half of what may be looked at, so that void records in this range are never too many for those
	// who look for an extent as long as a reserved one later.
	seen := 0
	err = liveExtents(x.scan, x.fs, n, from, to, x.opts.limits.scan/2, func(e extent) (bool, error) {
		if !fill(e.start) {
			return false, nil
		}
		at = e.end
		seen++
		return seen < x.opts.limits.scan/4, nil
	})
	if err != nil {
		return nil, 0, inTheWay(err, "data.allocate")
	}
	if len(list) < limit && seen < x.opts.limits.scan/4 {
		fill(to)
	}
	return list, min(at, to), nil
}

// inTheWay is the error for a scan that met too many records: cuts voided them, as live ones are counted elsewhere.
func inTheWay(err error, op string) error {
	if vfs.KindOf(err) == vfs.KindTooMany {
		return vfs.Errorf(vfs.KindUnavailable, op, "records of earlier truncations are in the way")
	}
	return err
}

// someLive lists up to limit live extents of [from, to), and up to where these are all.
func (x *call) someLive(n *inode, from, to uint64, limit int) (list []extent, done uint64, err error) {
	done = to
	err = liveExtents(x.scan, x.fs, n, from, to, x.opts.limits.scan, func(e extent) (bool, error) {
		if len(list) == limit {
			done = e.start
			return false, nil
		}
		list = append(list, e)
		return true, nil
	})
	return list, done, inTheWay(err, "data.range")
}

// rangeChanged ends a command that changed n, a copy, up to done.
func (x *call) rangeChanged(n *inode, used, done, epoch, change uint64, op string) (*metapb.Result, error) {
	if err := x.recharge(n, used); err != nil {
		return nil, err
	}
	n.attr.Mode = vfs.ModeAfterWrite(&x.cred, &n.attr)
	n.attr.Mtime, n.attr.Ctime = x.now, x.now
	if err := advance(n, epoch, change, op); err != nil {
		return nil, err
	}
	x.renew(n)
	x.setInode(x.fs, n)
	res := &metapb.RangeResult{Attr: toWire(&n.attr), Done: done}
	if n.attr.Used > used {
		res.Bytes = n.attr.Used - used
	}
	if x.holds(n) {
		res.Lease = leaseToWire(n.lease)
	}
	return &metapb.Result{Of: &metapb.Result_Range{Range: res}}, nil
}
