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

// An error reply's meta is the operation's name after its length (u8), the text
// after its length (u16), and the causes' text. All are cut so that a long chain of causes
// cannot grow a reply.
const (
	maxErrorOp    = 255
	maxErrorText  = 2048
	maxErrorBytes = 1 + maxErrorOp + 2 + 2*maxErrorText
)

func appendError(b []byte, err error) (vfs.Kind, []byte) {
	k := vfs.KindOf(err)
	if k == vfs.KindOK { // an error value that claims to be none is a bug of the handler
		k = vfs.KindInternal
	}
	var op, text, cause string
	if e, ok := err.(*vfs.Error); ok {
		op, text = e.Op, e.Text
		if e.Err != nil {
			cause = e.Err.Error()
		}
	} else {
		text = err.Error()
	}
	op, text, cause = cut(op, maxErrorOp), cut(text, maxErrorText), cut(cause, maxErrorText)
	b = append(append(b, byte(len(op))), op...)
	b = append(le.AppendUint16(b, uint16(len(text))), text...)
	return k, append(b, cause...)
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

// decodeError takes a meta that is too short, as a small limit on replies makes
// it, for what is there.
func decodeError(kind uint16, meta []byte) error {
	e := &vfs.Error{Kind: vfs.Kind(kind)}
	if kind > 255 { // no such kind in this version nor, by its type, in any
		e.Kind = vfs.KindIO
	}
	take := func(n int) string {
		n = min(n, len(meta))
		s := string(meta[:n])
		meta = meta[n:]
		return s
	}
	if n := take(1); n != "" {
		e.Op = take(int(n[0]))
	}
	if n := take(2); len(n) == 2 {
		e.Text = take(int(n[0]) | int(n[1])<<8)
	}
	if len(meta) > 0 {
		e.Err = errors.New(string(meta))
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
