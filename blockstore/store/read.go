package store

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// lookup finds a shard in the index.
func (s *Store) lookup(k segment.Key) (location, bool, error) {
	db, done, err := s.reading()
	if err != nil {
		return location{}, false, err
	}
	defer done()
	l, ok, err := lookup(db, k)
	if err != nil {
		return l, false, s.indexError(err)
	}
	return l, ok, nil
}

// reading returns the index for one look at it, which ends with done. It must not be nested.
func (s *Store) reading() (db *pebble.DB, done func(), err error) {
	s.ixMu.RLock()
	if s.ix == nil {
		s.ixMu.RUnlock()
		return nil, nil, vfs.Errorf(vfs.KindIO, "store.index", "%s lost its index; restart it to have it made anew", s.o.Dir)
	}
	return s.ix.db, s.ixMu.RUnlock, nil
}

// indexError reports an error of the index. One that is damaged is made anew; it holds nothing that the segments do not.
func (s *Store) indexError(err error) error {
	if pebble.IsCorruptionError(err) || damage(err) {
		s.indexDamaged(err)
	}
	return vfs.Errorf(vfs.KindIO, "store.index", "%w", err)
}

// Range is bytes of a shard. Release gives their memory back.
type Range struct {
	Bytes  []byte
	Record segment.Record // of the shard
	buf    *wire.Buf
}

// Release ends the use of Bytes.
func (r *Range) Release() {
	r.buf.Release()
	r.buf, r.Bytes = nil, nil
}

// Get reads n bytes at off of a shard, all of which must lie in it. Every page
// that is touched is checked. A shard that fails its checks, or that the
// disk cannot read, is KindCorrupt; an absent one KindNotFound. When Get says that
// a shard is bad, List does not have it any more, and a Put replaces it.
func (s *Store) Get(ctx context.Context, k segment.Key, off, n int) (Range, error) {
	const op = "store.get"
	if err := s.enter(op); err != nil {
		return Range{}, err
	}
	defer s.leave()
	at, stamp := s.recent.get(k)
	if at != nil {
		if r, ok := s.getRecent(at, off, n); ok {
			s.m.Gets.Inc()
			s.m.GetBytes.Add(float64(n))
			return r, nil
		}
		_, stamp = s.recent.get(k)
	}
	var last location
	for try := 0; ; try++ {
		if err := ctx.Err(); err != nil {
			return Range{}, vfs.Wrap(op, err)
		}
		l, ok, err := s.lookup(k)
		if err != nil {
			return Range{}, err
		}
		if !ok {
			return Range{}, s.absent(ctx, k)
		}
		if off < 0 || n < 0 || off > int(l.length) || n > int(l.length)-off {
			return Range{}, vfs.Errorf(vfs.KindInvalid, op, "bytes %d+%d of a shard of %d", off, n, l.length)
		}
		r, crcs, data, buf, err := s.readRecord(k, l, off, n)
		if err == nil {
			if start, end := pagesOf(l, off, n); try == 0 && start > 0 && end > start {
				s.saw(k, l, &r, crcs, stamp)
			}
			s.m.Gets.Inc()
			s.m.GetBytes.Add(float64(n))
			return Range{Bytes: data, Record: r, buf: buf}, nil
		}
		buf.Release()
		// The record may have moved between lookup and read.
		if try == 0 || l != last {
			last = l
			continue
		}
		if !isBadShard(err) {
			return Range{}, err
		}
		bad, moved, cerr := s.checkBad(ctx, k, l)
		switch {
		case cerr != nil:
			return Range{}, vfs.Wrap(op, cerr)
		case bad != nil:
			return Range{}, bad
		case !moved && try > maxReadTries:
			return Range{}, err
		}
	}
}

// maxReadTries is how often a shard that is now sound, now not is read.
const maxReadTries = 4

// absent is the error for a shard that the index does not have.
func (s *Store) absent(ctx context.Context, k segment.Key) error {
	if s.anyBad() {
		if bad, err := s.isBad(k); err != nil {
			return err
		} else if bad {
			vfs.LogRequest(ctx, s.log).Debug("a bad shard is asked for", "pg", k.PG, "block", k.Block, "shard", k.Shard)
			return vfs.Errorf(vfs.KindCorrupt, "store.get", "shard %d of block %d in pg %d was found bad and waits for repair", k.Shard, k.Block, k.PG)
		}
	}
	return vfs.Errorf(vfs.KindNotFound, "store.get", "shard %d of block %d in pg %d", k.Shard, k.Block, k.PG)
}

// pagesOf is the range of the shard at l that is read and checked for n bytes at off.
func pagesOf(l location, off, n int) (start, end int) {
	start = off / segment.PageSize * segment.PageSize
	if n == 0 {
		return start, start
	}
	return start, min((off+n+segment.PageSize-1)/segment.PageSize*segment.PageSize, int(l.length))
}

