package wire

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// callContext is the context of a call that is served. It ends with the caller's deadline, and when end is called: for its cancel frame, its connection or
// server, and its handler's return. Most handlers never wait, so it has a channel and a timer only when somebody asks for Done.
type callContext struct {
	deadline time.Time // zero: none
	request  vfs.RequestID

	mu    sync.Mutex // guards the following
	done  chan struct{}
	timer *time.Timer
	after map[*func()]struct{}
	err   error
}

var _ context.Context = (*callContext)(nil)

// end ends c with an error of package context. Only the first end counts.
func (c *callContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(err)
}

func (c *callContext) endLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.done != nil {
		close(c.done)
	}
	for f := range c.after {
		go (*f)()
	}
	c.after = nil
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done != nil {
		return c.done
	}
	c.done = make(chan struct{})
	if c.err != nil {
		close(c.done)
		return c.done
	}
	c.watch()
	return c.done
}

// watch sees to it that c ends with its deadline. c.mu is held.
func (c *callContext) watch() {
	if c.timer == nil && !c.deadline.IsZero() {
		c.timer = time.AfterFunc(time.Until(c.deadline), func() { c.end(context.DeadlineExceeded) })
	}
}

// Err implements context.Context.
func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.endLocked(context.DeadlineExceeded)
	}
	return c.err
}

// Value implements context.Context.
func (c *callContext) Value(key any) any { return c.request.Value(key) }

// AfterFunc is what package context asks of contexts of others, instead of a goroutine for each that is derived from them.
func (c *callContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	c.watch()
	if c.after == nil {
		c.after = map[*func()]struct{}{}
	}
	p := &f
	c.after[p] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waits := c.after[p]
		delete(c.after, p)
		return waits
	}
}
