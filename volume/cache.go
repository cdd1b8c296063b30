package volume

import (
	"context"
	"sync"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// unitSize is what the cache holds and reads at once: the data shard of a full
	// block at 4+2, so a unit is one request to one server.
	unitSize = 1 << 20
	// wholeBlock is the size up to which a block is read as a whole even for a
	// small random read: one request, and the next read finds it.
	wholeBlock = 128 << 10
)

// blockCache holds parts of blocks that were read ahead or lately used. Blocks
// are immutable, so what it holds is never wrong, only unused. Reads of the same
// unit at the same time are one.
type blockCache struct {
	blocks Blocks
	pool   *bufPool
	limit  int64

	ctx    context.Context // of reading ahead
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the fields below, and all of unit but data
	units map[unitKey]*unit
	lru   unit // ring: next is the newest
	used  int64
	ahead int // units being read ahead
	shut  bool
}

type unitKey struct {
	block uint64
	index uint32
}

// unit is a part of a block, perhaps still being read.
type unit struct {
	key        unitKey
	prev, next *unit
	buf        *buffer
	n          int
	refs       int           // readers, and the one who fills it; the ring's own counts as one
	ready      chan struct{} // closed when err and the buffer are set
	err        error
}

func newBlockCache(b Blocks, pool *bufPool, limit int64) *blockCache {
	c := &blockCache{blocks: b, pool: pool, limit: limit, units: make(map[unitKey]*unit)}
	c.lru.prev, c.lru.next = &c.lru, &c.lru
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// close waits for what is being read ahead.
func (c *blockCache) close() {
	c.mu.Lock()
	c.shut = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// read fills p from offset off of b. keep says that it is worth to hold the
// units it touches.
func (c *blockCache) read(ctx context.Context, b Block, off uint32, p []byte, keep bool) error {
	keep = keep || b.Len <= wholeBlock
	for len(p) > 0 {
		index := off / unitSize
		n := min(len(p), int((index+1)*unitSize-off))
		u, mine := c.get(unitKey{b.ID, index}, keep, false)
		if u == nil {
			// Not worth keeping: straight to the caller, together with all that follows
			// and is not there either.
			n = c.absent(b.ID, index, off, len(p))
			if err := c.blocks.Read(ctx, b, off, p[:n]); err != nil {
				return err
			}
		} else if err := c.take(ctx, u, mine, b, off, p[:n]); err != nil {
			return err
		}
		p, off = p[n:], off+uint32(n)
	}
	return nil
}

// absent is how many of n bytes from off, which lies in unit index, are before
// the next unit that is there.
func (c *blockCache) absent(block uint64, index, off uint32, n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		index++
		end := int(index*unitSize - off)
		if end >= n {
			return n
		}
		if c.units[unitKey{block, index}] != nil {
			return end
		}
	}
}

// take copies p out of u, after filling it if that is up to the caller.
func (c *blockCache) take(ctx context.Context, u *unit, mine bool, b Block, off uint32, p []byte) error {
	defer c.put(u)
	if mine {
		c.load(ctx, u, b)
	}
	select {
	case <-u.ready:
	case <-ctx.Done():
		return vfs.Wrap("read", ctx.Err())
	}
	if u.err != nil {
		if mine || vfs.KindOf(u.err) == vfs.KindNotFound {
			return u.err
		}
		// Who filled it may have given up for reasons of its own.
		return c.blocks.Read(ctx, b, off, p)
	}
	copy(p, u.buf.b[off-u.key.index*unitSize:u.n])
	return nil
}

// get returns a unit that is there, or with create a new one that the caller must
// load. The caller puts it back.
func (c *blockCache) get(k unitKey, create, ahead bool) (u *unit, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u = c.units[k]
	if u == nil {
		if !create || c.shut || ahead && c.ahead >= aheadAtOnce {
			return nil, false
		}
		u = &unit{key: k, refs: 1, ready: make(chan struct{})}
		c.units[k] = u
		mine = true
		if ahead {
			c.ahead++
			c.wg.Add(1)
		}
	} else {
		u.prev.next, u.next.prev = u.next, u.prev
	}
	u.refs++
	u.prev, u.next = &c.lru, c.lru.next
	u.next.prev, c.lru.next = u, u
	return u, mine
}

// load fills u and makes room for it.
func (c *blockCache) load(ctx context.Context, u *unit, b Block) {
	start := u.key.index * unitSize
	n := int(min(b.Len-start, unitSize))
	buf := c.pool.get(n)
	err := c.blocks.Read(ctx, b, start, buf.b[:n])
	c.mu.Lock()
	defer c.mu.Unlock()
	u.buf, u.n, u.err = buf, n, err
	c.used += int64(len(buf.b))
	close(u.ready)
	if err != nil {
		c.remove(u)
	}
	for old := c.lru.prev; c.used > c.limit && old != &c.lru; {
		next := old.prev
		if old.buf != nil {
			c.remove(old)
		}
		old = next
	}
}

// remove takes u out of the cache; its buffer goes when the last reader is
// done. c.mu is held.
func (c *blockCache) remove(u *unit) {
	if c.units[u.key] != u {
		return
	}
	delete(c.units, u.key)
	u.prev.next, u.next.prev = u.next, u.prev
	c.unref(u)
}

func (c *blockCache) put(u *unit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unref(u)
}

func (c *blockCache) unref(u *unit) {
	u.refs--
	if u.refs == 0 && u.buf != nil {
		c.used -= int64(len(u.buf.b))
		c.pool.put(u.buf)
		u.buf = nil
	}
}

// prefetch starts to read the units of [off, off+n) of b, as far as that is
// allowed now.
func (c *blockCache) prefetch(b Block, off, n uint32) {
	for i := off / unitSize; i*unitSize < off+n; i++ {
		u, mine := c.get(unitKey{b.ID, i}, true, true)
		if u == nil {
			return
		}
		if !mine {
			c.put(u)
			continue
		}
		go func() {
			defer c.wg.Done()
			c.load(c.ctx, u, b)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.ahead--
			c.unref(u)
		}()
	}
}
