package store

import (
	"cmp"
	crand "crypto/rand"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

const (
	segmentSuffix = ".seg"
	newSuffix     = ".new"
	// zeroSync is how much of a new segment is written between syncs.
	zeroSync = 16 << 20
)

func randomSalt() uint64 {
	var p [8]byte
	crand.Read(p[:]) // never fails
	return le.Uint64(p[:])
}

func (s *Store) segmentPath(num uint32, suffix string) string {
	return fmt.Sprintf("%s/segments/%08d%s", s.o.Dir, num, suffix)
}

// space is how many bytes of records fit a segment.
func (g *seg) space() int64 { return g.header.End() - segment.HeaderSize }

// needed is how many bytes of a segment must be moved before it can be recycled. Called with Store.mu held.
func (g *seg) needed() int64 { return g.live + g.kept }

// dead is the bytes of its records that nothing needs. Called with Store.mu held.
func (g *seg) dead() int64 { return max(g.end-segment.HeaderSize-g.needed(), 0) }

// gain is what emptying the segment wins: its dead bytes, and what was never written behind
// them if that is more than what is left over at the end of every segment because the next record did not
// fit. Called with Store.mu held.
func (g *seg) gain() int64 {
	unwritten := g.header.End() - max(g.end, segment.HeaderSize)
	if unwritten < max(g.space()/4, 2*int64(segment.RecordLen(segment.MaxData))) {
		unwritten = 0
	}
	return g.dead() + unwritten
}

// worth reports whether the segment is to be emptied if that is done for those of which no more than
// percent is needed. Called with Store.mu held.
func (g *seg) worth(percent int64) bool {
	need, gain := g.needed(), g.gain()
	return need == 0 || 100*need <= percent*(need+gain) && gain >= g.space()/10
}

// openSegments opens all segment files and finds out which are free and which are lost.
func (s *Store) openSegments() error {
	const op = "store.open"
	names, err := s.fs.List(s.o.Dir + "/segments")
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	for _, name := range names {
		path := s.o.Dir + "/segments/" + name
		if strings.HasSuffix(name, newSuffix) {
			if s.readOnly != nil {
				continue
			}
			// Its preparation was cut short.
			if err := s.fs.Remove(path); err != nil {
				return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
			}
			continue
		}
		base, ok := strings.CutSuffix(name, segmentSuffix)
		num, err := strconv.ParseUint(base, 10, 32)
		if !ok || err != nil {
			s.log.Warn("not a segment, ignored", "file", path)
			continue
		}
		s.lastNum = max(s.lastNum, uint32(num))
		if err := s.openSegment(uint32(num), path); err != nil {
			return err
		}
	}
	for _, g := range s.segs {
		switch {
		case g.lost != lossNone:
			s.compacting.restore = true
			continue
		case g.header.State == segment.StateFree:
			s.spares = append(s.spares, g)
		default:
			s.byInc[g.header.Incarnation] = g
		}
		s.lastInc = max(s.lastInc, g.header.Incarnation)
	}
	slices.SortFunc(s.spares, func(a, b *seg) int { return cmp.Compare(a.header.File, b.header.File) })
	s.measureRoom()
	s.gaugeSegments()
	return nil
}

func (s *Store) openSegment(num uint32, path string) error {
	const op = "store.open"
	openFile := s.fs.Open
	if s.readOnly != nil {
		openFile = s.fs.OpenRead
	}
	f, err := openFile(path)
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	g := &seg{f: f}
	found, read := false, true
	var foreign *segment.Header
	for _, off := range []int64{0, s.o.SegmentSize - segment.HeaderSize} {
		p := make([]byte, segment.HeaderSize)
		if _, err := f.ReadAt(p, off); err != nil {
			// A file that ends early has no header there; anything else may be read another time.
			read = read && err == io.EOF
			s.log.Error("segment header cannot be read", "file", path, "offset", off, "err", err)
			continue
		}
		h, ok, err := segment.DecodeHeader(p)
		if err != nil {
			f.Close()
			return err
		}
		if ok && (h.Cluster != s.super.cluster || h.Store != s.super.store || h.File != num || h.Size != s.o.SegmentSize) {
			foreign = &h
			continue
		}
		// Of two copies the younger counts; they differ when a crash came between taking the
		// segment into use and its first record. Of the same age the one that says free does: it was being recycled.
		if ok && (!found || h.Incarnation > g.header.Incarnation || h.Incarnation == g.header.Incarnation && h.State < g.header.State) {
			g.header, found = h, true
		}
	}
	switch {
	case found:
		s.completeFile(g, path)
	case foreign != nil:
		f.Close()
		return vfs.Errorf(vfs.KindIncompatible, op, "%s belongs to store %x, file %d, of cluster %x; it was put here by mistake, move it away",
			path, foreign.Store, foreign.File, foreign.Cluster)
	default:
		g.header = segment.Header{File: num, Size: s.o.SegmentSize, Cluster: s.super.cluster, Store: s.super.store}
		if g.lost = lossHeader; !read {
			g.lost = lossUnread
		}
		s.log.Error("segment has no intact header, its shards are lost", "file", path)
	}
	s.segs[num] = g
	return nil
}

// completeFile gives a segment file that was cut short its size back. The records that were
// cut off are zeros then, and fail their checks.
func (s *Store) completeFile(g *seg, path string) {
	size, err := g.f.Size()
	if err != nil || size >= s.o.SegmentSize {
		return
	}
	s.log.Error("segment file is cut short, shards in it are lost", "file", path, "bytes", size, "want", s.o.SegmentSize)
	if g.short = true; s.readOnly != nil {
		return
	}
	reserved, err := g.f.Allocate(s.o.SegmentSize)
	if from := (size + segment.PageSize - 1) / segment.PageSize * segment.PageSize; err == nil && !reserved && from < s.o.SegmentSize {
		err = g.f.Zero(from, s.o.SegmentSize-from)
	}
	if err != nil {
		s.log.Error("segment file stays short", "file", path, "err", err)
		return
	}
	if err := writeHeader(g.f, &g.header); err != nil {
		s.log.Error("segment header not completed", "file", path, "err", err)
	}
}

// measureRoom looks how many segments can still be made. Called with mu held.
func (s *Store) measureRoom() { s.room = s.roomNow() }

// roomNow is how many segments can be made now. Called with mu held.
func (s *Store) roomNow() int {
	room := int64(1 << 20)
	if s.o.Capacity > 0 {
		room = s.o.Capacity/s.o.SegmentSize - int64(len(s.segs))
	}
	free, err := s.fs.Free(s.o.Dir)
	if err != nil {
		free = 0
	}
	return int(max(min(room, (int64(min(free, 1<<62))-s.o.ReserveBytes)/s.o.SegmentSize), 0))
}

// gaugeSegments brings the metrics up to date. Called with mu held.
func (s *Store) gaugeSegments() {
	s.m.Segments.Set(float64(len(s.segs)))
	s.m.FreeSegments.Set(float64(len(s.spares)))
	s.m.LostSegments.Set(float64(s.lostCount()))
}

// lostCount is how many segments are lost. Called with mu held.
func (s *Store) lostCount() (n int) {
	for _, g := range s.segs {
		if g.lost != lossNone {
			n++
		}
	}
	return n
}

// preparer is the goroutine that makes segments when asked, and has them won back by
// compaction when none can be made.
func (s *Store) preparer() {
	defer s.wg.Done()
	for {
		select {
		case <-s.stop:
			return
		case <-s.prepare:
		}
		s.mu.Lock()
		s.measureRoom()
		// One to use, and what is missing of the reserve.
		need := len(s.spares) < 1+max(reservePuts-s.room, 0)
		var r run
		if need {
			s.lastNum++
			r = s.beginRun()
		}
		num := s.lastNum
		total := int64(len(s.segs)) * s.o.SegmentSize
		s.mu.Unlock()
		var g *seg
		var err error
		if need {
			g, err = s.makeSegment(num, total, r)
		}
		s.mu.Lock()
		if g != nil {
			s.ahead.last = r.from
			s.segs[num] = g
			s.spares = append(s.spares, g)
			s.gaugeSegments()
			s.measureRoom()
		}
		if s.makeErr == nil && err != nil && !s.closed {
			s.log.Warn("no new segment", "err", err)
		}
		s.makeErr = err
		s.ahead.hurried = false
		close(s.made)
		s.made = make(chan struct{})
		if vfs.KindOf(err) == vfs.KindNoSpace && s.failed == nil && !s.rebuilding {
			// The compactor ends the attempt.
			s.hurryCompactor()
		} else {
			s.endAttempt(err)
		}
		s.mu.Unlock()
	}
}

// endAttempt tells who waits for space that it is there or, with err, that it will
// not come. Called with mu held.
func (s *Store) endAttempt(err error) {
	s.attemptErr = err
	close(s.attempt)
	s.attempt = make(chan struct{})
}

// makeSegment creates a free segment whose blocks are all reserved, and written as r says.
func (s *Store) makeSegment(num uint32, total int64, r run) (g *seg, err error) {
	const op = "store.segment"
	size := s.o.SegmentSize
	if s.o.Capacity > 0 && total+size > s.o.Capacity {
		return nil, vfs.Errorf(vfs.KindNoSpace, op, "%s is full: its capacity is %d bytes", s.o.Dir, s.o.Capacity)
	}
	free, err := s.fs.Free(s.o.Dir)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	if need := size + s.o.ReserveBytes; free < uint64(need) {
		return nil, vfs.Errorf(vfs.KindNoSpace, op, "%s is full: %d bytes free, a segment and the reserve need %d", s.o.Dir, free, need)
	}
	path := s.segmentPath(num, newSuffix)
	f, err := s.fs.Create(path)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	h := segment.Header{State: segment.StateFree, File: num, Size: size, Cluster: s.super.cluster, Store: s.super.store}
	fill := func() error {
		reserved, err := f.Allocate(size)
		if err != nil {
			return err
		}
		for off := int64(0); off < size; off += zeroStep {
			worth, err := s.awaitTurn(r, off, size)
			if err != nil {
				return err
			}
			if reserved && !worth {
				break
			}
			if err := f.Zero(off, min(zeroStep, size-off)); err != nil {
				return err
			}
			// Where zeros go through the page cache, the disk's queue stays short for others.
			if end := off + zeroStep; end%zeroSync == 0 || end >= size {
				if err := f.SyncData(); err != nil {
					return err
				}
			}
			select {
			case <-s.stop:
				return vfs.Errorf(vfs.KindUnavailable, op, "%s is closing", s.o.Dir)
			default:
			}
		}
		if err := writeHeader(f, &h); err != nil {
			return err
		}
		// A name that survives a crash must be that of a whole segment.
		if err := f.Sync(); err != nil {
			return err
		}
		if err := s.fs.Rename(path, s.segmentPath(num, segmentSuffix)); err != nil {
			return err
		}
		return s.fs.SyncDir(s.o.Dir + "/segments")
	}
	if err := fill(); err != nil {
		f.Close()
		// After a failed SyncDir the file may have its final name; being free, it does no harm there.
		s.fs.Remove(path)
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	return &seg{f: f, header: h}, nil
}
