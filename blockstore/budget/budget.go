package budget

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// Default is the limit of a disk of which nothing else was said.
	Default = 128 << 20
	// YieldMax is how long background work lets clients' calls pass at most.
	YieldMax = 20 * time.Millisecond
	// look is how often who waits looks whether clients leave more, or less.
	look = 100 * time.Millisecond
)

// Budget is that of one disk. It is safe for concurrent use. The methods of a nil Budget count nothing and never wait.
type Budget struct {
	began time.Time

	mu      sync.Mutex // guards the following
	a       account
	calls   int           // of clients, under way
	quiet   chan struct{} // closed when there are none; nil: nobody waits for that
	moved   uint64        // bytes by background work
	clients uint64        // and by clients
}

// New makes a budget of so many bytes per second; 0: Default. A negative limit is none: nil.
func New(bytesPerSecond int64) *Budget {
	switch {
	case bytesPerSecond < 0:
		return nil
	case bytesPerSecond == 0:
		bytesPerSecond = Default
	}
	return &Budget{began: time.Now(), a: account{limit: float64(bytesPerSecond)}}
}

// now is time that only runs forward.
func (b *Budget) now() time.Duration { return time.Since(b.began) }

// Begin counts a client's call that moves n bytes. End ends it.
func (b *Budget) Begin(n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.a.client(b.now(), n)
	b.clients += uint64(max(n, 0))
	b.calls++
}

// End ends what Begin began.
func (b *Budget) End() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls--; b.calls == 0 && b.quiet != nil {
		close(b.quiet)
		b.quiet = nil
	}
}

// WaitN waits until n more bytes may be moved in the background.
func (b *Budget) WaitN(ctx context.Context, n int) error {
	if b == nil || n <= 0 {
		return nil
	}
	b.mu.Lock()
	paid := b.a.reserve(b.now(), n)
	for {
		d := b.a.due(b.now(), paid)
		if d == 0 {
			break
		}
		b.mu.Unlock()
		err := wait(ctx, nil, min(d, look))
		b.mu.Lock()
		if err != nil {
			b.a.giveBack(paid, n)
			b.mu.Unlock()
			return err
		}
	}
	b.moved += uint64(n)
	var quiet chan struct{}
	if b.calls > 0 {
		if b.quiet == nil {
			b.quiet = make(chan struct{})
		}
		quiet = b.quiet
	}
	b.mu.Unlock()
	if quiet == nil {
		return nil
	}
	return wait(ctx, quiet, YieldMax)
}

// wait ends after d, or when c is closed; with an error if ctx ends before.
func wait(ctx context.Context, c <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c:
	case <-ctx.Done():
		return vfs.Wrap("budget.wait", ctx.Err())
	}
	return nil
}

// Totals are the bytes that background work and clients moved until now.
func (b *Budget) Totals() (background, clients uint64) {
	if b == nil {
		return 0, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moved, b.clients
}

// Limit is the bytes per second of clients and background work together; 0: there is none.
func (b *Budget) Limit() int64 {
	if b == nil {
		return 0
	}
	return int64(b.a.limit)
}
