package accounts

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	// failBurst failed attempts are free for each address; one more comes back every failEvery.
	failBurst = 10
	failEvery = 6 * time.Second
	// maxFailing bounds the addresses that are remembered: those that failed longest ago are forgotten first.
	maxFailing = 4096
	// maxRecent bounds the good tokens that are remembered.
	maxRecent = 1024
)

// limiter counts failed attempts by address.
type limiter struct {
	mu    sync.Mutex // guards the following
	by    map[netip.Addr]*list.Element
	order list.List // of *failing, the one that failed last in front
}

type failing struct {
	from netip.Addr
	left float64 // attempts
	at   time.Time
}

// source is the address that attempts are counted for: of IPv6 the network that one customer has.
func source(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// wait is how long to wait before another attempt; 0: not at all.
func (l *limiter) wait(from netip.Addr, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[source(from)]
	if e == nil {
		return 0
	}
	f := e.Value.(*failing)
	f.regain(now)
	if f.left >= 1 {
		return 0
	}
	return time.Duration((1 - f.left) * float64(failEvery))
}

func (f *failing) regain(now time.Time) {
	if d := now.Sub(f.at); d > 0 {
		f.left = min(failBurst, f.left+float64(d)/float64(failEvery))
		f.at = now
	}
}

// failed notes a failed attempt.
func (l *limiter) failed(from netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from = source(from)
	e := l.by[from]
	if e == nil {
		if len(l.by) >= maxFailing {
			last := l.order.Back()
			delete(l.by, last.Value.(*failing).from)
			l.order.Remove(last)
		}
		if l.by == nil {
			l.by = map[netip.Addr]*list.Element{}
		}
		e = l.order.PushFront(&failing{from: from, left: failBurst, at: now})
		l.by[from] = e
	}
	f := e.Value.(*failing)
	f.regain(now)
	f.left = max(f.left-1, 0)
	l.order.MoveToFront(e)
}

// recent remembers hashes of tokens that were good lately.
type recent struct {
	mu    sync.Mutex // guards the following
	by    map[string]*list.Element
	order list.List // of string
}

func (r *recent) add(hash string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.by[hash]; e != nil {
		r.order.MoveToFront(e)
		return
	}
	if r.by == nil {
		r.by = map[string]*list.Element{}
	}
	if len(r.by) >= maxRecent {
		last := r.order.Back()
		delete(r.by, last.Value.(string))
		r.order.Remove(last)
	}
	r.by[hash] = r.order.PushFront(hash)
}

func (r *recent) has(hash string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[hash] != nil
}
