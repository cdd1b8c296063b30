package volume

import "github.com/rackfs/rackfs/vfs"

const CtimeTick = ctimeTick

// IDsHeld is how many block ids are held.
func (v *Volume) IDsHeld() int {
	v.ids.mu.Lock()
	defer v.ids.mu.Unlock()
	n := 0
	for _, r := range v.ids.ranges {
		n += r.held
	}
	return n
}

// IDsLeft is how many ids can be taken without leasing more.
func (v *Volume) IDsLeft() int {
	v.ids.mu.Lock()
	defer v.ids.mu.Unlock()
	return int(v.ids.last - v.ids.next)
}

// Flushing is how many bytes of buffers are being flushed.
func (v *Volume) Flushing() int64 {
	v.dirty.mu.Lock()
	defer v.dirty.mu.Unlock()
	return v.dirty.leaving
}

// Opens is how often an inode is open for reading and for writing.
func (v *Volume) Opens(ino vfs.Ino) (read, write int) {
	e := v.find(ino)
	if e == nil {
		return 0, 0
	}
	defer v.release(e)
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	return e.opens[openIndex(vfs.OpenRead)], e.opens[openIndex(vfs.OpenWrite)]
}

// Cached is how many bytes of memory the cache of blocks has, with those that are lent.
func (v *Volume) Cached() int64 {
	v.cache.mu.Lock()
	defer v.cache.mu.Unlock()
	return v.cache.used
}

// KeepOld is a tick of what records opens for reading.
func (v *Volume) KeepOld() { v.keepOld(v.ctx) }

// Loose is how many opens are not recorded.
func (v *Volume) Loose() int {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	return v.table.loose.n
}
