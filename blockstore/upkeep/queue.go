package upkeep

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// queue is a bounded set of keys in the order in which they came. What does not fit is dropped: queues only say where to look first.
type queue struct {
	wake chan struct{} // 1: something was added

	mu     sync.Mutex
	keys   []segment.Key
	in     map[segment.Key]struct{}
	putOff []segment.Key
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), in: map[segment.Key]struct{}{}}
}

func (q *queue) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) add(keys []segment.Key) {
	q.mu.Lock()
	for _, k := range keys {
		if _, ok := q.in[k]; !ok && len(q.in) < queueMax {
			q.in[k] = struct{}{}
			q.keys = append(q.keys, k)
		}
	}
	q.mu.Unlock()
	q.ring()
}

// take removes up to n keys.
func (q *queue) take(n int) []segment.Key {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.keys))
	out := q.keys[:n:n]
	if q.keys = q.keys[n:]; len(q.keys) == 0 {
		q.keys = nil
	}
	for _, k := range out {
		delete(q.in, k)
	}
	return out
}

// later keeps a key until restore.
func (q *queue) later(k segment.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.putOff) < queueMax {
		q.putOff = append(q.putOff, k)
	}
}

func (q *queue) restore() {
	q.mu.Lock()
	keys := q.putOff
	q.putOff = nil
	q.mu.Unlock()
	q.add(keys)
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.keys) + len(q.putOff)
}

// limiter spaces out work by bytes.
type limiter struct {
	perSecond int64 // <= 0: no limit

	mu   sync.Mutex
	next time.Time // when the next bytes may begin
}

func newLimiter(perSecond int64) *limiter { return &limiter{perSecond: perSecond} }

// WaitN implements Limiter: it waits until n bytes may begin.
func (l *limiter) WaitN(ctx context.Context, n int) error {
	if l.perSecond <= 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	d := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.perSecond) * float64(time.Second)))
	l.mu.Unlock()
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return vfs.Wrap("upkeep.wait", ctx.Err())
	}
}
