package fsm

import (
	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// rewriteExtents puts bytes of a file elsewhere, those that still are where the
// rewriter read them.
func (x *call) rewriteExtents(c *metapb.RewriteExtents) (*metapb.Result, error) {
	const op = "data.rewrite"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkRewrites(c.Extents); err != nil {
		return nil, err
	}
	seen := make(map[uint64]bool) // only looked up
	for _, w := range c.Extents {
		if seen[w.Block] {
			continue
		}
		seen[w.Block] = true
		if err := x.mayMake(w.Block, op); err != nil {
			return nil, err
		}
	}
	r := rewriter{call: x, n: n.clone(), made: make(map[uint64]bool)}
	res := new(metapb.RewriteResult)
	for _, w := range c.Extents {
		taken, err := r.part(w)
		if err != nil {
			return nil, err
		}
		res.Bytes += taken
		res.Parts = append(res.Parts, uint32(taken))
	}
	if err := r.put(); err != nil {
		return nil, err
	}
	if err := r.bounded(); err != nil {
		return nil, err
	}
	// Bytes were moved, not changed; only void records that were in the way may be gone.
	if r.n.attr.Used != n.attr.Used {
		if err := x.recharge(r.n, n.attr.Used); err != nil {
			return nil, err
		}
		x.setInode(x.fs, r.n)
	}
	return &metapb.Result{Of: &metapb.Result_Rewrite{Rewrite: res}}, nil
}

// checkRewrites refuses what makes no sense by itself.
func checkRewrites(list []*metapb.ExtentRewrite) error {
	const op = "data.rewrite"
	end := uint64(0)
	first := make(map[uint64]*metapb.ExtentRewrite) // of each new block; only looked up
	for i, w := range list {
		if w.Length == 0 || w.Length > blockMax || w.Offset < end || w.Offset > vfs.MaxSize-uint64(w.Length) {
			return vfs.Errorf(vfs.KindInvalid, op, "part %d: %d bytes at %d: not ascending, or too many", i, w.Length, w.Offset)
		}
		end = w.Offset + uint64(w.Length)
		if w.Block == 0 || w.Block == w.OldBlock || w.BlockLength > blockMax || uint64(w.BlockOffset)+uint64(w.Length) > uint64(w.BlockLength) {
			return vfs.Errorf(vfs.KindInvalid, op, "part %d: %d bytes at %d of block %#x, which has %d", i, w.Length, w.BlockOffset, w.Block, w.BlockLength)
		}
		if w.K < 1 || w.K > maxK || w.M > maxM {
			return vfs.Errorf(vfs.KindInvalid, op, "part %d: profile %d+%d", i, w.K, w.M)
		}
		if uint64(w.BlockOffset) > w.Offset {
			return vfs.Errorf(vfs.KindInvalid, op, "part %d: block %#x begins before the file", i, w.Block)
		}
		f := first[w.Block]
		if f == nil {
			f = w
			first[w.Block] = w
		}
		if w.Offset-uint64(w.BlockOffset) != f.Offset-uint64(f.BlockOffset) || w.BlockLength != f.BlockLength || w.Pg != f.Pg || w.K != f.K || w.M != f.M {
			return vfs.Errorf(vfs.KindInvalid, op, "part %d: block %#x is not the same piece of the file as in an earlier part", i, w.Block)
		}
	}
	return nil
}

// rewriter is one command at work.
type rewriter struct {
	*call
	n    *inode          // changed in place
	made map[uint64]bool // new blocks that are live by now
	next extent          // taken and not written yet: what follows may join it
}

// part takes what of w is still there.
func (r *rewriter) part(w *metapb.ExtentRewrite) (taken uint64, err error) {
	end := w.Offset + uint64(w.Length)
	list, err := r.live(r.n, w.Offset, end)
	if err != nil {
		return 0, err
	}
	for i := range list {
		e := &list[i]
		lo, hi := max(e.start, w.Offset), min(e.end, end)
		if !isThere(w, e, lo) {
			continue
		}
		if err := r.cutOut(r.n, e, lo, hi); err != nil {
			return 0, err
		}
		err := r.take(extent{
			start: lo, end: hi, gen: r.n.cutGen,
			block: w.Block, blockOff: w.BlockOffset + uint32(lo-w.Offset), blockLen: w.BlockLength, pg: w.Pg, k: w.K, m: w.M,
		})
		if err != nil {
			return 0, err
		}
		taken += hi - lo
	}
	return taken, r.bounded()
}

func (r *rewriter) bounded() error {
	if r.touched() > r.opts.limits.keys {
		return vfs.Errorf(vfs.KindTooMany, "data.rewrite", "more than %d records: split the range", r.opts.limits.keys)
	}
	return nil
}

// isThere reports whether e, which is live, is at byte lo of the file what w expects.
func isThere(w *metapb.ExtentRewrite, e *extent, lo uint64) bool {
	if e.block != w.OldBlock || e.reserved {
		return false
	}
	if e.block != 0 {
		return uint64(e.blockOff)+(lo-e.start) == uint64(w.OldBlockOffset)+(lo-w.Offset)
	}
	return e.start == w.Offset && e.len() == uint64(w.Length) && xxhash.Sum64(e.inline) == w.InlineHash
}

// take writes p, or lets it grow. Parts of one block that follow one another in the file do so in the block.
func (r *rewriter) take(p extent) error {
	if r.next.block == p.block && r.next.end == p.start {
		r.next.end = p.end
		return nil
	}
	if err := r.put(); err != nil {
		return err
	}
	r.next = p
	return nil
}

func (r *rewriter) put() error {
	p := r.next
	if p.block == 0 {
		return nil
	}
	r.next = extent{}
	if r.made[p.block] {
		if err := r.refer(r.n, &p, 1); err != nil {
			return err
		}
	} else {
		if err := r.makeBlock(r.n, &p); err != nil {
			return err
		}
		r.made[p.block] = true
	}
	return r.putExtent(r.n, p)
}
