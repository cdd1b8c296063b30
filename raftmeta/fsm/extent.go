package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Sizes of the pieces of a file.
const (
	pageSize = 4096    // inline pieces lie within one page
	blockMax = 4 << 20 // bytes of data of a block, so also of an extent
	// reservedMax is the longest reserved extent, in bytes.
	reservedMax = 1 << 30
	maxK        = 16
	maxM        = 8
	maxEnd      = vfs.MaxSize
)

// extent is an ExtentRecord decoded, with the range of the file it holds.
type extent struct {
	start, end         uint64
	gen                uint32
	reserved           bool   // allocated, not written; or:
	inline             []byte // or:
	block              uint64
	blockOff, blockLen uint32
	pg, k, m           uint32
}

func (e *extent) len() uint64 { return e.end - e.start }

func decodeExtent(end uint64, b []byte) (extent, error) {
	var r metapb.ExtentRecord
	if err := r.UnmarshalVT(b); err != nil {
		return extent{}, corrupt("extent: %w", err)
	}
	longest := uint32(blockMax)
	if r.Reserved {
		longest = reservedMax
	}
	if r.Length == 0 || uint64(r.Length) > end || r.Length > longest ||
		(r.Block == 0 && !r.Reserved && uint32(len(r.Inline)) != r.Length) || (r.Reserved && (r.Block != 0 || len(r.Inline) > 0)) {
		return extent{}, corrupt("extent of %d bytes, %d inline, that ends at %d", r.Length, len(r.Inline), end)
	}
	return extent{
		start: end - uint64(r.Length), end: end, gen: r.Gen, reserved: r.Reserved, inline: r.Inline,
		block: r.Block, blockOff: r.BlockOffset, blockLen: r.BlockLength, pg: r.Pg, k: r.K, m: r.M,
	}, nil
}

func (e *extent) encode() ([]byte, error) {
	b, err := (&metapb.ExtentRecord{
		Length: uint32(e.len()), Gen: e.gen, Reserved: e.reserved, Inline: e.inline,
		Block: e.block, BlockOffset: e.blockOff, BlockLength: e.blockLen, Pg: e.pg, K: e.k, M: e.m,
	}).MarshalVT()
	if err != nil {
		return nil, fatal(err)
	}
	return b, nil
}

// slice is the part [from, to) of e.
func (e extent) slice(from, to uint64) extent {
	switch {
	case e.reserved:
	case e.block == 0:
		e.inline = e.inline[from-e.start : to-e.start]
	default:
		e.blockOff += uint32(from - e.start)
	}
	e.start, e.end = from, to
	return e
}

// scanFunc is View.Scan or the same over an overlay.
type scanFunc func(lo, hi []byte, fn func(k, v []byte) bool) error

// scanExtents calls fn for the extents of n that end in (from, last], in
// ascending order of their ends, void ones too, until it returns false.
func scanExtents(scan scanFunc, fs uint32, n *inode, from, last uint64, fn func(e extent) (bool, error)) error {
	ino := uint64(n.attr.Ino)
	var inner error
	err := scan(appendExtent(nil, fs, ino, from+1), appendExtent(nil, fs, ino, last+1), func(k, v []byte) bool {
		e, err := decodeExtent(tail64(k), v)
		more := false
		if err == nil {
			more, err = fn(e)
		}
		inner = err
		return more && err == nil
	})
	if inner != nil {
		return inner
	}
	return err
}

// liveExtents calls fn for the extents of n that overlap [from, to) and that no
// cut has voided, in ascending order. Live extents do not overlap one another,
// so their order by end is that by start.
func liveExtents(scan scanFunc, fs uint32, n *inode, from, to uint64, limit int, fn func(e extent) (bool, error)) error {
	to = min(to, n.attr.Size)
	if from >= to || n.attr.Used == 0 {
		return nil // no live extent reaches beyond the size
	}
	seen := 0
	last := min(to+blockMax, n.attr.Size)
	if n.reservedEnd > last {
		last = min(to+reservedMax, n.reservedEnd) // one that begins before to may be this long
	}
	return scanExtents(scan, fs, n, from, last, func(e extent) (bool, error) {
		if seen++; seen > limit {
			return false, vfs.Errorf(vfs.KindTooMany, "extents", "more than %d records in this range of the file", limit)
		}
		if n.void(e.gen, e.end) {
			return true, nil
		}
		if e.start >= to {
			return false, nil
		}
		return fn(e)
	})
}

