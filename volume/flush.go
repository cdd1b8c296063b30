package volume

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Limits of one flush and of one CommitData command.
const (
	inlineMax = 4 << 10 // bytes that are flushed into the metadata instead of blocks
	// inlineScattered is the same where no piece is longer than inlineMax.
	inlineScattered = 64 << 10
	// commitInline is how many bytes in the metadata make a command long enough.
	commitInline   = 128 << 10
	pageSize       = 4 << 10 // an inline extent lies in one page
	commitExtents  = 512
	flushRetryMin  = 20 * time.Millisecond
	flushRetryMax  = 2 * time.Second
	flushHardTries = 10 // tries of an error that looks final but may be of one server
)

// flushed are the pieces of one chunk whose blocks are durable.
type flushed struct {
	ch   *chunk
	exts []newExtent
	end  uint64
}

// inlined is how many of its bytes travel in the command.
func (f *flushed) inlined() (n int) {
	for i := range f.exts {
		n += len(f.exts[i].seg.inline)
	}
	return n
}

// newExtent is one piece (or a page of it) in its new place.
type newExtent struct {
	seg segment
	src *piece
}

// flushLocked starts to flush what is dirty in [off, end) and is not being
// flushed yet. If that is little, it goes into the metadata. e.mu is held.
func (v *Volume) flushLocked(e *inode, off, end uint64) {
	chunks := e.in(off, end)
	inline := little(chunks)
	for _, ch := range chunks {
		if len(ch.dirty) > 0 && len(ch.flushing) == 0 {
			v.flushChunk(e, ch, inline)
		}
	}
}

// little reports whether what is dirty in chunks, for which somebody waits, goes into the metadata: little altogether, or some pieces of which each
// would be, for as a block each costs as many shards, and syncs, as one of 32 KiB.
func little(chunks []*chunk) bool {
	n, longest := 0, 0
	for _, ch := range chunks {
		for _, p := range ch.dirty {
			n += p.n
			longest = max(longest, p.n)
		}
	}
	return n <= inlineMax || n <= inlineScattered && longest <= inlineMax
}

// flushChunk starts the flush of one chunk. e.mu is held.
func (v *Volume) flushChunk(e *inode, ch *chunk, inline bool) {
	ps := ch.dirty
	if ps[0].off/chunkSize >= e.frozen {
		return
	}
	ch.flushing, ch.dirty = ps, nil
	ch.leaving, ch.hold = ch.hold, nil
	ch.leavingUnlimited, ch.unlimited = ch.unlimited, false
	ch.leavingCalls, ch.calls = ch.calls, nil
	v.dirty.flushStarted(int64(ps.buffered()))
	ok := v.spawn(func() {
		// If the lease is lost meanwhile the chunk is taken out of the inode, or, if the command is under way,
		// the command's epoch is not that of any lease any more.
		written := ps
		if !inline {
			written = v.bridge(e, ch, ps)
		}
		if exts, err := v.place(e, written, inline, chunkSize); err != nil {
			v.dropFlushing(e, ch, err)
		} else {
			v.commitReady(e, flushed{ch: ch, exts: exts, end: ps.end()})
		}
	})
	if !ok {
		ch.dirty, ch.flushing = ps, nil
		ch.hold, ch.leaving = ch.leaving, nil
		ch.unlimited, ch.leavingUnlimited = ch.leavingUnlimited, false
		ch.calls, ch.leavingCalls = ch.leavingCalls, nil
		v.dirty.flushStarted(-int64(ps.buffered()))
	}
}

// retry runs f until it succeeds, fails for good, or the volume is closed.
func (v *Volume) retry(what string, f func() error) error { return v.retryIn(v.ctx, what, f) }

// retryIn is retry for as long as ctx lasts.
func (v *Volume) retryIn(ctx context.Context, what string, f func() error) error {
	wait := flushRetryMin
	for try := 1; ; try++ {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return vfs.Wrap(what, ctx.Err())
		}
		switch k := vfs.KindOf(err); {
		case k.Retryable() || k == vfs.KindCanceled:
		case (k == vfs.KindIO || k == vfs.KindInternal || k == vfs.KindCorrupt) && try < flushHardTries:
		default:
			return err
		}
		if n := v.troubles.failed(what, v.cfg.Now()); n > 0 {
			v.cfg.Logger.Warn("volume: trying again", "what", what, "try", try, "failures", n, "err", err)
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
			return vfs.Wrap(what, ctx.Err())
		}
		wait = min(2*wait, flushRetryMax)
	}
}

