package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	used := s.used()
	rebuild := false
	if s.readOnly == nil {
		// What is left of a new index that was not finished.
		if err := s.o.IndexFS.RemoveAll(s.newIndexDir()); err != nil {
			return vfs.Errorf(vfs.KindOf(err), "store.open", "%w", err)
		}
	}
	if f, err := s.fs.OpenRead(s.o.Dir + "/" + rebuildName); err == nil {
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
		pos, missing, err := s.loadIndex()
		if err == nil && missing {
			if err = s.markMissing(ctx, pos); pebble.IsCorruptionError(err) {
				err = fmt.Errorf("%w: %w", errStaleIndex, err)
			}
		}
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

// used are the segments that have records, oldest first. Called with mu held, or by Open.
func (s *Store) used() []*seg {
	used := make([]*seg, 0, len(s.segs))
	for _, g := range s.segs {
		if g.header.State == segment.StateUsed && g.lost == lossNone {
			used = append(used, g)
		}
	}
	slices.SortFunc(used, func(a, b *seg) int { return cmp.Compare(a.header.Incarnation, b.header.Incarnation) })
	return used
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
	if s.ix != nil {
		s.ix.drop()
		s.ix = nil
	}
	s.mu.Lock()
	if s.readOnly == nil && s.failed != nil {
		// The old index could not be written; a new one takes its place.
		s.failed, s.broken = nil, make(chan struct{})
		s.m.WriteFailed.Set(0)
	}
	s.damaged = nil
	s.mu.Unlock()
	s.epochs, s.liveTotal, s.bad = make(map[uint32]*pgState), 0, 0
	for file, g := range s.segs {
		if g.live, g.kept, g.end = 0, 0, 0; g.lost == lossMissing {
			delete(s.segs, file)
			delete(s.byInc, g.header.Incarnation)
		}
	}
	if err := s.o.IndexFS.RemoveAll(s.indexDir()); err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	return s.unmarkRebuild()
}

// unmarkRebuild forgets that the index is to be made anew. It is not synced: were the mark back after a
// power cut, the index would be made once more.
func (s *Store) unmarkRebuild() error {
	if s.readOnly != nil {
		return nil
	}
	if err := s.fs.Remove(s.o.Dir + "/" + rebuildName); err != nil && !vfile.IsNotExist(err) {
		return vfs.Errorf(vfs.KindOf(err), "store.index", "%w", err)
	}
	return nil
}

// indexDir is where the index is, newIndexDir where one is made that will take its place.
func (s *Store) indexDir() string    { return s.o.Dir + "/index" }
func (s *Store) newIndexDir() string { return s.o.Dir + "/index.new" }

// loadIndex opens the index and reads its state. missing means that it may refer to records that
// are in no segment. An error that wraps errStaleIndex means that it must be made anew.
func (s *Store) loadIndex() (pos position, missing bool, err error) {
	stale := func(err error) (position, bool, error) {
		return position{}, false, fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	dir := s.indexDir()
	if err := s.o.IndexFS.MkdirAll(dir, 0o700); err != nil {
		return pos, false, vfs.Errorf(vfs.KindOf(err), "store.open", "%w", err)
	}
	if s.ix, err = s.o.openPebble(dir, s.o.IndexFS, indexEvents{failed: s.indexFails, damaged: s.indexDamaged}); err != nil {
		return stale(err)
	}
	db := s.ix.db
	v, c, err := db.Get([]byte{prefixMeta})
	if errors.Is(err, pebble.ErrNotFound) {
		return pos, false, nil // new, or never flushed: all of the log is to be replayed
	}
	if err != nil {
		return stale(err)
	}
	pos, err = decodeMeta(s.super.store, v)
	c.Close()
	if err != nil {
		return pos, false, err
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEpoch}, UpperBound: []byte{prefixBad + 1}})
	if err != nil {
		return stale(err)
	}
	defer it.Close()
	lost := false
	for ok := it.First(); ok; ok = it.Next() {
		k, v := it.Key(), it.Value()
		switch {
		case len(k) == 5 && k[0] == prefixEpoch && len(v) == 4:
			st := s.pg(be.Uint32(k[1:]))
			st.known, st.durable = le.Uint32(v), le.Uint32(v)
		case len(k) == 5 && k[0] == prefixSegment && len(v) == usageLen:
			gone, refers := s.loadUsage(be.Uint32(k[1:]), le.Uint64(v), int64(le.Uint64(v[8:])), int64(le.Uint64(v[16:])))
			lost, missing = lost || gone, missing || refers
		case len(k) == tombstoneKeyLen && k[0] == prefixTombstone && len(v) == 4:
			if g := s.byInc[be.Uint64(k[1:])]; g != nil {
				g.kept += int64(le.Uint32(v))
			}
		case len(k) == shardKeyLen && k[0] == prefixBad:
			s.bad++
		}
	}
	if err := it.Error(); err != nil {
		return stale(err)
	}
	if pos.incarnation > s.lastInc && !lost {
		return pos, false, fmt.Errorf("%w: it is ahead of the segments", errStaleIndex)
	}
	// Incarnations are not used again, even if the segment that had the last one is lost.
	s.lastInc = max(s.lastInc, pos.incarnation)
	return pos, missing, nil
}

