package byterange

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// bytesModel is the reference: per owner, what each byte of a tiny file is
// locked as. The last byte stands for everything up to the largest offset.
const modelBytes = 24

type owner struct{ _ byte }

type bytesModel map[*owner]*[modelBytes]byte // 0, 'r', 'w'

func (m bytesModel) of(l *owner) *[modelBytes]byte {
	if m[l] == nil {
		m[l] = new([modelBytes]byte)
	}
	return m[l]
}

// modelIndex maps an offset of the table to a byte of the model.
func modelIndex(off uint64) int { return int(min(off, modelBytes-1)) }

// The lock table agrees with a model that has one cell per byte, keeps ranges
// disjoint, sorted and merged, and counts them (RFC 8881, 9.5: splitting, merging,
// upgrading and downgrading).
func TestTableAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owners := []*owner{new(owner), new(owner), new(owner)}
		var table Table[*owner]
		model := bytesModel{}
		counts := map[*owner]int{}
		rapidRange := func() (uint64, uint64) {
			first := rapid.Uint64Range(0, modelBytes-2).Draw(t, "first")
			last := rapid.Uint64Range(first, modelBytes-1).Draw(t, "last")
			if last == modelBytes-1 {
				last = math.MaxUint64
			}
			return first, last
		}
		t.Repeat(map[string]func(*rapid.T){
			"lock": func(t *rapid.T) {
				l := rapid.SampledFrom(owners).Draw(t, "owner")
				write := rapid.Bool().Draw(t, "write")
				first, last := rapidRange()
				refused := false
				table.Conflicts(l, first, last, write, func(other *owner, r Range) bool {
					if other == l || r.Last < first || r.First > last || !write && !r.Write {
						t.Fatalf("%+v is no conflict with %d-%d", r, first, last)
					}
					refused = true
					return rapid.Bool().Draw(t, "go on")
				})
				if want := modelConflict(model, l, first, last, write); refused != want {
					t.Fatalf("conflict %v, model says %v", refused, want)
				}
				if refused {
					return
				}
				counts[l] += table.Set(l, first, last, write)
				for i := modelIndex(first); i <= modelIndex(last); i++ {
					model.of(l)[i] = map[bool]byte{false: 'r', true: 'w'}[write]
				}
			},
			"unlock": func(t *rapid.T) {
				l := rapid.SampledFrom(owners).Draw(t, "owner")
				first, last := rapidRange()
				counts[l] += table.Clear(l, first, last)
				for i := modelIndex(first); i <= modelIndex(last); i++ {
					model.of(l)[i] = 0
				}
			},
			"": func(t *rapid.T) {
				for _, l := range owners {
					rs := table.Ranges(l)
					if got, want := rs, model.ranges(l); !slices.Equal(got, want) {
						t.Fatalf("owner has %v, want %v", got, want)
					}
					if !rs.Valid() {
						t.Fatalf("%v is not what a set has to be", rs)
					}
					if counts[l] != len(rs) || table.Holds(l) != len(rs) {
						t.Fatalf("counted %d ranges, there are %d", counts[l], len(rs))
					}
				}
			},
		})
	})
}

func modelConflict(m bytesModel, self *owner, first, last uint64, write bool) bool {
	for l, cells := range m {
		if l == self {
			continue
		}
		for i := modelIndex(first); i <= modelIndex(last); i++ {
			if cells[i] == 'w' || write && cells[i] != 0 {
				return true
			}
		}
	}
	return false
}

// ranges is the canonical form of what l has.
func (m bytesModel) ranges(l *owner) Set {
	var rs Set
	cells := m.of(l)
	for i, c := range cells {
		if c == 0 {
			continue
		}
		last := uint64(i)
		if i == modelBytes-1 {
			last = math.MaxUint64
		}
		if i > 0 && cells[i-1] == c {
			rs[len(rs)-1].Last = last
			continue
		}
		rs = append(rs, Range{uint64(i), last, c == 'w'})
	}
	return rs
}

func TestOf(t *testing.T) {
	const max = math.MaxUint64
	for _, tc := range []struct {
		offset, length, first, last uint64
		ok                          bool
	}{
		{0, 0, 0, 0, false},
		{0, 1, 0, 0, true},
		{0, max, 0, max, true},     // to the end of the file
		{10, max, 10, max, true},   // likewise
		{max, max, max, max, true}, // likewise
		{10, max - 10, 10, max - 1, true},
		{10, max - 9, 10, max, true}, // ends at the last offset
		{10, max - 8, 0, 0, false},   // beyond it (RFC 8881, 18.10.3)
		{max, 1, max, max, true},
		{max, 2, 0, 0, false},
	} {
		first, last, ok := Of(tc.offset, tc.length)
		if first != tc.first || last != tc.last || ok != tc.ok {
			t.Errorf("Of(%d, %d) = %d, %d, %v", tc.offset, tc.length, first, last, ok)
		}
	}
}