// commitReady hands written blocks to the inode's committer, and is the
// committer if there is none.
func (v *Volume) commitReady(e *inode, f flushed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ready = append(e.ready, f)
	e.gathering.changed()
	if !e.committing {
		e.committing = true
		v.drain(e)
	}
}

// drain commits what is ready, and ends the caller's being the committer. e.mu
// is held, and released meanwhile.
func (v *Volume) drain(e *inode) {
	for len(e.ready) > 0 {
		if f := e.ready[0]; e.cutLoose(f.ch) {
			e.ready = slices.Delete(e.ready, 0, 1)
			v.settleIDs(f.exts)
			v.flushedChunk(e, f.ch)
			continue
		}
		// As many as fit one command, but always one.
		n, exts, bytes, calls := 1, len(e.ready[0].exts), e.ready[0].inlined(), len(e.ready[0].ch.leavingCalls)
		for n < len(e.ready) && exts+len(e.ready[n].exts) <= commitExtents && bytes+e.ready[n].inlined() <= commitInline &&
			calls+len(e.ready[n].ch.leavingCalls) <= commitCalls && !e.cutLoose(e.ready[n].ch) {
			exts += len(e.ready[n].exts)
			bytes += e.ready[n].inlined()
			calls += len(e.ready[n].ch.leavingCalls)
			n++
		}
		batch := slices.Clone(e.ready[:n])
		e.ready = slices.Delete(e.ready, 0, n)
		began := time.Now()
		v.commitBatch(e, batch)
		v.gather(e, piecesIn(batch)+piecesIn(e.ready), time.Since(began))
	}
	e.committing = false
	e.wake()
}

// quiesce waits until no CommitData of e is under way and makes the caller the
// committer, who must drain.
func (v *Volume) quiesce(ctx context.Context, e *inode, op string) error {
	for {
		e.mu.Lock()
		if !e.committing {
			e.committing = true
			e.mu.Unlock()
			return nil
		}
		wait := e.notify
		e.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return vfs.Wrap(op, ctx.Err())
		}
	}
}

// commitBatch makes flushed bytes part of the file. e.mu is held, and released
// while the command is under way.
func (v *Volume) commitBatch(e *inode, batch []flushed) {
	var exts []newExtent
	var calls []dataCall
	end := uint64(0)
	var may grant
	for _, f := range batch {
		f.ch.leavingCalls = unanswered(f.ch.leavingCalls)
		calls = append(calls, f.ch.leavingCalls...)
		exts = append(exts, f.exts...)
		end = max(end, f.end)
		may.add(f.ch)
	}
	// The last of what is dirty carries the newest value shown.
	last := len(e.ready) == 0 && len(e.chunks) == len(batch)
	for _, f := range batch {
		last = last && len(f.ch.dirty) == 0
	}
	epoch := e.lease.Epoch
	err := v.commitExtents(e, epoch, exts, calls, end, last, &may)
	v.settleIDs(exts)
	taken := may.taken
	for _, f := range batch {
		if h := f.ch.leaving; h != nil {
			part := min(taken, h.bytes)
			v.quota.settle(h, part)
			taken -= part
			f.ch.leaving = nil
		}
		if err != nil {
			v.drop(e, f.ch, err)
		} else {
			v.flushedChunk(e, f.ch)
		}
	}
	switch kindOfCommand(err) {
	case vfs.KindFenced, vfs.KindUnknownOrigin:
		if e.lease.Epoch == epoch { // else it was lost before, and what is dirty is under another one
			v.loseLease(e, err)
		}
	case vfs.KindStale:
		v.kill(e)
	case vfs.KindOK:
		if len(e.chunks) == 0 && e.over.seq == e.told {
			e.over = overlay{} // the metadata knows it all
		}
	}
	e.wake()
}

