package state

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// ClientRecord is a client as it identified itself, and the id of this incarnation. In a store that keeps no sessions it is
// what must survive a restart of the server for the client to reclaim its state.
type ClientRecord struct {
	Owner     []byte
	Verifier  [8]byte
	Principal Principal
	ClientID  ClientID

	// Of a SessionStore.
	Sequence  uint32 // of the last CREATE_SESSION that succeeded
	Reclaimed bool   // RECLAIM_COMPLETE was received
	Delegated bool   // it had a delegation

	// Copies are those that the client waits for. CopiesVersion grows with each change of them and is not kept: of two records that are
	// stored in any order those with the higher one are the newer.
	Copies        []CopyRecord
	CopiesVersion uint64
}

// SessionRecord is everything that is needed to go on serving a session, but what its slots saw last.
type SessionRecord struct {
	ID              SessionID
	Client          ClientID
	Sequence        uint32 // of the CREATE_SESSION that made it
	Flags           uint32 // csr_flags
	Fore, Back      ChannelAttrs
	CallbackProgram uint32
	Slots           uint32 // that it has now; 0: always as Fore says
	Last            []SlotRecord

	// Version grows with each change and is not kept: of two records of a session that are stored in any order those with the higher
	// one are the newer.
	Version uint64
}

// SlotRecord is the last request of a slot that was used, as far as the server knew that stored the session. It stays true: later ones are above it, until
// the slot is given up, which is stored first.
type SlotRecord struct {
	Slot uint32
	Seq  uint64 // long, as vfs.SlotSeq
	// Final: the request changed what no store tells of, so it must not be executed again.
	Final bool
}

// StateStore keeps client records durably. Methods return when the change is durable.
type StateStore interface {
	// PutClient stores rec: in place of any record of the same Owner, or, if it is a SessionStore, of the same ClientID.
	PutClient(ctx context.Context, rec ClientRecord) error

	// RemoveClient removes the record of rec.Owner if it still has
	// rec.ClientID; a newer incarnation's record stays. Removing what is not
	// there is no error. A SessionStore also ends the client's sessions and all that is kept for it in any
	// file system: nobody else is in its way when this returns.
	RemoveClient(ctx context.Context, rec ClientRecord) error

	// Clients returns the records of clients that may reclaim: those of a store that keeps no sessions, or did not then.
	Clients(ctx context.Context) ([]ClientRecord, error)
}

// ClientState is a client with its sessions.
type ClientState struct {
	Client   ClientRecord
	Sessions []SessionRecord
	Seqids   []StateSeqid // of Handed
	Replies  []SlotReply  // of Handed
}

// Handed is what a server that gives a client up tells the next one.
type Handed struct {
	Sessions []SessionRecord
	// Seqids are the least that stateids have. Those that are not among them, or of a store that does not keep them, have 1.
	Seqids []StateSeqid
	// Replies are those of slots' last requests that are kept, first those that nothing else tells, then the newest. A store may drop those at the end: such a request is executed again, or,
	// if it is final (SlotRecord), answered NFS4ERR_RETRY_UNCACHED_REP.
	Replies []SlotReply
}

// SlotReply is what a slot's last request was answered: a client that has lost its connection sends it again, and is to hear the same. Of what it did to
// opens and locks no file system tells the outcome.
type SlotReply struct {
	Session SessionID
	Slot    uint32
	Seq     uint64 // long; the reply is void if SlotRecord has another one
	Digest  uint64 // of the request
	Reply   []byte
}

// StateSeqid is the seqid of a stateid.
type StateSeqid struct {
	State vfs.StateID
	Seqid uint32
}

