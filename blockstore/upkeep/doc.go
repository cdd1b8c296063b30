// Package upkeep is what a block node does for its own stores in the background: it deletes the shards
// of dead blocks (collector), rebuilds shards that are missing or bad (healer), and drives the scrub.
// A Keeper does it for one store. Nobody else deletes or repairs: no command "delete this" exists, a store decides itself
// from what the metadata answers. Hints and reports from others only say where to look.
//
// # Who says what is live
//
// The top 16 bits of a block's id name its namespace shard. That shard answers, by a linearizable query, live or dying with the
// block's one placement group (PG), leased (a gateway may still commit it), or dead. An answer counts only
// if it is of this store's metadata: ShardInfo is asked before and after the states, and both times its cluster id and
// incarnation must be those of the store's superblock. The incarnation only rises, so equal values around the answer are the
// answer's own. An error, a shard that does not answer, another incarnation, older or newer: nothing is deleted.
//
// The superblock's incarnation changes in one way only: shard 0, of this cluster, is of a later incarnation, and says that an operator allowed
// deletion for that very one (accept, asked for with the map and at the begin of each pass). Until then the store serves, takes writes and repairs.
//
// # Collector
//
// A pass walks all PGs, page by page: first the page is listed, then its blocks are asked for, then it is decided. Shard i of a block, found here in
// PG p, is deleted if the block is
//
//   - dead; or
//   - live or dying in another PG: p has what an abandoned attempt to write it left; or
//   - live or dying in p, but shard i has moved away (below).
//
// Dead is final, which makes the race with writers harmless. An id is leased to one gateway once, in a range that is never leased
// again. A commit needs the lease to last and the id to be unused. So an id goes from leased to live and from there to
// dying and dead, or from leased to dead, and never back. The interesting schedule is: this store lists the shard, the metadata
// answers dead, a Put of the same key arrives, the shard is deleted. The Put can only be one that
// was late, or repeated, by a gateway that does not know yet that its lease is over: its commit will be refused, so
// nothing that was acknowledged is lost; and had the Put been in time for a commit, the block would have been
// leased or live at the answer, which came after the listing. A Put after the deletion leaves a shard that the next pass finds.
// Leased blocks stay: an attempt may be repeated in the same PG under a newer epoch, and then counts what is already there.
// The PG of a live block never changes, so "live in another PG" is as final as dead.
//
// A shard has moved away if the map, read after the listing by a linearizable query, gives slot i of p to another store and no
// slot of p is being filled and none names this store as previous, and the store of slot i answers that it has the shard, of
// the same geometry. The first says that the healer there completed (below), so every live block of p has its shard i there; the
// last is the belt to these braces: the last copy of a shard is not deleted whatever the map says.
//
// Left alone, and counted, are: blocks of shard 0, which has none; live blocks of PGs that the map does not have; shards
// whose geometry differs from what the other members have, as nothing here says who is right.
//
// # Healer
//
// For each PG in which this store has slot i, a survey lists the shards of all members (and of previous targets), merged by block. A
// block that has a stored shard i by ShapeOf, and of which that shard is not listed here, is a candidate. The namespace shard is asked:
//
//	live in p, dying in p   missing: to be rebuilt, unless it is here by now: the block was written while the lists were read
//	leased                  pending if a shard was written under an older epoch than the PG's; it becomes live or dead.
//	                        Under the present epoch it cannot be acknowledged without this store
//	dead, or in another PG  nothing to do
//
// Then what is missing is rebuilt, by further scans, all PGs' blocks with the least redundancy first: each scan takes one level of
// redundancy, so nothing has to be remembered between survey and repair, whatever the number of blocks. Shard i comes from the
// slot's previous target, or from the same bytes of any others (stripe.Client.Rebuild), each of which
// passed the checksums of its store and of the wire; it is written by an ordinary Put under the PG's epoch with the owner that another shard's
// record names. A crash in the middle leaves nothing to clean up: what was put is found by the next survey.
//
// A block of which too few shards are left, although all members answered, is damaged: it is logged as an error with its file system, inode and offset,
// counted, and tried again later. Shards that were found bad by a read or the scrub, or are reported by readers, are checked
// and rebuilt one by one, before anything else.
//
// # When a slot is filled
//
// A survey is complete if
//
//   - before it began, every member of the PG had acknowledged the PG's epoch (Fence), so that no write under an older epoch can add a shard
//     behind the scan. A member that does not answer may still take such writes from a gateway that reaches it;
//   - every member's list was read to its end;
//   - one of slot 0 and the parity slots, in which every block has a shard, vouches for the group: it is neither being filled nor moved, or
//     its previous target acknowledged the epoch and was listed too. The first means that a write under any older epoch would need an
//     acknowledgement that it does not get, the second that its lists name every block;
//   - every candidate was asked for and answered by this store's own metadata;
//   - nothing was missing, pending or damaged.
//
// After a complete survey every block that is acknowledged in the PG has its shard i here, and later ones are written here. So a slot that
// is filling is then declared filled: ChangePGs with the same epoch, filling and previous cleared, compared-and-swapped against
// the epoch the survey was made under, and only if the cluster map too is of this store's own metadata. Only another survey that finds nothing counts, not the repair itself.
//
// # When
//
// Groups are surveyed when the Keeper starts, when the map changes their epoch or slots, periodically, and again when
// their last survey was not complete: a second later, and each time that it is not, in a row, after twice as long, up to Options.Retry. The collector makes a pass per Options.CollectInterval and looks at hinted blocks at once. The
// scrub makes a pass per Options.ScrubPeriod.
//
// # Permission
//
// Surveys, repair and scrub begin with the permission of the leader of shard 0 (package background): repair one level of redundancy of
// one PG at a time, so that of all stores those blocks come first that can lose the least. It may be taken back at any point; what was
// rebuilt stays, and the rest is asked for again. Nothing above depends on it. Reported shards need none. When shard 0 has not answered for
// Options.Patience, surveys and repair go on at a low rate with the last map that was read. That is safe: the store refuses a Put under an epoch that is
// older than one it has acknowledged, the states of blocks are still asked for at their own shards, and what a slot that
// has moved is given is deleted as moved away. A slot is declared filled only when shard 0 is back.
//
// # Bounds
//
// One PG is surveyed at a time; a list is read by pages of listPage entries, candidates are asked for by askBatch. At most
// Options.Workers blocks are rebuilt at once, and inFlight bytes of shards are read and written for that, or one block's.
//
// What a disk moves for repair is within the disk's own budget (package budget): what is read, at the stores that it is read from, for reads
// of this package say that they are background work; what is written, here. So a lost disk is rebuilt as fast as the disks together
// can do it beside their clients, whoever and how many rebuild, and no disk is overloaded by being a survivor of many groups. The scrub is within the budget, too.
// Queues of hints and reports are bounded; what does not fit is dropped, for the next pass
// finds it.
package upkeep
