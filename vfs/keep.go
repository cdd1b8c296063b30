package vfs

import (
	"context"
	"fmt"

	"github.com/rackfs/rackfs/vfs/byterange"
)

// StateID names an open or an owner's locks: the "other" field of an NFSv4 stateid.
type StateID [12]byte

// Share is one open of a file as its file system keeps it for a client: the opens of one open-owner, merged.
type Share struct {
	Client       uint64
	State        StateID
	Owner        []byte    // opens of one owner do not deny each other
	Access, Deny OpenFlags // what it does, and what it denies others
	Locks        bool      // byte-range locks were taken through it
}

// Lasting reports whether the open has to outlive its front end from the first moment: one that writes, denies or locks something. Of others
// the client's stateid tells enough to open the file again, as long as that is there. So they are kept durably only when they go on for a while.
func (s *Share) Lasting() bool { return s.Access&OpenWrite != 0 || s.Deny != 0 || s.Locks }

// Covers reports whether whatever is kept of t is kept of s, too.
func (s *Share) Covers(t *Share) bool {
	return s.State == t.State && t.Access&^s.Access == 0 && t.Deny&^s.Deny == 0 && (s.Lasting() || !t.Lasting())
}

// LockOwner names who holds byte-range locks.
type LockOwner struct {
	Client uint64
	Owner  string
}

// LockState names an owner's locks on a file and the open that they were taken through.
type LockState struct{ State, Open StateID }

// LockConflict is a lock in the way.
type LockConflict struct {
	Owner LockOwner
	Range byterange.Range
}

// DeniedBy is the cause of a KindShareDenied: a client whose open is in the way.
type DeniedBy struct{ Client uint64 }

func (d *DeniedBy) Error() string { return fmt.Sprintf("client %d has it open", d.Client) }

// HeldOpen is an open that a file system kept.
type HeldOpen struct {
	Ino Ino
	Share
}

// HeldLocks are an owner's locks on a file that a file system kept. Without ranges there is the owner's state only.
type HeldLocks struct {
	Ino   Ino
	Owner LockOwner
	LockState
	Ranges byterange.Set
}

// SlotSeq is the newest Call.Seq of a session's slot whose outcome a file system remembers.
type SlotSeq struct {
	Slot uint32
	Seq  uint64
}

// Closing is what ends of a file at once: an open, locks, or both.
type Closing struct {
	Share    Share       // zero State: no open ends
	Locks    []HeldLocks // these owners' locks and their states, whatever the ranges
	Now      bool        // somebody may wait for it: it is done when Unshare returns, else soon
	Released bool        // the client's record has ended, and with it what was durable
}

// Keeper is an FS that keeps opens and locks of clients so that they outlive the front end, and decides about
// conflicts between all front ends. They end one by one, or all at once when the client's record ends, which is not for
// a file system to say. Methods that name a client whose end was decided fail with KindExpired.
type Keeper interface {
	FS

	// Keeps reports whether it does, which depends on the age of the cluster's data.
	Keeps() bool

	// OpenShared is Open, and keeps the open as s from the same step on: one that is Lasting durably, and so is any of a file without a name;
	// others durably if they go on for a second or two, and until then as long as this process lives and the file has a name. What is kept under the same client and state is replaced.
	// KindShareDenied with a DeniedBy if another open is in the way.
	OpenShared(ctx context.Context, c *Cred, ino Ino, f OpenFlags, override bool, s Share) (Attr, error)

	// Share replaces what is kept of an open, as OpenShared does, without an Open.
	Share(ctx context.Context, ino Ino, s Share) error

	// Unshare ends what is kept. What is not kept is ended already.
	Unshare(ctx context.Context, ino Ino, e Closing) error

	// Lock takes a lock, changing what the owner has on the range, or returns one in the way. s is kept with the owner's
	// locks of the file.
	Lock(ctx context.Context, ino Ino, o LockOwner, s LockState, r byterange.Range) (*LockConflict, error)

	// TestLock returns what would be in the way of such a Lock, if anything is.
	TestLock(ctx context.Context, ino Ino, o LockOwner, r byterange.Range) (*LockConflict, error)

	// Unlock takes away what the owner has on the range. Its state stays.
	Unlock(ctx context.Context, ino Ino, o LockOwner, first, last uint64) error

	// Resume returns what is kept for a client, to a front end that does not know it. Each of the opens is counted as
	// an Open with its access from then on, which the caller closes.
	Resume(ctx context.Context, client uint64) ([]HeldOpen, []HeldLocks, error)

	// Settle returns when every end of an open or of locks that was answered before is durable.
	Settle(ctx context.Context) error

	// Slots are those of a session of which the outcome of some call is remembered.
	Slots(ctx context.Context, session [16]byte) ([]SlotSeq, error)
}

// KeeperOf is fs if it keeps opens and locks, else nil.
func KeeperOf(fs FS) Keeper {
	if k, ok := fs.(Keeper); ok && k.Keeps() {
		return k
	}
	return nil
}
