package memfs

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

var (
	_ vfs.Allocator = (*FS)(nil)
	_ vfs.Seeker    = (*FS)(nil)
	_ vfs.Cloner    = (*FS)(nil)
)

// pageRange is the pages [lo, hi) of a file.
type pageRange struct{ lo, hi uint64 }

// reserve keeps space for the pages of [lo, hi) that are neither there nor reserved; it returns how many those are.
// What a crash takes back of a reserved page is a hole after it.
func (fs *FS) reserve(n *inode, lo, hi uint64, dry bool) (count uint64) {
	taken := append([]pageRange(nil), n.reserved...)
	for i := range n.pages {
		taken = append(taken, pageRange{i, i + 1})
	}
	slices.SortFunc(taken, func(a, b pageRange) int { return int(int64(a.lo - b.lo)) })
	var add []pageRange
	at := lo
	for _, t := range taken {
		if t.lo > at && at < hi {
			add = append(add, pageRange{at, min(t.lo, hi)})
		}
		at = max(at, t.hi)
	}
	if at < hi {
		add = append(add, pageRange{at, hi})
	}
	for _, a := range add {
		count += a.hi - a.lo
	}
	if !dry {
		n.reserved = append(n.reserved, add...)
		fs.use(n, int64(count))
	}
	return count
}

// unreserve gives back what of [lo, hi) was reserved.
func (fs *FS) unreserve(n *inode, lo, hi uint64) {
	var keep []pageRange
	for _, r := range n.reserved {
		if lo >= r.hi || hi <= r.lo {
			keep = append(keep, r)
			continue
		}
		fs.use(n, -int64(min(hi, r.hi)-max(lo, r.lo)))
		if r.lo < lo {
			keep = append(keep, pageRange{r.lo, lo})
		}
		if hi < r.hi {
			keep = append(keep, pageRange{hi, r.hi})
		}
	}
	n.reserved = keep
}

func (fs *FS) use(n *inode, pages int64) {
	n.attr.Used += uint64(pages * pageSize)
	fs.usedBytes += uint64(pages * pageSize)
}

// written ends an operation that changed content.
func (fs *FS) written(c *vfs.Cred, n *inode) {
	n.attr.Mode = vfs.ModeAfterWrite(c, &n.attr)
	n.modified(fs.now())
}

// Allocate implements vfs.Allocator.
func (fs *FS) Allocate(_ context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "allocate"
	if n == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "no bytes")
	}
	if err := vfs.CheckEnd(off, n, op); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, err := fs.getFile(ino, op)
	if err != nil {
		return err
	}
	lo, hi := off/pageSize, (off+n-1)/pageSize+1
	if need := fs.reserve(f, lo, hi, true); need > (fs.capacityBytes-min(fs.usedBytes, fs.capacityBytes))/pageSize {
		return vfs.Errorf(vfs.KindNoSpace, op, "%d pages", need)
	}
	fs.makeDurable(f)
	fs.reserve(f, lo, hi, false)
	f.attr.Size = max(f.attr.Size, off+n)
	fs.written(c, f)
	return nil
}

// Deallocate implements vfs.Allocator.
func (fs *FS) Deallocate(_ context.Context, c *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	const op = "deallocate"
	if n == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "no bytes")
	}
	if err := vfs.CheckEnd(off, n, op); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, err := fs.getFile(ino, op)
	if err != nil {
		return err
	}
	fs.makeDurable(f)
	end := off + n
	if lo, hi := (off+pageSize-1)/pageSize, end/pageSize; lo < hi {
		fs.unreserve(f, lo, hi)
	}
	for i, p := range f.pages {
		from, to := max(off, i*pageSize), min(end, (i+1)*pageSize)
		switch {
		case from >= to:
		case to-from == pageSize:
			fs.setPage(f, i, nil)
		default:
			q := *p
			clear(q[from-i*pageSize : to-i*pageSize])
			fs.setPage(f, i, &q)
		}
	}
	fs.written(c, f)
	return nil
}

// Seek implements vfs.Seeker: pages are data.
func (fs *FS) Seek(_ context.Context, ino vfs.Ino, off uint64, what vfs.SeekFor) (vfs.SeekResult, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getFile(ino, "seek")
	if err != nil {
		return vfs.SeekResult{}, err
	}
	res := vfs.SeekResult{Offset: n.attr.Size, Size: n.attr.Size}
	if off >= res.Size {
		return res, nil
	}
	if what == vfs.SeekHole {
		at := off
		for n.pages[at/pageSize] != nil {
			at = (at/pageSize + 1) * pageSize
		}
		res.Offset = min(at, res.Size)
		return res, nil
	}
	for i := range n.pages {
		if (i+1)*pageSize > off {
			res.Offset = min(res.Offset, max(off, i*pageSize))
		}
	}
	return res, nil
}

// Clone implements vfs.Cloner. Pages are immutable, so they are shared.
func (fs *FS) Clone(_ context.Context, c *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	const op = "clone"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s, err := fs.getFile(src, op)
	if err != nil {
		return err
	}
	d, err := fs.getFile(dst, op)
	if err != nil {
		return err
	}
	n, err = vfs.CheckClone(src, srcOff, s.attr.Size, dst, dstOff, n, op)
	if err != nil || n == 0 {
		return err
	}
	fs.makeDurable(s)
	fs.makeDurable(d)
	first, last := dstOff/pageSize, (dstOff+n-1)/pageSize
	fresh := make(map[uint64]*page)
	for i, p := range s.pages {
		if j := first + i - srcOff/pageSize; i >= srcOff/pageSize && j <= last {
			fresh[j] = p
		}
	}
	if end := dstOff + n; end%pageSize != 0 && d.pages[last] != nil { // what is behind the range stays
		q := *d.pages[last]
		clear(q[:end%pageSize])
		if p := fresh[last]; p != nil {
			copy(q[:end%pageSize], p[:])
		}
		fresh[last] = &q
	}
	for i := range d.pages {
		if i >= first && i <= last {
			fs.setPage(d, i, nil)
		}
	}
	fs.unreserve(d, first, (dstOff+n)/pageSize)
	for i, p := range fresh {
		fs.setPage(d, i, p)
	}
	d.attr.Size = max(d.attr.Size, dstOff+n)
	fs.written(c, d)
	return nil
}
