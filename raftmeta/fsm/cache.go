package fsm

import "encoding/binary"

// Cache keeps inodes, directory entries, origins and name spaces in front of
// one store, in a bounded number of bytes. It is safe for concurrent use; a nil
// *Cache is an empty one.
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
//
// Records are bytes in pages without pointers, and get copies them out: a
// cached name with its inode takes about 130 bytes instead of the 730 that decoded
// ones in a map take, and the garbage collector looks at none of them. Decoding
// an inode again costs a fiftieth of a read of the store. See appendCached for
// inodes; entries of directories are as in the store.
type Cache struct {
	shards [cacheShards]cacheShard
}

const cacheShards = 32

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

// hash spreads keys over shards (low bits), places, and indexes (high bits).
func (k cacheKey) hash() uint64 {
	h := (k.a ^ uint64(k.fs)<<32 ^ uint64(k.kind)) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	h = (h ^ k.b) * 0xd6e8feb86659fd93
	return h ^ h>>29
}

// NewCache makes a cache of at most maxBytes.
func NewCache(maxBytes int64) *Cache {
	c := new(Cache)
	for i := range c.shards {
		c.shards[i].limit(int(maxBytes / cacheShards))
	}
	return c
}

func (c *Cache) shard(k cacheKey) (s *cacheShard, hash uint64, stamp *uint64) {
	h := k.hash()
	s = &c.shards[h%cacheShards]
	return s, h, &s.stamps[h/cacheShards%cachePlaces]
}

// fits reports whether so many inodes are but a part of what the cache may hold.
func (c *Cache) fits(inodes uint64) bool {
	const part = 4
	return c != nil && inodes <= uint64(c.shards[0].maxBytes())*cacheShards/part/inodeCacheBytes
}

// get appends to buf the record of k as a view up to entry version holds it.
func (c *Cache) get(k cacheKey, version uint64, buf []byte) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	s, h, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if *stamp > version {
		return nil, false
	}
	return s.get(k, h, buf)
}

// peek appends to buf the newest record of k: for the machine, which wrote it.
func (c *Cache) peek(k cacheKey, buf []byte) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	s, h, _ := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(k, h, buf)
}

// add inserts what a view up to entry version holds. It copies rec.
func (c *Cache) add(k cacheKey, rec []byte, version uint64) {
	if c == nil {
		return
	}
	s, h, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if *stamp <= version {
		s.put(k, h, rec)
	}
}

// replace is add of what entry index wrote.
func (c *Cache) replace(k cacheKey, rec []byte, index uint64) {
	s, h, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	*stamp = index
	s.put(k, h, rec)
}

// invalidate drops what entry index changed.
func (c *Cache) invalidate(k cacheKey, index uint64) {
	s, h, stamp := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	*stamp = index
	if i := s.find(k, h); i >= 0 {
		s.drop(i)
	}
}
