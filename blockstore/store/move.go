package store

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// moved is a segment that was emptied: nothing in it is needed any more.
type moved struct {
	g      *seg
	header segment.Header
	keys   []segment.Key // of which it may have records that a deletion outlives: those moved, and those deleted in it

	s        *Store
	urgent   bool
	running  []*op // written, not yet known to be durable
	bytes    int   // of them
	began    time.Time
	busy     []segment.Key // met while somebody else had them
	suspects []segment.Key // whose records failed their checks
}

// empty moves everything out of g that is needed: live records, and deletions that must
// stay because an older record of their shard still exists.
func (s *Store) empty(ctx context.Context, g *seg, urgent bool) (*moved, error) {
	s.mu.Lock()
	m := &moved{s: s, g: g, header: g.header, urgent: urgent, began: time.Now()}
	live, kept := g.live, g.kept
	s.mu.Unlock()
	if live > 0 {
		err := segment.Walk(ctx, g.f, &m.header, func(r segment.Record) error {
			if r.Kind != segment.KindShard {
				return nil
			}
			k := segment.Key{PG: r.PG, Block: r.Block, Shard: r.Shard}
			l, ok, err := s.lookup(k)
			if err != nil || !ok || l != locate(m.header.File, &r) {
				return err
			}
			return m.move(ctx, k, false)
		})
		if serr := m.settle(ctx); err == nil {
			err = serr
		}
		if err == nil {
			err = m.rest(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	if kept > 0 {
		deleted, err := s.carryFrom(ctx, g, &m.header)
		if err != nil {
			return nil, err
		}
		m.keys = append(m.keys, deleted...)
	}
	return m, nil
}

// move writes k's record anew if it is in this segment. The index is switched by the syncer; the claim
// until then is what makes it a compare-and-swap.
func (m *moved) move(ctx context.Context, k segment.Key, wait bool) error {
	s := m.s
	s.mu.Lock()
	if wait {
		if err := s.claim(ctx, k); err != nil {
			s.mu.Unlock()
			return err
		}
	} else if !s.tryClaim(k) {
		// Holding others' claims, compaction does not wait for one.
		s.mu.Unlock()
		m.busy = append(m.busy, k)
		return nil
	}
	s.mu.Unlock()
	o := &op{keys: []segment.Key{k}, olds: []*location{nil}, purpose: forCompaction, done: make(chan struct{})}
	l, ok, err := s.lookup(k)
	if err != nil || !ok || l.file != m.header.File {
		s.finish([]*op{o}, nil)
		return err
	}
	r, crcs, data, buf, err := s.readRecord(k, l, 0, int(l.length))
	defer buf.Release()
	if err != nil {
		s.finish([]*op{o}, nil)
		if isBadShard(err) {
			m.suspects = append(m.suspects, k)
			return nil
		}
		return err
	}
	o.rec, o.olds[0] = r, &l
	if err := s.write(ctx, o, data, crcs.Values(make([]uint32, 0, len(crcs)/4))); err != nil {
		return err
	}
	m.running = append(m.running, o)
	m.keys = append(m.keys, k)
	if m.bytes += int(l.size()); m.bytes >= moveBatchBytes {
		return m.settle(ctx)
	}
	return nil
}

// settle waits until what was written is durable and in the index, and then as long as the rate asks for.
func (m *moved) settle(ctx context.Context) error {
	var err error
	for _, o := range m.running {
		if werr := o.wait(ctx); err == nil {
			err = werr
		}
	}
	if err != nil {
		return err
	}
	m.s.m.CompactedBytes.Add(float64(m.bytes))
	if !m.urgent {
		m.s.pace(ctx, m.bytes, m.began)
	}
	m.running, m.bytes, m.began = m.running[:0], 0, time.Now()
	return ctx.Err()
}

// rest deals with the shards that the walk did not move: those that were claimed, those that failed their checks, and
// those whose header it did not find.
func (m *moved) rest(ctx context.Context) error {
	s := m.s
	for _, k := range m.busy {
		if err := m.move(ctx, k, true); err != nil {
			return err
		}
		if err := m.settle(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	left := m.g.live
	s.mu.Unlock()
	if left == 0 {
		return nil
	}
	suspects := m.suspects
	if suspects == nil {
		err := s.each(ctx, []byte{prefixShard}, []byte{prefixShard + 1}, func(key, value []byte) (bool, error) {
			l, err := decodeLocation(value)
			if err != nil || l.file != m.header.File {
				return true, err
			}
			k, err := decodeKey(prefixShard, key)
			suspects = append(suspects, k)
			return true, err
		})
		if err != nil {
			return err
		}
	}
	m.suspects = nil
	for _, k := range suspects {
		l, ok, err := s.lookup(k)
		if err != nil {
			return err
		}
		if !ok || l.file != m.header.File {
			continue
		}
		if bad, _, err := s.checkBad(ctx, k, l); err != nil {
			return err
		} else if bad != nil {
			continue
		}
		if err := m.move(ctx, k, true); err != nil {
			return err
		}
		if err := m.settle(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	now := m.g.live
	s.mu.Unlock()
	switch {
	case now == 0:
		return nil
	case now < left:
		return m.rest(ctx) // with the shards whose headers are lost
	}
	return vfs.Errorf(vfs.KindIO, "store.compact", "%d bytes of segment %08d can be neither moved nor declared bad", now, m.header.File)
}
