package fsm

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// keyDeletion holds the incarnation for which an operator allowed deletion, 8 bytes (shard 0).
var keyDeletion = []byte("m/deletion")

func (x *call) allowDeletion(c *metapb.AllowDeletion) error {
	const op = "deletion.allow"
	b, ok, err := x.get(keyFormat)
	if err != nil {
		return err
	}
	f := format{incarnation: FirstIncarnation}
	if ok {
		if f, err = decodeFormat(b); err != nil {
			return err
		}
	}
	if f.incarnation != c.Incarnation {
		return vfs.Errorf(vfs.KindChanged, op, "the metadata is of incarnation %d, not %d", f.incarnation, c.Incarnation)
	}
	x.set(keyDeletion, binary.BigEndian.AppendUint64(nil, c.Incarnation))
	return nil
}

// deletionAllowed is the last incarnation that allowDeletion was told, 0 if none.
func (r *reader) deletionAllowed() (uint64, error) {
	b, ok, err := r.view.Get(keyDeletion)
	if err != nil || !ok {
		return 0, err
	}
	if len(b) != 8 {
		return 0, corrupt("%q of %d bytes", keyDeletion, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// Bounds of one page of LiveBlocksQ.
const (
	pageLive     = 10000 // answered
	pageLiveScan = 20000 // looked at: what places share blocks is among it
)

// liveBlocks lists live blocks, each with its first owner.
func (r *reader) liveBlocks(q *metapb.LiveBlocksQ) (*metapb.QueryResult, error) {
	limit := int(q.Limit)
	if limit == 0 || limit > pageLive {
		limit = pageLive
	}
	res := &metapb.BlocksR{}
	answer := &metapb.QueryResult{R: &metapb.QueryResult_Blocks{Blocks: res}}
	if q.After == ^uint64(0) {
		return answer, nil
	}
	looked, last := 0, q.After
	var bad error
	err := r.view.Scan(appendID(nil, "b/", q.After+1), prefixEnd([]byte("b/")), func(k, v []byte) bool {
		if looked == pageLiveScan || len(res.Blocks) == limit {
			res.Next = last
			return false
		}
		looked++
		last = binary.BigEndian.Uint64(k[2:])
		if len(k) != 2+8 {
			return true
		}
		var rec metapb.BlockRecord
		if bad = rec.UnmarshalVT(v); bad != nil {
			bad = corrupt("record %q: %w", k, bad)
			return false
		}
		res.Blocks = append(res.Blocks, &metapb.BlockInfo{Id: last, Fs: rec.Fs, Ino: rec.Ino, Offset: rec.Offset, Length: rec.Length, Pg: rec.Pg})
		return true
	})
	if bad != nil {
		err = bad
	}
	return answer, err
}
