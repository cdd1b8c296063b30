package fsm

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of one Purge.
const (
	purgeDefault = 1000
	purgeItems   = 64 // items that one command looks at
)

// enqueue adds to the purge queue.
func (x *call) enqueue(r *metapb.PurgeRecord) error {
	seq, err := x.next(counterKey{what: counterQueue})
	if err != nil {
		return err
	}
	if _, err := x.next(counterKey{what: counterQueueLen}); err != nil {
		return err
	}
	return x.setRecord(appendID(nil, "q/", seq), r)
}

// purge removes what earlier commands left: first in, first out.
func (x *call) purge(c *metapb.Purge) (*metapb.Result, error) {
	budget := int(min(c.MaxKeys, uint32(x.opts.limits.keys)))
	if budget == 0 {
		budget = min(purgeDefault, x.opts.limits.keys)
	}
	for range purgeItems {
		key, item, err := x.queueHead()
		if err != nil {
			return nil, err
		}
		if item == nil || x.touched() >= budget {
			break
		}
		done, err := x.purgeItem(item, budget)
		if err != nil {
			return nil, err
		}
		if !done {
			if err := x.setRecord(key, item); err != nil {
				return nil, err
			}
			break
		}
		x.del(key)
		n, err := x.count(counterKey{what: counterQueueLen})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, corrupt("the purge queue has an item but no length")
		}
		x.setCount(counterKey{what: counterQueueLen}, n-1)
	}
	left, err := x.count(counterKey{what: counterQueueLen})
	if err != nil {
		return nil, err
	}
	return &metapb.Result{Of: &metapb.Result_Purge{Purge: &metapb.PurgeResult{Keys: uint32(x.touched()), More: left > 0}}}, nil
}

// queueHead returns the oldest item, nil if there is none.
func (x *call) queueHead() (key []byte, item *metapb.PurgeRecord, err error) {
	lo := []byte("q/")
	inner := error(nil)
	err = x.scan(lo, prefixEnd(lo), func(k, v []byte) bool {
		key, item = bytes.Clone(k), new(metapb.PurgeRecord)
		inner = item.UnmarshalVT(v)
		return false
	})
	if inner != nil {
		err = corrupt("purge queue: %w", inner)
	}
	return key, item, err
}

// purgeItem works on item until the command has touched budget records. done
// says that nothing of it is left; else item is where to go on.
func (x *call) purgeItem(item *metapb.PurgeRecord, budget int) (done bool, err error) {
	if item.OrphansOf != 0 {
		return x.purgeOrigin(item.OrphansOf, budget)
	}
	if item.Dying {
		return x.purgeDying(item, budget)
	}
	if item.Client != 0 {
		return x.purgeClient(item.Client, budget)
	}
	if item.Namespace {
		return x.purgeNamespace(item, budget)
	}
	sub := *x
	sub.fs = item.Fs
	n, err := x.inode(item.Fs, item.Ino)
	if err != nil {
		return false, err
	}
	if n == nil {
		return sub.purgeDeleted(item, budget)
	}
	return sub.purgeCuts(n, item, budget)
}

// batchOf is how many more extents may be looked at: each costs three records,
// and a fourth for the number of its block, and an inode that is only looked through costs
// nothing to write but time.
func (x *call) batchOf(budget int) int {
	records := 3
	if x.level >= levelCollect {
		records = 4
	}
	return max(1, (budget-x.touched())/records)
}

// purgeDeleted removes the extents and extended attributes of an inode that is gone.
func (x *call) purgeDeleted(item *metapb.PurgeRecord, budget int) (bool, error) {
	if !item.Deleted {
		item.Deleted, item.From = true, 0
	}
	gone := &inode{}
	gone.attr.Ino = vfs.Ino(item.Ino)
	limit := x.batchOf(budget)
	list, more, err := x.someExtents(gone, item.From, limit)
	if err != nil {
		return false, err
	}
	for i := range list {
		x.del(x.extentKey(gone, list[i].end))
		if err := x.refer(gone, &list[i], -1); err != nil {
			return false, err
		}
		item.From = list[i].end
	}
	if more {
		return false, nil
	}
	return x.purgeXattrs(item.Ino, budget)
}

