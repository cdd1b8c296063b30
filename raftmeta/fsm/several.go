package fsm

import (
	"encoding/binary"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxSeveral bounds the gateways of one shard that are not the only ones of their file systems: each of them is asked about every file
	// that loses its last name.
	maxSeveral = 64
	// answerHolds bounds one answer to a HoldsQ.
	answerHolds = 1000
)

// severalKey has the ids of the registered origins with OriginRecord.several, ascending, 8 bytes each.
var severalKey = []byte("m/several")

func (x *call) several() ([]uint64, error) { return x.originList(severalKey) }

// originList is a list of origins, ascending, 8 bytes each.
func (x *call) originList(key []byte) ([]uint64, error) {
	b, _, err := x.get(key)
	if err != nil {
		return nil, err
	}
	return decodeOrigins(b)
}

func decodeOrigins(b []byte) ([]uint64, error) {
	if len(b)%8 != 0 {
		return nil, corrupt("list of origins of %d bytes", len(b))
	}
	ids := make([]uint64, 0, len(b)/8+1)
	for ; len(b) > 0; b = b[8:] {
		ids = append(ids, binary.BigEndian.Uint64(b))
	}
	return ids, nil
}

func (x *call) setOriginList(key []byte, ids []uint64) {
	var b []byte
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	x.set(key, b)
}

// joinSeveral makes an origin, which is the newest, one that files without names are held for.
func (x *call) joinSeveral(id uint64, op string) error {
	ids, err := x.several()
	if err != nil {
		return err
	}
	if len(ids) >= maxSeveral {
		return vfs.Errorf(vfs.KindTooMany, op, "%d gateways serve files of this shard together, which is the most", len(ids))
	}
	x.setOriginList(severalKey, append(ids, id))
	return nil
}

func (x *call) leaveSeveral(id uint64) error {
	ids, err := x.several()
	if err != nil {
		return err
	}
	x.setOriginList(severalKey, slices.DeleteFunc(ids, func(o uint64) bool { return o == id }))
	return nil
}

// holdElsewhere keeps a file that lost its last name for every other gateway whose clients may have it open for reading. Each answers by
// releaseOrphan, but those that linger. It reports whether there are any.
func (x *call) holdElsewhere(ino uint64) (bool, error) {
	if x.level < levelGateways {
		return false, nil
	}
	ids, err := x.several()
	if err != nil {
		return false, err
	}
	if x.level >= levelLoose {
		lingering, err := x.originList(lingeringKey)
		if err != nil {
			return false, err
		}
		ids = append(ids, lingering...)
	}
	held := false
	for _, o := range ids {
		if o != x.origin {
			x.hold(x.fs, ino, o)
			held = true
		}
	}
	return held, nil
}

// holds answers a HoldsQ.
func (r *reader) holds(q *metapb.HoldsQ) (*metapb.QueryResult, error) {
	limit := answerHolds
	if q.Limit > 0 {
		limit = min(limit, int(q.Limit))
	}
	res := &metapb.HoldsR{}
	lo := append(appendHoldOf(nil, q.Origin, q.AfterFs, q.AfterIno), 0)
	err := r.view.Scan(lo, prefixEnd(appendID(nil, "h/", q.Origin)), func(k, _ []byte) bool {
		if res.More = len(res.Files) == limit; res.More {
			return false
		}
		res.Files = append(res.Files, &metapb.FileId{Fs: binary.BigEndian.Uint32(k[len(k)-12:]), Ino: tail64(k)})
		return true
	})
	return &metapb.QueryResult{R: &metapb.QueryResult_Holds{Holds: res}}, err
}

// Holder is the origin that has a file to itself, as a state says; 0 if none has. It is a hint: the lease may be of an origin that ended.
func Holder(v View, fs uint32, ino uint64) (uint64, error) {
	r := reader{view: v, fs: fs}
	n, err := r.inode(ino)
	if err != nil || n == nil {
		return 0, vfs.Wrap("fsm.holder", err)
	}
	return n.lease.origin, nil
}
