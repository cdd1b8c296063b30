package store

import (
	"context"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// rebuildGap is how much of the log may be left for the new index when writes are made to wait for the rest of it;
	// rebuildRounds how often what was written meanwhile is entered before they are in any case.
	rebuildGap    = 4 << 20
	rebuildRounds = 16
	// rebuildRetry is how long nothing is done after an attempt that failed.
	rebuildRetry = 30 * time.Second
)

// indexDamaged has the index made anew. It is called on any goroutine, with locks of Pebble held.
func (s *Store) indexDamaged(err error) {
	s.mu.Lock()
	first := s.damaged == nil
	if first {
		s.damaged = err
	}
	s.mu.Unlock()
	if first {
		s.log.Error("index is damaged and will be made anew", "err", err)
		s.markRebuild()
	}
	s.kickCompactor()
}

// markRebuild leaves word for the next Open to make the index anew.
func (s *Store) markRebuild() {
	if s.readOnly != nil {
		return
	}
	if f, err := s.fs.Create(s.o.Dir + "/" + rebuildName); err == nil {
		f.Close()
	}
}

// toRebuild reports whether the index is to be made anew now.
func (s *Store) toRebuild() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged == nil || s.failed != nil && s.readOnly == nil || time.Now().Before(s.rebuildAfter) {
		return false
	}
	s.rebuilding = true
	s.m.IndexRebuilding.Set(1)
	if s.compacting.urgent {
		// Who waits for space would wait for all of it.
		s.compacting.urgent = false
		s.endAttempt(s.makeErr)
	}
	return true
}

// rebuild makes the index anew while the store serves. Part of the compactor, so that no record moves and no
// segment is recycled meanwhile.
func (s *Store) rebuild(ctx context.Context) {
	began := time.Now()
	s.log.Warn("index is made anew from all segments, the store serves meanwhile")
	err := s.rebuildIndex(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebuilding = false
	s.m.IndexRebuilding.Set(0)
	switch {
	case err == nil:
		s.damaged = nil
		s.m.IndexRebuilds.Inc()
		s.log.Info("index was made anew", "took", time.Since(began))
	case ctx.Err() == nil:
		s.rebuildAfter = time.Now().Add(rebuildRetry)
		s.log.Error("index is not made anew; it will be tried again when damage is met, and at the next start", "err", err)
	}
}

func (s *Store) rebuildIndex(ctx context.Context) error {
	if err := s.o.IndexFS.RemoveAll(s.newIndexDir()); err != nil {
		return vfs.Errorf(vfs.KindOf(err), "store.rebuild", "%w", err)
	}
	b, err := s.newBuilder()
	if err == nil {
		if err = s.build(ctx, b); err == nil {
			return nil
		}
		if b.ix != nil {
			b.ix.drop()
		}
	}
	// What was begun is removed here or by the next Open.
	if rerr := s.o.IndexFS.RemoveAll(s.newIndexDir()); rerr != nil {
		s.log.Debug("new index is not removed", "err", rerr)
	}
	return err
}

// builder is an index that is made from the log beside the one in use.
type builder struct {
	s     *Store
	ix    *index
	files map[uint32]*counts
	pos   position // up to which the log is in it
	// hurry: writes wait for the rest of the log.
	hurry bool
}

// counts are those of a seg.
type counts struct{ live, kept, end int64 }

func (s *Store) newBuilder() (*builder, error) {
	b := &builder{s: s, files: make(map[uint32]*counts)}
	failed := func(name string, err error) { s.log.Warn("new index cannot be written", "file", name, "err", err) }
	damaged := func(err error) { s.log.Warn("new index is damaged", "err", err) }
	var err error
	if b.ix, err = s.o.openPebble(s.newIndexDir(), s.o.IndexFS, indexEvents{failed, damaged}); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), "store.rebuild", "%w", err)
	}
	return b, nil
}