// loadUsage takes over what the index knows of a segment file. lost means that the file does not have
// the segment any more, refers that live records were in it.
func (s *Store) loadUsage(file uint32, incarnation uint64, live, end int64) (lost, refers bool) {
	g := s.segs[file]
	switch {
	case g == nil:
		g = &seg{lost: lossMissing, header: segment.Header{File: file}}
		s.segs[file] = g
		s.log.Error("segment file is missing, its shards are lost", "file", s.segmentPath(file, segmentSuffix))
		fallthrough
	case g.lost != lossNone:
		// Its records count as being there: if they cannot be read just now, they may come back.
		g.header.Incarnation = incarnation
		s.byInc[incarnation] = g
		s.compacting.restore = true
		return true, live > 0
	case g.header.State == segment.StateUsed && g.header.Incarnation == incarnation:
		g.live, g.end = live, end
		s.liveTotal += live
		return false, false
	}
	return false, live > 0
}

// indexFails is told when the index cannot be written any more.
func (s *Store) indexFails(name string, err error) {
	if isManifest(name) {
		// Which tables make up the index is open then.
		s.markRebuild()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(vfs.Errorf(vfs.KindOf(err), "store.index", "%s: %w", name, err))
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
		if s.readOnly == nil {
			if err := writeHeader(g.f, &g.header); err != nil {
				return vfs.Errorf(vfs.KindIO, op, "segment %08d: %w", g.header.File, err)
			}
			if err := g.f.SyncData(); err != nil {
				return vfs.Errorf(vfs.KindIO, op, "segment %08d: %w", g.header.File, err)
			}
		}
		if err := g.f.DropCache(); err != nil {
			s.log.Debug("page cache not dropped", "err", err)
		}
		h := g.header
		res, err := s.replaySegment(ctx, inUse{s}, g, &h, from, end)
		if err != nil {
			return err
		}
		s.m.ReplayedTorn.Add(float64(res.Torn))
		if res.Torn > 0 || res.Unreadable > 0 {
			s.log.Info("log replayed past incomplete records", "segment", g.header.File, "torn", res.Torn, "unreadable", res.Unreadable)
		}
		// A page that cannot be read may hide an acknowledged record: nothing
		// is appended to such a segment.
		if i == len(used)-1 && res.Unreadable == 0 && !g.short && inc == s.lastInc {
			s.active, s.next = g, res.End
		}
	}
	s.m.LiveBytes.Set(float64(s.liveTotal))
	if err := s.saveIndex(); err != nil {
		return err
	}
	return nil
}

