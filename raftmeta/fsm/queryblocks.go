package fsm

import (
	"encoding/binary"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of one page of BlocksQ.
const (
	pageBlocks = 1000  // answered
	pageScan   = 20000 // looked at
	pageGroups = 1024  // asked for
	pagePlaces = 100   // answered of one block; others are when these do not share it any more
)

// blocks lists the blocks in some placement groups. There is no index by group: it is asked for when groups are
// emptied and removed, rarely and in the background. A block that is shared is answered once for each place that uses it.
func (r *reader) blocks(q *metapb.BlocksQ) (*metapb.QueryResult, error) {
	const op = "blocks"
	if len(q.Pgs) == 0 || len(q.Pgs) > pageGroups {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%d placement groups, 1 to %d can be asked for", len(q.Pgs), pageGroups)
	}
	f, err := r.format()
	if err != nil {
		return nil, err
	}
	if f.shard == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "shard 0 has no blocks")
	}
	limit := int(q.Limit)
	if limit == 0 || limit > pageBlocks {
		limit = pageBlocks
	}
	prefix := "b/"
	if q.Dying {
		prefix = "x/"
	}
	res := &metapb.BlocksR{}
	wanted := slices.Sorted(slices.Values(q.Pgs))
	looked, last := 0, q.After
	var (
		owner  *metapb.BlockInfo // of the block being looked at; nil: it is not wanted
		own    uint32            // extents of it that are not accounted for by back references
		places int               // of it that were answered
		blocks int               // that were answered
		bad    error
	)
	endBlock := func() {
		if owner != nil && own > 0 {
			res.Blocks = append(res.Blocks, owner)
		}
		owner = nil
	}
	if q.After != ^uint64(0) {
		err = r.view.Scan(appendID(nil, prefix, q.After+1), prefixEnd([]byte(prefix)), func(k, v []byte) bool {
			back := len(k) != len(prefix)+8
			if looked == pageScan || (!back && blocks == limit) {
				res.Next = last
				return false
			}
			looked++
			if back {
				if owner != nil {
					bad = addPlace(res, owner, k[len(prefix)+8:], v, &own, &places)
				}
				return bad == nil
			}
			endBlock()
			last = binary.BigEndian.Uint64(k[len(prefix):])
			b := &metapb.BlockInfo{Id: last}
			refs := uint32(1)
			if q.Dying {
				var rec metapb.DyingRecord
				bad = rec.UnmarshalVT(v)
				b.Length, b.Pg = rec.Length, rec.Pg
			} else {
				var rec metapb.BlockRecord
				bad = rec.UnmarshalVT(v)
				b.Fs, b.Ino, b.Offset, b.Length, b.Pg = rec.Fs, rec.Ino, rec.Offset, rec.Length, rec.Pg
				refs = rec.Refs
			}
			if bad != nil {
				bad = corrupt("record %q: %w", k, bad)
				return false
			}
			if _, ok := slices.BinarySearch(wanted, b.Pg); ok {
				owner, own, places = b, refs, 0
				blocks++
			}
			return true
		})
		endBlock()
	}
	if bad != nil {
		err = bad
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Blocks{Blocks: res}}, err
}

// addPlace answers a further place that shares the block of owner: the part of the file that the block may lie in.
func addPlace(res *metapb.BlocksR, owner *metapb.BlockInfo, key, v []byte, own *uint32, places *int) error {
	var rec metapb.BackReference
	if err := rec.UnmarshalVT(v); err != nil || len(key) != 16 {
		return corrupt("back reference of block %#x: %w", owner.Id, err)
	}
	*own -= min(*own, rec.Refs)
	if *places++; *places > pagePlaces {
		return nil
	}
	b := owner.CloneVT()
	b.Ino = binary.BigEndian.Uint64(key)
	place := binary.BigEndian.Uint64(key[8:])
	b.Offset = max(place, blockMax) - blockMax
	b.Length = uint32(place + uint64(owner.Length) - blockMax - b.Offset) // what would lie before the file is not used
	res.Blocks = append(res.Blocks, b)
	return nil
}