func (b *builder) newBatch() *pebble.Batch { return b.ix.db.NewIndexedBatch() }
func (b *builder) marked() int             { return 0 }

func (b *builder) reader(ctx context.Context, g *seg) io.ReaderAt {
	if b.hurry {
		return g.f
	}
	return &paced{ctx, g.f, b.s.o.Budget}
}

// paced reads what clients leave time for.
type paced struct {
	ctx    context.Context
	f      io.ReaderAt
	budget *budget.Budget
}

// ReadAt implements io.ReaderAt.
func (p *paced) ReadAt(b []byte, off int64) (int, error) {
	// That the context ended is for who reads to see: to a scan, an error here is a page that cannot be read.
	_ = p.budget.WaitN(p.ctx, len(b))
	return p.f.ReadAt(b, off)
}

// enterEpoch does nothing: the epochs that the store knows, which it has from the log, are entered at the end.
func (b *builder) enterEpoch(*change, uint32, uint32) error { return nil }

func (b *builder) commit(c *change, pos position) error {
	for f, d := range c.files {
		n := b.files[f]
		if n == nil {
			n = new(counts)
			b.files[f] = n
		}
		n.live, n.kept, n.end = n.live+d.live, n.kept+d.kept, max(n.end, d.end)
		if err := c.batch.Set(u32Key(prefixSegment, f), encodeUsage(b.s.incarnationOf(f), n.live, n.end), nil); err != nil {
			return err
		}
	}
	if err := c.batch.Set([]byte{prefixMeta}, encodeMeta(b.s.super.store, pos), nil); err != nil {
		return err
	}
	b.pos = pos
	return b.ix.commit(c.batch)
}

// replay enters the log from where the builder is to limit, and returns how many bytes of it there were.
func (b *builder) replay(ctx context.Context, limit position) (int64, error) {
	s, read := b.s, int64(0)
	s.mu.Lock()
	used := s.used()
	headers := make([]segment.Header, len(used))
	for i, g := range used {
		headers[i] = g.header
	}
	s.mu.Unlock()
	for i, g := range used {
		h := &headers[i]
		if h.Incarnation < b.pos.incarnation || h.Incarnation > limit.incarnation {
			continue
		}
		from := int64(segment.HeaderSize)
		if h.Incarnation == b.pos.incarnation {
			from = max(from, b.pos.offset)
		}
		res, err := s.replaySegment(ctx, b, g, h, from, limit)
		if err != nil {
			return read, err
		}
		read += res.End - from
	}
	b.pos = limit
	return read, nil
}

// build fills the new index and puts it in the place of the old one.
func (s *Store) build(ctx context.Context, b *builder) error {
	for range rebuildRounds {
		s.mu.Lock()
		// All before it is durable, and in the old index.
		limit := s.position()
		s.mu.Unlock()
		n, err := b.replay(ctx, limit)
		if err != nil {
			return err
		}
		if n <= rebuildGap {
			break
		}
	}
	if err := b.ix.flush(ctx); err != nil { // so that little is left to do while writes wait
		return err
	}
	resume, err := s.pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	b.hurry = true
	s.mu.Lock()
	limit := s.position()
	s.mu.Unlock()
	if _, err := b.replay(ctx, limit); err != nil {
		return err
	}
	if err := b.finish(ctx, limit); err != nil {
		return err
	}
	return s.switchIndex(b)
}

// finish enters what is known and not from single records, and makes the index durable.
func (b *builder) finish(ctx context.Context, pos position) error {
	batch := b.ix.db.NewBatch()
	defer batch.Close()
	c := newChange(batch)
	s := b.s
	s.mu.Lock()
	var err error
	for pg, st := range s.epochs {
		if st.durable > 0 && err == nil {
			err = c.epoch(pg, st.durable)
		}
	}
	s.mu.Unlock()
	if err == nil {
		err = b.commit(c, pos)
	}
	if err == nil {
		err = b.ix.flush(ctx)
	}
	return err
}

