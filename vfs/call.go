package vfs

import (
	"context"
	"sync/atomic"
)

// Call names one operation of a client's request: the same when the client sends the request again, also to another
// front end. A file system that remembers the outcome of the newest call of each (Session, Slot) answers the repetition
// with it instead of doing it twice.
type Call struct {
	Client  uint64
	Session [16]byte
	Slot    uint32
	Seq     uint64 // of the slot; grows with every request
	Op      uint32 // of the request's operations

	// InParts: what the operation does may be cut otherwise when it is done again, so that only places tell what of it was done.
	InParts bool

	By Caller // who does it for the client; nil: nothing is known of that

	steps    atomic.Uint32 // mutations made for it
	repeated atomic.Bool
	begun    atomic.Bool
}

// Caller is the front end that has a call from its client.
type Caller interface {
	// Serving reports whether the client is still served here, so that no other front end may be doing the call.
	Serving() bool
	// Ended reports whether it never will be again: nobody hears what becomes of the call.
	Ended() bool
	// Answered reports whether the client is known to have the answer: it has sent the next request of the slot.
	Answered() bool
}

// Serving is By.Serving.
func (c *Call) Serving() bool { return c == nil || c.By == nil || c.By.Serving() }

// Ended is By.Ended.
func (c *Call) Ended() bool { return c != nil && c.By != nil && c.By.Ended() }

// Answered is By.Answered. Of a repetition it says nothing: whoever had the call before may still be about to do it, and has to be told that it was done.
func (c *Call) Answered() bool { return !c.Repeated() && c.By != nil && c.By.Answered() }

// Repeat tells that the call may have been done before, all of it or a part, by this front end or by another one.
func (c *Call) Repeat() { c.repeated.Store(true) }

// Repeated reports whether Repeat was called.
func (c *Call) Repeated() bool { return c != nil && c.repeated.Load() }

// Begin tells that the call's bytes may become part of a file from here on, whatever is answered.
func (c *Call) Begin() {
	if c != nil {
		c.begun.Store(true)
	}
}

// Begun reports whether Begin was called.
func (c *Call) Begun() bool { return c != nil && c.begun.Load() }

// callSteps is more than the mutations that one operation makes: a number that came twice would be answered with the outcome of another one.
const callSteps = 1 << 16

// Next is the number of the next mutation made for the call: operation and step. The operation makes the same ones in the
// same order each time.
func (c *Call) Next() uint32 { return c.Op*callSteps + c.steps.Add(1) - 1 }

// Made is how many mutations were made for the call, 0 for none.
func (c *Call) Made() uint32 {
	if c == nil {
		return 0
	}
	return c.steps.Load()
}

// Rewind has the mutations that come after the first n made again, under the same numbers.
func (c *Call) Rewind(n uint32) { c.steps.Store(n) }

// Doubtful reports whether some of the call's bytes may be part of a file, or become it. To an answer that says otherwise its client would make a new call of it, which would do it twice.
func (c *Call) Doubtful() bool { return c.Repeated() || c.Begun() }

// besideOps is more than the operations of a request.
const besideOps = callSteps / 2

// Beside is the call of what is done beside the operation's own mutations, and not each time that it is done: it has numbers of its own, from the first one on.
func (c *Call) Beside() *Call {
	if c == nil {
		return nil
	}
	b := &Call{Client: c.Client, Session: c.Session, Slot: c.Slot, Seq: c.Seq, Op: c.Op + besideOps, By: c.By}
	if c.Repeated() {
		b.Repeat()
	}
	return b
}

type callKey struct{}

// WithCall is ctx of what is done for call.
func WithCall(ctx context.Context, call *Call) context.Context {
	return context.WithValue(ctx, callKey{}, call)
}

// CallOf is the call that something is done for, nil if there is none.
func CallOf(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}
