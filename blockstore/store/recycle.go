package store

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// recycle makes an emptied segment free. The index must be durable, without any reference to the
// segment and with a position behind it.
func (s *Store) recycle(m *moved) error {
	g := m.g
	s.mu.Lock()
	h := g.header
	ok := s.failed == nil && g.live == 0 && g != s.active && h.State == segment.StateUsed && h.Incarnation < s.entered
	s.mu.Unlock()
	if !ok {
		return vfs.Errorf(vfs.KindInternal, "store.recycle", "segment %08d was to be recycled while it is needed", h.File)
	}
	h.State = segment.StateFree
	if err := s.free(g, &h); err != nil {
		return err
	}
	// From here on no record of it can come back. What the index says about it may go.
	b := s.ix.db.NewBatch()
	defer b.Close()
	for _, k := range m.keys {
		if err := b.Delete(pinKey(k, h.Incarnation), nil); err != nil {
			return err
		}
	}
	return s.spare(g, h, b)
}

// free makes the header of a free segment durable.
func (s *Store) free(g *seg, h *segment.Header) error {
	err := writeHeader(g.f, h)
	if err == nil {
		err = g.f.SyncData()
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fail(err)
		return s.failed
	}
	return nil
}

// spare lets a segment that is durably free be used again. b is a batch that goes with it.
func (s *Store) spare(g *seg, h segment.Header, b *pebble.Batch) error {
	s.mu.Lock()
	incarnation := g.header.Incarnation
	s.mu.Unlock()
	if err := s.forget(b, h.File, incarnation); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byInc, incarnation)
	g.header, g.live, g.kept, g.end, g.short, g.lost = h, 0, 0, 0, false, lossNone
	s.spares = append(s.spares, g)
	s.m.Recycled.Inc()
	s.gaugeSegments()
	s.endAttempt(nil)
	return nil
}

// forget removes from the index what it says of a segment as such.
func (s *Store) forget(b *pebble.Batch, file uint32, incarnation uint64) error {
	err := b.Delete(u32Key(prefixSegment, file), nil)
	if err == nil && incarnation > 0 {
		err = b.DeleteRange(tombstoneKey(incarnation, 0), tombstoneKey(incarnation+1, 0), nil)
	}
	if err == nil {
		err = s.ix.commit(b)
	}
	if err != nil {
		return s.indexError(err)
	}
	return nil
}

// reclaimLost brings the files of lost segments back into service. Their shards are marked bad and what
// deletions and epochs they may have held is written anew, both durably. A segment whose header could not be read,
// rather than being overwritten, is left alone.
func (s *Store) reclaimLost() error {
	s.mu.Lock()
	var lost []*seg
	for _, g := range s.segs {
		if g.lost == lossHeader || g.lost == lossMissing {
			lost = append(lost, g)
		}
	}
	s.compacting.restore = false
	s.mu.Unlock()
	for _, g := range lost {
		h := segment.Header{State: segment.StateFree, File: g.header.File, Size: s.o.SegmentSize, Cluster: s.super.cluster, Store: s.super.store}
		b := s.ix.db.NewBatch()
		defer b.Close()
		if g.lost == lossMissing {
			if err := s.forget(b, h.File, g.header.Incarnation); err != nil {
				return err
			}
			s.mu.Lock()
			delete(s.byInc, g.header.Incarnation)
			delete(s.segs, h.File)
			s.mu.Unlock()
			continue
		}
		size, err := g.f.Size()
		if err == nil && size < s.o.SegmentSize {
			if _, err = g.f.Allocate(s.o.SegmentSize); err == nil {
				from := size / segment.PageSize * segment.PageSize
				err = g.f.Zero(from, s.o.SegmentSize-from)
			}
		}
		if err != nil {
			s.log.Error("lost segment is not reused", "segment", h.File, "err", err)
			continue
		}
		if err := s.free(g, &h); err != nil {
			return err
		}
		s.log.Info("lost segment is free again", "segment", h.File)
		if err := s.spare(g, h, b); err != nil {
			return err
		}
	}
	return nil
}
