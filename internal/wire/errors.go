package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rackfs/rackfs/vfs"
)

// outcome is what is known about a call that failed.
type outcome uint8

const (
	outcomeUnknown outcome = iota
	outcomeNotSent
	outcomeAnswered
)

// callError is every error that Client.Call returns.
type callError struct {
	outcome outcome
	err     error
}

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// NotSent reports whether err is from a call whose request certainly never
// reached a handler, so that it may be made again or elsewhere.
func NotSent(err error) bool { return outcomeOf(err) == outcomeNotSent }

// Answered reports whether err is the peer's handler's own error.
func Answered(err error) bool { return outcomeOf(err) == outcomeAnswered }

func outcomeOf(err error) outcome {
	var e *callError
	if errors.As(err, &e) {
		return e.outcome
	}
	return outcomeUnknown
}

func notSent(k vfs.Kind, format string, args ...any) error {
	return &callError{outcomeNotSent, vfs.Errorf(k, "wire.call", format, args...)}
}

// givenUp is the error of a call given up because its context ended.
func givenUp(ctx context.Context, o outcome) error {
	k := vfs.KindCanceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		k = vfs.KindUnavailable
		if o == outcomeUnknown {
			k = vfs.KindUnknown
		}
	}
	return &callError{o, &vfs.Error{Kind: k, Op: "wire.call", Err: context.Cause(ctx)}}
}

// An error reply's meta is the length of the operation's name, the name, and
// the text. Both are cut so that a chain of causes cannot grow a reply.
const (
	maxErrorOp   = 255
	maxErrorText = 4096
)

func appendError(b []byte, err error) (vfs.Kind, []byte) {
	k := vfs.KindOf(err)
	if k == vfs.KindOK { // an error value that claims to be none is a bug of the handler
		k = vfs.KindInternal
	}
	op, text := "", err.Error()
	if e, ok := err.(*vfs.Error); ok {
		op, text = e.Op, e.Text
		if e.Err != nil {
			if text != "" {
				text += ": "
			}
			text += e.Err.Error()
		}
	}
	op = op[:min(len(op), maxErrorOp)]
	b = append(b, byte(len(op)))
	b = append(b, op...)
	return k, append(b, text[:min(len(text), maxErrorText)]...)
}

func decodeError(kind uint16, meta []byte) error {
	e := &vfs.Error{Kind: vfs.Kind(kind)}
	if kind > 255 { // no such kind in this version nor, by its type, in any
		e.Kind = vfs.KindIO
	}
	if len(meta) > 0 && len(meta) > int(meta[0]) {
		e.Op, e.Text = string(meta[1:1+meta[0]]), string(meta[1+meta[0]:])
	}
	return &callError{outcomeAnswered, e}
}

// protocolError ends a connection: the peer, or the path to it, broke the rules.
type protocolError struct{ msg string }

func (e *protocolError) Error() string { return "wire protocol: " + e.msg }

func protocolErrorf(format string, args ...any) error {
	return &protocolError{fmt.Sprintf(format, args...)}
}

var le = binary.LittleEndian
