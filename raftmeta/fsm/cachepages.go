package fsm

import (
	"encoding/binary"
	"math"
	"sync"
)

// cacheShard is a part of a Cache: records one behind the other in pages, and
// an index of them. When all pages are full, the next one in turn is swept:
// records that were used since it was last swept move together at its start,
// the others go. So what is used survives one turn, as with a clock.
type cacheShard struct {
	mu    sync.Mutex // guards everything below but the limits
	index []uint64   // open addressing, steps of one; see slotOf. 0: free
	count int        // of records in the index
	pages [][]byte
	page  int // the one that is being filled
	fill  int // bytes of it that are

	pageBytes, maxPages, maxSlots int

	stamps [cachePlaces]uint64
}

const (
	cachePlaces = 256 // per shard

	// cachePageBytes is more than any inode takes, with a target or with cuts.
	cachePageBytes = 8 << 10
	slotBytes      = 8
	minSlots       = 16

	// A seventh of the bytes are for the index, which is right for records of 40 bytes and more.
	indexPart = 7
)

// A record is a head and its bytes:
//
//	0  size of both, 2 bytes
//	2  flags
//	3  kind
//	4  fs
//	8  a
//	16 b, of kind d only
const (
	cacheHead       = 16
	cacheHeadDirent = cacheHead + 8

	recordUsed = 1 << 0 // since its page was last swept
	recordDead = 1 << 1 // not in the index
)

func (k cacheKey) head() int {
	if k.kind == 'd' {
		return cacheHeadDirent
	}
	return cacheHead
}

// keyAt is the key of the record that r begins with.
func keyAt(r []byte) cacheKey {
	k := cacheKey{kind: r[3], fs: binary.LittleEndian.Uint32(r[4:]), a: binary.LittleEndian.Uint64(r[8:])}
	if k.kind == 'd' {
		k.b = binary.LittleEndian.Uint64(r[16:])
	}
	return k
}

func sizeAt(r []byte) int { return int(binary.LittleEndian.Uint16(r)) }

// limit sets how many bytes the shard may take.
func (s *cacheShard) limit(budget int) {
	budget = min(budget, math.MaxInt32)
	s.maxSlots = max(minSlots, budget/indexPart/slotBytes)
	data := max(0, budget-s.maxSlots*slotBytes)
	s.maxPages = max(1, data/cachePageBytes)
	s.pageBytes = min(cachePageBytes, data)
}

// maxBytes is what records may take.
func (s *cacheShard) maxBytes() int { return s.maxPages * s.pageBytes }

// slotOf is what the index has of a record: the upper half of its hash, where its search begins, and its place, from 1 on.
func slotOf(hash uint64, place int) uint64 { return hash&^(1<<32-1) | uint64(place+1) }

func (s *cacheShard) placeOf(slot uint64) int { return int(uint32(slot)) - 1 }

func (s *cacheShard) at(place int) []byte { return s.pages[place/s.pageBytes][place%s.pageBytes:] }

// home is where the search for a hash begins, or that for the record of a slot.
func (s *cacheShard) home(hash uint64) int { return int((hash >> 32) * uint64(len(s.index)) >> 32) }

func (s *cacheShard) next(i int) int {
	if i++; i < len(s.index) {
		return i
	}
	return 0
}

// find returns where the index has k, or -1.
func (s *cacheShard) find(k cacheKey, hash uint64) int {
	if len(s.index) == 0 {
		return -1
	}
	for i := s.home(hash); ; i = s.next(i) {
		slot := s.index[i]
		if slot == 0 {
			return -1
		}
		if slot>>32 == hash>>32 && keyAt(s.at(s.placeOf(slot))) == k {
			return i
		}
	}
}

func (s *cacheShard) get(k cacheKey, hash uint64, buf []byte) ([]byte, bool) {
	i := s.find(k, hash)
	if i < 0 {
		return nil, false
	}
	r := s.at(s.placeOf(s.index[i]))
	r[2] |= recordUsed
	return append(buf, r[k.head():sizeAt(r)]...), true
}