// live collects liveExtents.
func (x *call) live(n *inode, from, to uint64) (list []extent, err error) {
	err = liveExtents(x.scan, x.fs, n, from, to, x.opts.limits.scan, func(e extent) (bool, error) {
		list = append(list, e)
		return true, nil
	})
	return list, err
}

func (x *call) extentKey(n *inode, end uint64) []byte {
	x.key = appendExtent(x.key[:0], x.fs, uint64(n.attr.Ino), end)
	return x.key
}

// putExtent writes e, whose range holds no live extent. A void one that ends
// at the same byte gives way. It changes n in place.
func (x *call) putExtent(n *inode, e extent) error {
	if len(n.cuts) > 0 {
		b, ok, err := x.get(x.extentKey(n, e.end))
		if err != nil {
			return err
		}
		if ok {
			old, err := decodeExtent(e.end, b)
			if err != nil {
				return err
			}
			if err := x.dropExtent(n, &old); err != nil {
				return err
			}
		}
	}
	b, err := e.encode()
	if err != nil {
		return err
	}
	x.set(x.extentKey(n, e.end), b)
	n.attr.Used += e.len()
	return nil
}

// dropExtent removes a record and its reference. It changes n in place.
func (x *call) dropExtent(n *inode, e *extent) error {
	x.del(x.extentKey(n, e.end))
	if n.charged(e.gen) {
		n.attr.Used -= e.len()
	}
	return x.refer(n, e, -1)
}

// clear makes [from, to) of n a hole. It changes n in place.
func (x *call) clear(n *inode, from, to uint64) error {
	list, err := x.live(n, from, to)
	if err != nil {
		return err
	}
	for i := range list {
		if err := x.cutOut(n, &list[i], from, to); err != nil {
			return err
		}
	}
	return nil
}

// cutOut removes [from, to) from the live extent e, which it overlaps.
func (x *call) cutOut(n *inode, e *extent, from, to uint64) error {
	left, right := e.start < from, to < e.end
	pieces := 0
	if right {
		p := e.slice(to, e.end)
		b, err := p.encode()
		if err != nil {
			return err
		}
		x.set(x.extentKey(n, e.end), b)
		n.attr.Used += p.len()
		pieces++
	} else {
		x.del(x.extentKey(n, e.end))
	}
	n.attr.Used -= e.len()
	if left {
		if err := x.putExtent(n, e.slice(e.start, from)); err != nil {
			return err
		}
		pieces++
	}
	return x.refer(n, e, pieces-1)
}

// refer changes how many extents like e of n point into its block; a block that none points
// into is dying. Block 0 is none.
func (x *call) refer(n *inode, e *extent, by int) error {
	block := e.block
	if block == 0 || by == 0 {
		return nil
	}
	x.key = appendID(x.key[:0], "b/", block)
	b, ok, err := x.get(x.key)
	if err != nil {
		return err
	}
	var r metapb.BlockRecord
	if err := r.UnmarshalVT(b); err != nil {
		return corrupt("block %#x: %w", block, err)
	}
	if !ok || (by < 0 && r.Refs < uint32(-by)) {
		return corrupt("block %#x has %d references", block, r.Refs)
	}
	if !x.ownPlace(&r, n, e) {
		if err := x.referBack(n, e, by); err != nil {
			return err
		}
	}
	if r.Refs = uint32(int64(r.Refs) + int64(by)); r.Refs > 0 {
		return x.setRecord(appendID(x.key[:0], "b/", block), &r)
	}
	return x.die(block, &r)
}

// record is a message of metapb.
type record interface{ MarshalVT() ([]byte, error) }

func (o *overlay) setRecord(key []byte, r record) error {
	b, err := r.MarshalVT()
	if err != nil {
		return fatal(err)
	}
	o.set(key, b)
	return nil
}
