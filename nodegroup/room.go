package nodegroup

import (
	"cmp"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// OpenStores are the stores that a pool's open groups are on: new data goes to them.
func OpenStores(p *metapb.Pool) []uint32 {
	seen := map[uint32]bool{}
	stores := []uint32{}
	for _, pg := range p.GetPgs() {
		if pg.State != metapb.PGState_PG_OPEN {
			continue
		}
		for _, slot := range pg.Slots {
			if !seen[slot.Store] {
				seen[slot.Store] = true
				stores = append(stores, slot.Store)
			}
		}
	}
	return stores
}

// PoolRoom is the room on stores before the coding of a pool. rooms says what they hold together, and how much they can.
func PoolRoom(p *metapb.Pool, stores []uint32, rooms func([]uint32) (used, capacity uint64)) (total, free uint64) {
	used, all := rooms(stores)
	data := func(n uint64) uint64 { return n / cmp.Or(uint64(p.GetK()+p.GetM()), 1) * uint64(p.GetK()) }
	return data(all), data(all - min(used, all))
}

// rooms is what stores hold together, and how much they can, as they said last.
func (m *Manager) rooms(stores []uint32) (used, capacity uint64) {
	var list []blockstore.RoomReply
	for _, id := range stores {
		h := m.health[id]
		if h == nil {
			continue
		}
		r := h.room
		if r.Device == ([16]byte{}) { // its server is of an older release, or was not asked yet
			r = blockstore.RoomReply{Capacity: uint64(max(h.capacity, 0)), Used: uint64(max(h.used, 0))}
		}
		list = append(list, r)
	}
	return blockstore.Together(list)
}
