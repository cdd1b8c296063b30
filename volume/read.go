package volume

import (
	"context"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// extentsAhead is how far beyond a read its extents are asked for, so that a
	// stream asks rarely; extentsPerQuery bounds one answer.
	extentsAhead    = 64 << 20
	extentsPerQuery = 512
	// extentsKept bounds an inode's extent map (64 B each).
	extentsKept = 16384
	// readTries is how often a read that meets vanished blocks starts again.
	readTries = 8
	// readParallel is how many blocks one read asks at once.
	readParallel = 8
)

// picture is what a read needs to know at one instant: how long the file is,
// and where the bytes are that were not dirty. Those that were are in p already.
type picture struct {
	n      int // bytes to return
	eof    bool
	gaps   []segment
	change uint64 // of the contents
}

// Read implements vfs.FS.
func (v *Volume) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
	return v.read(ctx, ino, off, p, nil)
}

// read is Read. If l is not nil, what is read may be lent instead of copied.
func (v *Volume) read(ctx context.Context, ino vfs.Ino, off uint64, p []byte, l *loan) (int, bool, error) {
	const op = "read"
	e := v.acquire(ino)
	defer v.release(e)
	var few [4]segment // mostly enough, and then nothing is allocated
	var failed error   // of the first try, if it may be that of old extents,
	var had []uint64   // and the blocks that those named
	for try := 1; ; try++ {
		pic, err := v.look(ctx, e, off, p, few[:0])
		if err != nil {
			return 0, false, vfs.Wrap(op, err)
		}
		if failed != nil && slices.Equal(had, blocksOf(pic.gaps)) {
			return 0, false, vfs.Wrap(op, failed)
		}
		failed = nil
		err = v.fill(ctx, e, pic.gaps, off, p[:pic.n], l)
		if err == nil {
			v.readAhead(e, off, off+uint64(pic.n))
			v.wasRead(e, pic.change)
			return pic.n, pic.eof, nil
		}
		switch k := vfs.KindOf(err); {
		case k == vfs.KindNotFound: // the block was collected: these extents are old
		case try == 1 && (k == vfs.KindUnavailable || k == vfs.KindCorrupt) && ctx.Err() == nil:
			// They may be, if the store that would say so as well does not answer.
			failed, had = err, blocksOf(pic.gaps)
		default:
			return 0, false, vfs.Wrap(op, err)
		}
		e.mu.Lock()
		e.ext = extentMap{}
		e.extChanged(span{0, maxOffset})
		e.mu.Unlock()
		if try == readTries {
			return 0, false, vfs.Errorf(vfs.KindIO, op, "inode %d names blocks that are gone: %w", e.ino, err)
		}
	}
}

// blocksOf are the ids of the blocks that segments are in.
func blocksOf(segs []segment) (ids []uint64) {
	for i := range segs {
		ids = append(ids, segs[i].block.ID)
	}
	return ids
}

// look takes a picture of [off, off+len(p)), whose gaps may be in the space behind few, and copies what is dirty to p.
func (v *Volume) look(ctx context.Context, e *inode, off uint64, p []byte, few []segment) (picture, error) {
	for {
		e.mu.Lock()
		if e.dead {
			e.mu.Unlock()
			return picture{}, vfs.KindStale.Err("read")
		}
		if e.leased() && e.known {
			if e.meta.Type != vfs.TypeFile {
				e.mu.Unlock()
				_, err := v.fileAttr(ctx, e, "read")
				return picture{}, err
			}
			pic, ok := e.lookLeased(off, p, few)
			e.mu.Unlock()
			if ok {
				return pic, nil
			}
			if err := v.loadExtents(ctx, e, off, uint64(pic.n)); err != nil {
				return picture{}, err
			}
			continue
		}
		e.mu.Unlock()
		pic, ok, err := v.lookUnleased(ctx, e, off, p, few)
		if ok || err != nil {
			return pic, err
		}
	}
}

// newPicture is the picture of a file of size bytes, without its gaps.
func newPicture(size, off uint64, p []byte) picture {
	if off >= size {
		return picture{eof: true}
	}
	n := min(uint64(len(p)), size-off)
	return picture{n: int(n), eof: off+n >= size}
}

// lookLeased is look with the write lease. ok is false if extents must be
// loaded first. e.mu is held.
func (e *inode) lookLeased(off uint64, p []byte, few []segment) (pic picture, ok bool) {
	a := e.attr()
	pic = newPicture(a.Size, off, p)
	pic.change = a.Change
	end := off + uint64(pic.n)
	gaps := []span{{off, end}}
	if pic.n == 0 {
		return pic, true
	}
	chunks := e.in(off, end)
	for _, ch := range chunks {
		gaps = ch.dirty.uncovered(gaps, nil)
		gaps = ch.flushing.uncovered(gaps, nil)
	}
	if !e.ext.knows(gaps) {
		return pic, false
	}
	pic.gaps = few
	for _, g := range gaps {
		pic.gaps, _ = e.ext.find(g.off, g.end, pic.gaps)
	}
	for _, ch := range chunks {
		ch.flushing.overlay(off, p[:pic.n])
		ch.dirty.overlay(off, p[:pic.n])
	}
	return pic, true
}

