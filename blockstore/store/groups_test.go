package store

import (
	"slices"
	"testing"

	"github.com/rackfs/rackfs/blockstore/segment"
)

// A store lists exactly the groups of which it has shards, page by page.
func TestGroups(t *testing.T) {
	s, err := Open(t.Context(), memOptions(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, more, err := s.Groups(t.Context(), 0); len(got) != 0 || more || err != nil {
		t.Fatal(got, more, err)
	}
	want := []uint32{1, 2, 255, 256, 70000, 1<<32 - 1}
	for i, pg := range want {
		for block := range uint64(3) {
			if err := s.Put(t.Context(), shardPut(key(pg, 6*(block+uint64(i))+5, 0), 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for after, n := range map[uint32]int{0: 6, 1: 5, 2: 4, 100: 4, 255: 3, 69999: 2, 70000: 1, 1<<32 - 2: 1, 1<<32 - 1: 0} {
		if got, more, err := s.Groups(t.Context(), after); !slices.Equal(got, want[len(want)-n:]) || more || err != nil {
			t.Fatalf("above %d: %v, %v, %v", after, got, more, err)
		}
	}
	var gone []segment.Key
	for block := range uint64(3) {
		gone = append(gone, key(255, 6*(block+2)+5, 0))
	}
	if n, err := s.Delete(t.Context(), gone); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if got, _, err := s.Groups(t.Context(), 2); !slices.Equal(got, want[3:]) || err != nil {
		t.Fatal(got, err)
	}
}
