package store

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// op is a record on its way into the log and the index.
type op struct {
	rec  segment.Record
	data []byte // of a deletions or epochs record
	// olds is where the shards were that the record replaces or deletes, in
	// the order of keys; wasBad which of them were marked bad.
	keys   []segment.Key
	olds   []*location
	wasBad []bool

	purpose purpose
	waited  bool          // for space, at least once
	space   chan struct{} // closed when it is worth trying again, after errWait
	// admitted ops are in Store.inflight. Guarded by Store.mu.
	admitted bool
	mark     bool // no record: the shard keys[0] at olds[0] is bad

	seg    *seg
	header segment.Header // of seg
	epoch  uint32         // a Put's epoch, counted in pgState.running

	entered bool          // in the index, or given up; guarded by Store.mu
	err     error         // set before done is closed
	done    chan struct{} // closed when the outcome is known
}

// purpose says on whose behalf a record is written, and so how much of the reserve it may take.
type purpose uint8

const (
	forPut        purpose = iota // a client's shard
	forControl                   // deletions and epochs
	forCompaction                // shards and deletions that move
)

// The reserve: segments that must be left, free or possible to make, by what is written. Deletions
// never wait for Puts, and compaction never for deletions, so a full store can always be told what to
// forget and win the space back.
const (
	reservePuts    = 2
	reserveControl = 1
)

func (p purpose) leaves() int {
	switch p {
	case forPut:
		return reservePuts
	case forControl:
		return reserveControl
	}
	return 0
}

// controlReserve is what Puts leave free at the end of a segment, so that deletions in a
// full store do not have to begin a new one at once.
func (s *Store) controlReserve() int64 {
	return min(256<<10, s.o.SegmentSize/16) / segment.PageSize * segment.PageSize
}

