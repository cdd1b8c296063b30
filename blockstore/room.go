package blockstore

// Together is what stores hold, and how much they can hold, all of them: what is free on a device counts once, however many stores are on it.
func Together(stores []RoomReply) (used, capacity uint64) {
	shared := map[[16]byte]uint64{}
	for _, s := range stores {
		used += s.Used
		if s.Device == ([16]byte{}) {
			capacity += s.Capacity
			continue
		}
		// They were asked one after the other, while others wrote: the least is what was there last.
		capacity += s.Capacity - min(s.Shared, s.Capacity)
		if free, ok := shared[s.Device]; !ok || s.Shared < free {
			shared[s.Device] = s.Shared
		}
	}
	for _, free := range shared {
		capacity += free
	}
	return used, max(capacity, used)
}

// Parts is how much each of the stores of one machine can hold: of a device that several of them are on, each has the same part, however the stores
// share it now. So it does not change as they fill.
func Parts(stores []RoomReply) []uint64 {
	on := map[[16]byte][]RoomReply{}
	for _, s := range stores {
		on[s.Device] = append(on[s.Device], s)
	}
	parts := make([]uint64, len(stores))
	for i, s := range stores {
		parts[i] = s.Capacity
		if all := on[s.Device]; s.Device != ([16]byte{}) && len(all) > 1 {
			_, capacity := Together(all)
			parts[i] = capacity / uint64(len(all))
		}
	}
	return parts
}
