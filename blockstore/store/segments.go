package store

import (
	"cmp"
	crand "crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

const (
	segmentSuffix = ".seg"
	newSuffix     = ".new"
	// zeroChunk is how much of a new segment is written between syncs.
	zeroChunk = 16 << 20
)

func randomSalt() uint64 {
	var p [8]byte
	crand.Read(p[:]) // never fails
	return le.Uint64(p[:])
}

func (s *Store) segmentPath(num uint32, suffix string) string {
	return fmt.Sprintf("%s/segments/%08d%s", s.o.Dir, num, suffix)
}

// openSegments opens all segment files and finds out which are free. A
// segment with neither copy of its header intact is left alone: its records
// cannot be checked, so they are lost to this store and repaired from others.
func (s *Store) openSegments() error {
	const op = "store.open"
	names, err := s.fs.List(s.o.Dir + "/segments")
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	for _, name := range names {
		path := s.o.Dir + "/segments/" + name
		if strings.HasSuffix(name, newSuffix) {
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
		if g.header.State == segment.StateFree {
			s.spares = append(s.spares, g)
		}
		s.lastInc = max(s.lastInc, g.header.Incarnation)
	}
	slices.SortFunc(s.spares, func(a, b *seg) int { return cmp.Compare(a.header.File, b.header.File) })
	s.m.Segments.Set(float64(len(s.segs)))
	return nil
}

func (s *Store) openSegment(num uint32, path string) error {
	const op = "store.open"
	f, err := s.fs.Open(path)
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	g := &seg{f: f}
	found := false
	for _, off := range []int64{0, s.o.SegmentSize - segment.HeaderSize} {
		p := make([]byte, segment.HeaderSize)
		if _, err := f.ReadAt(p, off); err != nil {
			s.log.Error("segment header cannot be read", "file", path, "offset", off, "err", err)
			continue
		}
		h, ok, err := segment.DecodeHeader(p)
		if err != nil {
			f.Close()
			return err
		}
		// Of two copies the younger counts; they differ when a crash
		// came between taking the segment into use and its first record.
		if ok && (!found || h.Incarnation > g.header.Incarnation || h.Incarnation == g.header.Incarnation && h.State < g.header.State) {
			g.header, found = h, true
		}
	}
	if !found {
		s.log.Error("segment has no intact header, its shards are lost", "file", path)
		s.m.LostSegments.Inc()
		return f.Close()
	}
	if g.header.Cluster != s.super.cluster || g.header.Store != s.super.store || g.header.File != num || g.header.Size != s.o.SegmentSize {
		f.Close()
		return vfs.Errorf(vfs.KindIncompatible, op, "%s belongs to store %x, file %d, of cluster %x; it was put here by mistake, move it away",
			path, g.header.Store, g.header.File, g.header.Cluster)
	}
	s.segs[num] = g
	return nil
}

// preparer is the goroutine that makes segments when asked.
func (s *Store) preparer() {
	defer s.wg.Done()
	for {
		select {
		case <-s.stop:
			return
		case <-s.prepare:
		}
		s.mu.Lock()
		need := len(s.spares) == 0
		if need {
			s.lastNum++
		}
		num := s.lastNum
		total := int64(len(s.segs)) * s.o.SegmentSize
		s.mu.Unlock()
		var g *seg
		var err error
		if need {
			g, err = s.makeSegment(num, total)
		}
		s.mu.Lock()
		if g != nil {
			s.segs[num] = g
			s.spares = append(s.spares, g)
			s.m.Segments.Set(float64(len(s.segs)))
		}
		if s.attemptErr == nil && err != nil {
			s.log.Warn("no new segment", "err", err)
		}
		s.attemptErr = err
		close(s.attempt)
		s.attempt = make(chan struct{})
		s.mu.Unlock()
	}
}

// makeSegment creates a free segment whose blocks are all written.
func (s *Store) makeSegment(num uint32, total int64) (g *seg, err error) {
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
		if err := f.Allocate(size); err != nil {
			return err
		}
		for off := int64(0); off < size; off += zeroChunk {
			if err := f.Zero(off, min(zeroChunk, size-off)); err != nil {
				return err
			}
			// Where zeros go through the page cache, the disk's queue stays short for others.
			if err := f.SyncData(); err != nil {
				return err
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