// commitExtents runs the CommitData command of exts, in halves if it is too
// large, under the lease of an epoch and no other. e.mu is held, and released meanwhile.
func (v *Volume) commitExtents(e *inode, epoch uint64, exts []newExtent, calls []dataCall, end uint64, last bool, may *grant) error {
	if e.dead {
		return vfs.KindStale.Err("commit")
	}
	if !e.leased() || e.lease.Epoch != epoch {
		return vfs.Errorf(vfs.KindFenced, "commit", "the write lease of inode %d is gone", e.ino)
	}
	cd := &metapb.CommitData{
		Ino: uint64(e.ino), Epoch: epoch, Size: end, Change: e.commitChange(last),
		Reserved: may.reserved - may.taken, Unlimited: may.unlimited,
	}
	// Blocks of several chunks are ready in any order.
	slices.SortFunc(exts, func(a, b newExtent) int {
		if a.seg.off < b.seg.off {
			return -1
		}
		return 1
	})
	cd.Extents, cd.Calls = pbExtents(exts), pbDataCalls(calls, exts)
	seq := e.over.seq
	if e.over.times {
		cd.Mtime = pbTime(e.over.time)
	}
	if e.over.setID {
		cd.ClearSetid, cd.ClearSetidUid = true, nobody.UID
	}
	ctx := vfs.WithRequest(v.ctx, e.request)
	e.mu.Unlock()
	var r *metapb.Result
	err := v.retry("commit", func() (err error) {
		r, err = v.apply(ctx, "commit", nil, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: cd}})
		return err
	})
	e.mu.Lock()
	if vfs.KindOf(err) == vfs.KindTooMany && len(exts) > 1 {
		half := len(exts) / 2
		if err := v.commitExtents(e, epoch, exts[:half], calls, exts[half-1].seg.end, false, may); err != nil {
			return err
		}
		return v.commitExtents(e, epoch, exts[half:], calls, end, last, may)
	}
	if vfs.KindOf(err) == vfs.KindTooMany {
		return v.resplit(e, epoch, exts[0], calls, end, last, may)
	}
	if err != nil {
		return err
	}
	may.taken += r.GetCommit().GetTaken()
	v.quota.learn(r.GetCommit().GetAttr().GetProject(), r.GetCommit().GetLimited())
	if e.lease.Epoch != epoch {
		return nil // it was lost meanwhile: what is true now is not known by this
	}
	for i := range exts {
		s := &exts[i].seg
		e.ext.put(*s)
		e.extChanged(span{s.off, s.end})
	}
	a := attrOf(r.GetCommit().GetAttr())
	e.extChange, e.told = a.Change, seq
	e.learn(a)
	v.noteFragments(e, exts)
	e.extend(r.GetCommit().GetLease())
	return nil
}

// commitChange is the change value of a CommitData: the newest one shown if
// nothing dirty remains after it, else one that was never shown. e.mu is held.
func (e *inode) commitChange(last bool) uint64 {
	c := e.shown
	if !last {
		c = e.meta.Change + 1
		if c%changeStep == e.shown%changeStep {
			c++
		}
		// None left: the state machine skips the lease's range, which shows.
		if c >= e.shown {
			c = 0
		}
	}
	if c > e.lease.ChangeLimit {
		c = 0
	}
	return c
}

// resplit commits one extent that replaces too many others as two blocks, each
// of which replaces half of them. e.mu is held, and released meanwhile.
func (v *Volume) resplit(e *inode, epoch uint64, x newExtent, calls []dataCall, end uint64, last bool, may *grant) error {
	n := x.seg.end - x.seg.off
	if n <= pageSize {
		return vfs.Errorf(vfs.KindInternal, "commit", "%d bytes are too many for one command", n)
	}
	half := (n/2 + pageSize - 1) / pageSize * pageSize
	a, b := newExtent{src: x.src}, newExtent{src: x.src}
	a.seg.off, a.seg.end = x.seg.off, x.seg.off+half
	b.seg.off, b.seg.end = x.seg.off+half, x.seg.end
	exts := []newExtent{a, b}
	e.mu.Unlock()
	err := v.writeBlocks(e, exts)
	e.mu.Lock()
	defer v.settleIDs(exts)
	if err != nil {
		return err
	}
	if err := v.commitExtents(e, epoch, exts[:1], calls, a.seg.end, false, may); err != nil {
		return err
	}
	return v.commitExtents(e, epoch, exts[1:], calls, end, last, may)
}

// cutLoose reports whether ch, which is being flushed, was taken out of e: its bytes were told lost. e.mu is held.
func (e *inode) cutLoose(ch *chunk) bool { return e.chunks[ch.flushing[0].off/chunkSize] != ch }

