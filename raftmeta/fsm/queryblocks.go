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
)

// blocks lists the blocks in some placement groups. There is no index by group: it is asked for when groups are
// emptied and removed, rarely and in the background.
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
	var bad error
	if q.After != ^uint64(0) {
		err = r.view.Scan(appendID(nil, prefix, q.After+1), prefixEnd([]byte(prefix)), func(k, v []byte) bool {
			if looked == pageScan || len(res.Blocks) == limit {
				res.Next = last
				return false
			}
			looked++
			if len(k) != len(prefix)+8 {
				return true // a back reference
			}
			last = binary.BigEndian.Uint64(k[len(prefix):])
			b := &metapb.BlockInfo{Id: last}
			if q.Dying {
				var rec metapb.DyingRecord
				bad = rec.UnmarshalVT(v)
				b.Length, b.Pg = rec.Length, rec.Pg
			} else {
				var rec metapb.BlockRecord
				bad = rec.UnmarshalVT(v)
				b.Fs, b.Ino, b.Offset, b.Length, b.Pg = rec.Fs, rec.Ino, rec.Offset, rec.Length, rec.Pg
			}
			if bad != nil {
				bad = corrupt("record %q: %w", k, bad)
				return false
			}
			if _, ok := slices.BinarySearch(wanted, b.Pg); ok {
				res.Blocks = append(res.Blocks, b)
			}
			return true
		})
	}
	if bad != nil {
		err = bad
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Blocks{Blocks: res}}, err
}