// put makes rec the record of k, if it is not too large to be kept.
func (s *cacheShard) put(k cacheKey, hash uint64, rec []byte) {
	head := k.head()
	size := head + len(rec)
	var flags byte
	if i := s.find(k, hash); i >= 0 {
		r := s.at(s.placeOf(s.index[i]))
		if sizeAt(r) == size {
			r[2] |= recordUsed
			copy(r[head:], rec)
			return
		}
		flags = recordUsed
		s.drop(i)
	}
	if size > s.pageBytes {
		return
	}
	s.room(size)
	place := s.page*s.pageBytes + s.fill
	r := s.pages[s.page][s.fill : s.fill+size]
	s.fill += size
	binary.LittleEndian.PutUint16(r, uint16(size))
	r[2], r[3] = flags, k.kind
	binary.LittleEndian.PutUint32(r[4:], k.fs)
	binary.LittleEndian.PutUint64(r[8:], k.a)
	if k.kind == 'd' {
		binary.LittleEndian.PutUint64(r[16:], k.b)
	}
	copy(r[head:], rec)
	s.enter(slotOf(hash, place))
}

// drop takes the record at i of the index away.
func (s *cacheShard) drop(i int) {
	s.at(s.placeOf(s.index[i]))[2] |= recordDead
	s.leave(i)
}

// enter puts a slot into the index, which has room.
func (s *cacheShard) enter(slot uint64) {
	i := s.home(slot)
	for s.index[i] != 0 {
		i = s.next(i)
	}
	s.index[i] = slot
	s.count++
}

// leave frees place i of the index. What a search would not find behind the gap moves into it.
func (s *cacheShard) leave(i int) {
	s.count--
	for j := s.next(i); s.index[j] != 0; j = s.next(j) {
		home := s.home(s.index[j])
		if behind := i < j; (behind && i < home && home <= j) || (!behind && (i < home || home <= j)) {
			continue
		}
		s.index[i] = s.index[j]
		i = j
	}
	s.index[i] = 0
}

// full reports whether n slots have no room for another record: an eighth stays free, so that searches are short.
func full(count, n int) bool { return count+1 > n-n/8-1 }

// room makes room for a record of size bytes at fill of page, and in the index.
func (s *cacheShard) room(size int) {
	if full(s.count, len(s.index)) && len(s.index) < s.maxSlots {
		s.grow()
	}
	for len(s.pages) == 0 || s.fill+size > s.pageBytes || full(s.count, len(s.index)) {
		if len(s.pages) < s.maxPages && !full(s.count, len(s.index)) {
			s.page, s.fill = len(s.pages), 0
			s.pages = append(s.pages, make([]byte, s.pageBytes))
			continue
		}
		// Ends: what one turn leaves because it was used goes in the next.
		if s.page++; s.page >= len(s.pages) {
			s.page = 0
		}
		s.sweep()
	}
}

// grow makes the index larger.
func (s *cacheShard) grow() {
	old := s.index
	s.index, s.count = make([]uint64, min(s.maxSlots, max(minSlots, 2*len(old)))), 0
	for _, slot := range old {
		if slot != 0 {
			s.enter(slot)
		}
	}
}

// sweep keeps what was used of the page, at its start, and sets fill behind that.
func (s *cacheShard) sweep() {
	p, end := s.pages[s.page], 0
	for at := 0; at+cacheHead <= len(p) && sizeAt(p[at:]) != 0; {
		r := p[at:]
		size := sizeAt(r)
		if r[2]&recordDead == 0 {
			i := s.slotAt(keyAt(r).hash(), s.page*s.pageBytes+at)
			if r[2]&recordUsed == 0 {
				s.leave(i)
			} else {
				s.index[i] = slotOf(s.index[i], s.page*s.pageBytes+end)
				copy(p[end:], r[:size])
				p[end+2] &^= recordUsed
				end += size
			}
		}
		at += size
	}
	clear(p[end:]) // a size of 0 ends the records
	s.fill = end
}

// slotAt is where the index has the record at a place.
func (s *cacheShard) slotAt(hash uint64, place int) int {
	i := s.home(hash)
	for s.index[i] != slotOf(hash, place) {
		i = s.next(i)
	}
	return i
}
