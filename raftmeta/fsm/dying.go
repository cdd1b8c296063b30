package fsm

import (
	"encoding/binary"
	"math"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// die makes a block dying that no extent points into any more.
func (x *call) die(block uint64, r *metapb.BlockRecord) error {
	x.del(appendID(x.key[:0], "b/", block))
	d := &metapb.DyingRecord{Pg: r.Pg, Length: r.Length, Since: x.wire}
	if x.level >= levelCollect {
		return x.queueDying(block, d)
	}
	return x.setRecord(appendID(x.key[:0], "x/", block), d)
}

// queueDying gives a dying block its number.
func (x *call) queueDying(block uint64, d *metapb.DyingRecord) (err error) {
	if d.Seq, err = x.next(counterKey{what: counterDying}); err != nil {
		return err
	}
	if _, err := x.next(counterKey{what: counterDyingLen}); err != nil {
		return err
	}
	x.set(appendID(x.key[:0], "y/", d.Seq), binary.BigEndian.AppendUint64(nil, block))
	return x.setRecord(appendID(x.key[:0], "x/", block), d)
}

// dyingBlock is an entry of the queue.
type dyingBlock struct{ seq, id uint64 }

// oldestDying lists up to limit blocks of the queue up to number through.
func (x *call) oldestDying(through uint64, limit int) (list []dyingBlock, more bool, err error) {
	lo := []byte("y/")
	hi := prefixEnd(lo)
	if through < math.MaxUint64 {
		hi = appendID(nil, "y/", through+1)
	}
	var bad error
	err = x.scan(lo, hi, func(k, v []byte) bool {
		if len(list) == limit {
			more = true
			return false
		}
		if len(v) != 8 {
			bad = corrupt("entry %d of the dying queue has %d bytes", tail64(k), len(v))
			return false
		}
		list = append(list, dyingBlock{tail64(k), binary.BigEndian.Uint64(v)})
		return true
	})
	if bad != nil {
		err = bad
	}
	return list, more, err
}

// reapBlocks makes blocks dead whose grace is over.
func (x *call) reapBlocks(c *metapb.ReapBlocks) (*metapb.Result, error) {
	limit := x.opts.limits.reap
	if c.Max > 0 {
		limit = min(limit, int(c.Max))
	}
	list, more, err := x.oldestDying(c.Through, limit)
	if err != nil {
		return nil, err
	}
	res := &metapb.ReapResult{More: more}
	var units unitMarks
	for _, b := range list {
		var d metapb.DyingRecord
		if ok, err := x.getRecord(appendID(nil, "x/", b.id), &d); err != nil {
			return nil, err
		} else if !ok || d.Seq != b.seq {
			return nil, corrupt("block %#x is number %d of the dying queue and has number %d", b.id, b.seq, d.Seq)
		}
		x.del(appendID(x.key[:0], "y/", b.seq))
		x.del(appendID(x.key[:0], "x/", b.id))
		if err := units.mark(x, b.id); err != nil {
			return nil, err
		}
		res.Blocks = append(res.Blocks, &metapb.DeadBlock{Id: b.id, Pg: d.Pg})
	}
	if len(list) > 0 {
		left, err := x.count(counterKey{what: counterDyingLen})
		if err != nil {
			return nil, err
		}
		if left < uint64(len(list)) {
			return nil, corrupt("the dying queue has %d blocks and the length %d", len(list), left)
		}
		x.setCount(counterKey{what: counterDyingLen}, left-uint64(len(list)))
	}
	if err := units.write(x); err != nil {
		return nil, err
	}
	return &metapb.Result{Of: &metapb.Result_Reap{Reap: res}}, nil
}

// unitMarks remembers the units of reaped ids, in the order they came.
type unitMarks struct {
	order []uint64
	units map[uint64]*metapb.RangeRecord // nil: not leased any more
}

// mark notes that id was used and is dead, so that it is not taken for one which its holder has yet to use.
func (u *unitMarks) mark(x *call, id uint64) error {
	unit := unitOf(id)
	r, seen := u.units[unit]
	if !seen {
		r = new(metapb.RangeRecord)
		ok, err := x.getRecord(appendID(nil, "r/", unit), r)
		if err != nil {
			return err
		}
		if !ok {
			r = nil
		} else {
			u.order = append(u.order, unit)
		}
		if u.units == nil {
			u.units = make(map[uint64]*metapb.RangeRecord)
		}
		u.units[unit] = r
	}
	if r != nil {
		setReaped(r, id)
	}
	return nil
}

func (u *unitMarks) write(x *call) error {
	for _, unit := range u.order {
		if err := x.setRecord(appendID(x.key[:0], "r/", unit), u.units[unit]); err != nil {
			return err
		}
	}
	return nil
}

// purgeDying queues the blocks that were dying before there was a queue.
func (x *call) purgeDying(item *metapb.PurgeRecord, budget int) (done bool, err error) {
	const perBlock = 2 // x/ and y/
	limit := max(1, (budget-x.touched())/perBlock)
	looks, more := x.opts.limits.keys, false
	type found struct {
		id uint64
		d  *metapb.DyingRecord
	}
	var list []found
	var bad error
	err = x.scan(appendID(nil, "x/", item.From+1), prefixEnd([]byte("x/")), func(k, v []byte) bool {
		if looks--; looks < 0 || len(list) == limit {
			more = true
			return false
		}
		d := new(metapb.DyingRecord)
		if err := d.UnmarshalVT(v); err != nil {
			bad = corrupt("dying block %#x: %w", tail64(k), err)
			return false
		}
		item.From = tail64(k)
		if d.Seq == 0 {
			list = append(list, found{item.From, d})
		}
		return true
	})
	if bad != nil {
		err = bad
	}
	if err != nil {
		return false, err
	}
	for _, b := range list {
		if err := x.queueDying(b.id, b.d); err != nil {
			return false, err
		}
	}
	return !more, nil
}