// pause ends the entering of records into the index: when it returns, none is under way, and none begins before resume.
func (s *Store) pause(ctx context.Context) (resume func(), err error) {
	s.mu.Lock()
	s.paused, s.idle = make(chan struct{}), make(chan struct{})
	idle, broken := s.idle, s.broken
	if s.readOnly != nil {
		broken = nil // it is closed from the beginning
	}
	if s.inflight == 0 {
		close(s.idle)
		s.idle = nil
	}
	s.mu.Unlock()
	resume = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.paused)
		s.paused, s.idle = nil, nil
	}
	select {
	case <-idle:
		return resume, nil
	case <-broken:
		err = errBroken
	case <-ctx.Done():
		err = ctx.Err()
	}
	resume()
	return nil, err
}

// admit counts o as under way. While the index is being replaced it waits, so o must hold nothing that
// another one needs to come to its end. Called with mu held, which it gives up meanwhile.
func (s *Store) admit(ctx context.Context, o *op) error {
	for s.paused != nil {
		ch := s.paused
		s.mu.Unlock()
		err := s.awaitSpace(ctx, ch)
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
	o.admitted = true
	s.inflight++
	return nil
}

// dismiss ends what admit began. Called with mu held.
func (s *Store) dismiss(o *op) {
	if !o.admitted {
		return
	}
	o.admitted = false
	if s.inflight--; s.inflight == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// switchIndex puts the new index, which is complete and durable, in the place of the old one. The mark is
// durable before anything of the old one goes, and stays until the new one is there: a crash in between has the
// index made anew by the next Open.
func (s *Store) switchIndex(b *builder) error {
	const op = "store.rebuild"
	if s.readOnly == nil {
		s.markRebuild()
		if _, err := s.fs.Stat(s.o.Dir + "/" + rebuildName); err != nil {
			return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
		}
		if err := s.fs.SyncDir(s.o.Dir); err != nil {
			return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
		}
	}
	err := b.ix.close()
	b.ix = nil
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	s.ixMu.Lock()
	defer s.ixMu.Unlock()
	s.ix.drop()
	s.ix = nil
	s.recent.clear()
	if err := s.replaceIndex(); err != nil {
		err = vfs.Errorf(vfs.KindOf(err), op, "%w", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fail(err)
		return err
	}
	s.mu.Lock()
	s.takeOver(b)
	s.mu.Unlock()
	if err := s.unmarkRebuild(); err != nil {
		s.log.Warn("the index will be made anew once more at the next start", "err", err)
	}
	return nil
}

// replaceIndex gives the new index its name and opens it.
func (s *Store) replaceIndex() error {
	fs := s.o.IndexFS
	if err := fs.RemoveAll(s.indexDir()); err != nil {
		return err
	}
	if err := fs.Rename(s.newIndexDir(), s.indexDir()); err != nil {
		return err
	}
	d, err := fs.OpenDir(s.o.Dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	d.Close()
	if err != nil {
		return err
	}
	s.ix, err = s.o.openPebble(s.indexDir(), fs, indexEvents{failed: s.indexFails, damaged: s.indexDamaged})
	return err
}

// takeOver counts what is in the new index. Called with mu held.
func (s *Store) takeOver(b *builder) {
	s.liveTotal, s.bad = 0, 0
	for file, g := range s.segs {
		if g.lost == lossMissing {
			delete(s.segs, file)
			delete(s.byInc, g.header.Incarnation)
			continue
		}
		n := b.files[file]
		if n == nil {
			n = new(counts)
		}
		g.live, g.kept, g.end = n.live, n.kept, n.end
		s.liveTotal += n.live
	}
	s.entered = max(s.entered, b.pos.incarnation)
	s.m.LiveBytes.Set(float64(s.liveTotal))
	s.m.BadNow.Set(0)
	s.gaugeSegments()
}
