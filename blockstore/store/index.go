package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/segment"
)

const (
	indexVersion = 2

	prefixShard     = 'b'
	prefixPin       = 'd'
	prefixEpoch     = 'e'
	prefixMeta      = 'm'
	prefixSegment   = 's'
	prefixTombstone = 't'
	prefixBad       = 'x'
)

// location is an entry of the index: where a shard's record is, and what a
// lister wants to know without reading it.
type location struct {
	file     uint32
	page     uint32 // offset in the segment, in pages
	length   uint32
	epoch    uint32
	blockLen uint32
	k, m     uint8
}

const locationLen = 22

func (l *location) encode() []byte {
	p := make([]byte, locationLen)
	le.PutUint32(p[0:], l.file)
	le.PutUint32(p[4:], l.page)
	le.PutUint32(p[8:], l.length)
	le.PutUint32(p[12:], l.epoch)
	le.PutUint32(p[16:], l.blockLen)
	p[20], p[21] = l.k, l.m
	return p
}

func decodeLocation(p []byte) (location, error) {
	if len(p) != locationLen {
		return location{}, fmt.Errorf("index entry of %d bytes: %w", len(p), pebble.ErrCorruption)
	}
	return location{
		file: le.Uint32(p[0:]), page: le.Uint32(p[4:]), length: le.Uint32(p[8:]),
		epoch: le.Uint32(p[12:]), blockLen: le.Uint32(p[16:]), k: p[20], m: p[21],
	}, nil
}

func (l *location) offset() int64 { return int64(l.page) * segment.PageSize }

// size is what the record takes on disk.
func (l *location) size() int64 { return int64(segment.RecordLen(int(l.length))) }

const shardKeyLen = 1 + 4 + 8 + 1

func shardKey(k segment.Key) []byte { return keyUnder(prefixShard, k) }

func badKey(k segment.Key) []byte { return keyUnder(prefixBad, k) }

// keyUnder is the key of k under a prefix, with room for an incarnation.
func keyUnder(prefix byte, k segment.Key) []byte {
	p := make([]byte, shardKeyLen, shardKeyLen+8)
	p[0] = prefix
	be.PutUint32(p[1:], k.PG)
	be.PutUint64(p[5:], k.Block)
	p[13] = k.Shard
	return p
}

// decodeKey reads a key that keyUnder made.
func decodeKey(prefix byte, p []byte) (segment.Key, error) {
	if len(p) != shardKeyLen || p[0] != prefix {
		return segment.Key{}, fmt.Errorf("index key of %d bytes: %w", len(p), pebble.ErrCorruption)
	}
	return segment.Key{PG: be.Uint32(p[1:]), Block: be.Uint64(p[5:]), Shard: p[13]}, nil
}

func u32Key(prefix byte, v uint32) []byte { return be.AppendUint32([]byte{prefix}, v) }

// pinKey says that the segment of this incarnation holds a dead record of k.
func pinKey(k segment.Key, incarnation uint64) []byte {
	return be.AppendUint64(keyUnder(prefixPin, k), incarnation)
}

func decodePin(p []byte) (segment.Key, uint64, error) {
	if len(p) != shardKeyLen+8 {
		return segment.Key{}, 0, fmt.Errorf("index key of %d bytes: %w", len(p), pebble.ErrCorruption)
	}
	k, err := decodeKey(prefixPin, p[:shardKeyLen])
	return k, be.Uint64(p[shardKeyLen:]), err
}

// tombstoneKey is the place of a deletions record.
func tombstoneKey(incarnation uint64, page uint32) []byte {
	return be.AppendUint32(be.AppendUint64([]byte{prefixTombstone}, incarnation), page)
}

const tombstoneKeyLen = 1 + 8 + 4

// usage is what the index knows of a segment file when it had this incarnation: the bytes of live records,
// and where its records end.
func encodeUsage(incarnation uint64, live, end int64) []byte {
	p := le.AppendUint64(nil, incarnation)
	p = le.AppendUint64(p, uint64(live))
	return le.AppendUint64(p, uint64(end))
}

const usageLen = 3 * 8

// position is a place in the log. Segments are ordered by incarnation.
type position struct {
	incarnation uint64
	offset      int64
}

func encodeMeta(store segment.ID, pos position) []byte {
	p := le.AppendUint16(nil, indexVersion)
	p = append(p, store[:]...)
	p = le.AppendUint64(p, pos.incarnation)
	return le.AppendUint64(p, uint64(pos.offset))
}

// errStaleIndex means that the index cannot be used and is made anew.
var errStaleIndex = errors.New("index is not usable")

