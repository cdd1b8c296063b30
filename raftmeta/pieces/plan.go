// Package pieces says which extents of a file are worth joining. It is pure: gateways choose by it what they rewrite, and
// leaders what they look for.
package pieces

import "github.com/rackfs/rackfs/raftmeta/metapb"

// ChunkSize is what a file is looked at in: no block crosses a multiple of it.
const ChunkSize = 4 << 20

const (
	// compactExtents is how long a run of extents is that is worth reading and writing up to 4 MiB.
	compactExtents = 16
	// inlineMax is how many bytes stay in the metadata.
	inlineMax = 4 << 10
	// bridge is how many times as long as the piece before it a hole may be that is stored as zeros.
	bridge = 3
	// maxCost bounds the records that one command touches, below the 4000 that the state machine allows. An inline piece is
	// one record; of a block there are its own, the two of its end, and perhaps another extent that remains.
	maxCost    = 3600
	inlineCost = 1
	blockCost  = 5
)

// Plan chooses what to move of the extents of one chunk, in ascending order: each group becomes a block.
func Plan(list []*metapb.Extent) (groups [][]*metapb.Extent) {
	var inline []*metapb.Extent // a group that may grow
	bytes := 0
	flush := func() {
		if bytes > inlineMax {
			groups = append(groups, split(inline)...)
		}
		inline, bytes = nil, 0
	}
	for len(list) > 0 {
		n := 1
		for n < len(list) && End(list[n-1]) == list[n].Offset {
			n++
		}
		run := list[:n]
		list = list[n:]
		if n >= compactExtents {
			flush()
			groups = append(groups, split(run)...)
			continue
		}
		for _, e := range run {
			if e.Block != 0 {
				flush()
				continue
			}
			if k := len(inline); k > 0 && e.Offset-End(inline[k-1]) > bridge*uint64(inline[k-1].Length) {
				flush()
			}
			inline = append(inline, e)
			bytes += int(e.Length)
		}
	}
	flush()
	return groups
}

// End is where an extent ends in its file.
func End(e *metapb.Extent) uint64 { return e.Offset + uint64(e.Length) }

// split cuts a group into pieces that one command each can take.
func split(group []*metapb.Extent) (out [][]*metapb.Extent) {
	cost, from := 0, 0
	for i, e := range group {
		c := blockCost
		if e.Block == 0 {
			c = inlineCost
		}
		if cost+c > maxCost {
			out = append(out, group[from:i])
			cost, from = 0, i
		}
		cost += c
	}
	return append(out, group[from:])
}
