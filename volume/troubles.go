package volume

import (
	"sync"
	"time"
)

// Failures are logged at intervals that double from logIntervalMin, and count
// as another outage when there were none for logIntervalMax.
const (
	logIntervalMin = time.Second
	logIntervalMax = 10 * time.Minute
)

// troubles decides which failures are logged: in an outage every piece that is being
// flushed fails again and again, and all say the same.
type troubles struct {
	mu sync.Mutex // guards of
	of map[string]*trouble
}

// trouble is one kind of work that fails.
type trouble struct {
	last     time.Time // failure
	next     time.Time // to be logged
	interval time.Duration
	failures int // not logged
}

// failed counts a failure and returns how many there were since one was
// logged, this one included; 0: it is not to be logged.
func (t *troubles) failed(what string, now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[string]*trouble)
	}
	x := t.of[what]
	if x == nil || now.Sub(x.last) > logIntervalMax {
		x = &trouble{next: now, interval: logIntervalMin}
		t.of[what] = x
	}
	x.last = now
	x.failures++
	if now.Before(x.next) {
		return 0
	}
	n := x.failures
	x.failures = 0
	x.next = now.Add(x.interval)
	x.interval = min(2*x.interval, logIntervalMax)
	return n
}
