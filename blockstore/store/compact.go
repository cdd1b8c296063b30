package store

import (
	"context"
	"errors"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// urgentPercent is how much of a segment may be live for it to be emptied when a write needs
	// space: below it, moving at most nine segments' worth of records wins one.
	urgentPercent = 90
	// moveBatchBytes is how much compaction writes before it waits for it to be durable.
	moveBatchBytes = 8 << 20
	// emptyAtOnce is how many segments without anything to keep are recycled under one flush of the index.
	emptyAtOnce = 64
)

var errBroken = errors.New("the store accepts no more writes")

// compacting is what the compactor is asked for. Guarded by Store.mu.
type compacting struct {
	running bool
	urgent  bool         // a write waits for space, or soon will
	pausing func()       // ends a pause of pace; nil: there is none
	restore bool         // segments are lost: write again what only they may have told a new index
	waiters []chan error // of Compact
	// epochsIn is the incarnation of the segment that has the newest record of all epochs: no segment
	// before it holds anything about epochs that is needed.
	epochsIn uint64
}

// kickCompactor makes the compactor look for work.
func (s *Store) kickCompactor() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Compact empties and recycles every segment that is mostly dead, without waiting until the
// store does so by itself.
func (s *Store) Compact(ctx context.Context) error {
	const op = "store.compact"
	if err := s.enter(op); err != nil {
		return err
	}
	defer s.leave()
	done := make(chan error, 1)
	s.mu.Lock()
	s.compacting.waiters = append(s.compacting.waiters, done)
	s.mu.Unlock()
	s.kickCompactor()
	select {
	case err := <-done:
		return err
	case <-s.stop:
		return vfs.Errorf(vfs.KindUnavailable, op, "%s is closing", s.o.Dir)
	case <-ctx.Done():
		return vfs.Wrap(op, ctx.Err())
	}
}

// compactor is the goroutine that wins space back.
func (s *Store) compactor() {
	defer s.background.Done()
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		}
		if s.toRebuild() {
			s.rebuild(s.ctx)
		}
		s.compactAll(s.ctx)
	}
}

// compactAll works until nothing is left to win.
func (s *Store) compactAll(ctx context.Context) {
	s.mu.Lock()
	waiters := s.compacting.waiters
	s.compacting.waiters = nil
	s.mu.Unlock()
	var err error
	for err == nil {
		var p work
		if p, err = s.choose(len(waiters) > 0); err != nil || p.idle() {
			break
		}
		err = s.round(ctx, &p)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("compaction stopped", "err", err)
	}
	s.mu.Lock()
	s.compacting.running = false
	s.m.DeadBytes.Set(float64(s.dead()))
	if s.compacting.urgent {
		s.compacting.urgent = false
		if s.short() {
			s.endAttempt(s.makeErr)
		} else {
			s.endAttempt(nil)
		}
	}
	s.mu.Unlock()
	for _, w := range waiters {
		w <- err
	}
}

// short reports whether a Put that needs a new segment would not get one. Called with mu held.
func (s *Store) short() bool { return len(s.spares)+s.room < reservePuts+1 }

// work is one round of compaction.
type work struct {
	restore bool
	victims []*seg
	rotate  *seg          // the active segment, to be left for the next spare one
	wait    chan struct{} // closed when there may be more to do
	urgent  bool
}

func (p *work) idle() bool {
	return !p.restore && len(p.victims) == 0 && p.rotate == nil && p.wait == nil
}

// choose chooses the segments to empty next: all without anything to keep, and the one with the least.
func (s *Store) choose(asked bool) (work, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return work{}, s.failed
	}
	c := &s.compacting
	percent := int64(s.o.CompactPercent)
	if percent < 0 && asked {
		percent = DefaultCompactPercent
	}
	p := work{restore: c.restore, urgent: c.urgent && s.short() && s.o.CompactPercent > 0}
	if p.urgent {
		percent = max(percent, urgentPercent)
	}
	var best, blocked *seg
	if percent > 0 {
		for _, g := range s.segs {
			if g.header.State != segment.StateUsed || g.lost != lossNone || !g.worth(percent) {
				continue
			}
			switch {
			case g == s.active && 2*s.next < g.header.End() || g == s.active && g.dead() < g.space()/10:
				// There is room in it for what may come, or nothing to win.
			case g == s.active || g.header.Incarnation >= s.entered:
				// Not all of its records are in the index yet.
				if blocked == nil || g.needed() < blocked.needed() {
					blocked = g
				}
			case g.needed() == 0 && len(p.victims) < emptyAtOnce:
				p.victims = append(p.victims, g)
			case best == nil || g.needed() < best.needed():
				best = g
			}
		}
	}
	if best != nil && s.fits(best.needed()) {
		p.victims = append(p.victims, best)
	}
	if p.urgent && !p.restore && len(p.victims) == 0 && blocked != nil {
		p.wait = s.advanced
		if blocked == s.active && len(s.spares) > 0 && s.fits(blocked.needed()+blocked.header.End()-s.next) {
			p.rotate = blocked
		} else if blocked == s.active {
			p.wait = nil
		}
	}
	c.running = !p.idle()
	return p, nil
}