// ledger is an index that records are replayed into, and what is counted beside it.
type ledger interface {
	newBatch() *pebble.Batch // an indexed one
	// commit writes a change with the position it brings the index to, and counts it.
	commit(c *change, pos position) error
	marked() int // how many shards are marked bad
	enterEpoch(c *change, pg, epoch uint32) error
	// reader reads a segment.
	reader(ctx context.Context, g *seg) io.ReaderAt
}

// inUse is the index of the store, while it is opened.
type inUse struct{ *Store }

func (u inUse) newBatch() *pebble.Batch { return u.ix.db.NewIndexedBatch() }
func (u inUse) marked() int             { return u.bad }

func (u inUse) reader(_ context.Context, g *seg) io.ReaderAt { return g.f }

// end is behind every record.
var end = position{incarnation: 1<<64 - 1}

// errEnough ends a scan at its limit.
var errEnough = errors.New("enough")

// replaySegment enters the records of a segment at from and behind it, up to limit.
func (s *Store) replaySegment(ctx context.Context, to ledger, g *seg, h *segment.Header, from int64, limit position) (segment.ScanResult, error) {
	b := to.newBatch()
	c := newChange(b)
	n := 0
	commit := func(end int64) error {
		defer b.Close()
		s.m.Replayed.Add(float64(n))
		err := to.commit(c, position{h.Incarnation, end})
		b = to.newBatch()
		c, n = newChange(b), 0
		return err
	}
	reached := false
	res, err := segment.Scan(ctx, to.reader(ctx, g), h, from, func(r segment.Record, data []byte) error {
		if h.Incarnation == limit.incarnation && r.Offset >= limit.offset {
			reached = true
			return errEnough
		}
		if n == replayBatch {
			if err := commit(r.Offset); err != nil {
				return err
			}
		}
		n++
		return s.replayRecord(to, c, h, &r, data)
	})
	if reached {
		err = nil
	}
	if h.Incarnation == limit.incarnation {
		res.End = min(res.End, limit.offset)
	}
	if err == nil {
		err = commit(res.End)
	}
	b.Close()
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("%w: %w", errStaleIndex, err)
	}
	return res, err
}

func (s *Store) replayRecord(to ledger, c *change, h *segment.Header, r *segment.Record, data []byte) error {
	c.record(h.File, r)
	switch r.Kind {
	case segment.KindShard:
		k := segment.Key{PG: r.PG, Block: r.Block, Shard: r.Shard}
		l := locate(h.File, r)
		same, err := s.replayOld(to, c, k, &l)
		if err != nil || same {
			return err
		}
		if err := c.set(k, l); err != nil {
			return err
		}
		return to.enterEpoch(c, r.PG, r.Epoch)
	case segment.KindDeletions:
		for _, k := range segment.DecodeKeys(data) {
			if _, err := s.replayOld(to, c, k, nil); err != nil {
				return err
			}
			if err := c.delete(k); err != nil {
				return err
			}
		}
		// It may be in the index already, for replay begins at the oldest record that is not.
		known, err := has(c.batch, tombstoneKey(h.Incarnation, uint32(r.Offset/segment.PageSize)))
		if err != nil || known {
			return err
		}
		return c.tombstone(h.File, h.Incarnation, r.Offset, len(data))
	case segment.KindEpochs:
		for _, e := range segment.DecodeEpochs(data) {
			if err := to.enterEpoch(c, e.PG, e.Epoch); err != nil {
				return err
			}
		}
	}
	return nil
}

// replayOld retires what the index has of k, unless it is at l already.
func (s *Store) replayOld(to ledger, c *change, k segment.Key, l *location) (same bool, err error) {
	old, ok, err := lookup(c.batch, k)
	if err != nil {
		return false, err
	}
	if ok && l != nil && old == *l {
		return true, nil
	}
	if ok {
		return false, c.retire(k, old, s.incarnationOf(old.file))
	}
	if to.marked()+c.bad == 0 {
		return false, nil
	}
	bad, err := has(c.batch, badKey(k))
	if err == nil && bad {
		err = c.unmarkBad(k)
	}
	return false, err
}
