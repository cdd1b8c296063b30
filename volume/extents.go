package volume

import (
	"cmp"
	"slices"
	"sort"
)

// maxOffset is above every byte of a file.
const maxOffset = 1 << 63

// segment says where the bytes [off, end) of a file are: in a block, in the
// metadata (inline), or nowhere (a hole).
type segment struct {
	off, end uint64
	inline   []byte // end-off bytes, immutable
	reserved bool   // a hole for readers, allocated for writers; known only where it was asked for
	block    Block  // ID 0: not in a block
	blockOff uint32 // of off in the block
}

// within cuts s to [lo, hi), which lies inside it.
func (s segment) within(lo, hi uint64) segment {
	if s.inline != nil {
		s.inline = s.inline[lo-s.off : hi-s.off]
	}
	s.blockOff += uint32(lo - s.off)
	if s.block.ID == 0 {
		s.blockOff = 0
	}
	s.off, s.end = lo, hi
	return s
}

// allocated reports whether the bytes of s count in the file's usage.
func (s *segment) allocated() bool { return s.block.ID != 0 || s.inline != nil || s.reserved }

// joins reports whether t continues s.
func (s *segment) joins(t *segment) bool {
	return s.end == t.off && s.inline == nil && t.inline == nil && s.reserved == t.reserved && s.block == t.block &&
		(s.block.ID == 0 || uint64(s.blockOff)+(s.end-s.off) == uint64(t.blockOff))
}

// leafSegments is the most segments in a leaf of an extentMap.
const leafSegments = 256

// extentMap is what is known of a file's extents: ascending and disjoint. A
// range without a segment is not known. The segments are in leaves, none empty: written at random, a file of a GiB has a quarter of a million, and
// in one slice each new one would move half of them.
type extentMap struct {
	leaves [][]segment
	most   int // segments in a leaf; 0 is leafSegments
}

// place is where a segment is in an extentMap: in which leaf, and there. Behind the last one it is {len(leaves), 0}.
type place struct{ leaf, i int }

func extentMapOf(s segment) extentMap { return extentMap{leaves: [][]segment{{s}}} }

// len is how many segments there are.
func (m *extentMap) len() (n int) {
	for _, l := range m.leaves {
		n += len(l)
	}
	return n
}

// at is the place of the first segment that ends after off.
func (m *extentMap) at(off uint64) place {
	l := sort.Search(len(m.leaves), func(i int) bool { return m.leaves[i][len(m.leaves[i])-1].end > off })
	if l == len(m.leaves) {
		return place{l, 0}
	}
	return place{l, sort.Search(len(m.leaves[l]), func(i int) bool { return m.leaves[l][i].end > off })}
}

// from is the place of the first segment that begins at or after off.
func (m *extentMap) from(off uint64) place {
	l := sort.Search(len(m.leaves), func(i int) bool { return m.leaves[i][len(m.leaves[i])-1].off >= off })
	if l == len(m.leaves) {
		return place{l, 0}
	}
	return place{l, sort.Search(len(m.leaves[l]), func(i int) bool { return m.leaves[l][i].off >= off })}
}

// get is the segment at p; nil if p is behind the last one.
func (m *extentMap) get(p place) *segment {
	if p.leaf == len(m.leaves) {
		return nil
	}
	return &m.leaves[p.leaf][p.i]
}

// next is the place behind p, which is not behind the last segment.
func (m *extentMap) next(p place) place {
	if p.i++; p.i == len(m.leaves[p.leaf]) {
		return place{p.leaf + 1, 0}
	}
	return p
}

// between is how many segments lie from a to b.
func (m *extentMap) between(a, b place) int {
	n := b.i - a.i
	for _, l := range m.leaves[a.leaf:b.leaf] {
		n += len(l)
	}
	return n
}

