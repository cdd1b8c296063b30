package placement

import "slices"

// Storable is how many bytes of shards can lie in failure domains of these sizes, if every block has width shards, no two of them in one domain.
// Small domains fill up first; what is left of the large ones after that is of no use once fewer than width have room.
//
// With S blocks' worth of shards a domain of size c takes min(c, S), and there have to be width*S in all: the largest such S is wanted.
func Storable(width int, domains []int64) int64 {
	c := slices.Clone(domains)
	slices.Sort(c)
	c = slices.DeleteFunc(c, func(n int64) bool { return n <= 0 })
	if width < 1 || len(c) < width {
		return 0
	}
	// Of the j largest that are cut to S, width-j have to come from the rest: S = sum(rest) / (width-j), if no domain of the rest is above that.
	rest := int64(0)
	for _, n := range c {
		rest += n
	}
	for j := range width {
		if s := rest / int64(width-j); c[len(c)-1-j] <= s {
			return s * int64(width)
		}
		rest -= c[len(c)-1-j]
	}
	return 0
}
