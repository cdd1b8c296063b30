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
	l, ok, err := lookup(s.db, k)
	if err != nil {
		return l, false, s.indexError(err)
	}
	return l, ok, nil
}

// indexError reports an error of the index. A damaged index is marked, so that
// the next Open makes it anew; it holds nothing that the segments do not.
func (s *Store) indexError(err error) error {
	if pebble.IsCorruptionError(err) {
		if f, cerr := s.fs.Create(s.o.Dir + "/" + rebuildName); cerr == nil {
			f.Close()
			s.log.Error("index is damaged and will be made anew when the store is opened next", "err", err)
		}
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
// disk cannot read, is KindCorrupt; an absent one KindNotFound.
func (s *Store) Get(ctx context.Context, k segment.Key, off, n int) (Range, error) {
	const op = "store.get"
	if err := s.enter(op); err != nil {
		return Range{}, err
	}
	defer s.leave()
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
			return Range{}, vfs.Errorf(vfs.KindNotFound, op, "shard %d of block %d in pg %d", k.Shard, k.Block, k.PG)
		}
		if off < 0 || n < 0 || off > int(l.length) || n > int(l.length)-off {
			return Range{}, vfs.Errorf(vfs.KindInvalid, op, "bytes %d+%d of a shard of %d", off, n, l.length)
		}
		r, _, data, buf, err := s.readRecord(k, l, off, n)
		if err == nil {
			s.m.Gets.Inc()
			s.m.GetBytes.Add(float64(n))
			return Range{Bytes: data, Record: r, buf: buf}, nil
		}
		buf.Release()
		// The record may have moved between lookup and read.
		if try > 0 && l == last {
			s.m.BadShards.Inc()
			return Range{}, err
		}
		last = l
	}
}

// readRecord reads the record that l says is k's, and of its data n bytes at
// off. The caller releases buf, which what is returned points into, also after an error.
func (s *Store) readRecord(k segment.Key, l location, off, n int) (r segment.Record, crcs segment.CRCs, data []byte, buf *wire.Buf, err error) {
	bad := func(format string, args ...any) error {
		args = append([]any{k.Shard, k.Block, k.PG, l.file, l.offset()}, args...)
		return vfs.Errorf(vfs.KindCorrupt, "store.get", "bad shard %d of block %d in pg %d (segment %08d at %d): "+format, args...)
	}
	g, h, ok := s.headerOf(l.file)
	if !ok {
		err = bad("segment is missing")
		return
	}
	headerLen, span := segment.HeaderLen(int(l.length)), segment.HeaderSpan(int(l.length))
	start := off / segment.PageSize * segment.PageSize
	end := min((off+n+segment.PageSize-1)/segment.PageSize*segment.PageSize, int(l.length))
	if n == 0 {
		end = start
	}
	buf = wire.GetBuf(headerLen + end - start)
	if start == 0 {
		// Header and data are adjacent.
		_, err = g.f.ReadAt(buf.B, l.offset())
	} else if _, err = g.f.ReadAt(buf.B[:span], l.offset()); err == nil {
		_, err = g.f.ReadAt(buf.B[headerLen:], l.offset()+int64(headerLen+start))
	}
	if err != nil {
		err = bad("%w", err)
		return
	}
	r, crcs, ok = segment.DecodeRecord(buf.B[:headerLen], &h, l.offset())
	if !ok || r.Kind != segment.KindShard || r.PG != k.PG || r.Block != k.Block || r.Shard != k.Shard || r.Length != l.length {
		err = bad("its header is damaged")
		return
	}
	if !crcs.Check(start/segment.PageSize, buf.B[headerLen:]) {
		err = bad("checksum of bytes %d to %d", start, end)
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

// List returns the shards of a PG in order of block and shard, those behind
// after if it is not nil, at most limit of them. more says that there are further ones.
func (s *Store) List(ctx context.Context, pg uint32, after *segment.Key, limit int) (entries []Entry, more bool, err error) {
	const op = "store.list"
	if err := s.enter(op); err != nil {
		return nil, false, err
	}
	defer s.leave()
	if limit <= 0 || limit > MaxListEntries {
		limit = MaxListEntries
	}
	lower := shardKey(segment.Key{PG: pg})
	if after != nil {
		lower = append(shardKey(segment.Key{PG: pg, Block: after.Block, Shard: after.Shard}), 0)
	}
	// The longest possible key of the PG, and a byte: PG 2^32-1 has no successor.
	upper := append(shardKey(segment.Key{PG: pg, Block: 1<<64 - 1, Shard: 255}), 0)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, false, s.indexError(err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = s.indexError(cerr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		if len(entries) == limit {
			return entries, true, nil
		}
		k, kerr := decodeShardKey(it.Key())
		l, lerr := decodeLocation(it.Value())
		if err := errors.Join(kerr, lerr); err != nil {
			return nil, false, s.indexError(err)
		}
		entries = append(entries, entryOf(k, l))
		if len(entries)%1024 == 0 && ctx.Err() != nil {
			return nil, false, vfs.Wrap(op, ctx.Err())
		}
	}
	return entries, false, nil
}