func decodeMeta(store segment.ID, p []byte) (position, error) {
	switch {
	case len(p) != 2+16+8+8:
		return position{}, fmt.Errorf("%w: state record of %d bytes", errStaleIndex, len(p))
	case le.Uint16(p) != indexVersion:
		return position{}, fmt.Errorf("%w: version %d", errStaleIndex, le.Uint16(p))
	case segment.ID(p[2:18]) != store:
		return position{}, fmt.Errorf("%w: it belongs to another store", errStaleIndex)
	}
	return position{le.Uint64(p[18:]), int64(le.Uint64(p[26:]))}, nil
}

// lookup finds a shard. ok is false if there is none.
func lookup(r pebble.Reader, k segment.Key) (l location, ok bool, err error) {
	return lookupKey(r, shardKey(k))
}

func lookupKey(r pebble.Reader, key []byte) (l location, ok bool, err error) {
	v, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return location{}, false, nil
	}
	if err != nil {
		return location{}, false, err
	}
	defer c.Close()
	l, err = decodeLocation(v)
	return l, err == nil, err
}

// has reports whether the index has the key.
func has(r pebble.Reader, key []byte) (bool, error) {
	_, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, c.Close()
}

// change is one group's update of the index.
type change struct {
	batch *pebble.Batch
	files map[uint32]*delta
	bad   int           // bad shards gained or lost
	keys  []segment.Key // shards that are entered, moved or gone
}

// delta is what a change does to the counts of a segment.
type delta struct {
	live, kept int64 // bytes gained or lost
	end        int64 // of the last record entered
}

func newChange(b *pebble.Batch) *change { return &change{batch: b, files: make(map[uint32]*delta)} }

func (c *change) file(num uint32) *delta {
	d := c.files[num]
	if d == nil {
		d = new(delta)
		c.files[num] = d
	}
	return d
}

// record notes that a record was entered.
func (c *change) record(file uint32, r *segment.Record) {
	d := c.file(file)
	d.end = max(d.end, r.Offset+int64(segment.RecordLen(int(r.Length))))
}

// set enters a shard. What was at its key before has been retired.
func (c *change) set(k segment.Key, l location) error {
	c.file(l.file).live += l.size()
	c.keys = append(c.keys, k)
	return c.batch.Set(shardKey(k), l.encode(), nil)
}

// retire counts k's record at old as dead. incarnation is that of its segment, 0 if there is none.
func (c *change) retire(k segment.Key, old location, incarnation uint64) error {
	c.file(old.file).live -= old.size()
	if incarnation == 0 {
		return nil
	}
	return c.batch.Set(pinKey(k, incarnation), nil, nil)
}

func (c *change) delete(k segment.Key) error {
	c.keys = append(c.keys, k)
	return c.batch.Delete(shardKey(k), nil)
}

// markBad moves k, which was retired, from the shards to the bad ones.
func (c *change) markBad(k segment.Key, old location) error {
	c.bad++
	if err := c.delete(k); err != nil {
		return err
	}
	return c.batch.Set(badKey(k), old.encode(), nil)
}

// unmarkBad forgets that k is bad, which it is.
func (c *change) unmarkBad(k segment.Key) error {
	c.bad--
	return c.batch.Delete(badKey(k), nil)
}

// tombstone notes the place of a deletions record of n bytes.
func (c *change) tombstone(file uint32, incarnation uint64, offset int64, n int) error {
	c.file(file).kept += int64(n)
	return c.batch.Set(tombstoneKey(incarnation, uint32(offset/segment.PageSize)), le.AppendUint32(nil, uint32(n)), nil)
}

func (c *change) epoch(pg, epoch uint32) error {
	return c.batch.Set(u32Key(prefixEpoch, pg), le.AppendUint32(nil, epoch), nil)
}

// commit writes the change with the position it brings the index to, then counts it. Only
// one goroutine at a time may: Open, then the syncer, then Close.
func (s *Store) commit(c *change, pos position) error {
	s.mu.Lock()
	var err error
	for f, d := range c.files {
		if g := s.segs[f]; g != nil && err == nil {
			err = c.batch.Set(u32Key(prefixSegment, f), encodeUsage(g.header.Incarnation, g.live+d.live, max(g.end, d.end)), nil)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := c.batch.Set([]byte{prefixMeta}, encodeMeta(s.super.store, pos), nil); err != nil {
		return err
	}
	end := s.recent.change(c.keys)
	err = s.ix.commit(c.batch)
	end()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, d := range c.files {
		if g := s.segs[f]; g != nil {
			g.live += d.live
			g.kept += d.kept
			g.end = max(g.end, d.end)
			s.liveTotal += d.live
		}
	}
	s.bad += c.bad
	s.m.LiveBytes.Set(float64(s.liveTotal))
	s.m.BadNow.Set(float64(s.bad))
	return nil
}
