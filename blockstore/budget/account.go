package budget

import (
	"math"
	"time"
)

const (
	// LeastPart of the limit is background work's, whatever clients do: 1 / LeastPart.
	LeastPart = 8
	// Burst is how much of the limit may be saved up.
	Burst = 100 * time.Millisecond
	// memory is over how long the clients' rate is smoothed.
	memory = time.Second
)

// account is the arithmetic of a Budget. Times only run forward.
type account struct {
	limit float64 // bytes per second

	at      time.Duration // of what follows
	clients float64       // bytes per second, smoothed
	run     float64       // the counter
	out     float64       // bytes given out
}

// rate is what background work may move per second now.
func (a *account) rate() float64 { return max(a.limit-a.clients, a.limit/LeastPart) }

// advance brings the account to now.
func (a *account) advance(now time.Duration) {
	d := (now - a.at).Seconds()
	if d <= 0 {
		return
	}
	a.at = now
	before := a.rate()
	a.clients *= math.Exp(-d / memory.Seconds())
	a.run += (before + a.rate()) / 2 * d
	a.out = max(a.out, a.run-a.limit*Burst.Seconds())
}

// client counts n bytes that a client moves.
func (a *account) client(now time.Duration, n int) {
	a.advance(now)
	a.clients += float64(n) / memory.Seconds()
}

// reserve takes n bytes and returns when they may be moved, by the counter: see due.
func (a *account) reserve(now time.Duration, n int) (paid float64) {
	a.advance(now)
	a.out += float64(n)
	return a.out
}

// giveBack undoes a reservation, if none came after it.
func (a *account) giveBack(paid float64, n int) {
	if a.out == paid {
		a.out -= float64(n)
	}
}

// due is how long it takes until bytes that were paid for may be moved, if clients go on as they do; 0: now.
func (a *account) due(now time.Duration, paid float64) time.Duration {
	a.advance(now)
	if paid <= a.run {
		return 0
	}
	return time.Duration((paid-a.run)/a.rate()*float64(time.Second)) + 1
}