// fits reports whether n bytes can be moved, and what a round writes besides. Called with mu held.
func (s *Store) fits(n int64) bool {
	n += int64(segment.RecordLen(8*len(s.epochs))) + s.o.SegmentSize/64
	if s.active != nil {
		n -= s.active.header.End() - s.next
	}
	return n <= int64(len(s.spares)+s.room)*(s.o.SegmentSize-2*segment.HeaderSize)
}

// round empties the segments chosen and recycles them.
func (s *Store) round(ctx context.Context, p *work) error {
	if p.rotate != nil {
		s.mu.Lock()
		var err error
		if s.active == p.rotate && len(s.spares) > 0 {
			if err = s.activate(); err != nil {
				s.fail(err)
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		// The position moves on with the next record.
		return s.appendAllEpochs(ctx)
	}
	if p.wait != nil {
		select {
		case <-p.wait:
			return nil
		case <-s.broken:
			return errBroken
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if p.restore {
		if err := s.carryAll(ctx); err != nil {
			return err
		}
	}
	var done []*moved
	last := uint64(0)
	for _, g := range p.victims {
		m, err := s.empty(ctx, g, p.urgent)
		if err != nil {
			return err
		}
		done = append(done, m)
		last = max(last, m.header.Incarnation)
	}
	s.mu.Lock()
	covered := s.compacting.epochsIn > last
	s.mu.Unlock()
	if !covered || p.restore {
		if err := s.appendAllEpochs(ctx); err != nil {
			return err
		}
	}
	if err := s.flushIndex(ctx); err != nil {
		return err
	}
	for _, m := range done {
		if err := s.recycle(m); err != nil {
			return err
		}
	}
	if p.restore {
		return s.reclaimLost()
	}
	return nil
}

// appendAllEpochs writes down the newest epoch of every PG, so that no older record is needed for it.
func (s *Store) appendAllEpochs(ctx context.Context) error {
	s.mu.Lock()
	var all []segment.Epoch
	for pg, st := range s.epochs {
		if st.durable > 0 {
			all = append(all, segment.Epoch{PG: pg, Epoch: st.durable})
		}
	}
	s.mu.Unlock()
	first := uint64(0)
	for begin := true; begin || len(all) > 0; begin = false {
		n := min(len(all), MaxFenceEpochs)
		o := epochsOp(forCompaction, all[:n])
		if err := s.append(ctx, o, o.data, segment.PageCRCs(nil, o.data)); err != nil {
			return err
		}
		if begin {
			first = o.header.Incarnation
		}
		all = all[n:]
	}
	s.mu.Lock()
	s.compacting.epochsIn = first
	s.mu.Unlock()
	return nil
}

// flushIndex makes the index durable as it is now, or as it is a little later.
func (s *Store) flushIndex(ctx context.Context) error {
	err := s.ix.flush(ctx)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.failed
	}
	if ctx.Err() != nil {
		return err
	}
	return vfs.Errorf(vfs.KindIO, "store.flush", "index: %w", err)
}

// pace holds compaction to its rate after n bytes that took since start, and to what clients leave: n were read and n written. When a write needs
// space, which may be at any moment, it does not.
func (s *Store) pace(ctx context.Context, n int, start time.Time) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	s.mu.Lock()
	if s.compacting.urgent && s.short() {
		s.mu.Unlock()
		return
	}
	s.compacting.pausing = end
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.compacting.pausing = nil
	}()
	if s.o.Budget.WaitN(ctx, 2*n) != nil || s.o.CompactBytesPerSecond < 0 {
		return
	}
	rest := time.Duration(float64(n)/float64(s.o.CompactBytesPerSecond)*float64(time.Second)) - time.Since(start)
	if rest <= 0 {
		return
	}
	t := time.NewTimer(rest)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// hurryCompactor makes the compactor win space for a write. Called with mu held.
func (s *Store) hurryCompactor() {
	s.compacting.urgent = true
	if s.compacting.pausing != nil {
		s.compacting.pausing()
	}
	s.kickCompactor()
}
