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

	steps atomic.Uint32 // mutations made for it
}

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
