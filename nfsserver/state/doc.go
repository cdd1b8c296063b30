// Package state is the state of NFSv4.1 clients: client ids, sessions with their
// slots and reply caches, leases, opens with share reservations, byte-range
// locks, stateids, the grace period (RFC 8881, sections 2.4, 2.10, 8, 9, 18).
//
// [State] is a state machine without I/O: no goroutine, no clock, no callback.
// Methods take the present time and return what the caller has to do as
// [Effects]. One mutex inside protects everything; methods are short and safe
// for concurrent use. All slices passed in are copied where they are kept.
//
// # Effects
//
// What a method returns must be carried out by the caller, before it answers its client,
// in this order: Forget and Record by the [StateStore], durably; then Close
// by the vfs. [Effects.Apply] does so. Effects come with failures too: a
// conflicting OPEN may have ended another client's expired lease. If the store
// fails, the caller answers NFS4ERR_DELAY and hands the effects to [State.Retry];
// until the store has confirmed a removal, it is part of everybody's effects.
//
// # Opens and the vfs
//
// The caller does vfs.Open (or Create with Open set) first, because only the
// vfs knows the inode and the permission, then [State.Open] with the same flags
// in Held. From then on this package owns that vfs open: it appears in
// Effects.Close exactly once, at once if the OPEN is refused or adds nothing
// to an open that is there already, else at CLOSE, OPEN_DOWNGRADE (when what is
// left covers the remaining access), or the end of the client.
//
// # Leases
//
// A lease lasts Config.Lease after the end of the client's last SEQUENCE; a running call keeps
// it. After that the client is courteous: it keeps its state, and any SEQUENCE makes it
// whole again, until somebody conflicts with one of its opens or locks,
// limits press, or Config.Courtesy ends. Then the whole client goes (RFC 8881, 8.4.2.4 and 8.4.3): first its
// record is removed from the store, so that it cannot reclaim after a restart
// what was given to others, then its files are closed and the conflicting
// request proceeds. The client finds NFS4ERR_BADSESSION, then
// NFS4ERR_STALE_CLIENTID, and starts over; its old stateids are NFS4ERR_EXPIRED.
//
// # Grace
//
// A client is recorded at its RECLAIM_COMPLETE, before which it can hold no
// non-reclaimed state, and forgotten with its client id. After a start with recorded clients
// there is one lease of grace, in which only these clients (same
// owner, verifier, principal) may reclaim, and everybody else gets NFS4ERR_GRACE. It ends early when all have
// sent RECLAIM_COMPLETE. Those that did not return in time are forgotten when it ends
// (RFC 8881, 8.4.3: a client may reclaim only from the last server instance it held locks in).
//
// # What moves into the replicated store
//
// [StateStore] is the seam. Here it holds which clients may reclaim. For
// takeover by another gateway without grace, the same interface grows the records this
// package already keeps apart from everything else: sessions (id, client, channel
// attributes), slots (sequence, cached reply), open states (client, owner, file,
// access, deny, seqid) and locks (state, ranges). Each is changed by one method
// of State and named by an id that does not depend on this process: session ids and
// stateids are random, and the client id belongs to the record. A method then returns
// the changed records in Effects as it returns Record and Forget now, and a
// gateway that meets an unknown session loads the client's records before it
// answers. Slots loaded that way accept any sequence at or above the recorded
// one, because the gateway that died may have answered idempotent calls
// that left no record. Nothing above this package changes.
package state