// SessionStore is a StateStore for servers whose clients go on after a restart, or at another server, as if nothing had
// happened.
type SessionStore interface {
	StateStore

	// NewClientIDs returns ids that nobody had: also none that it gave to an earlier instance, which may have told it to a client.
	NewClientIDs(ctx context.Context) ([]ClientID, error)

	// PutSession stores a session with its client.
	PutSession(ctx context.Context, p SessionPut) error

	// RemoveSession removes a session. Removing what is not there is no error.
	RemoveSession(ctx context.Context, rec SessionRecord) error

	// ReleaseSlots forgets what is kept of requests that a session's client has the answers of, so that their slots can begin anew.
	// KindNotSupported: not yet; it will be asked again.
	ReleaseSlots(ctx context.Context, g SlotsGone) error

	// Load returns the clients that this server served before.
	Load(ctx context.Context) ([]ClientState, error)

	// ClientOf returns the client that has the session. KindNotFound if there is none.
	ClientOf(ctx context.Context, id SessionID) (ClientID, error)

	// ClientOfOwner returns the newest client of an owner. KindNotFound if there is none.
	ClientOfOwner(ctx context.Context, owner []byte) (ClientID, error)

	// Take returns a client, which this server serves from now on. KindNotFound if there is none, KindBusy if
	// another server still serves it.
	Take(ctx context.Context, id ClientID) (ClientState, error)

	// Wish asks the server that serves a client to give it up. It returns when that may have been done, or after a moment all the same; KindNotSupported if
	// there is no way to ask.
	Wish(ctx context.Context, id ClientID) error

	// Give ends that this server serves a client: whichever takes it serves it from now on, as it is handed. Nothing of it is under way in the
	// store, nor comes to it later. false: the client was not this server's. KindUnknown: perhaps it is given up, perhaps not.
	Give(ctx context.Context, id ClientID, h Handed) (bool, error)
}

// Files carries out effects on files. It is implemented by the caller.
type Files interface {
	// CloseFile is a vfs.Close. It reports an error itself: the open is gone either way.
	CloseFile(ctx context.Context, f FileClose)
	Share(ctx context.Context, f FileShare) error
	Unshare(ctx context.Context, f FileClosing) error
}

// Apply carries out e: records first, then files. What is done is taken out
// of e; after an error the caller hands the rest to State.Retry.
func (e *Effects) Apply(ctx context.Context, store StateStore, files Files) error {
	sessions, _ := store.(SessionStore)
	steps := []func() error{
		func() error {
			return each(&e.Forget, "nfs.forget client", func(r ClientRecord) error { return store.RemoveClient(ctx, r) }, e.state.forgot)
		},
		func() error {
			return each(&e.Record, "nfs.record client", func(r ClientRecord) error { return store.PutClient(ctx, r) }, e.state.recorded)
		},
		func() error {
			return each(&e.Sessions, "nfs.record session", func(p SessionPut) error { return sessions.PutSession(ctx, p) }, e.state.storedSession)
		},
		func() error {
			return each(&e.Ended, "nfs.end session", func(r SessionRecord) error { return sessions.RemoveSession(ctx, r) }, e.state.removedSession)
		},
		func() error {
			return each(&e.Share, "nfs.share", func(f FileShare) error {
				for {
					now, open := e.state.shareNow(f)
					if !open {
						return nil
					}
					if err := files.Share(ctx, now); err != nil {
						return err
					}
					if e.state.shared(now) {
						return nil
					}
				}
			}, nil)
		},
		func() error {
			return each(&e.Unshare, "nfs.unshare", func(f FileClosing) error { return files.Unshare(ctx, f) }, nil)
		},
		func() error {
			return each(&e.Close, "nfs.close", func(f FileClose) error { files.CloseFile(ctx, f); return nil }, nil)
		},
		func() error { // at the end: all shards have to do it, and one that is away does not hold up what the others have to do
			return each(&e.Slots, "nfs.release slots", func(g SlotsGone) error {
				err := sessions.ReleaseSlots(ctx, g)
				if vfs.KindOf(err) == vfs.KindNotSupported {
					return nil // Tick asks again
				}
				if err == nil {
					e.state.releasedSlots(g)
				}
				return err
			}, nil)
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// each does what is in todo, in order, and takes it out, until something fails.
func each[T any](todo *[]T, op string, do func(T) error, done func(T)) error {
	for len(*todo) > 0 {
		one := (*todo)[0]
		if err := do(one); err != nil {
			return vfs.Wrap(op, err)
		}
		*todo = (*todo)[1:]
		if done != nil {
			done(one)
		}
	}
	*todo = nil
	return nil
}
