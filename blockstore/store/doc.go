// Package store is one disk of a block server: a directory with a log of
// segments that hold the shards, and an index to find them.
//
// # Directory
//
//	SUPERBLOCK           format version, cluster id, store id
//	LOCK                 flock of the process that has the store open
//	segments/NNNNNNNN.seg  preallocated log files, see package segment
//	index/               Pebble, derived from the segments
//
// # Writing
//
// Put reserves a place at the end of the active segment, writes its record there without
// holding a lock, and waits. One goroutine, the syncer, takes all
// records whose write is complete, makes one fdatasync per segment they are in (one,
// but for the moment a segment fills up), enters them into the index, and only then lets their
// Puts return. While it syncs, the next group gathers. So an entry of the index always refers
// to durable bytes, and a shard that is found is a shard that survives.
//
// Deletions and epochs are records of the same log, under the same rule.
//
// A failed write or fdatasync fails its whole group and all writes after it until the store is
// opened anew; reads go on. After a failed write nobody knows how much of the record is in the log. After a failed
// fdatasync the kernel drops the dirty mark of pages it
// could not write: a second fdatasync would succeed and mean nothing.
//
// # Segments
//
// A second goroutine, the preparer, creates segments ahead of need, when the active one is half
// full: allocate, fill with zeros, sync, rename into place, sync the directory. Overwriting blocks
// that are already written makes fdatasync about twice as fast as writing
// into fresh extents. A file that is free says so durably before it is used, so taking it into use only writes
// its header, with the next incarnation; the first group's fdatasync makes header and records
// count at once. A segment is never unlinked.
//
// # Index
//
// Pebble without WAL. Each group's batch carries a position in the log with this meaning: every
// record before it is in the index. The position is the start of the oldest record that is
// reserved and not yet entered, so records that complete out of order are not lost. Pebble's flushes
// keep a prefix of the batches; Open replays the log from the position it finds.
// It first syncs the segments it will replay and drops them from the page cache, so that it
// enters only what the disk really holds. An index that is absent, damaged, of another version, or of another
// store is thrown away and made anew from all segments, which reads the whole disk.
//
//	'b' pg block shard  ->  file, page, length, epoch, block length, k, m
//	'e' pg              ->  newest epoch
//	's' file            ->  bytes of live records
//	'm'                 ->  version, store id, position
//
// The key starts with the PG, so a range is what repair scans, and a point is what Get
// needs, for an extent names the PG of its block.
//
// # Epochs
//
// The store refuses a Put older than the newest epoch it knows of the PG. It learns epochs from Puts, whose
// records carry them, and from Fence, which has a record of its own; both are
// durable when they are acknowledged, and replay restores the maximum. Fence
// returns after every older Put that was admitted has finished, so a scan of the PG
// after it sees everything that any older epoch will ever have written here.
package store
