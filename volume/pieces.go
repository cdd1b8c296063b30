package volume

import (
	"slices"
	"sort"
)

// chunkSize is the unit of buffering, and the largest block.
const chunkSize = 4 << 20

// piece is a run of dirty bytes inside one chunk.
type piece struct {
	off uint64 // in the file
	n   int
	buf *buffer // the bytes are buf.b[:n]
	seq uint64  // of the oldest write in it
}

func (p *piece) end() uint64  { return p.off + uint64(p.n) }
func (p *piece) data() []byte { return p.buf.b[:p.n] }

// pieces are the dirty runs of one chunk: ascending, with a gap between any
// two, so that each becomes one extent.
type pieces []*piece

// touching returns the index range of the pieces that overlap or touch
// [off, end).
func (ps pieces) touching(off, end uint64) (i, j int) {
	i = sort.Search(len(ps), func(k int) bool { return ps[k].end() >= off })
	j = i + sort.Search(len(ps)-i, func(k int) bool { return ps[i+k].off > end })
	return i, j
}

// write puts data at off, inside one chunk. grow tells that more is expected
// behind it. It returns how many bytes of buffers were taken (or given back, if
// negative).
func (ps *pieces) write(pool *bufPool, off uint64, data []byte, seq uint64, grow bool) (taken int) {
	end := off + uint64(len(data))
	i, j := ps.touching(off, end)
	if i == j {
		p := &piece{off: off, n: len(data), buf: pool.get(wantBuffer(len(data), off, grow)), seq: seq}
		copy(p.buf.b, data)
		*ps = slices.Insert(*ps, i, p)
		return len(p.buf.b)
	}
	old := (*ps)[i:j]
	lo, hi := min(off, old[0].off), max(end, old[len(old)-1].end())
	n := int(hi - lo)
	base := old[0]
	if base.off != lo || n > len(base.buf.b) {
		// A new buffer for the union. A run that grew this far once will grow on.
		base = &piece{off: lo, buf: pool.get(wantBuffer(n, lo, grow || n >= 256<<10)), seq: seq}
		taken += len(base.buf.b)
	}
	for _, p := range old {
		if p != base {
			copy(base.buf.b[p.off-lo:], p.data())
			taken -= len(p.buf.b)
			pool.put(p.buf)
		}
		base.seq = min(base.seq, p.seq)
	}
	base.n = n
	copy(base.buf.b[off-lo:], data)
	*ps = slices.Replace(*ps, i, j, base)
	return taken
}

// wantBuffer is the buffer size to ask for n bytes at off: all the rest of the
// chunk if more will follow.
func wantBuffer(n int, off uint64, grow bool) int {
	if grow {
		return int(chunkSize - off%chunkSize)
	}
	return n
}

// cut drops everything at and above size. It returns the buffer bytes given back.
func (ps *pieces) cut(pool *bufPool, size uint64) (freed int) {
	keep := (*ps)[:0]
	for _, p := range *ps {
		if p.off >= size {
			freed += len(p.buf.b)
			pool.put(p.buf)
			continue
		}
		p.n = min(p.n, int(min(size-p.off, chunkSize)))
		keep = append(keep, p)
	}
	clear((*ps)[len(keep):])
	*ps = keep
	return freed
}

// overlay copies what of [off, off+len(dst)) is in ps to dst.
func (ps pieces) overlay(off uint64, dst []byte) {
	end := off + uint64(len(dst))
	i, j := ps.touching(off, end)
	for _, p := range ps[i:j] {
		lo, hi := max(off, p.off), min(end, p.end())
		if lo < hi {
			copy(dst[lo-off:hi-off], p.data()[lo-p.off:])
		}
	}
}

// bytes is the sum of the lengths, buffered that of the buffers.
func (ps pieces) bytes() (n int) {
	for _, p := range ps {
		n += p.n
	}
	return n
}

func (ps pieces) buffered() (n int) {
	for _, p := range ps {
		n += len(p.buf.b)
	}
	return n
}

// end is where the last piece ends; 0 if there is none.
func (ps pieces) end() uint64 {
	if len(ps) == 0 {
		return 0
	}
	return ps[len(ps)-1].end()
}

// release gives all buffers back.
func (ps pieces) release(pool *bufPool) {
	for _, p := range ps {
		pool.put(p.buf)
		p.buf = nil
	}
}

// uncovered appends to gaps the parts of the spans in that ps does not cover.
func (ps pieces) uncovered(in []span, gaps []span) []span {
	for _, s := range in {
		i, j := ps.touching(s.off, s.end)
		for _, p := range ps[i:j] {
			if p.off > s.off {
				gaps = append(gaps, span{s.off, min(p.off, s.end)})
			}
			s.off = max(s.off, min(p.end(), s.end))
		}
		if s.off < s.end {
			gaps = append(gaps, s)
		}
	}
	return gaps
}

// span is the byte range [off, end) of a file.
type span struct{ off, end uint64 }
