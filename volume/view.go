package volume

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// lendFrom is from which length on what is cached is lent: below, a copy costs less than what goes with a loan.
const lendFrom = 32 << 10

// lentParts bounds the segments that are lent together: those of many small blocks are copied, several blocks at a time.
const lentParts = 2

var _ vfs.Viewer = (*Volume)(nil)

// loan is what a View lends: parts of units, which stay in memory until it ends.
type loan struct {
	cache *blockCache
	units []*unit
	parts [][]byte
}

// View implements vfs.Viewer.
func (v *Volume) View(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (vfs.View, error) {
	if len(p) < lendFrom {
		n, eof, err := v.Read(ctx, ino, off, p)
		return vfs.View{N: n, EOF: eof}, err
	}
	l := &loan{cache: v.cache}
	n, eof, err := v.read(ctx, ino, off, p, l)
	if err != nil || l.units == nil {
		l.end()
		return vfs.View{N: n, EOF: eof}, err
	}
	return vfs.View{N: n, EOF: eof, Lent: l.parts, Release: l.end}, nil
}

// end gives back what was lent.
func (l *loan) end() {
	for _, u := range l.units {
		l.cache.put(u)
	}
	l.units, l.parts = nil, nil
}

// lend lends [off, end), whose segments these are, if all of it is in blocks and is kept in the cache. What is not there yet is read into it. keep as for blockCache.read.
func (l *loan) lend(ctx context.Context, segs []segment, off, end uint64, keep bool) (bool, error) {
	if end-off < lendFrom || len(segs) > lentParts {
		return false, nil
	}
	at := off
	for i := range segs {
		if segs[i].block.ID == 0 || segs[i].off != at {
			return false, nil // or some of it was dirty, and is in the caller's buffer
		}
		at = segs[i].end
	}
	if at != end {
		return false, nil
	}
	for i := range segs {
		s := &segs[i]
		if ok, err := l.add(ctx, s.block, s.blockOff, uint32(s.end-s.off), keep); !ok || err != nil {
			l.end()
			return false, err
		}
	}
	return true, nil
}

// add lends n bytes from off of b; false if one of its units is not to be kept.
func (l *loan) add(ctx context.Context, b Block, off, n uint32, keep bool) (bool, error) {
	c := l.cache
	keep = keep || b.Len <= wholeBlock
	for n > 0 {
		index := off / unitSize
		u, mine := c.get(unitKey{b.ID, index}, keep, false)
		if u == nil {
			return false, nil
		}
		l.units = append(l.units, u)
		if mine {
			c.load(ctx, u, b)
		}
		select {
		case <-u.ready:
		case <-ctx.Done():
			return false, vfs.Wrap("read", ctx.Err())
		}
		if u.err != nil {
			if mine || vfs.KindOf(u.err) == vfs.KindNotFound {
				return false, u.err
			}
			return false, nil // who filled it may have given up for reasons of its own
		}
		in := off - index*unitSize
		m := min(n, uint32(u.n)-in)
		l.parts = append(l.parts, u.buf.b[in:in+m:in+m])
		off, n = off+m, n-m
	}
	return true, nil
}