// flushedChunk frees what a chunk had in flight, which is durable or lost now. e.mu is held.
func (v *Volume) flushedChunk(e *inode, ch *chunk) {
	loose := e.cutLoose(ch)
	freed := ch.flushing.buffered()
	index := ch.flushing[0].off / chunkSize
	ch.flushing.release(&v.pool)
	ch.flushing = nil
	v.unbridge(ch)
	v.quota.settle(ch.leaving, 0)
	ch.leaving, ch.leavingUnlimited, ch.leavingCalls = nil, false, nil
	v.dirty.flushDone(int64(freed))
	switch {
	case loose:
	case len(ch.dirty) == 0:
		delete(e.chunks, index)
		v.dirty.clean(e)
	case len(ch.dirty) == 1 && ch.dirty[0].n == chunkSize:
		v.flushChunk(e, ch, false) // it filled up meanwhile
	}
}

// drop loses what a chunk had in flight. e.mu is held.
func (v *Volume) drop(e *inode, ch *chunk, err error) {
	loose := e.cutLoose(ch)
	v.flushedChunk(e, ch)
	if !e.dead && !loose {
		v.lost(e, err)
		e.shrink()
	}
}

// dropFlushing is drop for a flush whose blocks could not be written.
func (v *Volume) dropFlushing(e *inode, ch *chunk, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v.drop(e, ch, err)
	e.wake()
}

// shrink takes the size of lost bytes from the overlay. The content changed, so
// that shows. e.mu is held.
func (e *inode) shrink() {
	size := uint64(0)
	for _, ch := range e.chunks {
		size = max(size, ch.flushing.end(), ch.dirty.end())
	}
	e.over.size = size
	if e.mayWrite() {
		e.shown = e.top() + changeStep
	}
}

// flusher flushes what is old, or what is in the way of writers, and retires old ranges of ids.
func (v *Volume) flusher() {
	tick := time.NewTicker(min(v.cfg.FlushAge, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.dirty.kick:
			v.flushOldest(v.dirty.excess())
		case <-tick.C:
			v.flushAged(v.cfg.Now().Add(-v.cfg.FlushAge))
			v.ids.retire(v)
		}
	}
}

// dirtyChunk is a chunk that could be flushed.
type dirtyChunk struct {
	e     *inode
	index uint64
	since time.Time
	bytes int64
}

// dirtyChunks lists the dirty chunks, oldest first.
func (v *Volume) dirtyChunks() (chunks []dirtyChunk) {
	for _, e := range v.dirty.list() {
		e.mu.Lock()
		for i, ch := range e.chunks {
			if len(ch.dirty) > 0 && len(ch.flushing) == 0 {
				chunks = append(chunks, dirtyChunk{e, i, ch.since, int64(ch.dirty.buffered())})
			}
		}
		e.mu.Unlock()
	}
	slices.SortFunc(chunks, func(a, b dirtyChunk) int { return a.since.Compare(b.since) })
	return chunks
}

// flushOldest starts flushes of at least n bytes of buffers, as far as there are.
func (v *Volume) flushOldest(n int64) {
	if n <= 0 {
		return
	}
	for _, c := range v.dirtyChunks() {
		if n <= 0 {
			return
		}
		v.flushOne(c)
		n -= c.bytes
	}
}

// flushAged starts flushes of what was written before t.
func (v *Volume) flushAged(t time.Time) {
	for _, c := range v.dirtyChunks() {
		if c.since.Before(t) {
			v.flushOne(c)
		}
	}
}

func (v *Volume) flushOne(c dirtyChunk) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if ch := c.e.chunks[c.index]; ch != nil && len(ch.dirty) > 0 && len(ch.flushing) == 0 {
		v.flushChunk(c.e, ch, ch.dirty.bytes() <= inlineMax)
	}
}

// flushAll makes everything durable.
func (v *Volume) flushAll(ctx context.Context) error {
	dirty := v.dirty.list()
	for _, e := range dirty {
		e.mu.Lock()
		v.flushLocked(e, 0, maxOffset)
		e.mu.Unlock()
	}
	var first error
	for _, e := range dirty {
		e.mu.Lock()
		seq := e.seq
		e.mu.Unlock()
		if err := v.sync(ctx, e, span{0, maxOffset}, seq, anyLosses, "close"); err != nil && first == nil && vfs.KindOf(err) != vfs.KindStale {
			first = err
		}
	}
	return first
}
