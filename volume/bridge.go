package volume

// Pages that are written at random and not waited for lie in many pieces of a chunk, with what was stored before between them. As blocks of their own each
// costs as much as 50 KiB do that are read and written: its shards' calls, an extent, and that it is put together with the others later. So before a chunk is flushed, pieces
// with little between them are joined, with the bytes that are there. What is between is what this gateway, which has the file alone, knows to be there, and nobody changes it until the flush ends: no
// command that does is run while something of the file is being flushed (still, settle), and rewriters move the same bytes.

const (
	// bridgeFrom is how many pieces a chunk has at least for this.
	bridgeFrom = 8
	// bridgeGap is the most that is read and written between two pieces.
	bridgeGap = 32 << 10
	// bridgeSegments bounds the extents that one new block replaces: a command may touch some thousand records.
	bridgeSegments = 512
	// bridgesAtOnce bounds the memory that this takes, a chunk each.
	bridgesAtOnce = 8
)

// bridged are pieces [first, last] of a chunk that become one.
type bridged struct {
	first, last int
	stored      []segment // holds what is between them, and perhaps some of what is in them
}

// bridge returns the pieces that are to be written in the place of ps, which are those of ch that are being flushed. Those that are joined are ch's until its flush ends.
func (v *Volume) bridge(e *inode, ch *chunk, ps pieces) pieces {
	if len(ps) < bridgeFrom {
		return ps
	}
	runs := v.bridges(e, ps)
	if len(runs) == 0 {
		return ps
	}
	select {
	case v.bridging <- struct{}{}:
	case <-v.ctx.Done():
		return ps
	}
	var out, joined pieces
	at := 0
	for i := range runs {
		r := &runs[i]
		out = append(out, ps[at:r.first]...)
		at = r.last + 1
		p, err := v.join(ps[r.first:at], r.stored)
		if err != nil { // they go as they are
			out = append(out, ps[r.first:at]...)
			continue
		}
		out = append(out, p)
		joined = append(joined, p)
	}
	out = append(out, ps[at:]...)
	if joined == nil {
		<-v.bridging
		return ps
	}
	e.mu.Lock()
	ch.joined = joined
	e.mu.Unlock()
	return out
}

// unbridge frees what bridge made. e.mu is held.
func (v *Volume) unbridge(ch *chunk) {
	if ch.joined == nil {
		return
	}
	ch.joined.release(&v.pool)
	ch.joined = nil
	<-v.bridging
}

// bridges says which of ps are to be joined.
func (v *Volume) bridges(e *inode, ps pieces) (runs []bridged) {
	all := span{ps[0].off, ps.end()}
	e.mu.Lock()
	known := e.ext.knows([]span{all})
	e.mu.Unlock()
	if !known && v.loadExtents(v.ctx, e, all.off, all.end-all.off) != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.leased() {
		return nil
	}
	for i := 0; i < len(ps)-1; i++ {
		r := bridged{first: i, last: i}
		for j := i + 1; j < len(ps); j++ {
			if e.ext.between(e.ext.at(ps[i].off), e.ext.at(ps[j].end()-1)) > bridgeSegments {
				break
			}
			stored, ok := e.between(ps[j-1].end(), ps[j].off, r.stored)
			if !ok {
				break
			}
			r.last, r.stored = j, stored
		}
		if r.last > i {
			runs = append(runs, r)
			i = r.last
		}
	}
	return runs
}

// between adds where [off, end) is stored to list; false if it is too long to be read and written, or not all of it is stored. What is in the same block as the
// last of list, a little behind it, is read together with it. e.mu is held.
func (e *inode) between(off, end uint64, list []segment) ([]segment, bool) {
	if end-off > bridgeGap {
		return list, false
	}
	var few [4]segment
	segs, known := e.ext.find(off, end, few[:0])
	if !known {
		return list, false
	}
	for i := range segs {
		if segs[i].block.ID == 0 && segs[i].inline == nil {
			return list, false
		}
	}
	for i := range segs {
		s := &segs[i]
		if n := len(list); n > 0 && s.block.ID != 0 {
			if l := &list[n-1]; l.block == s.block && s.off-l.end <= bridgeGap && uint64(l.blockOff)+s.off-l.off == uint64(s.blockOff) {
				l.end = s.end
				continue
			}
		}
		list = append(list, *s)
	}
	return list, true
}

// join makes one piece of ps, with what is stored between them.
func (v *Volume) join(ps pieces, stored []segment) (*piece, error) {
	off, end := ps[0].off, ps.end()
	p := &piece{off: off, n: int(end - off), buf: v.pool.get(int(end - off)), seq: ps[0].seq}
	var blocks []segment
	for i := range stored {
		if s := &stored[i]; s.inline != nil {
			copy(p.buf.b[s.off-off:], s.inline)
		} else {
			blocks = append(blocks, *s)
		}
	}
	if err := v.readParts(v.ctx, blocks, off, p.data(), false); err != nil {
		v.pool.put(p.buf)
		return nil, err
	}
	for _, q := range ps {
		copy(p.buf.b[q.off-off:], q.data())
		p.seq = min(p.seq, q.seq)
	}
	return p, nil
}
