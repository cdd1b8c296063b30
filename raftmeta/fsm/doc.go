// Package fsm is the state machine of one metadata shard: a pure function
// (state, command) -> (state, result). It has no clock, no randomness and no
// I/O besides the store that it is given; the proposer stamps time into the
// command. Package raftmeta hosts it: it feeds log entries to a [Machine], gives
// it a [View] of what is committed and a [Writer] for what is not yet, and
// answers reads with [Query].
//
// # Applying
//
// An entry is a batch of commands; each command is all or nothing. The machine
// keeps what it wrote in an overlay above the store until [Machine.Flushed]:
// decoded inodes, slots, usage and counters, and keys and values for the rest.
// At the end of an entry every record that changed is written once, so the
// parent of 64 creates is encoded once, and then the state record (applied
// index, feature level, digest) in the same Writer. Several entries may share
// one Writer. An entry at or below the applied index is skipped: the Raft log is
// the write-ahead log, and a restart replays from it.
//
// The result of a command depends on the commands before it and on nothing
// else: not on how they were batched, nor on flushes, restarts or caches. What
// is written never contains an error text, the order of a map or anything else
// that two releases might do differently. The digest chains, over all entries,
// a hash of the entry's index, the level and every key and value written, in
// order of first write; voters with equal applied index compare it.
//
// A machine stops, with an error and without having written anything of the
// entry, at an entry that it cannot decode, of an unknown format, or that raises
// the feature level above what it implements. What a command does at a level
// never changes; a command that a level does not have is refused by every
// version alike, with KindNotSupported: a version that knows it treats it as one
// that never did. level.go lists what each level added, and
// TestLevel1 and TestRecorded hold the digests that levels 1 to 4 must keep. Level 2 added the queue of dying blocks and
// ReapBlocks, ReturnBlocks, RewriteExtents, ChangePGs, ReplaceStore and the version of the cluster map. Level 3 added
// Touch, PunchHole, Allocate, CloneRange, extended attributes, projects, limits and reservations, the checks of ReplaceStore
// (levelReplaceChecked), and what
// NFS clients have: opens, locks, sessions, replies. Level 4 added node groups, reserved racks and pools of groups, and file systems that
// change by version and end: DeleteNamespace, LimitNamespace, RemoveFileSystem. Level 5 added workspaces, access tokens, jobs, uploads and hidden
// directories, options of exports, what nodes say of local volumes, one zone for each rack, the end of groups (RetireGroup), clones as a whole
// and the release of slots. Level 6 added what several gateways of the same file systems need: shared leases, an
// answer that says who is in the way (Held), and files without names that are held for every gateway whose clients may have them open (several). Level 7
// added leases whose length is in the registration, and that a gateway which lives gives clients up (GiveClients). Level 8 added that the bytes of
// clients' calls are written once (CommitData.calls and once). Level 10 added calls that go on without their client's request, and are ended for good (FenceCall).
//
// A command first passes the exactly-once check (see metapb.Identity), from level 3 on a second one if it belongs to an NFS
// client's call (metapb.Call), then
// permissions and existence, in the order of Linux, and then takes effect. A
// refused command changes nothing but its slot, which keeps the kind of the
// refusal.
//
// # Keys
//
// Two bytes of kind, then numbers in big-endian order, so that keys sort as
// their numbers do. fs is 4 bytes, ino, cookie, end, origin, block, unit and seq
// 8, slot and id 4. Values are records of metapb unless said otherwise.
//
//	m/format                magic, version, shard, metadata incarnation, cluster id (format.go)
//	m/state                 applied index 8, level 4, digest 8
//	m/next/origin           counters, 8 bytes: the next origin id,
//	m/next/blocks             the next unit of block ids,
//	m/next/queue              the next number in the purge queue,
//	m/next/dying              the next number in the queue of dying blocks;
//	m/queue                   the length of the purge queue,
//	m/dying                   the length of the queue of dying blocks;
//	m/map                   the version of the cluster map (shard 0)
//	m/next/job              the next id of a job (shard 0)
//	m/deletion              the incarnation for which deletion was allowed, 8 bytes (shard 0)
//	n/ fs                   NamespaceRecord
//	D/ fs                   DeletedNamespace: instead of n/, for ever
//	c/ fs                   the next inode number, 8 bytes; never goes back
//	u/ fs [project]         UsageRecord of the file system, or of one project in it: usage, limits, directory
//	v/ origin fs project    ReservationRecord: bytes that an origin has reserved within the limits
//	i/ fs ino               InodeRecord
//	d/ fs parent cookie     DirentRecord
//	a/ fs ino name          XattrRecord
//	e/ fs ino end           ExtentRecord of the bytes that end before end
//	b/ block                BlockRecord
//	b/ block ino place      BackReference: a further file, or place in a file, that shares the block (backref.go)
//	x/ block                DyingRecord: no extent points into the block any more
//	y/ seq                  the same by number, in the order they began to die: block 8
//	r/ unit                 RangeRecord: who leases the block ids of a unit
//	l/ origin unit          empty: the units that an origin leases
//	g/ origin               OriginRecord
//	G/ kind(4) name         origin 8, then former incarnations, 16 each (origin.go)
//	s/ origin slot          SlotRecord
//	o/ fs ino origin        empty: a hold on an orphan
//	h/ origin fs ino        empty: the same by origin
//	q/ seq                  PurgeRecord
//	w/ client               KnownClient: an NFS client that this shard knows;
//	w/ client fs ino          empty: it has opens or locks of that file,
//	w/ client session         empty: there are replies to that session of it
//	W/ last                 first 8: the clients first to last were released
//	O/ fs ino client stateid(12)  OpenRecord
//	L/ fs ino client owner  LockRecord of one lock-owner
//	z/ session slot         SlotRecord: replies to operations of the newest seq, from level 8 on also which parts of files they wrote
//	m/several, m/lingering  origins that files without links are held for: of several gateways, and of gateways that were ended; 8 bytes each
//	m/clients               how many clients are known; on shard 0, have records
//
// and on shard 0
//
//	m/next/fs               the next file system id, from level 4
//	m/fs                    the version of the list of file systems, from level 4
//	f/ id                   FileSystem
//	F/ workspace 0 name     its id, 4 bytes
//	t/ id, p/ id            Store, Pool
//	k/ kind 0 id            Key
//	N/ gateway 0 owner      NFSClient: who may reclaim; from level 3 on C/ takes its place
//	C/ client               ClientRecord
//	S/ session              SessionRecord
//	j/n/ name, j/t/ hash    Node, Token
//	j/g/ name, j/r/ rack    NodeGroup, RackReservation
//	j/w/ name, j/a/ hash    Workspace, AccessToken
//	j/j/ id, j/u/ id        Job, Upload; ids are 8 and 16 bytes
//	m/next/group            the next id of a node group
//	m/last/pg               the highest id of a placement group that any pool has had
//	j/x/ id                 RetiredNode: a node that was removed
//	m/next/client           the next client id
//
// # Directories
//
// The cookie of an entry is a keyed 55-bit hash of its name and an 8-bit slot,
// the lowest that was free. A listing in cookie order therefore returns exactly
// once every entry that exists all the while, whatever comes and goes. The used
// slots of a hash have no unmarked holes: an entry that leaves others of its
// hash behind it becomes a gap (type 255), which a search passes and an insert
// fills. So a lookup is one point read, nearly always.
//
// # Extended attributes
//
// An inode's record counts its extended attributes and their bytes, which are bounded (package vfs) and not charged. Each
// has a cookie, one higher than the last of its inode: listings go by it, so that one that exists all the while is listed exactly
// once. Those of a deleted inode go with it if they are few, else they are left to Purge, with its extents.
//
// # File data
//
// The live extents of an inode do not overlap and never reach beyond its size.
// Inline pieces lie within one 4 KiB page; those of a page that no block
// separates are one extent, holes between them zeros. A block knows how many
// extents point into it; at none it moves to x/. Block ids are leased in units of
// 4096, used once, and answered live, dying, leased or dead (BlockStatesQ). A block is one contiguous
// piece of its first owner's file, whose name and place stand in its record. CloneRange lets extents of other files, or of
// other places in the same file, point into it: each such place has a back reference with its count of
// extents, and what the back references do not account for are extents at the owner's place. The owner may be gone and the block live.
//
// A reserved extent (Allocate) is bytes that count in Used and read as zeros. Commands treat it as any other: what is written
// takes its range, truncation and PunchHole take it away, a clone of it is a hole. Queries leave it out, so no reader,
// folding or collection knows of it. It may be as long as 1 GiB, longer than any block; reserved_end bounds where one may be, so that
// who looks for the extents of a range looks further only in such files.
//
// PunchHole, Allocate and CloneRange do as much as about 1,000 records allow and answer how far they came; from level 5 CloneRange does all or nothing if it is asked to.
//
// # The end of a block
//
// A block without references is dying: readers may still have cached extents that name it. It gets the next
// number and stands in y/. ReapBlocks ends the grace of all up to a number; from then on the block is dead,
// and stores may delete its shards. When that may be is not decided here: the leader
// waits (package raftmeta). What died at level 1 has no number; raising to level 2 puts an item in the
// purge queue that numbers them in pieces, so their grace begins then.
//
// An id goes one way: leased, live, dying, dead, or leased, dead. While its unit is leased, a dead id that was
// used is remembered in the unit's record (reaped), as else it would look unused. ReturnBlocks, and the
// end of the origin, remove that record: every id of the unit that is not live or dying is dead then, and a command
// that brings one is refused.
//
// RewriteExtents moves bytes to new blocks where the file still is what the rewriter read (blocks are
// immutable and ids used once, so equal id and place mean equal bytes; an inline piece is known by its hash). It changes
// nothing that a reader can see: size, times, change and, but for void records in its way, Used stay. Extents that
// readers have cached name the old block, which is why it has a grace.
//
// # The cluster map
//
// Stores and pools change by PutStore and PutPool, groups by ChangePGs, a compare-and-swap on their epochs, all
// or none. From level 2 on m/map grows with every change, so that who polls the map gets it only when it
// changed; ids of groups and of lost stores are never used again.
//
// From level 4 on the map says who may hold a pool's data. Node groups, reservations of racks and the groups of nodes (and so of their
// stores) and pools are changed by commands of their own, which name the version of the map that they were decided on. What is named exists: a
// group that has anything is not removed, nor a pool that a file system names. A placement group is never given a store that may not hold its pool's data (the rule
// is placement.Reservations.Eligible, here call.eligible); one that it had when a rack was reserved stays until its slots are moved.
//
// A truncation that would remove more than a few extents only records a cut:
// extents of older generations that end above its offset are void, for readers
// and later commands alike. (The extent that the new end falls into is trimmed
// at once, so none is void in part.) Likewise an unlinked file with many
// extents only loses its inode. The purge queue holds what is left to do; each
// Purge does a bounded piece. A living inode is in the queue if and only if it
// has cuts.
//
// Used, of an inode and so of its file system, is the sum of the lengths of its
// extent records, void ones included until they are purged, as they still
// occupy space; except that truncation to 0 and unlinking give everything back
// at once. It is exact in this sense after every command.
//
// # Projects and limits
//
// An inode is of the project of the directory it was made in; project 0 is none. SetProject makes an empty directory the root
// of a project. Every other inode is of the project of each directory that names it: names do not cross from one project to another
// (KindXDev), except that a project's directory moves as a whole within the project around it. Usage of a file system and of a
// project is one record each, changed by the command that changes an inode.
//
// A limit refuses what would raise usage above it (KindQuota), and nothing that does not raise it: removal, truncation,
// purging and rewriting always pass. Bytes count as extents do, before coding.
//
// Bytes that a gateway acknowledged and did not commit yet are reserved: ReserveQuota takes them from what the limits leave,
// CommitData takes what the file grew by from what its origin has reserved, ReleaseQuota and the end of the origin (by Purge)
// give them back. A reservation counts against the file system and the project, whichever of them has a limit, so that a limit
// that is set later finds it. What was acknowledged when no limit was known is committed in any case, and may raise usage above
// a limit that was set meanwhile.
//
// # File systems
//
// A file system's record is at shard 0, its name space here. DeleteNamespace takes away n/, without which no command and no query finds
// anything of the file system, and puts D/ in its place, so that no late CreateNamespace makes it again. What it had is removed by Purge, kind
// after kind (purgespace.go): first opens, locks and holds, which have indexes by client and origin, then extents, whose blocks die, then
// the rest. Meanwhile its records contradict each other, and are not looked at; those of clients, origins and blocks do not.
//
// # Change values and the write lease
//
// Change grows with every change and no value is shown twice. The holder of the
// write lease may show values up to the lease's limit before they are
// committed; whoever else changes the inode takes limit+1, as does the
// holder itself when its command names no newer value that it has shown. So a
// holder names a fresh value in each CommitData. The range is renewed by the
// holder's own commands when half of it is used, and its results carry the lease. A
// lease whose origin is not registered any more is void: every reader and
// command sees the inode with change limit+1 and without lease, and the
// first command that changes it writes that down.
//
// From level 6 on several gateways serve the same files. Whoever has a lease alone answers all of the file from memory, so
// nobody else changes anything of it that users see (but times of access, and Used when void records go): a command that would is answered Held, and has changed nothing. So is one
// that locks bytes, because who has a lock sees what was written before. Opens are not in the way of a lease; an open that does not get
// one is without. The holder is asked through the shard's leader (package raftmeta, recalls), flushes and gives the lease back, or makes it a shared one
// (ShareLease): then every gateway names its epoch and writes through. Commands under a shared epoch are ordered like all others, and
// nobody has more bytes or values of change than the state has; so a shared lease can end at any moment. It does with the first who asks for it when nobody has the file open, and by
// AcquireLease.alone. Who named its epoch too late is refused and asks for the next one.
//
// # NFS clients
//
// Clients and their sessions are records of shard 0: who they are, which origin (gateway) serves them. Only that origin may
// change or end a client; another one takes it over by TakeClients, when that origin has ended or has given it up (GiveClients, which gives it an origin that is nobody's). What a client has of files is in the files'
// shards, named by the client and not by the gateway, so it survives gateways:
//
//   - opens for writing or with deny modes. Whether one is in the way of another is decided here. Read-only opens are the
//     gateway's memory until the last link of the file goes (Remove.keep_open), from level 10 on those of the last moment only (KeepOpens).
//   - byte-range locks (package vfs/byterange), one record for a lock-owner and file. A lock that is denied is an answer, not an error: nothing changed.
//   - the results of the operations of its calls, the newest seq of each slot. A call that is sent again through any gateway
//     gets them. Refusals and denials are kept too: a gateway that tries again by itself uses another op_index. From level 5 a
//     session's last slots can be given up (ReleaseSlots); seqs of slots that come back are above all of before.
//   - from level 8 on, which parts of files the operations of the newest seq of each slot wrote. CommitData brings that: as many calls as it carries bytes of, none of which
//     is a reason to refuse it; or one, for which it is carried out once. Under a shared lease only the latter keeps a command that comes late from undoing what others wrote since.
//     From level 9 on PunchHole, Allocate and CloneRange bring it too, each for one call, for which they are carried out once in any number of pieces.
//     From level 10 on a copy in the background has a session of its own, with one slot. FenceCall begins it, asks how far it came, and ends it by a higher seq, which keeps what was done.
//
// A file without links stays as long as an origin holds it (o/) or a client has an open or a lock-owner of it. From level 10 on that an origin holds it may be because it lingers:
// it was a gateway that was ended, and that did not tell which its clients had open for reading (loose.go). The inode counts
// its records, so an unlink, or a lock on a file that nobody has locked, looks nothing up.
//
// A client becomes known at a shard by the first command that names it, and ends there by ReleaseClients: its w/ record goes, which
// makes void all that it has, for every later command. Purge removes that, file by file, and deletes files that only it kept. A
// released id is never known again: W/ holds the released ids, as intervals, of which there are about as many as living clients, because every
// id that PutClient gave is released in the end. The end of a client is a sequence of steps that may be repeated: RemoveClient (shard 0: in release),
// ReleaseClients (every namespace shard), ForgetClients (shard 0). Only when all shards have released it may somebody else be given what it had.
//
// # Restored states
//
// A state that was restored from a backup goes on as a new incarnation of the metadata (Renew): counters jump beyond all that may have been
// given out since, epochs of placement groups rise, origins and NFS clients end, file handles get a new key. Block stores belong to the former
// incarnation and delete nothing until AllowDeletion says that they may.
//
// # Reading
//
// Query answers from a View, which is one state: the engine makes it after the
// entries that a linearizable read has to see were committed. See [Cache] for
// how cached records are kept coherent with views of different age.
package fsm