// put makes [s.off, s.end) what s says.
func (m *extentMap) put(s segment) {
	if s.off >= s.end {
		return
	}
	i, j := m.at(s.off), m.from(s.end)
	var few [5]segment
	r := few[:0]
	// The neighbours are put again, for what continues is joined, so that a file written in order stays one segment.
	switch {
	case i.i > 0:
		i.i--
		r = append(r, *m.get(i))
	case i.leaf > 0:
		i.leaf--
		i.i = len(m.leaves[i.leaf]) - 1
		r = append(r, *m.get(i))
	}
	if x := m.get(m.at(s.off)); x != nil && x.off < s.off {
		r = append(r, x.within(x.off, s.off))
	}
	r = append(r, s)
	if x := m.get(m.at(s.end - 1)); x != nil && x.off < s.end && x.end > s.end {
		r = append(r, x.within(s.end, x.end))
	}
	if x := m.get(j); x != nil {
		r = append(r, *x)
		j = m.next(j)
	}
	for k := len(r) - 1; k > 0; k-- {
		if r[k-1].joins(&r[k]) {
			r[k-1].end = r[k].end
			r = slices.Delete(r, k, k+1)
		}
	}
	m.replace(i, j, r)
}

// replace puts list, a few segments, in the place of those from i to j.
func (m *extentMap) replace(i, j place, list []segment) {
	if i.leaf == len(m.leaves) { // the first ones: else the last segment would be replaced too
		m.leaves = append(m.leaves, slices.Clone(list))
		return
	}
	if i.leaf == j.leaf {
		m.leaves[i.leaf] = slices.Replace(m.leaves[i.leaf], i.i, j.i, list...)
	} else {
		m.leaves[i.leaf] = slices.Replace(m.leaves[i.leaf], i.i, len(m.leaves[i.leaf]), list...)
		gone := j.leaf
		if j.i > 0 {
			m.leaves[j.leaf] = slices.Delete(m.leaves[j.leaf], 0, j.i)
		}
		m.leaves = slices.Delete(m.leaves, i.leaf+1, gone)
	}
	if l, most := m.leaves[i.leaf], cmp.Or(m.most, leafSegments); len(l) > most {
		half := len(l) / 2
		right := append(make([]segment, 0, most), l[half:]...)
		clear(l[half:])
		m.leaves[i.leaf] = l[:half]
		m.leaves = slices.Insert(m.leaves, i.leaf+1, right)
	}
}

// cut makes everything from size on a hole, as truncate does.
func (m *extentMap) cut(size uint64) { m.put(segment{off: size, end: maxOffset}) }

// find appends to out the segments of [off, end), cut to it; ok tells that all
// of it is known.
func (m *extentMap) find(off, end uint64, out []segment) (_ []segment, ok bool) {
	for p := m.at(off); off < end; p = m.next(p) {
		s := m.get(p)
		if s == nil || s.off > off {
			return out, false
		}
		hi := min(end, s.end)
		out = append(out, s.within(off, hi))
		off = hi
	}
	return out, true
}

// mayGrow reports whether a write of [lo, hi), which lies in one page, may add to the bytes that are allocated: unless
// it lies within what is allocated, and that is all that the page has. (Inline pieces of a page are
// merged, with zeros between them.)
func (m *extentMap) mayGrow(lo, hi uint64) bool {
	first := lo - lo%pageSize
	var few [8]segment
	list, known := m.find(first, first+pageSize, few[:0])
	if !known {
		return true
	}
	var run span // of what is allocated
	for i := range list {
		s := &list[i]
		switch {
		case !s.allocated():
		case run.end == 0:
			run = span{s.off, s.end}
		case run.end == s.off:
			run.end = s.end
		default:
			return true
		}
	}
	return lo < run.off || hi > run.end
}

// knows reports whether all of the spans is known.
func (m *extentMap) knows(spans []span) bool {
	for _, x := range spans {
		for p, off := m.at(x.off), x.off; off < x.end; p = m.next(p) {
			s := m.get(p)
			if s == nil || s.off > off {
				return false
			}
			off = s.end
		}
	}
	return true
}
