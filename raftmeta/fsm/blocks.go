package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// returnUnits bounds one ReturnBlocks: each unit is two records.
const returnUnits = 1000

// unitOf is the unit of a block id, within its shard.
func unitOf(id uint64) uint64 { return id & (1<<blockShardShift - 1) >> blockUnitShift }

// reaped reports whether id was used and is dead.
func reaped(r *metapb.RangeRecord, id uint64) bool {
	at := id % blockUnit
	return at/8 < uint64(len(r.Reaped)) && r.Reaped[at/8]&(1<<(at%8)) != 0
}

func setReaped(r *metapb.RangeRecord, id uint64) {
	at := id % blockUnit
	if need := int(at/8) + 1; len(r.Reaped) < need {
		r.Reaped = append(r.Reaped, make([]byte, need-len(r.Reaped))...)
	}
	r.Reaped[at/8] |= 1 << (at % 8)
}

// mayMake refuses a block id that the caller may not make live: it must be
// leased to the caller and never have been used.
func (x *call) mayMake(id uint64, op string) error {
	if id>>blockShardShift != uint64(x.opts.Shard) {
		return vfs.Errorf(vfs.KindInvalid, op, "block %#x is not of this shard", id)
	}
	var r metapb.RangeRecord
	ok, err := x.getRecord(appendID(nil, "r/", unitOf(id)), &r)
	if err != nil {
		return err
	}
	if !ok || r.Origin != x.origin || id%blockUnit >= uint64(r.Count) {
		return vfs.Errorf(vfs.KindFenced, op, "block %#x is not in a range of origin %d", id, x.origin)
	}
	used := reaped(&r, id)
	for _, prefix := range [...]string{"b/", "x/"} {
		_, ok, err := x.get(appendID(x.key[:0], prefix, id))
		if err != nil {
			return err
		}
		used = used || ok
	}
	if used {
		return vfs.Errorf(vfs.KindExists, op, "block %#x was used before", id)
	}
	return nil
}

// makeBlock makes a block live that one extent, p of n, points into. It is a
// contiguous piece of the file, so its place is known from any extent of it.
func (x *call) makeBlock(n *inode, p *extent) error {
	return x.setRecord(appendID(x.key[:0], "b/", p.block), &metapb.BlockRecord{
		Fs: x.fs, Ino: uint64(n.attr.Ino), Offset: p.start - uint64(p.blockOff), Length: p.blockLen, Pg: p.pg, Refs: 1,
	})
}

func (x *call) allocBlocks(c *metapb.AllocBlocks) (*metapb.Result, error) {
	const op = "blocks.alloc"
	if c.Count == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no blocks")
	}
	unit, err := x.next(counterKey{what: counterUnit})
	if err != nil {
		return nil, err
	}
	if unit >= blockUnitsMax {
		return nil, vfs.Errorf(vfs.KindNoSpace, op, "this shard gave out all its block ids")
	}
	count := min(c.Count, blockUnit)
	if err := x.setRecord(appendID(x.key[:0], "r/", unit), &metapb.RangeRecord{Origin: x.origin, Count: count}); err != nil {
		return nil, err
	}
	x.set(appendRangeOf(x.key[:0], x.origin, unit), nil)
	return &metapb.Result{Of: &metapb.Result_Blocks{Blocks: &metapb.BlocksResult{
		First: uint64(x.opts.Shard)<<blockShardShift | unit<<blockUnitShift, Count: count,
	}}}, nil
}

// returnBlocks ends the lease of units.
func (x *call) returnBlocks(c *metapb.ReturnBlocks) (*metapb.Result, error) {
	const op = "blocks.return"
	if len(c.First) > returnUnits {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d units, at most %d", len(c.First), returnUnits)
	}
	for _, id := range c.First {
		if id>>blockShardShift != uint64(x.opts.Shard) || id%blockUnit != 0 {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%#x is not the first id of a unit of this shard", id)
		}
		unit := unitOf(id)
		var r metapb.RangeRecord
		ok, err := x.getRecord(appendID(nil, "r/", unit), &r)
		if err != nil {
			return nil, err
		}
		if !ok || r.Origin != x.origin {
			continue // a repeated command, or one that was late
		}
		x.del(appendID(x.key[:0], "r/", unit))
		x.del(appendRangeOf(x.key[:0], x.origin, unit))
	}
	return &metapb.Result{}, nil
}