// readRecord reads the record that l says is k's, and of its data n bytes at
// off. The caller releases buf, which what is returned points into, also after an error.
// Its errors are KindCorrupt; those that are final are a badShard.
func (s *Store) readRecord(k segment.Key, l location, off, n int) (r segment.Record, crcs segment.CRCs, data []byte, buf *wire.Buf, err error) {
	bad := func(format string, args ...any) *vfs.Error {
		args = append([]any{k.Shard, k.Block, k.PG, l.file, l.offset()}, args...)
		return vfs.Errorf(vfs.KindCorrupt, "store.get", "bad shard %d of block %d in pg %d (segment %08d at %d): "+format, args...)
	}
	g, h, ok := s.headerOf(l.file)
	if !ok {
		err = &badShard{bad("no such segment is in use")}
		return
	}
	headerLen, span := segment.HeaderLen(int(l.length)), segment.HeaderSpan(int(l.length))
	start, end := pagesOf(l, off, n)
	buf = wire.GetBuf(headerLen + end - start)
	if start == 0 {
		// Header and data are adjacent.
		_, err = g.f.ReadAt(buf.B, l.offset())
	} else if _, err = g.f.ReadAt(buf.B[:span], l.offset()); err == nil {
		_, err = g.f.ReadAt(buf.B[headerLen:], l.offset()+int64(headerLen+start))
	}
	if err != nil {
		if e := bad("%w", err); damage(err) {
			err = &badShard{e}
		} else {
			err = e
		}
		return
	}
	r, crcs, ok = segment.DecodeRecord(buf.B[:headerLen], &h, l.offset())
	if !ok || r.Kind != segment.KindShard || r.PG != k.PG || r.Block != k.Block || r.Shard != k.Shard || r.Length != l.length {
		err = &badShard{bad("its header is damaged")}
		return
	}
	if !crcs.Check(start/segment.PageSize, buf.B[headerLen:]) {
		err = &badShard{bad("checksum of bytes %d to %d", start, end)}
		return
	}
	if n > 0 { // no page was read for nothing
		data = buf.B[headerLen+off-start:][:n]
	}
	return
}

// Entry is a shard as the index knows it.
type Entry struct {
	Key      segment.Key
	Length   uint32
	Epoch    uint32
	BlockLen uint32
	K, M     uint8
}

func entryOf(k segment.Key, l location) Entry {
	return Entry{Key: k, Length: l.length, Epoch: l.epoch, BlockLen: l.blockLen, K: l.k, M: l.m}
}

// Stat returns a shard's entry and, from its record, whose it is.
func (s *Store) Stat(ctx context.Context, k segment.Key) (Entry, segment.Owner, error) {
	r, err := s.Get(ctx, k, 0, 0)
	if err != nil {
		return Entry{}, segment.Owner{}, err
	}
	defer r.Release()
	rec := &r.Record
	return Entry{Key: k, Length: rec.Length, Epoch: rec.Epoch, BlockLen: rec.BlockLen, K: rec.K, M: rec.M}, rec.Owner, nil
}

// Groups lists the placement groups above after of which the store has shards, ascending, at most MaxListEntries.
func (s *Store) Groups(ctx context.Context, after uint32) (groups []uint32, more bool, err error) {
	const op = "store.groups"
	if err := s.enter(op); err != nil {
		return nil, false, err
	}
	defer s.leave()
	for after < 1<<32-1 {
		found := uint32(0)
		err := s.each(ctx, shardKey(segment.Key{PG: after + 1}), []byte{prefixShard + 1}, func(key, _ []byte) (bool, error) {
			k, err := decodeKey(prefixShard, key)
			found = k.PG
			return false, err
		})
		if err != nil || found == 0 {
			return groups, false, err
		}
		if len(groups) == MaxListEntries {
			return groups, true, nil
		}
		groups, after = append(groups, found), found
	}
	return groups, false, nil
}

// List returns the shards of a PG in order of block and shard, those behind
// after if it is not nil, at most limit of them. more says that there are further ones.
// Shards that are marked bad are not among them.
func (s *Store) List(ctx context.Context, pg uint32, after *segment.Key, limit int) (entries []Entry, more bool, err error) {
	const op = "store.list"
	if err := s.enter(op); err != nil {
		return nil, false, err
	}
	defer s.leave()
	limit = clampLimit(limit)
	lower := shardKey(segment.Key{PG: pg})
	if after != nil {
		lower = append(shardKey(segment.Key{PG: pg, Block: after.Block, Shard: after.Shard}), 0)
	}
	// The longest possible key of the PG, and a byte: PG 2^32-1 has no successor.
	upper := append(shardKey(segment.Key{PG: pg, Block: 1<<64 - 1, Shard: 255}), 0)
	err = s.each(ctx, lower, upper, func(key, value []byte) (bool, error) {
		if more = len(entries) == limit; more {
			return false, nil
		}
		k, kerr := decodeKey(prefixShard, key)
		l, lerr := decodeLocation(value)
		entries = append(entries, entryOf(k, l))
		return true, errors.Join(kerr, lerr)
	})
	if err != nil {
		return nil, false, err
	}
	return entries, more, nil
}
