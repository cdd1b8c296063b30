package volume

import (
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

// extentMap is what is known of a file's extents: ascending and disjoint. A
// range without a segment is not known.
type extentMap []segment

// at is the index of the first segment that ends after off.
func (m extentMap) at(off uint64) int {
	return sort.Search(len(m), func(i int) bool { return m[i].end > off })
}

// put makes [s.off, s.end) what s says.
func (m *extentMap) put(s segment) {
	if s.off >= s.end {
		return
	}
	i := m.at(s.off)
	j := i + sort.Search(len(*m)-i, func(k int) bool { return (*m)[i+k].off >= s.end })
	var repl [3]segment
	r := repl[:0]
	if i < j && (*m)[i].off < s.off {
		r = append(r, (*m)[i].within((*m)[i].off, s.off))
	}
	r = append(r, s)
	if i < j && (*m)[j-1].end > s.end {
		r = append(r, (*m)[j-1].within(s.end, (*m)[j-1].end))
	}
	*m = slices.Replace(*m, i, j, r...)
	// Join what continues, so that a file written in order stays one segment.
	for k := min(i+len(r), len(*m)-1); k > 0 && k >= i; k-- {
		if (*m)[k-1].joins(&(*m)[k]) {
			(*m)[k-1].end = (*m)[k].end
			*m = slices.Delete(*m, k, k+1)
		}
	}
}

// cut makes everything from size on a hole, as truncate does.
func (m *extentMap) cut(size uint64) { m.put(segment{off: size, end: maxOffset}) }

// find appends to out the segments of [off, end), cut to it; ok tells that all
// of it is known.
func (m extentMap) find(off, end uint64, out []segment) (_ []segment, ok bool) {
	for i := m.at(off); off < end; i++ {
		if i == len(m) || m[i].off > off {
			return out, false
		}
		hi := min(end, m[i].end)
		out = append(out, m[i].within(off, hi))
		off = hi
	}
	return out, true
}

// mayGrow reports whether a write of [lo, hi), which lies in one page, may add to the bytes that are allocated: unless
// it lies within what is allocated, and that is all that the page has. (Inline pieces of a page are
// merged, with zeros between them.)
func (m extentMap) mayGrow(lo, hi uint64) bool {
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
func (m extentMap) knows(spans []span) bool {
	for _, s := range spans {
		for i, off := m.at(s.off), s.off; off < s.end; i++ {
			if i == len(m) || m[i].off > off {
				return false
			}
			off = m[i].end
		}
	}
	return true
}
