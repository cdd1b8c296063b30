package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// rebuildName is a file whose presence says that the index must be made anew.
const rebuildName = "REBUILD-INDEX"

// replayBatch is how many records a replay enters at a time.
const replayBatch = 1024

// openIndex opens the index and brings it up to date with the log.
func (s *Store) openIndex(ctx context.Context) error {
	used := make([]*seg, 0, len(s.segs))
	for _, g := range s.segs {
		if g.header.State == segment.StateUsed {
			used = append(used, g)
		}
	}
	slices.SortFunc(used, func(a, b *seg) int { return cmp.Compare(a.header.Incarnation, b.header.Incarnation) })
	rebuild := false
	if f, err := s.fs.Open(s.o.Dir + "/" + rebuildName); err == nil {
		f.Close()
		rebuild = true
		s.m.IndexRebuilds.Inc()
	}
	for {
		if rebuild {
			if err := s.clearIndex(); err != nil {
				return err
			}
		}
		pos, err := s.loadIndex(used)
		if err == nil {
			err = s.replay(ctx, used, pos)
		}
		if err == nil || rebuild || !indexFault(err) {
			return err
		}
		s.log.Warn("index is made anew from all segments", "err", err)
		s.m.IndexRebuilds.Inc()
		rebuild = true
	}
}

// indexFault reports whether err says that the index is damaged, and not
// that the machine is short of something.
func indexFault(err error) bool {
	var no syscall.Errno
	if errors.As(err, &no) {
		switch no {
		case syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EACCES, syscall.EPERM, syscall.EROFS:
			return false
		}
	}
	return errors.Is(err, errStaleIndex)
}

