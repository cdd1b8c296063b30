package store

import (
	"context"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
)

// carryFrom writes anew the deletions of a segment that are still needed once it is gone. It returns
// the shards of all of them.
func (s *Store) carryFrom(ctx context.Context, g *seg, h *segment.Header) ([]segment.Key, error) {
	type place struct {
		offset int64
		n      int
	}
	var places []place
	err := s.each(ctx, tombstoneKey(h.Incarnation, 0), tombstoneKey(h.Incarnation+1, 0), func(key, value []byte) (bool, error) {
		if len(key) != tombstoneKeyLen || len(value) != 4 {
			return false, pebble.ErrCorruption
		}
		places = append(places, place{int64(be.Uint32(key[9:])) * segment.PageSize, int(le.Uint32(value))})
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	var keys []segment.Key
	for _, p := range places {
		found, ok := readDeletions(g, h, p.offset, p.n)
		if !ok {
			// The index still knows what it said, though not where: all of it is written anew.
			s.log.Warn("damaged record of deletions", "segment", h.File, "offset", p.offset)
			return nil, s.carryAll(ctx)
		}
		keys = append(keys, found...)
	}
	slices.SortFunc(keys, compareKeys)
	keys = slices.Compact(keys)
	return keys, s.carry(ctx, keys, h.Incarnation)
}

// readDeletions reads a deletions record of n bytes. ok is false if it is damaged.
func readDeletions(g *seg, h *segment.Header, offset int64, n int) (keys []segment.Key, ok bool) {
	if n > segment.MaxData {
		return nil, false
	}
	headerLen := segment.HeaderLen(n)
	buf := wire.GetBuf(headerLen + n)
	defer buf.Release()
	if _, err := g.f.ReadAt(buf.B, offset); err != nil {
		return nil, false
	}
	r, crcs, ok := segment.DecodeRecord(buf.B[:headerLen], h, offset)
	if !ok || r.Kind != segment.KindDeletions || int(r.Length) != n || !crcs.Check(0, buf.B[headerLen:]) {
		return nil, false
	}
	return segment.DecodeKeys(buf.B[headerLen:]), true
}

// carryAll writes anew every deletion that is needed, as the index knows them.
func (s *Store) carryAll(ctx context.Context) error {
	var keys []segment.Key
	next := []byte{prefixPin}
	for {
		keys = keys[:0]
		err := s.each(ctx, next, []byte{prefixPin + 1}, func(key, _ []byte) (bool, error) {
			k, _, err := decodePin(key)
			if n := len(keys); n == 0 || keys[n-1] != k {
				keys = append(keys, k)
			}
			return len(keys) <= MaxDeleteKeys, err
		})
		if err != nil {
			return err
		}
		more := len(keys) > MaxDeleteKeys
		if more {
			next = keyUnder(prefixPin, keys[MaxDeleteKeys])
			keys = keys[:MaxDeleteKeys]
		}
		if err := s.carry(ctx, keys, 0); err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

// carry writes anew the deletions of those of keys, sorted and distinct, that need one: not in the index, and
// with a record in a segment that is in use, other than that of incarnation except. It claims
// them meanwhile, so that no Put comes before the record in the log that is older than it.
func (s *Store) carry(ctx context.Context, keys []segment.Key, except uint64) error {
	var busy []segment.Key
	for len(keys) > 0 {
		n := min(len(keys), MaxDeleteKeys)
		o := deletionsOp(forCompaction)
		for _, k := range keys[:n] {
			s.mu.Lock()
			ok := s.tryClaim(k)
			s.mu.Unlock()
			if !ok {
				busy = append(busy, k)
				continue
			}
			if err := s.carryKey(o, k, except); err != nil {
				return err
			}
		}
		if err := s.appendDeletions(ctx, o); err != nil {
			return err
		}
		keys = keys[n:]
	}
	for _, k := range busy {
		s.mu.Lock()
		err := s.claim(ctx, k)
		s.mu.Unlock()
		if err != nil {
			return err
		}
		o := deletionsOp(forCompaction)
		if err := s.carryKey(o, k, except); err != nil {
			return err
		}
		if err := s.appendDeletions(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// carryKey adds the claimed k to o if its deletion is needed, else gives the claim up. After an
// error all claims are given up.
func (s *Store) carryKey(o *op, k segment.Key, except uint64) error {
	needed, err := s.needsTombstone(k, except)
	switch {
	case err != nil:
		o.add(k, nil, false)
		s.finish([]*op{o}, err)
		return err
	case needed:
		o.add(k, nil, false)
	default:
		s.mu.Lock()
		s.unclaim(k)
		s.mu.Unlock()
	}
	return nil
}

// needsTombstone reports whether a new index would find a record of the shard that is deleted. It
// forgets which records were in segments that are gone.
func (s *Store) needsTombstone(k segment.Key, except uint64) (bool, error) {
	_, live, err := s.lookup(k)
	if err != nil {
		return false, err
	}
	pinned := false
	b := s.ix.db.NewBatch()
	defer b.Close()
	err = s.each(context.Background(), keyUnder(prefixPin, k), pinKey(k, 1<<64-1), func(key, _ []byte) (bool, error) {
		_, inc, err := decodePin(key)
		if err != nil {
			return false, err
		}
		s.mu.Lock()
		used := s.byInc[inc] != nil
		s.mu.Unlock()
		if !used {
			return true, b.Delete(key, nil)
		}
		pinned = pinned || inc != except
		return true, nil
	})
	if err == nil && !b.Empty() {
		if err = s.ix.commit(b); err != nil {
			err = s.indexError(err)
		}
	}
	return pinned && !live, err
}
