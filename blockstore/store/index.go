package store

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/rackfs/rackfs/blockstore/segment"
)

const (
	indexVersion = 1

	prefixShard   = 'b'
	prefixEpoch   = 'e'
	prefixSegment = 's'
	prefixMeta    = 'm'
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

func shardKey(k segment.Key) []byte {
	p := make([]byte, shardKeyLen)
	p[0] = prefixShard
	be.PutUint32(p[1:], k.PG)
	be.PutUint64(p[5:], k.Block)
	p[13] = k.Shard
	return p
}

func decodeShardKey(p []byte) (segment.Key, error) {
	if len(p) != shardKeyLen || p[0] != prefixShard {
		return segment.Key{}, fmt.Errorf("index key of %d bytes: %w", len(p), pebble.ErrCorruption)
	}
	return segment.Key{PG: be.Uint32(p[1:]), Block: be.Uint64(p[5:]), Shard: p[13]}, nil
}

func u32Key(prefix byte, v uint32) []byte { return be.AppendUint32([]byte{prefix}, v) }

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
	v, c, err := r.Get(shardKey(k))
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

// change is one group's update of the index.
type change struct {
	batch *pebble.Batch
	live  map[uint32]int64 // bytes gained or lost, by file
}

func newChange(b *pebble.Batch) *change { return &change{batch: b, live: make(map[uint32]int64)} }

// set enters a shard in place of old, which may be nil.
func (c *change) set(k segment.Key, l location, old *location) error {
	if old != nil {
		c.live[old.file] -= old.size()
	}
	c.live[l.file] += l.size()
	return c.batch.Set(shardKey(k), l.encode(), nil)
}

func (c *change) delete(k segment.Key, old location) error {
	c.live[old.file] -= old.size()
	return c.batch.Delete(shardKey(k), nil)
}

func (c *change) epoch(pg, epoch uint32) error {
	return c.batch.Set(u32Key(prefixEpoch, pg), le.AppendUint32(nil, epoch), nil)
}

// commit writes the change with the position it brings the index to. live
// holds the totals by file and is brought up to date.
func (c *change) commit(store segment.ID, pos position, live map[uint32]int64) error {
	for f, d := range c.live {
		live[f] += d
		if err := c.batch.Set(u32Key(prefixSegment, f), le.AppendUint64(nil, uint64(live[f])), nil); err != nil {
			return err
		}
	}
	if err := c.batch.Set([]byte{prefixMeta}, encodeMeta(store, pos), nil); err != nil {
		return err
	}
	return c.batch.Commit(pebble.NoSync)
}

// pebbleOptions keeps the index small in memory: about four memtables and the cache.
func (o *Options) pebbleOptions() *pebble.Options {
	p := &pebble.Options{
		FS:                          o.IndexFS,
		DisableWAL:                  true,
		Cache:                       o.IndexCache,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                256,
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		Logger:                      pebbleLogger{o.Logger},
	}
	p.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	p.EnsureDefaults()
	return p
}

// pebbleLogger passes on what Pebble considers errors; its narration of
// flushes and compactions is for debugging.
type pebbleLogger struct{ l *slog.Logger }

func (p pebbleLogger) Infof(format string, args ...any)  { p.l.Debug(fmt.Sprintf(format, args...)) }
func (p pebbleLogger) Errorf(format string, args ...any) { p.l.Error(fmt.Sprintf(format, args...)) }
func (p pebbleLogger) Fatalf(format string, args ...any) {
	p.l.Error(fmt.Sprintf(format, args...))
	panic("store: index: " + fmt.Sprintf(format, args...))
}