// lookUnleased is look for a file that others may change: the metadata is asked
// whether what is known of it still holds.
func (v *Volume) lookUnleased(ctx context.Context, e *inode, off uint64, p []byte, few []segment) (picture, bool, error) {
	end := min(off, maxOffset-uint64(len(p))) + uint64(len(p))
	e.mu.Lock()
	segs, cached := e.ext.find(off, end, few)
	at := e.extChange
	e.mu.Unlock()
	if cached && off < end {
		a, err := v.queryAttr(ctx, "read", e.ino)
		if err != nil {
			return picture{}, false, err
		}
		if a.Change == at && a.Type == vfs.TypeFile {
			pic := newPicture(a.Size, off, p)
			pic.gaps, pic.change = clip(segs, off+uint64(pic.n)), at
			return pic, true, nil
		}
	}
	x, err := v.queryExtents(ctx, e, off, uint64(len(p)), false)
	if err != nil {
		return picture{}, false, err
	}
	pic := newPicture(x.size, off, p)
	pic.change = x.change
	if pic.n == 0 {
		return pic, true, nil
	}
	gaps, ok := x.segs.find(off, off+uint64(pic.n), few)
	if !ok {
		return picture{}, false, vfs.Errorf(vfs.KindInternal, "read", "the extents of inode %d are incomplete", e.ino)
	}
	pic.gaps = gaps
	return pic, true, nil
}

// clip drops what is at and above end.
func clip(segs []segment, end uint64) []segment {
	for i := range segs {
		if segs[i].end >= end {
			if segs[i].off >= end {
				return segs[:i]
			}
			segs[i] = segs[i].within(segs[i].off, end)
			return segs[:i+1]
		}
	}
	return segs
}

// loadExtents makes the extents of [off, off+n) known, unless they change
// meanwhile: then the caller looks again.
func (v *Volume) loadExtents(ctx context.Context, e *inode, off, n uint64) error {
	_, err := v.queryExtents(ctx, e, off, n, false)
	return err
}

// extentsAnswer is what the metadata says of a range that begins at the offset
// asked for.
type extentsAnswer struct {
	change, size uint64
	segs         extentMap
}

// queryExtents asks for at least [off, off+n) at one change value, and keeps
// the answer if it is still true when it arrives.
func (v *Volume) queryExtents(ctx context.Context, e *inode, off, n uint64, reserved bool) (extentsAnswer, error) {
	e.mu.Lock()
	gen := e.extGen
	e.mu.Unlock()
	want := min(off, maxOffset-n) + n
	var ans extentsAnswer
	for at := off; ; {
		r, err := v.query(ctx, "read", nil, &metapb.Query{Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{
			Ino: uint64(e.ino), Offset: at, Length: min(want-at+extentsAhead, maxOffset-at), MaxExtents: extentsPerQuery, Reserved: reserved,
		}}})
		if err != nil {
			return ans, err
		}
		x := r.GetExtents()
		if at != off && x.GetChange() != ans.change {
			ans, at = extentsAnswer{}, off // it changed between two pages
			continue
		}
		ans.change, ans.size = x.GetChange(), x.GetSize()
		known := min(at+min(want-at+extentsAhead, maxOffset-at), maxOffset)
		if x.GetNext() != 0 {
			known = x.Next
		}
		if known <= at {
			return ans, vfs.Errorf(vfs.KindInternal, "read", "extents of inode %d: no progress at %d", e.ino, at)
		}
		ans.segs.put(segment{off: at, end: known})
		for _, pe := range x.GetExtents() {
			if !validExtent(pe) {
				return ans, vfs.Errorf(vfs.KindInternal, "read", "inode %d has a bad extent at %d", e.ino, pe.GetOffset())
			}
			s := extentOf(pe)
			if lo, hi := max(s.off, at), min(s.end, known); lo < hi {
				ans.segs.put(s.within(lo, hi))
			}
		}
		if at = known; at >= want || at >= ans.size {
			if at < want { // nothing is beyond the end
				ans.segs.put(segment{off: at, end: want})
			}
			break
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead || !e.leased() && e.extGen != gen {
		return ans, nil
	}
	if !e.leased() && e.extChange != ans.change || e.ext.len()+ans.segs.len() > extentsKept {
		e.ext = extentMap{}
	}
	if !e.leased() {
		e.extChange = ans.change
	}
	for _, leaf := range ans.segs.leaves {
		for _, s := range leaf {
			for _, k := range e.unchanged(span{s.off, s.end}, gen) {
				e.ext.put(s.within(k.off, k.end))
			}
		}
	}
	return ans, nil
}

// fill reads the segments into p, which begins at offset off, or lends them.
func (v *Volume) fill(ctx context.Context, e *inode, segs []segment, off uint64, p []byte, l *loan) error {
	if l != nil {
		if done, err := l.lend(ctx, segs, off, off+uint64(len(p)), e.sequential(off)); done || err != nil {
			return err
		}
	}
	stored, last := 0, 0
	for i := range segs {
		s := &segs[i]
		dst := p[s.off-off : s.end-off]
		switch {
		case s.block.ID != 0:
			stored++
			last = i
		case s.inline != nil:
			copy(dst, s.inline)
		default:
			clear(dst)
		}
	}
	switch stored {
	case 0:
		return nil
	case 1:
		s := &segs[last]
		return v.cache.read(ctx, s.block, s.blockOff, p[s.off-off:s.end-off], e.sequential(off))
	}
	parts := make([]segment, 0, stored)
	for i := range segs {
		if segs[i].block.ID != 0 {
			parts = append(parts, segs[i])
		}
	}
	return v.readParts(ctx, parts, off, p, e.sequential(off))
}

// readParts reads segments of several blocks into p, which begins at offset off, several at a time.
func (v *Volume) readParts(ctx context.Context, parts []segment, off uint64, p []byte, seq bool) error {
	var wg sync.WaitGroup
	errs := make([]error, len(parts))
	slots := make(chan struct{}, readParallel)
	for i := range parts {
		slots <- struct{}{}
		wg.Go(func() {
			s := &parts[i]
			errs[i] = v.cache.read(ctx, s.block, s.blockOff, p[s.off-off:s.end-off], seq)
			<-slots
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
