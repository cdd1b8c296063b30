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
// in this order: records by the [StateStore], durably, ends before anything new; then what concerns files, by
// the vfs. [Effects.Apply] does so. Effects come with failures too: a
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
// Time in which the server stood still, so that there was no [State.Beat] for Config.Still, does not count: what clients sent meanwhile waits to be read (decision 100).
//
// # State that outlives the server
//
// With a [SessionStore] and a vfs.Keeper under the files, clients go on after the server was restarted, or at another
// server, as if nothing had happened. There is no grace and no reclaim. What is where:
//
//	client ids, clients, sessions     the SessionStore, from CREATE_SESSION on. Ids come from there (AddIDs)
//	how many slots a session has      the SessionStore, before the client is told
//	opens for writing or with deny    the Keeper, in the step that opens the file
//	opens for reading with locks      likewise, before the first lock
//	other opens for reading           memory, and the Keeper if they go on; the stateid tells what is needed to open the file again (Revive)
//	delegations for writing           the Keeper, like an open, before they are given
//	delegations for reading           memory, see lostdelegation.go
//	byte-range locks                  the Keeper, which decides about them; a copy here for counting
//	outcomes of mutations             the vfs, by vfs.Call: client, session, slot, sequence, operation
//	replies                           memory, as without a SessionStore; with the client when it is given up (Handed)
//	seqids                            likewise
//	connections                       memory
//
// [State.Adopt] makes a client known again from all that. Its stateids are the same, and a higher seqid than is known is
// believed, because one server serves a client at a time. A slot accepts any sequence
// at or above the newest whose mutation is kept: the former server may have answered what left no trace. So a request that is sent
// again because its answer was lost is executed again; its mutations have been done and only tell their outcome again. The stateid of a lock or a delegation that it made
// is named by the request ([Tail]), so that it is the same as well; an OPEN is told another one.
//
// The owner of an open that was revived is not known until it opens the file again.
// An open that was adopted or revived the client may have closed before, and the end of it may come late. Unless it has told its seqid since, the next OPEN of its owner makes a new open in its place, with the
// first seqid, which a client takes in both cases; the former one ends a lease later (ownopen.go, decision 88).
// Whether an open for reading was closed before a restart is not known either: its stateid goes on working, with the permission of whoever uses it.
//
// A removal is the same as without: a client that ends is first removed from the store, which ends what is kept for it at all
// files, then its vfs opens are closed. While that is not confirmed nothing is granted to anybody, and nothing of it is adopted.
//
// # Slots
//
// Package slots says how many slots sessions have, slottable.go how it comes to that.
//
// # Delegations
//
// Files are given to clients that read them, and recalled before others change them: delegation.go says how, lostdelegation.go what a restart
// of the server means for it. writedelegation.go is about those that clients write. Effects.Recall and NotifyLock are callbacks for the caller to make; nothing here waits for
// them, and what they are about is decided by time if they fail.
//
// # Grace
//
// Without a SessionStore, or for clients that were recorded before there was one:
// a client is recorded at its RECLAIM_COMPLETE, before which it can hold no
// non-reclaimed state, and forgotten with its client id. After a start with recorded clients
// there is one lease of grace, in which only these clients (same
// owner, verifier, principal) may reclaim, and everybody else gets NFS4ERR_GRACE. It ends early when all have
// sent RECLAIM_COMPLETE. Those that did not return in time are forgotten when it ends
// (RFC 8881, 8.4.3: a client may reclaim only from the last server instance it held locks in).
package state
