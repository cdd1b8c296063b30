package stripe

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// callCtx is the context of calls that one goroutine, the overseer, watches: the overseer ends it when its own context ends, when
// the time is over, or when the answers are of no use any more. It costs no timer and no goroutine and is used again after the
// calls with it have returned, so a Caller must not keep it. Of values it carries the user's request that the overseer's context is about.
type callCtx struct {
	done     chan struct{}
	until    time.Time // the overseer ends it then
	deadline time.Time // told to who is called: until, or that of the overseer's context, which ends by itself
	request  vfs.RequestID

	mu    sync.Mutex // guards the following
	err   error
	cause error
}

var _ context.Context = (*callCtx)(nil)

// begin makes c a context that has not ended. Nobody may be using it. d bounds it, besides the end of parent. That two ends are told apart
// matters: who is slower than d failed, who is slower than a caller can wait did not.
func (c *callCtx) begin(parent context.Context, d time.Duration) {
	if c.done == nil || c.err != nil {
		c.done = make(chan struct{})
	}
	c.err, c.cause, c.request = nil, nil, vfs.RequestOf(parent)
	c.until = time.Now().Add(d)
	c.deadline = c.until
	if p, ok := parent.Deadline(); ok && p.Before(c.deadline) {
		c.deadline = p
	}
}

// end ends c with an error of package context, because of cause, if that is not nil. Only the first end counts.
func (c *callCtx) end(err, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err, c.cause = err, cause
		close(c.done)
	}
}

// ended is what end was called with.
func (c *callCtx) ended() (err, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err, c.cause
}

// Deadline implements context.Context.
func (c *callCtx) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *callCtx) Done() <-chan struct{} { return c.done }

// Err implements context.Context.
func (c *callCtx) Err() error {
	err, _ := c.ended()
	return err
}

// Value implements context.Context.
func (c *callCtx) Value(key any) any { return c.request.Value(key) }

// stoppedTimer is a timer for reuse by Reset and Stop.
func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