// clearIndex removes the index.
func (s *Store) clearIndex() error {
	const op = "store.open"
	if s.db != nil {
		// Its error no longer matters.
		s.db.Close()
		s.db = nil
	}
	s.epochs, s.live, s.liveTotal = make(map[uint32]*pgState), make(map[uint32]int64), 0
	if err := s.o.IndexFS.RemoveAll(s.o.Dir + "/index"); err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	if err := s.fs.Remove(s.o.Dir + "/" + rebuildName); err != nil && !vfile.IsNotExist(err) {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	return nil
}

// loadIndex opens the index and reads its state. An error that wraps
// errStaleIndex means that it must be made anew.
func (s *Store) loadIndex(used []*seg) (position, error) {
	dir := s.o.Dir + "/index"
	if err := s.o.IndexFS.MkdirAll(dir, 0o700); err != nil {
		return position{}, vfs.Errorf(vfs.KindOf(err), "store.open", "%w", err)
	}
	db, err := pebble.Open(dir, s.o.pebbleOptions())
	if err != nil {
		return position{}, fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	s.db = db
	v, c, err := db.Get([]byte{prefixMeta})
	if errors.Is(err, pebble.ErrNotFound) {
		return position{}, nil // new, or never flushed: all of the log is to be replayed
	}
	if err != nil {
		return position{}, fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	pos, err := decodeMeta(s.super.store, v)
	c.Close()
	if err != nil {
		return position{}, err
	}
	if pos.incarnation > 0 && !slices.ContainsFunc(used, func(g *seg) bool { return g.header.Incarnation >= pos.incarnation }) {
		return position{}, fmt.Errorf("%w: it is ahead of the segments", errStaleIndex)
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEpoch}, UpperBound: []byte{prefixSegment + 1}})
	if err != nil {
		return position{}, fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		k, v := it.Key(), it.Value()
		switch {
		case len(k) == 5 && k[0] == prefixEpoch && len(v) == 4:
			st := s.pg(be.Uint32(k[1:]))
			st.known, st.durable = le.Uint32(v), le.Uint32(v)
		case len(k) == 5 && k[0] == prefixSegment && len(v) == 8:
			n := int64(le.Uint64(v))
			s.live[be.Uint32(k[1:])] = n
			s.liveTotal += n
		}
	}
	if err := it.Error(); err != nil {
		return position{}, fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	return pos, nil
}

// replay enters every record from pos on, and finds where the log ends.
func (s *Store) replay(ctx context.Context, used []*seg, pos position) error {
	const op = "store.replay"
	for i, g := range used {
		inc := g.header.Incarnation
		if inc < pos.incarnation {
			continue
		}
		from := int64(segment.HeaderSize)
		if inc == pos.incarnation {
			from = max(from, pos.offset)
		}
		// What was written and not synced before a crash of the process is
		// made durable before it counts, and then read from the disk, for after a failed sync the cache may show more.
		// So is the header, which a failed sync may have left in the cache only: without it the
		// records to come would belong to no incarnation.
		if err := writeHeader(g.f, &g.header); err != nil {
			return vfs.Errorf(vfs.KindIO, op, "segment %08d: %w", g.header.File, err)
		}
		if err := g.f.SyncData(); err != nil {
			return vfs.Errorf(vfs.KindIO, op, "segment %08d: %w", g.header.File, err)
		}
		if err := g.f.DropCache(); err != nil {
			s.log.Debug("page cache not dropped", "err", err)
		}
		res, err := s.replaySegment(ctx, g, from)
		if err != nil {
			return err
		}
		s.m.ReplayedTorn.Add(float64(res.Torn))
		if res.Torn > 0 || res.Unreadable > 0 {
			s.log.Info("log replayed past incomplete records", "segment", g.header.File, "torn", res.Torn, "unreadable", res.Unreadable)
		}
		// A page that cannot be read may hide an acknowledged record: nothing
		// is appended to such a segment.
		if i == len(used)-1 && res.Unreadable == 0 {
			s.active, s.next = g, res.End
		}
	}
	s.m.LiveBytes.Set(float64(s.liveTotal))
	if err := s.saveIndex(); err != nil {
		return err
	}
	return nil
}

func (s *Store) replaySegment(ctx context.Context, g *seg, from int64) (segment.ScanResult, error) {
	b := s.db.NewIndexedBatch()
	c := newChange(b)
	n := 0
	commit := func(end int64) error {
		defer b.Close()
		for _, d := range c.live {
			s.liveTotal += d
		}
		s.m.Replayed.Add(float64(n))
		err := c.commit(s.super.store, position{g.header.Incarnation, end}, s.live)
		b = s.db.NewIndexedBatch()
		c, n = newChange(b), 0
		return err
	}
	h := g.header
	res, err := segment.Scan(ctx, g.f, &h, from, func(r segment.Record, data []byte) error {
		if n == replayBatch {
			if err := commit(r.Offset); err != nil {
				return err
			}
		}
		n++
		return s.replayRecord(c, h.File, &r, data)
	})
	if err == nil {
		err = commit(res.End)
	}
	b.Close()
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	return res, err
}

func (s *Store) replayRecord(c *change, file uint32, r *segment.Record, data []byte) error {
	switch r.Kind {
	case segment.KindShard:
		k := segment.Key{PG: r.PG, Block: r.Block, Shard: r.Shard}
		old, ok, err := lookup(c.batch, k)
		if err != nil {
			return err
		}
		l := locate(file, r)
		if ok && old == l {
			return nil
		}
		var was *location
		if ok {
			was = &old
		}
		if err := c.set(k, l, was); err != nil {
			return err
		}
		return s.enterEpoch(c, r.PG, r.Epoch)
	case segment.KindDeletions:
		for _, k := range segment.DecodeKeys(data) {
			old, ok, err := lookup(c.batch, k)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if err := c.delete(k, old); err != nil {
				return err
			}
		}
	case segment.KindEpochs:
		for _, e := range segment.DecodeEpochs(data) {
			if err := s.enterEpoch(c, e.PG, e.Epoch); err != nil {
				return err
			}
		}
	}
	return nil
}
