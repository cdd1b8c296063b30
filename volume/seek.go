package volume

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// seekTries is how often a seek looks again when the file changes meanwhile, before it keeps writers out.
const seekTries = 4

// Seek implements vfs.Seeker. What is dirty here is data too.
func (v *Volume) Seek(ctx context.Context, ino vfs.Ino, off uint64, what vfs.SeekFor) (vfs.SeekResult, error) {
	const op = "seek"
	e := v.acquire(ino)
	defer v.release(e)
	for range seekTries {
		if res, ok, err := v.seekOnce(ctx, e, off, what); ok || err != nil {
			return res, vfs.Wrap(op, err)
		}
	}
	leave, err := v.still(ctx, e, op)
	if err != nil {
		return vfs.SeekResult{}, err
	}
	defer leave()
	res, ok, err := v.seekOnce(ctx, e, off, what)
	if err == nil && !ok {
		err = vfs.Errorf(vfs.KindUnavailable, op, "inode %d changes all the time", ino)
	}
	return res, vfs.Wrap(op, err)
}

// seekOnce is Seek; ok is false if the extents changed while they were asked for.
func (v *Volume) seekOnce(ctx context.Context, e *inode, off uint64, what vfs.SeekFor) (res vfs.SeekResult, ok bool, err error) {
	e.mu.Lock()
	dead := e.dead
	s := seeking{e: e, leased: e.leased() && e.known, gen: e.extGen}
	e.mu.Unlock()
	if dead {
		return res, false, vfs.KindStale.Err("seek")
	}
	if off >= maxOffset {
		a, err := v.fileAttr(ctx, e, "seek")
		return vfs.SeekResult{Offset: a.Size, Size: a.Size}, err == nil, err
	}
	perQuery := uint32(extentsPerQuery)
	if what == vfs.SeekData {
		perQuery = 1
	}
	change, first := uint64(0), true
	for at := off; ; {
		r, err := v.query(ctx, "seek", nil, &metapb.Query{Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{
			Ino: uint64(e.ino), Offset: at, MaxExtents: perQuery,
		}}})
		if err != nil {
			return res, false, err
		}
		x := r.GetExtents()
		if !first && x.GetChange() != change && !s.leased {
			return res, false, nil
		}
		change, first = x.GetChange(), false
		if what == vfs.SeekData {
			at := uint64(maxOffset)
			if list := x.GetExtents(); len(list) > 0 {
				at = max(off, list[0].GetOffset())
			}
			return s.data(off, at, x.GetSize())
		}
		end := uint64(maxOffset) // of what this answer is about
		if x.GetNext() != 0 {
			end = x.Next
		}
		gaps := []span{{at, end}}
		for _, p := range x.GetExtents() {
			if !validExtent(p) {
				return res, false, vfs.Errorf(vfs.KindInternal, "seek", "inode %d has a bad extent at %d", e.ino, p.GetOffset())
			}
			last := gaps[len(gaps)-1]
			gaps = append(gaps[:len(gaps)-1], minus([]span{last}, span{p.Offset, p.Offset + uint64(p.Length)})...)
			if len(gaps) == 0 {
				break
			}
		}
		if res, found, ok := s.hole(gaps, x.GetSize()); found || !ok {
			return res, ok, nil
		}
		if end <= at || end == maxOffset {
			return res, false, vfs.Errorf(vfs.KindInternal, "seek", "extents of inode %d: no progress at %d", e.ino, at)
		}
		at = end
	}
}

// seeking puts what the metadata says together with what is dirty.
type seeking struct {
	e      *inode
	leased bool
	gen    uint64
}

// begin locks the inode and reports whether what was asked is still true; size is that of the file.
func (s *seeking) begin(size uint64) (uint64, bool) {
	e := s.e
	e.mu.Lock()
	if e.dead || s.leased != (e.leased() && e.known) || s.leased && e.extGen != s.gen {
		return 0, false
	}
	if s.leased {
		size = e.attr().Size
	}
	return size, true
}

// data is the answer when the metadata's first data at or after off is at.
func (s *seeking) data(off, at, size uint64) (vfs.SeekResult, bool, error) {
	size, ok := s.begin(size)
	defer s.e.mu.Unlock()
	if !ok {
		return vfs.SeekResult{}, false, nil
	}
	if s.leased && off < size {
		for _, ch := range s.e.in(off, size) {
			for _, ps := range []pieces{ch.flushing, ch.dirty} {
				i, j := ps.touching(off, size)
				for _, p := range ps[i:j] {
					if p.end() > off {
						at = min(at, max(off, p.off))
						break
					}
				}
			}
		}
	}
	return vfs.SeekResult{Offset: min(at, size), Size: size}, true, nil
}

// hole is the answer if one of the gaps between extents has a hole.
func (s *seeking) hole(gaps []span, size uint64) (res vfs.SeekResult, found, ok bool) {
	size, ok = s.begin(size)
	defer s.e.mu.Unlock()
	if !ok {
		return res, false, false
	}
	for _, g := range gaps {
		if g.off >= size {
			return vfs.SeekResult{Offset: size, Size: size}, true, true
		}
		left := []span{g}
		if s.leased {
			for _, ch := range s.e.in(g.off, min(g.end, size)) {
				left = ch.dirty.uncovered(left, nil)
				left = ch.flushing.uncovered(left, nil)
			}
		}
		if len(left) > 0 {
			return vfs.SeekResult{Offset: min(left[0].off, size), Size: size}, true, true
		}
	}
	return res, false, true
}
