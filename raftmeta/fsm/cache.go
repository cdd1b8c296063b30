package fsm

import (
	"encoding/binary"
	"sync"
)

// Cache keeps decoded inodes, directory entries, origins and name spaces in
// front of one store, bounded by an estimate of its bytes. It is safe for
// concurrent use; a nil *Cache is an empty one.
//
// Coherence. The machine is the only writer of the store. When an entry is
// applied, and before its writes are committed, the machine replaces or drops
// every cached record that the entry changed and stamps the record's place
// with the entry's index. A query reads a View whose last entry it knows
// (Versioned): it uses or inserts a record only if the stamp of its place is
// not above that. So:
//
//   - a query on an older view never sees newer records, nor can it bring old
//     ones back: both are refused by the stamp;
//   - a query on a view that contains the entry finds the record gone or new,
//     because views with the entry exist only after the commit.
//
// Places are hashed, so a stamp may refuse a record that did not change; such
// a query reads the store.
//
// A Cache belongs to one store: a replica that switches to a restored state
// makes a new Cache, and queries on old views keep the old one.
type Cache struct {
	shards [cacheShards]cacheShard
}

const (
	cacheShards = 32
	cachePlaces = 256 // per shard
)

type cacheShard struct {
	mu     sync.Mutex // guards everything below
	index  map[cacheKey]int32
	ring   []cacheEntry // clock: a used entry survives one sweep
	free   []int32
	hand   int
	cost   int64
	budget int64
	stamps [cachePlaces]uint64
}

type cacheEntry struct {
	key  cacheKey
	val  any // *inode, *dirent, *originState or *space; nil: free
	cost int64
	used bool
}

// cacheKey is the kind of a record and the numbers of its key.
type cacheKey struct {
	kind uint8
	fs   uint32
	a, b uint64
}

func inodeCacheKey(fs uint32, ino uint64) cacheKey { return cacheKey{'i', fs, ino, 0} }
func direntCacheKey(fs uint32, dir, cookie uint64) cacheKey {
	return cacheKey{'d', fs, dir, cookie}
}
func originCacheKey(id uint64) cacheKey { return cacheKey{'g', 0, id, 0} }
func spaceCacheKey(fs uint32) cacheKey  { return cacheKey{'n', fs, 0, 0} }

// direntCacheKeyOf is the key of the record at d/fs/dir/cookie.
func direntCacheKeyOf(k string) cacheKey {
	b := []byte(k)[2:]
	return direntCacheKey(binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:]))
}

// hash spreads keys over shards (low bits) and places.
func (k cacheKey) hash() uint64 {
	h := (k.a ^ uint64(k.fs)<<32 ^ uint64(k.kind)) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	h = (h ^ k.b) * 0xd6e8feb86659fd93
	return h ^ h>>29
}

// costs of records beyond their variable parts, map and ring included.
const (
	inodeCost  = 480
	direntCost = 240
	smallCost  = 200
)

func (n *inode) cost() int64 { return inodeCost + int64(len(n.target)) + 16*int64(len(n.cuts)) }

// NewCache makes a cache of about maxBytes.
func NewCache(maxBytes int64) *Cache {
	c := new(Cache)
	for i := range c.shards {
		c.shards[i].index = make(map[cacheKey]int32)
		c.shards[i].budget = maxBytes / cacheShards
	}
	return c
}

func (c *Cache) shard(k cacheKey) (*cacheShard, *uint64) {
	h := k.hash()
	s := &c.shards[h%cacheShards]
	return s, &s.stamps[h/cacheShards%cachePlaces]
}

// fits reports whether records of so much cost are but a part of what the cache may hold.
func (c *Cache) fits(cost int64) bool {
	const part = 4
	return c != nil && cost <= c.shards[0].budget*cacheShards/part
}

// get returns the record of k as a view up to entry version holds it.
func (c *Cache) get(k cacheKey, version uint64) any {
	if c == nil {
		return nil
	}
	s, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if *stamp > version {
		return nil
	}
	return s.lookup(k)
}

// peek returns the newest record of k: for the machine, which wrote it.
func (c *Cache) peek(k cacheKey) any {
	if c == nil {
		return nil
	}
	s, _ := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookup(k)
}

// add inserts what a view up to entry version holds.
func (c *Cache) add(k cacheKey, v any, cost int64, version uint64) {
	if c == nil {
		return
	}
	s, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if *stamp <= version {
		s.insert(k, v, cost)
	}
}

// replace is add of what entry index wrote.
func (c *Cache) replace(k cacheKey, v any, cost int64, index uint64) {
	s, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	*stamp = index
	s.insert(k, v, cost)
}

// invalidate drops what entry index changed.
func (c *Cache) invalidate(k cacheKey, index uint64) {
	s, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	*stamp = index
	if i, ok := s.index[k]; ok {
		s.drop(i)
	}
}

func (s *cacheShard) lookup(k cacheKey) any {
	i, ok := s.index[k]
	if !ok {
		return nil
	}
	e := &s.ring[i]
	e.used = true
	return e.val
}

func (s *cacheShard) insert(k cacheKey, v any, cost int64) {
	if i, ok := s.index[k]; ok {
		e := &s.ring[i]
		s.cost += cost - e.cost
		e.val, e.cost, e.used = v, cost, true
		s.shrink()
		return
	}
	if cost > s.budget {
		return
	}
	s.cost += cost
	s.shrink()
	e := cacheEntry{key: k, val: v, cost: cost}
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		s.ring[i], s.index[k] = e, i
		return
	}
	s.index[k] = int32(len(s.ring))
	s.ring = append(s.ring, e)
}

// shrink evicts until the cost is within the budget.
func (s *cacheShard) shrink() {
	for s.cost > s.budget && len(s.index) > 0 {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		switch e := &s.ring[s.hand]; {
		case e.val == nil:
		case e.used:
			e.used = false
		default:
			s.drop(int32(s.hand))
		}
		s.hand++
	}
}

func (s *cacheShard) drop(i int32) {
	e := &s.ring[i]
	s.cost -= e.cost
	delete(s.index, e.key)
	*e = cacheEntry{}
	s.free = append(s.free, i)
}
