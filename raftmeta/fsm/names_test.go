package fsm

import (
	"math/rand/v2"
	"testing"
)

// TestNames: a filter never says of a name that was written that it is not there, says so of nearly all others, and all filters together stay within
// their bound.
func TestNames(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var s names
	in := map[inoKey]map[uint64]bool{}
	cookie := func() uint64 { return rnd.Uint64()>>9<<slotBits | rnd.Uint64N(2) }
	asked, wrong := 0, 0
	for i := range 300_000 {
		dir := inoKey{1, rnd.Uint64N(1 + rnd.Uint64N(64))}
		switch {
		case i%1000 == 0:
			s.empty(dir)
			in[dir] = map[uint64]bool{}
		case i%4999 == 0:
			s.drop(dir)
		default:
			c := cookie()
			s.add(dir, c)
			if in[dir] != nil {
				in[dir][c] = true
			}
		}
		c := cookie()
		if s.dirs[dir] == nil {
			if s.lacks(dir, c) {
				t.Fatal("a directory that is not known lacks something")
			}
			continue
		}
		for c := range in[dir] {
			if s.lacks(dir, c) {
				t.Fatalf("step %d: %x was written to %v and is not there", i, c, dir)
			}
			break
		}
		asked++
		if !s.lacks(dir, c) && !in[dir][c] {
			wrong++
		}
	}
	for dir, names := range in {
		for c := range names {
			if s.lacks(dir, c) {
				t.Fatalf("%x was written to %v and is not there", c, dir)
			}
		}
	}
	if wrong > asked/10 {
		t.Errorf("%d of %d names that are not there took a read", wrong, asked)
	}
}

func TestNamesAreBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var s names
	for d := range uint64(40) {
		s.empty(inoKey{1, d})
		for range 100_000 {
			s.add(inoKey{1, d}, rnd.Uint64())
		}
		if s.size > maxNamesBytes {
			t.Fatalf("%d bytes", s.size)
		}
	}
	if len(s.dirs) == 0 {
		t.Error("nothing is known any more")
	}
	for dir := range s.dirs {
		s.drop(dir)
	}
	if s.size != 0 {
		t.Errorf("%d bytes of no filter", s.size)
	}
}
