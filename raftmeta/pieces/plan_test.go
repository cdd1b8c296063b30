package pieces

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// inlineAt are inline pieces of n bytes at the offsets.
func inlineAt(n int, offs ...uint64) (list []*metapb.Extent) {
	for _, o := range offs {
		list = append(list, &metapb.Extent{Offset: o, Length: uint32(n), Inline: make([]byte, n)})
	}
	return list
}

func block(off uint64, n uint32, id uint64) *metapb.Extent {
	return &metapb.Extent{Offset: off, Length: n, Block: id, BlockLength: n, K: 4, M: 2}
}

func TestPlan(t *testing.T) {
	pages := func(from, n uint64) (list []*metapb.Extent) {
		for i := range n {
			list = append(list, inlineAt(4096, (from+i)*4096)...)
		}
		return list
	}
	join := func(lists ...[]*metapb.Extent) (out []*metapb.Extent) {
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	one := func(e *metapb.Extent) []*metapb.Extent { return []*metapb.Extent{e} }
	blocks := func(from, n uint64) (list []*metapb.Extent) {
		for i := range n {
			list = append(list, block((from+i)*4096, 4096, from+i+1))
		}
		return list
	}
	for what, c := range map[string]struct {
		list []*metapb.Extent
		want []int // lengths of groups
	}{
		"nothing":                        {nil, nil},
		"a small file":                   {inlineAt(4096, 0), nil},
		"two halves of a page":           {join(inlineAt(2048, 0), inlineAt(2048, 2048)), nil},
		"two pages":                      {pages(0, 2), []int{2}},
		"a block and its tail":           {join(one(block(0, 1<<20, 9)), inlineAt(100, 1<<20)), nil},
		"a block and pages":              {join(one(block(0, 1<<20, 9)), pages(256, 5)), []int{5}},
		"pages beside a block":           {join(pages(0, 2), one(block(8192, 4096, 9)), pages(3, 1)), []int{2}},
		"blocks":                         {blocks(0, 15), nil},
		"many blocks":                    {blocks(0, 16), []int{16}},
		"many blocks with a hole":        {join(blocks(0, 15), blocks(16, 15)), nil},
		"a long run among others":        {join(pages(0, 2), blocks(3, 16), pages(20, 3)), []int{2, 16, 3}},
		"small holes":                    {inlineAt(4096, 0, 16384, 32768), []int{3}},
		"large holes":                    {inlineAt(4096, 0, 20480, 40960), nil},
		"more than a command can touch":  {blocks(0, 1024), []int{720, 304}},
		"a whole chunk of inline pages":  {pages(0, 1024), []int{1024}},
		"lone pages among other content": {join(one(block(0, 1<<20, 9)), pages(256, 1), one(block(257*4096, 1<<20, 10)), pages(513, 1)), nil},
	} {
		groups := Plan(c.list)
		var got []int
		for _, g := range groups {
			got = append(got, len(g))
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: groups of %v extents, want %v", what, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: groups of %v extents, want %v", what, got, c.want)
			}
		}
	}
}

// Whatever the extents are: groups are apart and in order, none is larger than a block or the work of one command, at least
// a quarter of each is used, and after it nothing is left to do.
func TestPlanEnds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var list []*metapb.Extent
		next := uint64(1)
		for at := uint64(0); len(list) < 60; {
			at += rapid.SampledFrom([]uint64{0, 0, 0, 1, 4096, 12288, 100_000}).Draw(rt, "hole")
			if at >= 4<<20 {
				break
			}
			var e *metapb.Extent
			if rapid.Bool().Draw(rt, "inline") {
				n := rapid.Uint64Range(1, 4096-at%4096).Draw(rt, "bytes")
				e = inlineAt(int(n), at)[0]
			} else {
				n := min(rapid.Uint64Range(1, 300_000).Draw(rt, "bytes"), 4<<20-at)
				e = block(at, uint32(n), next)
				next++
			}
			list = append(list, e)
			at = End(e)
		}
		end := uint64(0)
		for _, g := range Plan(list) {
			if len(g) < 2 || g[0].Offset < end {
				rt.Fatalf("group of %d extents from %d on, after %d", len(g), g[0].Offset, end)
			}
			end = End(g[len(g)-1])
			used, cost := uint64(0), 0
			for _, e := range g {
				used += uint64(e.Length)
				cost += blockCost
			}
			if span := end - g[0].Offset; span > 4<<20 || span > 4*used {
				rt.Fatalf("%d bytes in %d", used, span)
			}
			if cost > maxCost {
				rt.Fatalf("a group of %d extents", len(g))
			}
		}
		if again := Plan(applyPlan(list, next)); len(again) > 0 {
			rt.Fatalf("chosen again: %v", again)
		}
	})
}

// applyPlan moves what plan chooses to blocks from next on, as the state machine does: what follows on in one block is
// one extent.
func applyPlan(list []*metapb.Extent, next uint64) (after []*metapb.Extent) {
	base := make(map[*metapb.Extent]uint64)
	id := make(map[*metapb.Extent]uint64)
	for _, g := range Plan(list) {
		for _, e := range g {
			base[e], id[e] = g[0].Offset, next
		}
		next++
	}
	for _, e := range list {
		if id[e] == 0 {
			after = append(after, e)
			continue
		}
		if k := len(after) - 1; k >= 0 && after[k].Block == id[e] && End(after[k]) == e.Offset {
			after[k].Length += e.Length
			continue
		}
		after = append(after, &metapb.Extent{Offset: e.Offset, Length: e.Length, Block: id[e], BlockOffset: uint32(e.Offset - base[e])})
	}
	return after
}
