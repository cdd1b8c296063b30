package vfs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
)

// Kind says what went wrong, independent of where. Values are stable on the
// wire and on disk: never renumber, only append.
type Kind uint8

const (
	KindOK            Kind = iota
	KindPerm               // EPERM: not the owner, or not allowed to anybody
	KindNotFound           // ENOENT
	KindIO                 // EIO: the system failed; data may be unreachable
	KindAccess             // EACCES: permission bits refuse it
	KindExists             // EEXIST
	KindXDev               // EXDEV: across file systems or projects
	KindNotDir             // ENOTDIR
	KindIsDir              // EISDIR
	KindInvalid            // EINVAL: arguments make no sense
	KindTooBig             // EFBIG: file size limit
	KindNoSpace            // ENOSPC
	KindReadOnly           // EROFS
	KindTooManyLinks       // EMLINK
	KindNameTooLong        // ENAMETOOLONG
	KindNotEmpty           // ENOTEMPTY
	KindQuota              // EDQUOT
	KindStale              // ESTALE: the inode no longer exists
	KindBadHandle          // not a handle of ours, or forged
	KindBadCookie          // directory cookie not understood
	KindNotSupported       // EOPNOTSUPP
	KindBusy               // EBUSY, ETXTBSY and their kin
	KindWrongType          // not the type of object the operation is for
	KindBadName            // name with '/', NUL, or one of "", ".", ".."
	KindNotSymlink         // EINVAL of readlink, told apart for NFS4ERR_INVAL/WRONG_TYPE
	KindNoAttr             // ENODATA: no such extended attribute
	KindLocked             // EAGAIN of a lock: held by somebody else
	KindShareDenied        // an open's deny mode refuses it
	KindUnavailable        // not now: no quorum, no leader, no writable placement group; retry later (NFS4ERR_DELAY)
	KindUnknown            // a mutation's outcome is unknown (connection lost, leadership lost); retry with the same identity
	KindFenced             // this holder's epoch or incarnation was superseded; what it buffered is lost
	KindNotLeader          // this replica does not lead the shard; cause says who may
	KindSuperseded         // a replayed command older than the stored one
	KindUnknownOrigin      // the command's origin is not registered (expired or never was)
	KindChanged            // a compare-and-swap found something else
	KindTooMany            // the command would touch more than it may; split it
	KindCorrupt            // a checksum or format check failed
	KindIncompatible       // another format, feature level or cluster
	KindCanceled           // the caller gave up
	KindUnauthorized       // who the caller is was not proven
	KindInternal           // a bug: an invariant did not hold
	KindExpired            // the NFS client that the command names was released: all it had is void
	kindEnd
)

// one row of kindTable maps a kind to the outside world.
type kindInfo struct {
	text  string
	errno syscall.Errno
	http  int
}

var kindTable = [kindEnd]kindInfo{
	KindOK:            {"ok", 0, http.StatusOK},
	KindPerm:          {"operation not permitted", syscall.EPERM, http.StatusForbidden},
	KindNotFound:      {"no such file or directory", syscall.ENOENT, http.StatusNotFound},
	KindIO:            {"input/output error", syscall.EIO, http.StatusInternalServerError},
	KindAccess:        {"permission denied", syscall.EACCES, http.StatusForbidden},
	KindExists:        {"file exists", syscall.EEXIST, http.StatusConflict},
	KindXDev:          {"cross-device link", syscall.EXDEV, http.StatusBadRequest},
	KindNotDir:        {"not a directory", syscall.ENOTDIR, http.StatusBadRequest},
	KindIsDir:         {"is a directory", syscall.EISDIR, http.StatusBadRequest},
	KindInvalid:       {"invalid argument", syscall.EINVAL, http.StatusBadRequest},
	KindTooBig:        {"file too large", syscall.EFBIG, http.StatusRequestEntityTooLarge},
	KindNoSpace:       {"no space left on device", syscall.ENOSPC, http.StatusInsufficientStorage},
	KindReadOnly:      {"read-only file system", syscall.EROFS, http.StatusForbidden},
	KindTooManyLinks:  {"too many links", syscall.EMLINK, http.StatusConflict},
	KindNameTooLong:   {"file name too long", syscall.ENAMETOOLONG, http.StatusBadRequest},
	KindNotEmpty:      {"directory not empty", syscall.ENOTEMPTY, http.StatusConflict},
	KindQuota:         {"disk quota exceeded", syscall.EDQUOT, http.StatusInsufficientStorage},
	KindStale:         {"stale file handle", syscall.ESTALE, http.StatusGone},
	KindBadHandle:     {"bad file handle", syscall.EBADF, http.StatusBadRequest},
	KindBadCookie:     {"bad directory cookie", syscall.EINVAL, http.StatusBadRequest},
	KindNotSupported:  {"operation not supported", syscall.EOPNOTSUPP, http.StatusNotImplemented},
	KindBusy:          {"device or resource busy", syscall.EBUSY, http.StatusConflict},
	KindWrongType:     {"wrong object type", syscall.EINVAL, http.StatusBadRequest},
	KindBadName:       {"invalid name", syscall.EINVAL, http.StatusBadRequest},
	KindNotSymlink:    {"not a symbolic link", syscall.EINVAL, http.StatusBadRequest},
	KindNoAttr:        {"no such attribute", syscall.ENODATA, http.StatusNotFound},
	KindLocked:        {"lock held by another", syscall.EAGAIN, http.StatusLocked},
	KindShareDenied:   {"denied by another open", syscall.EACCES, http.StatusLocked},
	KindUnavailable:   {"temporarily unavailable", syscall.EAGAIN, http.StatusServiceUnavailable},
	KindUnknown:       {"outcome unknown", syscall.EIO, http.StatusServiceUnavailable},
	KindFenced:        {"fenced: superseded by a newer holder", syscall.EIO, http.StatusConflict},
	KindNotLeader:     {"not the leader", syscall.EAGAIN, http.StatusServiceUnavailable},
	KindSuperseded:    {"command superseded", syscall.EIO, http.StatusConflict},
	KindUnknownOrigin: {"origin not registered", syscall.EIO, http.StatusConflict},
	KindChanged:       {"changed meanwhile", syscall.EAGAIN, http.StatusPreconditionFailed},
	KindTooMany:       {"too large for one command", syscall.E2BIG, http.StatusRequestEntityTooLarge},
	KindCorrupt:       {"corrupt", syscall.EIO, http.StatusInternalServerError},
	KindIncompatible:  {"incompatible", syscall.EPROTO, http.StatusConflict},
	KindCanceled:      {"canceled", syscall.EINTR, 499},
	KindUnauthorized:  {"not authenticated", syscall.EACCES, http.StatusUnauthorized},
	KindInternal:      {"internal error", syscall.EIO, http.StatusInternalServerError},
	KindExpired:       {"client released", syscall.EIO, http.StatusGone},
}

