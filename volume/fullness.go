package volume

import (
	"sync"
	"time"
)

// fullMemory is for how long it counts that a block was refused for want of space.
const fullMemory = time.Minute

// fullness decides how long flushes wait for a pool that has no space: collection of dead blocks, or smaller
// groups without the stores that are full, may make room in a moment. The wait is that of the volume, not
// of each flush: when it is over, and nothing could be written since, the next ones fail at their first try.
type fullness struct {
	mu    sync.Mutex
	since time.Time // no block could be written for want of space; zero: one could
	last  time.Time // a write was refused
}

// refused notes that a block was refused for want of space, and reports whether that has lasted for a timeout. When
// nobody tried for fullMemory it begins anew.
func (f *fullness) refused(now time.Time, timeout time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since.IsZero() || now.Sub(f.last) > max(timeout, fullMemory) {
		f.since = now
	}
	f.last = now
	return now.Sub(f.since) >= timeout
}

// wrote notes that a block was written.
func (f *fullness) wrote() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.since = time.Time{}
}
