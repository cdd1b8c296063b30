package localssd

import (
	"sync"
)

// settle is what Change is above the ctime where it is not known how many changes one step of the clock saw: more than there can
// have been. Steps are 10 ms at most, and a change takes a system call.
const settle = 1 << 23

// changeState makes Change out of ctime: see the package comment.
type changeState struct {
	mu    sync.Mutex
	value uint64 // 0: nothing was told yet
	ctime int64
	seen  uint64 // node.pending when ctime was read
}

// settled is the Change of an inode of which nothing is known but its ctime. Up to floor, others may have been told.
func settled(ctime, floor int64) uint64 {
	v := uint64(max(ctime, 1))
	if ctime <= floor {
		v += settle
	}
	return v
}

// next is Change of an inode whose ctime was read after pending changes. c.mu is held.
func (c *changeState) next(ctime int64, pending uint64, floor int64) uint64 {
	switch {
	case c.value == 0:
		c.value = settled(ctime, floor)
	case ctime != c.ctime || pending > c.seen:
		c.value = max(uint64(max(ctime, 1)), c.value+1)
	}
	c.ctime, c.seen = ctime, pending
	return c.value
}

// ctimeOf is the ctime up to which memory of this state would be missed, 0 if it would not.
func (c *changeState) ctimeOf(pending uint64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.value == 0 && pending == 0 {
		return 0
	}
	if pending > c.seen || c.value != uint64(max(c.ctime, 1)) && c.value != uint64(max(c.ctime, 1))+settle || now()-c.ctime < settle*2 {
		return max(c.ctime, now())
	}
	return 0
}
