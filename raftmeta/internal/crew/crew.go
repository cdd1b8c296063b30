// Package crew runs functions on goroutines that are kept: a new one would have to grow its stack first, which for a short
// function that calls deeply is a part of what it costs.
package crew

import "sync"

// Crew is a number of goroutines without work, and those that work.
type Crew struct {
	keep int
	work chan func()
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu   sync.Mutex
	idle int // wait for work, or are about to
}

// New makes a crew that keeps up to keep goroutines without work, until Close.
func New(keep int) *Crew {
	return &Crew{keep: keep, work: make(chan func()), stop: make(chan struct{})}
}

// Go runs fn on a goroutine, as the statement go does.
func (c *Crew) Go(fn func()) {
	select {
	case c.work <- fn:
	default:
		c.wg.Go(func() { c.run(fn) })
	}
}

func (c *Crew) run(fn func()) {
	for {
		fn()
		c.mu.Lock()
		stay := c.idle < c.keep
		if stay {
			c.idle++
		}
		c.mu.Unlock()
		if !stay {
			return
		}
		select {
		case fn = <-c.work:
		case <-c.stop:
			return
		}
		c.mu.Lock()
		c.idle--
		c.mu.Unlock()
	}
}

// Close ends goroutines that have no work, now and when they have done theirs. Go may still be called.
func (c *Crew) Close() { c.once.Do(func() { close(c.stop) }) }

// Wait waits until all goroutines have ended, after Close and the last Go.
func (c *Crew) Wait() { c.wg.Wait() }
