package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// Names of the protocol's own types.
type (
	Status    = nfsv4.Nfsstat4
	Stateid   = nfsv4.Stateid4
	SessionID = nfsv4.Sessionid4
	ClientID  = uint64
)

// File names a file in every file system served.
type File struct {
	FS  uint64
	Ino vfs.Ino
}

// Principal is who authenticated an EXCHANGE_ID, in a form to be compared:
// flavour and identity.
type Principal string

// Limits bound the state. Zero fields take the defaults.
type Limits struct {
	Clients              int // 4096
	SessionsPerClient    int // 16
	Slots                int // that a session begins with at most, 64
	MaxSlots             int // to which it grows, 256
	OpensPerClient       int // 65536 open states
	LocksPerClient       int // 65536 ranges
	DelegationsPerClient int // 16384
	Delegations          int // 65536, of all clients
	OwnerBytes           int // 1024, length of client, open and lock owners (NFS4_OPAQUE_LIMIT)

	MaxRequest        uint32 // bytes of a request, 1 MiB + 64 KiB
	MaxResponse       uint32 // bytes of a reply, 1 MiB + 64 KiB
	MaxCachedResponse uint32 // bytes of a cached reply, 8 KiB
	ReplyCache        int64  // bytes of the slots of all sessions, each with room for the largest reply that it may have to keep, 256 MiB
	MaxOps            uint32 // operations of a COMPOUND, 128
}

// Bounds of Limits.ReplyCache that make sense, and its default.
const (
	DefaultReplyCache = 256 << 20
	MinReplyCache     = 1 << 20
	MaxReplyCache     = 64 << 30
)

// Config of a State.
type Config struct {
	Lease       time.Duration // 30 s
	Courtesy    time.Duration // how long an expired client may keep its state, 24 h
	Boot        uint32        // names this server instance by its low 24 bits; they differ from those of every earlier one
	Limits      Limits
	Rand        func(p []byte) // fills p with unguessable bytes; nil: crypto/rand
	Recorded    []ClientRecord // StateStore.Clients at the start: who may reclaim
	Kept        bool           // the store is a SessionStore: clients and sessions outlive the server
	Delegations Delegating     // DelegateNone
	Still       time.Duration  // without a Beat or a Tick for longer, the server stood still, and clients' leases did as well; 0: it never does
}

// FileClose is a vfs.Close that is owed.
type FileClose struct {
	File  File
	Flags vfs.OpenFlags
}

// FileShare is a change of what a vfs.Keeper keeps of an open.
type FileShare struct {
	File  File
	Share vfs.Share
}

// FileClosing is the end of what it keeps.
type FileClosing struct {
	File File
	vfs.Closing
}

// SessionPut is a session to be stored with its client.
type SessionPut struct {
	Client  ClientRecord
	Session SessionRecord
}

// SlotsGone are slots of a session that its client has given up, from First on. What the store has of them goes, but for what
// is of sequences of Below and above.
type SlotsGone struct {
	Session SessionID
	Client  ClientID
	First   uint32
	Below   uint64
}

// Effects are what the caller must do before it answers; see the package
// comment.
type Effects struct {
	Forget   []ClientRecord
	Record   []ClientRecord
	Sessions []SessionPut
	Ended    []SessionRecord
	Slots    []SlotsGone
	Share    []FileShare
	Unshare  []FileClosing
	Close    []FileClose
	Recall   []Recall // to be started before the answer; nobody waits for them

	state *State // is told what the store has confirmed
}

// Empty reports whether there is nothing to do.
func (e *Effects) Empty() bool {
	return len(e.Forget) == 0 && len(e.Record) == 0 && len(e.Sessions) == 0 && len(e.Ended) == 0 &&
		len(e.Slots) == 0 && len(e.Share) == 0 && len(e.Unshare) == 0 && len(e.Close) == 0 && len(e.Recall) == 0
}

// ExchangeIDArgs are the arguments of EXCHANGE_ID.
type ExchangeIDArgs struct {
	Owner     []byte // co_ownerid
	Verifier  [8]byte
	Flags     uint32
	Principal Principal
}

// ExchangeIDResult is its result.
type ExchangeIDResult struct {
	ClientID ClientID
	Sequence uint32 // of the first CREATE_SESSION
	Flags    uint32 // all of eir_flags
}

// ChannelAttrs are channel_attrs4 without RDMA.
type ChannelAttrs struct {
	MaxRequest        uint32
	MaxResponse       uint32
	MaxCachedResponse uint32
	MaxOps            uint32
	MaxSlots          uint32 // ca_maxrequests
}

// CreateSessionArgs are the arguments of CREATE_SESSION.
type CreateSessionArgs struct {
	ClientID        ClientID
	Sequence        uint32
	Flags           uint32
	Fore, Back      ChannelAttrs
	CallbackProgram uint32
	Principal       Principal
	Conn            uint64 // rpc.Conn.ID of the connection it came on
	Via             string // the server that carried it here, "" if none did
}

