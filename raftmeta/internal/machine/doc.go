// Package machine hosts the state machine of one shard's replica: package fsm
// on a Pebble store, driven by Raft.
//
// # Durability
//
// Pebble runs without a WAL: the Raft log is the WAL. Each round of entries is
// one Pebble batch that contains the machine's applied index, and memtables are
// flushed in commit order, so what is on disk is always the state after some entry.
// After a crash Raft replays the log from its newest snapshot, and the
// machine skips what it has.
//
//	STATE/CURRENT      name of the live store, replaced by rename
//	STATE/db-000001/   the live store; others are left-overs and removed
//
// A Raft snapshot is a Pebble flush and then a checkpoint (hard links) in
// the snapshot's directory; the log before it may be dropped afterwards, which is
// safe because the flush made the live store durable up to it. Both happen while
// further entries are applied, so the checkpoint may be newer than its label (package snapstore).
//
// # Restore
//
// A snapshot from the leader, or one whose restore a crash interrupted (the newest
// snapshot's applied index is above the live store's), becomes the live store: a new
// directory is filled with links to the snapshot's tables and copies of its other
// files, synced, and CURRENT is switched to it. A crash before the switch leaves
// the old store and the snapshot, so it is done again; after it, only left-overs.
//
// # Reads
//
// After each round a Pebble snapshot of the new state is published as the current
// View. Readers hold a reference; the state they see does not change.
//
// # Stopping
//
// An error of the state machine or of the store is fatal for the replica: it
// does not know what its peers know. Nothing of that round is committed, nothing
// later is applied, no snapshot is taken, reads fail, and Options.OnFatal is called once so
// that the owner stops the replica. When the cause is gone (a newer release,
// space on the disk) it can be opened again. Damage (KindCorrupt) has no such
// cause: the replica is replaced.
//
// Pebble ends the process when it finds a damaged table or cannot write its manifest, and repeats a flush or compaction that failed
// for ever. Here the replica is stopped instead; a store that gave up may never close, and is then abandoned. CURRENT is removed
// then: a store that could not be written is not opened again, the next one is made of the newest snapshot and the log.
package machine
