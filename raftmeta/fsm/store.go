package fsm

// View is a consistent state of the store: it does not change while it is
// read. Implementations are safe for concurrent use.
type View interface {
	// Get returns the value of key; ok is false if there is none. val is the
	// caller's to read for as long as it wants.
	Get(key []byte) (val []byte, ok bool, err error)

	// Scan calls fn for the keys in [lo, hi) in ascending order until fn
	// returns false. k and v are valid during the call of fn only.
	Scan(lo, hi []byte, fn func(k, v []byte) bool) error
}

// Versioned is a View that knows the Raft index of the last entry it contains.
// Implementing it saves queries a read of the machine's state record; the
// number must be that of the same state which Get reads.
type Versioned interface {
	View
	Applied() uint64
}

// Writer takes the writes of applied entries: a pebble batch, or a MemStore.
// Keys and values may be reused by the caller when a call returns.
type Writer interface {
	Set(k, v []byte) error
	Delete(k []byte) error
}
