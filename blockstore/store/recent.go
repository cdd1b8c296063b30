package store

import (
	"slices"
	"sync"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
)

const (
	// recentBytes bounds the headers that a store keeps, with what they are found by: those of about 3,000 shards of 1 MiB.
	recentBytes = 4 << 20
	recentCost  = 256 // of one, besides its checksums
)

// recent keeps where shards are of which parts were read lately, and their headers: reading a page of a large shard takes one look into the index and one
// read of its header else, which is as much as the page itself costs.
//
// What it has is what the index says. A change of the index takes its shards out before it is made, and nothing comes in until it is made; who looked into
// the index before that comes too late (stamp). Records do not change where they are, so a header that was checked stays true; of what is under it on the
// disk the scrubber finds out. Who finds that a record is not what recent says goes by the index again.
type recent struct {
	mu       sync.Mutex // guards the following
	m        map[segment.Key]*sighting
	ring     []*sighting // clock: one that was used survives one sweep
	hand     int
	bytes    int
	stamp    uint64 // of the newest change of the index
	changing int    // changes that are being made
}

// sighting is a shard as it was read. It is not changed, but for used and place.
type sighting struct {
	key    segment.Key
	l      location
	header segment.Header // of the segment
	record segment.Record
	crcs   segment.CRCs
	used   bool
	place  int // in ring
}

func (s *sighting) cost() int { return recentCost + len(s.crcs) }

// get returns what is known of k, or nil and a stamp for add.
func (r *recent) get(k segment.Key) (*sighting, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.m[k]
	if s != nil {
		s.used = true
	}
	return s, r.stamp
}

// add keeps s, which was found in the index after get gave the stamp.
func (r *recent) add(s *sighting, stamp uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if stamp != r.stamp || r.changing > 0 || r.m[s.key] != nil {
		return
	}
	if r.m == nil {
		r.m = make(map[segment.Key]*sighting)
	}
	r.m[s.key] = s
	s.place = len(r.ring)
	r.ring = append(r.ring, s)
	for r.bytes += s.cost(); r.bytes > recentBytes; r.hand++ {
		if r.hand >= len(r.ring) {
			r.hand = 0
		}
		if old := r.ring[r.hand]; old.used {
			old.used = false
		} else {
			r.remove(old)
		}
	}
}

// remove forgets s. r.mu is held.
func (r *recent) remove(s *sighting) {
	last := len(r.ring) - 1
	r.ring[s.place] = r.ring[last]
	r.ring[s.place].place = s.place
	r.ring[last] = nil
	r.ring = r.ring[:last]
	r.bytes -= s.cost()
	delete(r.m, s.key)
}

// forget forgets s, which is not true.
func (r *recent) forget(s *sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m[s.key] == s {
		r.remove(s)
	}
}

// change begins a change of the index that concerns keys; the caller ends it when it is made, or failed.
func (r *recent) change(keys []segment.Key) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		if s := r.m[k]; s != nil {
			r.remove(s)
		}
	}
	r.stamp++
	r.changing++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changing--
		r.stamp++
	}
}

// clear forgets everything, for another index takes the place of the one that it is from.
func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.m)
	clear(r.ring)
	r.ring, r.bytes, r.hand = r.ring[:0], 0, 0
	r.stamp++
}

// saw keeps what was read of k's record at l. Not if it was read with its data, in one: then there is little to gain, and small shards are many.
func (s *Store) saw(k segment.Key, l location, r *segment.Record, crcs segment.CRCs, stamp uint64) {
	if _, h, ok := s.headerOf(l.file); ok {
		s.recent.add(&sighting{key: k, l: l, header: h, record: *r, crcs: slices.Clone(crcs)}, stamp)
	}
}

// getRecent is Get of a part of a shard that recent knows. ok is false if the index is to be asked.
func (s *Store) getRecent(at *sighting, off, n int) (out Range, ok bool) {
	if off < 0 || n < 1 || off > int(at.l.length) || n > int(at.l.length)-off {
		return Range{}, false
	}
	g, h, used := s.headerOf(at.l.file)
	if !used || h != at.header {
		s.recent.forget(at)
		return Range{}, false
	}
	start, end := pagesOf(at.l, off, n)
	out = Range{Record: at.record, buf: wire.GetBuf(end - start)}
	_, err := g.f.ReadAt(out.buf.B, at.l.offset()+int64(segment.HeaderLen(int(at.l.length))+start))
	if err != nil || !at.crcs.Check(start/segment.PageSize, out.buf.B) {
		out.buf.Release()
		s.recent.forget(at)
		return Range{}, false
	}
	out.Bytes = out.buf.B[off-start:][:n]
	return out, true
}