// CreateSessionResult is its result.
type CreateSessionResult struct {
	SessionID  SessionID
	Sequence   uint32
	Flags      uint32
	Fore, Back ChannelAttrs
}

// SequenceArgs are the arguments of SEQUENCE.
type SequenceArgs struct {
	SessionID   SessionID
	Slot        uint32
	Sequence    uint32
	HighestSlot uint32
	CacheThis   bool
	Conn        uint64
	Digest      uint64 // of the request, see Digest; tells a retry from a reused sequence
	Single      bool   // SEQUENCE is the only operation
	Via         string // the server that carried it here, "" if none did
}

// SequenceResult is the result of a SEQUENCE that succeeded.
type SequenceResult struct {
	// Call is the request in progress: end it with State.Finish. nil for a retry.
	Call *Call

	// Replay is the cached reply of a retry, as given to Finish. nil otherwise.
	Replay []byte

	// Uncached: a retry whose reply was not cached. SEQUENCE itself is answered
	// with success, the next operation with NFS4ERR_RETRY_UNCACHED_REP.
	Uncached bool

	// Leaving is closed when it is decided whether the client goes to another server. It comes with NFS4ERR_DELAY, and the request is to be tried again then.
	Leaving <-chan struct{}

	// Running is closed when the request that this one repeats has ended. It comes with NFS4ERR_DELAY (RFC 8881, 2.10.6.2), and the request is to be tried again then.
	Running <-chan struct{}

	// Follow is a client that is to be given up to the server that carried the request here, which is not begun: it comes with NFS4ERR_DELAY. If the client cannot be given up
	// (Remains) the request is to be tried again.
	Follow ClientID

	// Of a retry. A new request has those of State.Slots, when it is answered.
	HighestSlot       uint32
	TargetHighestSlot uint32

	StatusFlags uint32
}

// OpenArgs are the arguments of OPEN as far as this package needs them.
type OpenArgs struct {
	Client  ClientID
	Owner   []byte
	File    File
	Access  uint32        // OPEN4_SHARE_ACCESS_READ | WRITE
	Deny    uint32        // OPEN4_SHARE_DENY_READ | WRITE
	Held    vfs.OpenFlags // the vfs open that the caller just made; 0 none
	Reclaim bool          // CLAIM_PREVIOUS
	New     bool          // the file was made by this OPEN, which must not be refused for delegations: done again, it could fail

	Tail uint32 // see Tail; 0: none
	Plan *Plan  // of PlanOpen, if a vfs.Keeper keeps the open
}

// Plan is what a vfs.Keeper has to keep of an OPEN.
type Plan struct {
	Share vfs.Share // to be given to the Keeper with the vfs open; State may be replaced by the one it answers

	open    *open // that is upgraded; nil: a new one
	version int   // of open, when it was planned
}

// LockArgs are the arguments of LOCK.
type LockArgs struct {
	Client  ClientID
	File    File
	Type    nfsv4.NfsLockType4
	Offset  uint64
	Length  uint64
	Reclaim bool

	// New: the first lock of this owner on this file, by the open's stateid.
	// Otherwise Stateid is the lock stateid.
	New     bool
	Stateid Stateid
	Owner   []byte // of New

	Tail uint32 // see Tail; 0: none
}

// LockDenied describes a lock in the way (LOCK4denied).
type LockDenied struct {
	Offset, Length uint64
	Type           nfsv4.NfsLockType4
	Client         ClientID
	Owner          []byte
}

// IO is the answer of CheckIO.
type IO struct {
	// Special: a special stateid; the caller must check permission by the
	// credentials of the call. Otherwise the open's access decides.
	Special bool
	// Revive: an open for reading of an earlier server instance; see State.Revive.
	Revive bool
	Access vfs.OpenFlags // of the open; 0 if Special or Revive
}

// Stats are gauges and totals for metrics.
type Stats struct {
	Clients, Courteous, Sessions, Opens, Locks int
	CachedBytes                                int64
	SlotBytes                                  int64 // set aside for slots, of Limits.ReplyCache
	Slots, SlotsAsked                          int   // of sessions, and how many of them are asked back
	Grace                                      bool

	Replays, UncachedReplays, FalseRetries, Misordered uint64
	Expired, LockConflicts, ShareConflicts             uint64
	Delegations                                        int    // given now
	Delegated, Recalls, Revoked                        uint64 // delegations
	SlotsGrown, SlotsFreed, SessionsRefused            uint64 // slots; CREATE_SESSION for which there was no memory
	GraceRefusals                                      uint64 // NFS4ERR_GRACE and NFS4ERR_NO_GRACE of OPEN and LOCK
}