// purgeCuts removes void extents of a living inode, pass by pass: when a pass
// is over, the cuts that were there when it began have nothing left to void.
func (x *call) purgeCuts(n *inode, item *metapb.PurgeRecord, budget int) (bool, error) {
	n = n.clone()
	if item.PassGen == 0 {
		item.PassGen, item.From = n.cutGen, 0
		if len(n.cuts) > 0 {
			item.From = n.cuts[0].offset
		}
	}
	used := n.attr.Used
	list, more, err := x.someExtents(n, item.From, x.batchOf(budget))
	if err != nil {
		return false, err
	}
	for i := range list {
		e := &list[i]
		item.From = e.end
		if n.void(e.gen, e.end) {
			if err := x.dropExtent(n, e); err != nil {
				return false, err
			}
		}
	}
	if !more {
		var cuts []cut
		for _, c := range n.cuts {
			if c.gen > item.PassGen {
				cuts = append(cuts, c)
			}
		}
		n.cuts, item.PassGen = cuts, 0
	}
	if err := x.recharge(n, used); err != nil {
		return false, err
	}
	x.setInode(x.fs, n)
	return len(n.cuts) == 0, nil
}

// someExtents returns up to limit extent records that end above from.
func (x *call) someExtents(n *inode, from uint64, limit int) (list []extent, more bool, err error) {
	err = scanExtents(x.scan, x.fs, n, from, maxEnd, func(e extent) (bool, error) {
		if len(list) == limit {
			more = true
			return false, nil
		}
		list = append(list, e)
		return true, nil
	})
	return list, more, err
}

// purgeOrigin removes what a dead origin left: reservations, holds on orphans, ranges of
// block ids, slots.
func (x *call) purgeOrigin(id uint64, budget int) (bool, error) {
	for _, step := range [...]func(uint64, int) (bool, error){x.purgeReservations, x.purgeHolds, x.purgeRanges, x.purgeSlots} {
		if done, err := step(id, budget); err != nil || !done {
			return false, err
		}
	}
	return true, nil
}

// firstKeys returns up to limit keys with the prefix, and whether there are more.
func (x *call) firstKeys(prefix []byte, limit int) (keys [][]byte, more bool, err error) {
	err = x.scan(prefix, prefixEnd(prefix), func(k, _ []byte) bool {
		if len(keys) == limit {
			more = true
			return false
		}
		keys = append(keys, bytes.Clone(k))
		return true
	})
	return keys, more, err
}

func (x *call) purgeHolds(origin uint64, budget int) (bool, error) {
	if lingers, err := x.lingers(origin); err != nil || lingers {
		return lingers, err
	}
	// The end of an orphan can take extents with it, so one at a time.
	for x.touched() < budget {
		keys, _, err := x.firstKeys(appendID(nil, "h/", origin), 1)
		if err != nil {
			return false, err
		}
		if len(keys) == 0 {
			return true, nil
		}
		sub := *x
		sub.fs = binary.BigEndian.Uint32(keys[0][len("h/")+8:])
		if err := sub.dropHold(tail64(keys[0]), origin); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (x *call) purgeRanges(origin uint64, budget int) (bool, error) {
	keys, more, err := x.firstKeys(appendID(nil, "l/", origin), max(1, (budget-x.touched())/2))
	for _, k := range keys {
		x.del(k)
		x.del(appendID(x.key[:0], "r/", tail64(k)))
	}
	return !more, err
}

// purgeSlots removes slots. Those of the overlay are a table, not in the order
// of keys, so both sources are put together here.
func (x *call) purgeSlots(origin uint64, budget int) (bool, error) {
	limit := max(1, budget-x.touched())
	var slots []uint32
	for k, r := range x.slots.rows {
		if k.origin == origin && r.v != nil {
			slots = append(slots, k.slot)
		}
	}
	prefix := appendID(nil, "s/", origin)
	seen := 0
	err := x.view.Scan(prefix, prefixEnd(prefix), func(k, _ []byte) bool {
		slot := binary.BigEndian.Uint32(k[len(k)-4:])
		if r, ok := x.slots.rows[slotKey{origin, slot}]; !ok || r.v != nil {
			slots = append(slots, slot)
			seen++
		}
		return seen <= limit
	})
	if err != nil {
		return false, fatal(err)
	}
	slices.Sort(slots)
	slots = slices.Compact(slots)
	more := len(slots) > limit
	for _, s := range slots[:min(limit, len(slots))] {
		x.slots.set(x.entry, slotKey{origin, s}, nil)
	}
	return !more, nil
}
