package store

import (
	"context"
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
	// the order of keys.
	keys []segment.Key
	olds []*location

	seg    *seg
	header segment.Header // of seg
	epoch  uint32         // a Put's epoch, counted in pgState.running

	entered bool          // in the index, or given up; guarded by Store.mu
	err     error         // set before done is closed
	done    chan struct{} // closed when the outcome is known
}

// controlReserve is what Puts leave free at the end of a segment, so that a
// full store can still record deletions.
func (s *Store) controlReserve() int64 {
	return min(256<<10, s.o.SegmentSize/16) / segment.PageSize * segment.PageSize
}

// reserve gives o a place in the log.
func (s *Store) reserve(ctx context.Context, o *op) error {
	size := int64(segment.RecordLen(int(o.rec.Length)))
	kept := int64(0)
	if o.rec.Kind == segment.KindShard {
		kept = s.controlReserve()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.failed != nil {
			return s.failed
		}
		if s.active != nil && s.next+size+kept <= s.active.header.End() {
			o.seg, o.header, o.rec.Offset = s.active, s.active.header, s.next
			s.next += size
			s.queue = append(s.queue, o)
			if s.next > s.o.SegmentSize/2 && len(s.spares) == 0 {
				s.askSegment()
			}
			return nil
		}
		if len(s.spares) > 0 {
			if err := s.activate(); err != nil {
				s.fail(err)
			}
			continue
		}
		attempt := s.attempt
		s.askSegment()
		s.mu.Unlock()
		var err error
		select {
		case <-attempt:
		case <-s.stop:
			err = vfs.Errorf(vfs.KindUnavailable, "store.write", "%s is closing", s.o.Dir)
		case <-ctx.Done():
			err = vfs.Wrap("store.write", ctx.Err())
		}
		s.mu.Lock()
		if err != nil {
			return err
		}
		if len(s.spares) == 0 && s.attemptErr != nil {
			return s.attemptErr
		}
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
	g.header = h
	s.active, s.next = g, segment.HeaderSize
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

func (s *Store) askSegment() {
	select {
	case s.prepare <- struct{}{}:
	default:
	}
}

// append writes o into the log and waits until it is durable and in the index.
// When ctx ends first, o still completes; data is not used after append returns.
func (s *Store) append(ctx context.Context, o *op, data []byte, crcs []uint32) error {
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
	s.mu.Lock()
	s.pending = append(s.pending, o)
	s.wake.Signal()
	s.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return vfs.Wrap("store.write", ctx.Err())
	}
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
	return position{}
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
		if inc := group[len(group)-1].header.Incarnation; err == nil && inc > lastFlush {
			if lastFlush != 0 {
				if _, err := s.db.AsyncFlush(); err != nil {
					s.log.Error("index flush", "err", err)
				}
			}
			lastFlush = inc
		}
	}
}

// syncGroup makes the group's records durable.
func (s *Store) syncGroup(group []*op) error {
	var synced []*seg
next:
	for _, o := range group {
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
	b := s.db.NewBatch()
	defer b.Close()
	c := newChange(b)
	for _, o := range group {
		if err := s.enterOp(c, o); err != nil {
			return err
		}
	}
	s.mu.Lock()
	for _, o := range group {
		s.enter1(o)
	}
	pos := s.position()
	s.mu.Unlock()
	if err := c.commit(s.super.store, pos, s.live); err != nil {
		return err
	}
	s.mu.Lock()
	for _, d := range c.live {
		s.liveTotal += d
	}
	s.m.LiveBytes.Set(float64(s.liveTotal))
	s.mu.Unlock()
	return nil
}

func (s *Store) enterOp(c *change, o *op) error {
	switch o.rec.Kind {
	case segment.KindShard:
		if err := c.set(o.keys[0], locate(o.header.File, &o.rec), o.olds[0]); err != nil {
			return err
		}
		return s.enterEpoch(c, o.rec.PG, o.rec.Epoch)
	case segment.KindDeletions:
		for i, k := range o.keys {
			if err := c.delete(k, *o.olds[i]); err != nil {
				return err
			}
		}
	case segment.KindEpochs:
		for _, e := range segment.DecodeEpochs(o.data) {
			if err := s.enterEpoch(c, e.PG, e.Epoch); err != nil {
				return err
			}
		}
	}
	return nil
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
		for _, k := range o.keys {
			s.unclaim(k)
		}
		if o.rec.Kind == segment.KindShard {
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

// unclaim ends a claim. Called with mu held.
func (s *Store) unclaim(k segment.Key) {
	close(s.busy[k])
	delete(s.busy, k)
}
