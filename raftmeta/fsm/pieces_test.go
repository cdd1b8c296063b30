package fsm

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Page by page, whatever their size, every chunk with two ends of extents is listed, and no other.
func TestFragmented(t *testing.T) {
	const size = 100
	rapid.Check(t, func(rt *rapid.T) {
		s := NewMemStore()
		ends := make(map[Chunk]int)
		for range rapid.IntRange(0, 60).Draw(rt, "extents") {
			c := Chunk{FS: uint32(rapid.IntRange(1, 2).Draw(rt, "fs")), Ino: uint64(rapid.IntRange(1, 3).Draw(rt, "ino"))}
			end := uint64(rapid.IntRange(1, 5*size).Draw(rt, "end"))
			k := appendExtent(nil, c.FS, c.Ino, end)
			if _, had, _ := s.Get(k); !had {
				c.Offset = (end - 1) / size * size
				ends[c]++
			}
			if err := s.Set(k, []byte{1}); err != nil {
				rt.Fatal(err)
			}
		}
		for _, k := range []string{"d/before", "f/after"} {
			if err := s.Set([]byte(k), nil); err != nil {
				rt.Fatal(err)
			}
		}
		got := make(map[Chunk]bool)
		max := rapid.IntRange(2, 20).Draw(rt, "page")
		var cursor []byte
		for pages := 0; ; pages++ {
			list, next, err := Fragmented(s, cursor, size, max)
			if err != nil {
				rt.Fatal(err)
			}
			for _, c := range list {
				got[c] = true
			}
			if cursor = next; cursor == nil {
				break
			}
			if pages > 100 {
				rt.Fatal("there is no end")
			}
		}
		for c, n := range ends {
			if got[c] != (n >= 2) {
				rt.Fatalf("%+v with %d ends: listed %v", c, n, got[c])
			}
			delete(got, c)
		}
		if len(got) > 0 {
			rt.Fatalf("listed %v", slices.Collect(func(yield func(Chunk) bool) {
				for c := range got {
					if !yield(c) {
						return
					}
				}
			}))
		}
	})
	bad := NewMemStore()
	if err := bad.Set([]byte("e/short"), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Fragmented(bad, nil, size, 10); err == nil {
		t.Error("a malformed key is no error")
	}
}