// reserve gives o a place in the log. One that has keys and must wait is refused with errWait.
func (s *Store) reserve(ctx context.Context, o *op) error {
	size := int64(segment.RecordLen(int(o.rec.Length)))
	kept := int64(0)
	if o.purpose == forPut {
		kept = s.controlReserve()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for waited := o.waited; ; waited = true {
		for {
			if s.failed != nil {
				return s.failed
			}
			left := len(s.spares) + s.room - o.purpose.leaves()
			if s.active != nil && s.next+size+kept <= s.active.header.End() && left >= 0 {
				if !o.admitted {
					if s.paused != nil {
						if err := s.admit(ctx, o); err != nil {
							return err
						}
						s.dismiss(o)
						continue // all of it may be different now
					}
					o.admitted = true
					s.inflight++
				}
				o.seg, o.header, o.rec.Offset = s.active, s.active.header, s.next
				s.next += size
				s.ahead.append(size)
				s.queue = append(s.queue, o)
				if s.next > int64(aheadAt*float64(s.o.SegmentSize)) && !s.asked && len(s.spares) < 1+max(reservePuts-s.room, 0) {
					s.asked = true
					s.wakePreparer()
				}
				return nil
			}
			if len(s.spares) == 0 || left < 1 {
				break
			}
			if err := s.activate(); err != nil {
				s.fail(err)
			}
		}
		// Compaction waits for the preparer alone, since others' attempts end with its own work.
		ch, outcome := s.attempt, &s.attemptErr
		if o.purpose == forCompaction {
			ch, outcome = s.made, &s.makeErr
		}
		if waited && *outcome != nil {
			return *outcome
		}
		s.askSegment()
		if len(o.keys) > 0 && o.purpose != forCompaction {
			// The caller gives its claims up before it waits: compaction may need them to make space.
			o.space = ch
			return errWait
		}
		s.mu.Unlock()
		err := s.awaitSpace(ctx, ch)
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// errWait says that a record finds no place now. The caller waits for op.space and begins again.
var errWait = errors.New("no space yet")

func (s *Store) awaitSpace(ctx context.Context, ch chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-s.stop:
		return vfs.Errorf(vfs.KindUnavailable, "store.write", "%s is closing", s.o.Dir)
	case <-ctx.Done():
		return vfs.Wrap("store.write", ctx.Err())
	}
}

// activate takes the next spare segment into use. The header is not synced
// here: the fdatasync that covers the first record covers it too, and until then the
// durable header says that the segment is free. Called with mu held.
func (s *Store) activate() error {
	g := s.spares[0]
	h := g.header
	h.State, h.Incarnation, h.Salt = segment.StateUsed, s.lastInc+1, randomSalt()
	if err := writeHeader(g.f, &h); err != nil {
		return err
	}
	s.spares = s.spares[1:]
	s.lastInc++
	g.header, g.live, g.kept, g.end = h, 0, 0, 0
	s.byInc[h.Incarnation] = g
	s.active, s.next, s.asked = g, segment.HeaderSize, false
	s.gaugeSegments()
	return nil
}

// writeHeader writes both copies of a segment's header.
func writeHeader(f vfile.File, h *segment.Header) error {
	p := h.Encode()
	if _, err := f.WriteAt(p, 0); err != nil {
		return err
	}
	_, err := f.WriteAt(p, h.End())
	return err
}

// askSegment asks for a segment that somebody waits for. Called with mu held.
func (s *Store) askSegment() {
	s.ahead.hurry()
	s.wakePreparer()
}

func (s *Store) wakePreparer() {
	select {
	case s.prepare <- struct{}{}:
	default:
	}
}

// append writes o into the log and waits until it is durable and in the index.
// When ctx ends first, o still completes; data is not used after append returns.
func (s *Store) append(ctx context.Context, o *op, data []byte, crcs []uint32) error {
	if err := s.write(ctx, o, data, crcs); err != nil {
		return err
	}
	return o.wait(ctx)
}

func (o *op) wait(ctx context.Context) error {
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return vfs.Wrap("store.write", ctx.Err())
	}
}

// write writes o into the log and leaves it to the syncer. When it fails, o is finished.
func (s *Store) write(ctx context.Context, o *op, data []byte, crcs []uint32) error {
	o.rec.Length = uint32(len(data))
	if err := s.reserve(ctx, o); err != nil {
		s.finish([]*op{o}, err)
		return err
	}
	buf := wire.GetBuf(segment.HeaderLen(len(data)))
	defer buf.Release()
	err := o.seg.f.WriteVec([][]byte{
		segment.EncodeRecord(buf.B, &o.header, &o.rec, crcs), data, segment.Padding(len(data)),
	}, o.rec.Offset)
	if err != nil {
		// How much of the record is in the log is open until a replay has read it. To go on would
		// be to answer from an index that may not be what the log says: a deletion that
		// failed and is there would take away what was put again after it.
		s.mu.Lock()
		s.fail(err)
		err = s.failed
		s.mu.Unlock()
		s.finish([]*op{o}, err)
		return err
	}
	s.submit(o)
	return nil
}

// submit hands o to the syncer.
func (s *Store) submit(o *op) {
	s.mu.Lock()
	s.pending = append(s.pending, o)
	s.wake.Signal()
	s.mu.Unlock()
}

// enter1 marks o as done with and drops what is done with from the front of
// the queue, so that position advances. Called with mu held.
func (s *Store) enter1(o *op) {
	o.entered = true
	for len(s.queue) > 0 && s.queue[0].entered {
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
}

// position is where a replay must begin given that all entered ops are in the
// index. Called with mu held.
func (s *Store) position() position {
	switch {
	case len(s.queue) > 0:
		return position{s.queue[0].header.Incarnation, s.queue[0].rec.Offset}
	case s.active != nil:
		return position{s.active.header.Incarnation, s.next}
	}
	// Behind everything.
	return position{s.lastInc, s.o.SegmentSize}
}

// syncer is the goroutine that makes records durable and enters them.
func (s *Store) syncer() {
	defer s.wg.Done()
	var lastFlush uint64
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.drain {
			s.wake.Wait()
		}
		s.gather()
		group := s.pending
		s.pending = nil
		err := s.failed
		s.mu.Unlock()
		if len(group) == 0 {
			return
		}
		if err == nil {
			if err = s.syncGroup(group); err == nil {
				err = s.enterGroup(group)
			}
			if err != nil {
				s.mu.Lock()
				s.fail(err)
				err = s.failed
				s.mu.Unlock()
			}
		}
		s.finish(group, err)
		// Saving the index at each new segment bounds a replay to about two segments.
		inc := uint64(0)
		for _, o := range group {
			inc = max(inc, o.header.Incarnation)
		}
		if err == nil && inc > lastFlush {
			if lastFlush != 0 {
				s.flushSoon()
			}
			lastFlush = inc
		}
	}
}

// gatherRounds bounds how often the syncer lets others run first, each of whom may take a while where processors are busy.
const gatherRounds = 4

// gather lets those who can run do so before the fdatasync, as long as that brings more records. Go runs next whom a goroutine has woken, so
// without this the first record of a burst is synced alone, and the scheduler's processor that waits in the fdatasync is not there
// for those who are about to write theirs. It takes no time where nobody else is runnable. Called with mu held, which it gives up.
func (s *Store) gather() {
	for n, round := 0, 0; n < len(s.pending) && round < gatherRounds; round++ {
		n = len(s.pending)
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
}

// flushSoon has the index written, and does not wait for it.
func (s *Store) flushSoon() {
	db, done, err := s.reading()
	if err != nil {
		return
	}
	defer done()
	if _, err := db.AsyncFlush(); err != nil {
		s.log.Error("index flush", "err", err)
	}
}

// syncGroup makes the group's records durable.
func (s *Store) syncGroup(group []*op) error {
	var synced []*seg
next:
	for _, o := range group {
		if o.seg == nil {
			continue
		}
		for _, g := range synced {
			if g == o.seg {
				continue next
			}
		}
		start := time.Now()
		if err := o.seg.f.SyncData(); err != nil {
			return err
		}
		s.m.Syncs.Inc()
		s.m.SyncSeconds.Observe(time.Since(start).Seconds())
		synced = append(synced, o.seg)
	}
	s.m.GroupSize.Observe(float64(len(group)))
	return nil
}

// enterGroup enters durable records into the index.
func (s *Store) enterGroup(group []*op) error {
	b := s.ix.db.NewBatch()
	defer b.Close()
	c := newChange(b)
	for _, o := range group {
		if err := s.enterOp(c, o); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.ahead.groups++
	for _, o := range group {
		s.enter1(o)
	}
	pos := s.position()
	s.mu.Unlock()
	if err := s.commit(c, pos); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos.incarnation > s.entered {
		s.entered = pos.incarnation
		close(s.advanced)
		s.advanced = make(chan struct{})
		s.kickCompactor()
	}
	for f, d := range c.files {
		if g := s.segs[f]; d.live < 0 && g != nil && g != s.active && s.o.CompactPercent > 0 && g.worth(int64(s.o.CompactPercent)) {
			s.kickCompactor()
		}
	}
	if s.isFull && s.dead() >= refillSegments*s.o.SegmentSize {
		s.askSegment() // as a Put would
	}
	return nil
}

func (s *Store) enterOp(c *change, o *op) error {
	for i, k := range o.keys {
		if old := o.olds[i]; old != nil {
			if err := c.retire(k, *old, s.incarnationOf(old.file)); err != nil {
				return err
			}
		}
		if o.wasBad != nil && o.wasBad[i] {
			if err := c.unmarkBad(k); err != nil {
				return err
			}
		}
	}
	if o.mark {
		return c.markBad(o.keys[0], *o.olds[0])
	}
	c.record(o.header.File, &o.rec)
	switch {
	case o.rec.Kind == segment.KindShard:
		if err := c.set(o.keys[0], locate(o.header.File, &o.rec)); err != nil {
			return err
		}
		return s.enterEpoch(c, o.rec.PG, o.rec.Epoch)
	case o.rec.Kind == segment.KindDeletions:
		for i, k := range o.keys {
			if o.olds[i] == nil {
				continue // marked bad, or carried forward
			}
			if err := c.delete(k); err != nil {
				return err
			}
		}
		return c.tombstone(o.header.File, o.header.Incarnation, o.rec.Offset, len(o.data))
	case o.rec.Kind == segment.KindEpochs:
		for _, e := range segment.DecodeEpochs(o.data) {
			if err := s.enterEpoch(c, e.PG, e.Epoch); err != nil {
				return err
			}
		}
	}
	return nil
}

// incarnationOf is that of a file whose records count, 0 if there is none.
func (s *Store) incarnationOf(file uint32) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.segs[file]; g != nil && (g.header.State == segment.StateUsed || g.lost != lossNone) {
		return g.header.Incarnation
	}
	return 0
}

func locate(file uint32, r *segment.Record) location {
	return location{
		file: file, page: uint32(r.Offset / segment.PageSize), length: r.Length,
		epoch: r.Epoch, blockLen: r.BlockLen, k: r.K, m: r.M,
	}
}

// enterEpoch raises the durable epoch of a PG.
func (s *Store) enterEpoch(c *change, pg, epoch uint32) error {
	s.mu.Lock()
	st := s.pg(pg)
	raise := epoch > st.durable
	if raise {
		st.durable = epoch
		st.known = max(st.known, epoch)
	}
	s.mu.Unlock()
	if !raise {
		return nil
	}
	return c.epoch(pg, epoch)
}

// finish tells the group's waiters the outcome and releases what the ops held.
func (s *Store) finish(group []*op, err error) {
	s.mu.Lock()
	for _, o := range group {
		o.err = err
		s.dismiss(o)
		for _, k := range o.keys {
			s.unclaim(k)
		}
		if o.rec.Kind == segment.KindShard && o.purpose == forPut {
			s.endPut(s.pg(o.rec.PG), o.epoch)
		}
	}
	s.mu.Unlock()
	for _, o := range group {
		close(o.done)
	}
}

func (s *Store) pg(id uint32) *pgState {
	st := s.epochs[id]
	if st == nil {
		st = &pgState{running: make(map[uint32]int)}
		s.epochs[id] = st
	}
	return st
}

// endPut counts a Put of the given epoch as ended. Called with mu held.
func (s *Store) endPut(st *pgState, epoch uint32) {
	if st.running[epoch]--; st.running[epoch] == 0 {
		delete(st.running, epoch)
	}
	if st.drained != nil {
		close(st.drained)
		st.drained = nil
	}
}

// claim makes the caller the only one to write or delete the shard. Called with mu held, which it gives up while it waits.
func (s *Store) claim(ctx context.Context, k segment.Key) error {
	for s.busy[k] != nil {
		ch := s.busy[k]
		s.mu.Unlock()
		var err error
		select {
		case <-ch:
		case <-ctx.Done():
			err = vfs.Wrap("store.write", ctx.Err())
		}
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
	s.busy[k] = make(chan struct{})
	return nil
}

// claimFor admits o and claims its shard.
func (s *Store) claimFor(ctx context.Context, o *op, k segment.Key) error {
	err := s.admit(ctx, o)
	if err == nil {
		if err = s.claim(ctx, k); err != nil {
			s.dismiss(o)
		}
	}
	return err
}

// tryClaim is claim without waiting. Called with mu held.
func (s *Store) tryClaim(k segment.Key) bool {
	if s.busy[k] != nil {
		return false
	}
	s.busy[k] = make(chan struct{})
	return true
}

// unclaim ends a claim. Called with mu held.
func (s *Store) unclaim(k segment.Key) {
	close(s.busy[k])
	delete(s.busy, k)
}
