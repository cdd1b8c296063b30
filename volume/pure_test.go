package volume

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPieces compares a chunk's pieces with a byte array.
func TestPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const space = 1 << 16
		base := uint64(rapid.IntRange(0, 3).Draw(t, "chunk")) * chunkSize
		var pool bufPool
		var ps pieces
		data := make([]byte, space)
		dirty := make([]bool, space)
		taken, seq := 0, uint64(0)
		oldest := make([]uint64, space)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				seq++
				off := rapid.IntRange(0, space-1).Draw(t, "off")
				n := min(rapid.SampledFrom([]int{1, 10, 100, 4096, 5000, 40_000}).Draw(t, "n"), space-off)
				b := bytes.Repeat([]byte{byte(seq)}, n)
				taken += ps.write(&pool, base+uint64(off), b, seq, rapid.Bool().Draw(t, "grow"))
				clear(b)
				for i := off; i < off+n; i++ {
					data[i] = byte(seq)
					if !dirty[i] {
						oldest[i] = seq
					}
					dirty[i] = true
				}
			},
			"cut": func(t *rapid.T) {
				size := rapid.IntRange(0, space).Draw(t, "size")
				taken -= ps.cut(&pool, base+uint64(size))
				for i := size; i < space; i++ {
					dirty[i] = false
				}
			},
			"": func(t *rapid.T) {
				if got := ps.buffered(); got != taken {
					t.Fatalf("%d bytes of buffers, accounted %d", got, taken)
				}
				n, last := 0, uint64(0)
				for i, p := range ps {
					if p.n == 0 || p.n > len(p.buf.b) || (i > 0 && p.off <= last) {
						t.Fatalf("piece %d: [%d,%d) after %d", i, p.off, p.end(), last)
					}
					last = p.end()
					n += p.n
					for k, b := range p.data() {
						at := p.off - base + uint64(k)
						if !dirty[at] || b != data[at] || oldest[at] < p.seq {
							t.Fatalf("byte %d is %d, want %d (dirty %v); seq %d, piece %d", at, b, data[at], dirty[at], oldest[at], p.seq)
						}
					}
				}
				want := 0
				for _, d := range dirty {
					if d {
						want++
					}
				}
				if n != want || ps.bytes() != want {
					t.Fatalf("%d bytes, want %d", n, want)
				}
				// A read through the pieces, and what it leaves to the extents.
				off := rapid.IntRange(0, space-1).Draw(t, "read off")
				end := rapid.IntRange(off, space).Draw(t, "read end")
				dst := bytes.Repeat([]byte{0xFF}, end-off)
				ps.overlay(base+uint64(off), dst)
				for i, b := range dst {
					want := byte(0xFF)
					if dirty[off+i] {
						want = data[off+i]
					}
					if b != want {
						t.Fatalf("overlay: byte %d is %d, want %d", off+i, b, want)
					}
				}
				gap := make([]bool, space)
				for _, s := range ps.uncovered([]span{{base + uint64(off), base + uint64(end)}}, nil) {
					for i := s.off; i < s.end; i++ {
						gap[i-base] = true
					}
				}
				for i := range space {
					if want := i >= off && i < end && !dirty[i]; gap[i] != want {
						t.Fatalf("byte %d: gap %v, want %v", i, gap[i], want)
					}
				}
			},
		})
	})
}

