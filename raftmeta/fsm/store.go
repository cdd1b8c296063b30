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

// Sorted is a View that reads many keys for less than as many Gets.
type Sorted interface {
	View
	// GetSorted calls fn for i from 0 to n-1 with the value of key(i), nil if there is none, until fn returns false. The keys ascend. A key is used
	// until key is called again, a value is valid during the call of fn only.
	GetSorted(n int, key func(i int) []byte, fn func(i int, v []byte) bool) error
}

// getSorted is GetSorted of any View.
func getSorted(v View, n int, key func(i int) []byte, fn func(i int, v []byte) bool) error {
	if s, ok := v.(Sorted); ok {
		return s.GetSorted(n, key, fn)
	}
	for i := range n {
		val, ok, err := v.Get(key(i))
		if err != nil {
			return err
		}
		if !ok {
			val = nil
		} else if val == nil {
			val = []byte{}
		}
		if !fn(i, val) {
			return nil
		}
	}
	return nil
}

// Writer takes the writes of applied entries: a pebble batch, or a MemStore.
// Keys and values may be reused by the caller when a call returns.
type Writer interface {
	Set(k, v []byte) error
	Delete(k []byte) error
}
