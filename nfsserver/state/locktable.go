package state

import (
	"math"
	"slices"
)

// byteRange is a lock on the bytes first to last, both included, so that a lock
// to the end of the file is one whose last is the largest offset.
type byteRange struct {
	first, last uint64
	write       bool
}

// lockTable are the byte-range locks of one file. Per owner the ranges are
// disjoint, sorted, and merged where they touch and have the same type. Ranges
// of different owners overlap only if all are read locks; the table does not
// enforce it, the caller asks conflicts first.
type lockTable struct {
	owners map[*lockState][]byteRange
}

// newRange checks and converts offset and length as the protocol has them
// (RFC 8881, 18.10.3): length all ones is to the end of the file.
func newRange(offset, length uint64) (first, last uint64, ok bool) {
	switch {
	case length == 0:
		return 0, 0, false
	case length == math.MaxUint64:
		return offset, math.MaxUint64, true
	case length-1 > math.MaxUint64-offset:
		return 0, 0, false
	}
	return offset, offset + (length - 1), true
}

// length is the protocol's length of r.
func (r *byteRange) length() uint64 {
	if r.last == math.MaxUint64 {
		return math.MaxUint64
	}
	return r.last - r.first + 1
}

// search is the index of the first range of rs that ends at or after offset.
func search(rs []byteRange, offset uint64) int {
	i, _ := slices.BinarySearchFunc(rs, offset, func(r byteRange, off uint64) int {
		if r.last < off {
			return -1
		}
		return 1
	})
	return i
}

// conflicts calls yield with one conflicting range for each owner but self that
// has any, until yield returns false.
func (t *lockTable) conflicts(self *lockState, first, last uint64, write bool, yield func(*lockState, byteRange) bool) {
	for owner, rs := range t.owners {
		if owner == self {
			continue
		}
		for _, r := range rs[search(rs, first):] {
			if r.first > last {
				break
			}
			if write || r.write {
				if !yield(owner, r) {
					return
				}
				break
			}
		}
	}
}

// set gives owner a lock on first to last, replacing what it has there, and
// returns by how many the ranges grew.
func (t *lockTable) set(owner *lockState, first, last uint64, write bool) int {
	before := len(t.owners[owner])
	rs, i := carve(t.owners[owner], first, last)
	rs = slices.Insert(rs, i, byteRange{first, last, write})
	// Merge with the neighbours.
	if i+1 < len(rs) && rs[i+1].write == write && rs[i+1].first-1 == rs[i].last {
		rs[i].last = rs[i+1].last
		rs = slices.Delete(rs, i+1, i+2)
	}
	if i > 0 && rs[i-1].write == write && rs[i-1].last == rs[i].first-1 {
		rs[i-1].last = rs[i].last
		rs = slices.Delete(rs, i, i+1)
	}
	if t.owners == nil {
		t.owners = make(map[*lockState][]byteRange)
	}
	t.owners[owner] = rs
	return len(rs) - before
}

// clear takes away what owner has on first to last and returns by how many the
// ranges grew: a split makes one more.
func (t *lockTable) clear(owner *lockState, first, last uint64) int {
	before := len(t.owners[owner])
	rs, _ := carve(t.owners[owner], first, last)
	if len(rs) == 0 {
		delete(t.owners, owner)
	} else {
		t.owners[owner] = rs
	}
	return len(rs) - before
}

// holds is how many ranges owner has.
func (t *lockTable) holds(owner *lockState) int { return len(t.owners[owner]) }

// carve removes first to last from rs and returns the index where a range there
// belongs.
func carve(rs []byteRange, first, last uint64) ([]byteRange, int) {
	i := search(rs, first)
	j := i
	for j < len(rs) && rs[j].first <= last {
		j++
	}
	if i == j {
		return rs, i
	}
	var keep [2]byteRange
	n, at := 0, i
	if head := rs[i]; head.first < first {
		head.last = first - 1
		keep[n] = head
		n++
		at++
	}
	if tail := rs[j-1]; tail.last > last {
		tail.first = last + 1
		keep[n] = tail
		n++
	}
	return slices.Replace(rs, i, j, keep[:n]...), at
}