func (k Kind) String() string {
	if k < kindEnd {
		return kindTable[k].text
	}
	return fmt.Sprintf("error kind %d", uint8(k))
}

// Errno is the POSIX error for k. A kind this version does not know is EIO.
func (k Kind) Errno() syscall.Errno {
	if k < kindEnd {
		return kindTable[k].errno
	}
	return syscall.EIO
}

// HTTPStatus is the HTTP status for k.
func (k Kind) HTTPStatus() int {
	if k < kindEnd {
		return kindTable[k].http
	}
	return http.StatusInternalServerError
}

// Retryable reports whether the same request may succeed later without
// anything being changed by the caller.
func (k Kind) Retryable() bool {
	return k == KindUnavailable || k == KindUnknown || k == KindNotLeader
}

// Error is the error of every layer: what kind, during which operation, to
// what, and why.
type Error struct {
	Kind Kind
	Op   string // "rename", "stripe.write"; dotted from coarse to fine
	Text string // what it happened to and what to do next; may be empty
	Err  error  // cause; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(": ")
	}
	if e.Text != "" {
		b.WriteString(e.Text)
		b.WriteString(": ")
	}
	b.WriteString(e.Kind.String())
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, vfs.KindX.Err("")) compare kinds only.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Op == "" && t.Text == "" && t.Err == nil
}

// ShortWrite is the error of a Write that stored only its first N bytes, at least one.
type ShortWrite struct {
	N   int
	Err error // why not more
}

func (e *ShortWrite) Error() string { return fmt.Sprintf("%d bytes written: %v", e.N, e.Err) }

func (e *ShortWrite) Unwrap() error { return e.Err }

// Errorf makes an Error. A %w verb in format sets its cause.
func Errorf(k Kind, op, format string, args ...any) *Error {
	w := fmt.Errorf(format, args...)
	e := &Error{Kind: k, Op: op, Text: w.Error()}
	if c := errors.Unwrap(w); c != nil {
		e.Err = c
		e.Text = strings.TrimSuffix(strings.TrimSuffix(e.Text, c.Error()), ": ")
	}
	return e
}

// Err is an Error of kind k with nothing but an operation.
func (k Kind) Err(op string) *Error { return &Error{Kind: k, Op: op} }

// Wrap adds an operation to err and keeps its kind. It returns nil for nil.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: KindOf(err), Op: op, Err: err}
}

// KindOf is the kind of err: that of the outermost Error in its chain, the
// matching kind of a syscall.Errno or a context error, else KindIO.
func KindOf(err error) Kind {
	if err == nil {
		return KindOK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return kindOfErrno(no)
	}
	if errors.Is(err, context.Canceled) {
		return KindCanceled
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return KindUnavailable
	}
	return KindIO
}

func kindOfErrno(no syscall.Errno) Kind {
	switch no {
	case 0:
		return KindOK
	case syscall.EINVAL: // several kinds share it
		return KindInvalid
	case syscall.EACCES:
		return KindAccess
	case syscall.EAGAIN:
		return KindUnavailable
	case syscall.EIO:
		return KindIO
	}
	for k := KindOK + 1; k < kindEnd; k++ {
		if kindTable[k].errno == no {
			return k
		}
	}
	return KindIO
}
