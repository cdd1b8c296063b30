package store

import (
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// refillSegments is how many segments' worth of a full store must be dead before it tries to win space although no Put
// asks: who knows that it is full sends none. With less, each small deletion would have segments emptied that
// are nearly all live.
const refillSegments = 2

// full reports whether Puts have no room. That begins when the last attempt to find space, compaction included, was in
// vain and what is left of the active segment would not take the largest shard. It ends when Puts can have a whole
// segment, which is many shards: so it does not change back and forth. Called with mu held.
func (s *Store) full() bool {
	left := len(s.spares) + s.roomNow() - reservePuts
	switch {
	case left > 0:
		s.isFull = false
	case vfs.KindOf(s.attemptErr) == vfs.KindNoSpace && (left < 0 || !s.takesLargest()):
		s.isFull = true
	}
	return s.isFull
}

// takesLargest reports whether the active segment has room for any shard. Called with mu held.
func (s *Store) takesLargest() bool {
	if s.active == nil {
		return false
	}
	end := s.active.header.End() - s.controlReserve()
	return s.next+min(int64(segment.RecordLen(segment.MaxData)), end-segment.HeaderSize) <= end
}
