package placement

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestStorable compares with the largest number of blocks that can be laid one by one, each on the domains that have most room left.
func TestStorable(t *testing.T) {
	for _, x := range []struct {
		width   int
		domains []int64
		want    int64
	}{
		{3, nil, 0}, {3, []int64{9, 9}, 0}, {1, []int64{5, 7}, 12}, {3, []int64{10, 10, 10}, 30}, {3, []int64{10, 10, 10, 10}, 39},
		{3, []int64{1, 1000, 1000}, 3}, {2, []int64{1, 2, 1000}, 6}, {6, []int64{8, 8, 8, 8, 8, 8, 0}, 48},
	} {
		if got := Storable(x.width, x.domains); got != x.want {
			t.Errorf("%d shards on %v: %d, want %d", x.width, x.domains, got, x.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.IntRange(1, 5).Draw(t, "width")
		domains := rapid.SliceOfN(rapid.Int64Range(0, 30), 0, 8).Draw(t, "domains")
		left, blocks := slices.Clone(domains), int64(0)
		for {
			slices.Sort(left)
			slices.Reverse(left)
			if len(left) < width || left[width-1] == 0 {
				break
			}
			for i := range width {
				left[i]--
			}
			blocks++
		}
		if got := Storable(width, domains); got != blocks*int64(width) {
			t.Fatalf("%d, laid one by one %d", got, blocks*int64(width))
		}
	})
}