// TestExtentMap compares the map with an array that says for every byte which
// byte of which block it is.
func TestExtentMap(t *testing.T) {
	type src struct {
		known  bool
		block  uint64
		off    uint64
		inline byte
	}
	rapid.Check(t, func(t *rapid.T) {
		const space = 400
		m := extentMap{most: 4} // so that there are many leaves
		var model [space]src
		id := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				off := rapid.Uint64Range(0, space-1).Draw(t, "off")
				end := rapid.Uint64Range(off, space).Draw(t, "end")
				s := segment{off: off, end: end}
				id++
				kind := rapid.IntRange(0, 2).Draw(t, "kind")
				switch kind {
				case 0:
					s.block, s.blockOff = Block{ID: id, Len: 1000}, 7
				case 1:
					s.inline = bytes.Repeat([]byte{byte(id)}, int(end-off))
				}
				m.put(s)
				for i := off; i < end; i++ {
					model[i] = src{known: true}
					switch kind {
					case 0:
						model[i].block, model[i].off = id, 7+i-off
					case 1:
						model[i].inline = byte(id)
					}
				}
			},
			"continue": func(t *rapid.T) { // the next part of the block before, as reads of extents give
				all := slices.Concat(m.leaves...)
				if len(all) == 0 {
					return
				}
				s := all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
				n := rapid.Uint64Range(1, 50).Draw(t, "n")
				if s.block.ID == 0 || s.end+n > space {
					return
				}
				at := uint64(s.blockOff) + s.end - s.off
				m.put(segment{off: s.end, end: s.end + n, block: s.block, blockOff: uint32(at)})
				for i := range n {
					model[s.end+i] = src{known: true, block: s.block.ID, off: at + i}
				}
			},
			"cut": func(t *rapid.T) {
				size := rapid.Uint64Range(0, space).Draw(t, "size")
				m.cut(size)
				for i := size; i < space; i++ {
					model[i] = src{known: true}
				}
			},
			"": func(t *rapid.T) {
				all := slices.Concat(m.leaves...)
				if len(all) != m.len() || len(all) > 0 && m.between(m.at(0), m.at(all[len(all)-1].off)) != len(all)-1 {
					t.Fatalf("%d segments, counted as %d", len(all), m.len())
				}
				for i := 1; i < len(all); i++ {
					if all[i-1].end > all[i].off || all[i-1].joins(&all[i]) {
						t.Fatalf("segments %+v, %+v", all[i-1], all[i])
					}
				}
				for _, l := range m.leaves {
					if len(l) == 0 || len(l) > m.most {
						t.Fatalf("a leaf of %d segments", len(l))
					}
				}
				off := rapid.Uint64Range(0, space-1).Draw(t, "find")
				end := rapid.Uint64Range(off+1, space).Draw(t, "find end")
				segs, ok := m.find(off, end, nil)
				want := true
				for i := off; i < end; i++ {
					want = want && model[i].known
				}
				if ok != want || m.knows([]span{{off, end}}) != want {
					t.Fatalf("[%d,%d): known %v, want %v", off, end, ok, want)
				}
				at := off
				for _, s := range segs {
					if s.off != at || s.end <= s.off || s.end > end {
						t.Fatalf("segment %+v at %d", s, at)
					}
					for ; at < s.end; at++ {
						got := src{known: true, block: s.block.ID}
						if s.block.ID != 0 {
							got.off = uint64(s.blockOff) + at - s.off
						}
						if s.inline != nil {
							got.inline = s.inline[at-s.off]
						}
						if got != model[at] {
							t.Fatalf("byte %d: %+v, want %+v", at, got, model[at])
						}
					}
				}
			},
		})
	})
}

// TestTroubles: an outage is logged at once and then at doubling intervals.
func TestTroubles(t *testing.T) {
	var tr troubles
	start := time.Unix(1000, 0)
	var at []int
	logged := 0
	for s := 0; s <= 100; s++ {
		if n := tr.failed("flush", start.Add(time.Duration(s)*time.Second)); n > 0 {
			at = append(at, s)
			logged += n
		}
	}
	if want := []int{0, 1, 3, 7, 15, 31, 63}; !slices.Equal(at, want) || logged != 64 {
		t.Errorf("logged after %v seconds, %d failures in all; want %v, 64", at, logged, want)
	}
	if n := tr.failed("commit", start.Add(100*time.Second)); n != 1 {
		t.Errorf("the first failure of something else: %d", n)
	}
	if n := tr.failed("flush", start.Add(2*logIntervalMax)); n != 1 {
		t.Errorf("the first failure of another outage: %d", n)
	}
}

// BenchmarkExtentMap puts pages at random into a file of 256 MiB that was one extent every 4 MiB.
func BenchmarkExtentMap(b *testing.B) {
	order := rand.New(rand.NewPCG(1, 2))
	var m extentMap
	for i := 0; b.Loop(); i++ {
		if i%65536 == 0 {
			m = extentMap{}
			for c := range uint64(64) {
				m.put(segment{off: c * chunkSize, end: (c + 1) * chunkSize, block: Block{ID: c + 1, Len: chunkSize}})
			}
		}
		off := uint64(order.IntN(65536)) * pageSize
		m.put(segment{off: off, end: off + pageSize, block: Block{ID: uint64(i + 100), Len: pageSize}})
	}
}
