// Package byterange is the arithmetic of advisory byte-range locks: which ranges one owner has of a file (fcntl:
// what is locked anew replaces what was there; ranges split, merge, upgrade and downgrade), and which ranges of others are in the way. It is pure: who the
// owners are, how long their locks last and where they are kept is the caller's.
package byterange

import (
	"math"
	"slices"
)

// Range is a lock on the bytes First to Last, both included, so that a lock to the end of the file is one whose Last
// is the largest offset.
type Range struct {
	First, Last uint64
	Write       bool
}

// Of checks and converts offset and length as the protocols have them (RFC 8881, 18.10.3): length all ones is
// to the end of the file.
func Of(offset, length uint64) (first, last uint64, ok bool) {
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

// Length is the protocols' length of r.
func (r Range) Length() uint64 {
	if r.Last == math.MaxUint64 {
		return math.MaxUint64
	}
	return r.Last - r.First + 1
}

// Set are the ranges of one owner: disjoint, ascending, and merged where they touch and have the same type. Methods that change
// one return it, as append does; the old one is not to be used any more.
type Set []Range

// Valid reports whether s is what a Set has to be.
func (s Set) Valid() bool {
	for i, r := range s {
		if r.First > r.Last {
			return false
		}
		if i == 0 {
			continue
		}
		if p := s[i-1]; r.First <= p.Last || r.First-1 == p.Last && r.Write == p.Write {
			return false
		}
	}
	return true
}

// search is the index of the first range that ends at or after offset.
func (s Set) search(offset uint64) int {
	i, _ := slices.BinarySearchFunc(s, offset, func(r Range, off uint64) int {
		if r.Last < off {
			return -1
		}
		return 1
	})
	return i
}

// Conflict returns the first range of s that is in the way of another owner's lock on first to last.
func (s Set) Conflict(first, last uint64, write bool) (Range, bool) {
	for _, r := range s[s.search(first):] {
		if r.First > last {
			break
		}
		if write || r.Write {
			return r, true
		}
	}
	return Range{}, false
}

// Set locks first to last, replacing what is there.
func (s Set) Set(first, last uint64, write bool) Set {
	s, i := s.carve(first, last)
	s = slices.Insert(s, i, Range{first, last, write})
	// Merge with the neighbours.
	if i+1 < len(s) && s[i+1].Write == write && s[i+1].First-1 == s[i].Last {
		s[i].Last = s[i+1].Last
		s = slices.Delete(s, i+1, i+2)
	}
	if i > 0 && s[i-1].Write == write && s[i-1].Last == s[i].First-1 {
		s[i-1].Last = s[i].Last
		s = slices.Delete(s, i, i+1)
	}
	return s
}

// Clear unlocks first to last.
func (s Set) Clear(first, last uint64) Set {
	s, _ = s.carve(first, last)
	return s
}

// carve removes first to last and returns the index where a range there belongs.
func (s Set) carve(first, last uint64) (Set, int) {
	i := s.search(first)
	j := i
	for j < len(s) && s[j].First <= last {
		j++
	}
	if i == j {
		return s, i
	}
	var keep [2]Range
	n, at := 0, i
	if head := s[i]; head.First < first {
		head.Last = first - 1
		keep[n] = head
		n++
		at++
	}
	if tail := s[j-1]; tail.Last > last {
		tail.First = last + 1
		keep[n] = tail
		n++
	}
	return slices.Replace(s, i, j, keep[:n]...), at
}
