package fsm

// Cache is a bounded cache of decoded records in front of a store.
type Cache struct{}

// NewCache makes a cache of about maxBytes.
func NewCache(maxBytes int64) *Cache { return &Cache{} }
