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
// Puts return. While it syncs, the next group gathers; before that it lets everybody who is
// runnable write. So an entry of the index always refers
// to durable bytes, and a shard that is found is a shard that survives.
//
// Deletions and epochs are records of the same log, under the same rule.
//
// A failed write or fdatasync, or an index that cannot be written (package pebblefs says how that ends nothing else), fails its whole group and all writes after it until
// the store is opened anew; reads go on. After a failed write nobody knows how much of the record is in the log. After a failed
// fdatasync the kernel drops the dirty mark of pages it
// could not write: a second fdatasync would succeed and mean nothing.
//
// # Segments
//
// A second goroutine, the preparer, creates segments ahead of need, when the active one is a quarter
// full: allocate, fill with zeros, sync, rename into place, sync the directory. The zeros go along with what is appended meanwhile (ahead.go), unless
// somebody waits for the segment. Overwriting blocks
// that are already written makes fdatasync about twice as fast as writing
// into fresh extents; but it writes everything twice, so where much is appended between two syncs the space is only reserved (decision 101). A file that is free says so durably before it is used, so taking it into use only writes
// its header, with the next incarnation; the first group's fdatasync makes header and records
// count at once. A segment is never unlinked.
//
// # Compaction and recycling
//
// A third goroutine, the compactor, empties segments of which little is live and makes them free. Live
// records are checked and appended like those of a Put, under the claim on their key
// that Put and Delete take too, so the index is switched only if it still refers to the old place. In this order:
//
//  1. What is needed of the segment is in the log elsewhere, and durable: live records; deletions that
//     are still needed; the newest epoch of every PG.
//  2. The index is flushed. Its position is then behind the segment, and no entry refers to it.
//  3. The header says free, and is synced.
//  4. The segment may be used again, with a new incarnation and salt.
//
// A crash before 3 leaves the segment as it was, all dead; one after it leaves a log of which a replay, from the
// index's position or of everything, gives the same state. For that, invariants:
//
//   - The last record about a shard, by incarnation and offset, decides. So a dead shard record can go at any time.
//   - A deletion can go only when no earlier record of its shard is left in any segment in use. The index knows which
//     segments hold dead records of a shard ('d'), from the moment the record dies, whether by deletion, by being moved or by being
//     replaced. When a segment with deletions is emptied, those with such a segment are written anew; the
//     others go. A segment counts as in use until its free header is durable. Deletions are
//     written anew under the claim of their shard, so none comes behind a Put that is newer than it.
//   - A segment at or behind the position of the index is never recycled.
//   - A reader that looked a shard up before its segment was recycled reads something that does not have the
//     segment's present incarnation, salt, place, or the shard's key, and looks it up again.
//
// Compaction starts when a segment's needed part falls below CompactPercent, at CompactBytesPerSecond, and without that limit at up to
// nine tenths when no segment can be made. Segments without anything needed need no reading.
// Who waits for space holds no claim, for compaction may need the shard to make it.
// Puts leave two segments free (or possible to make), deletions and epochs one, compaction none: so a
// full store can record deletions, and condense them, and win space, in that order.
//
// # Damage
//
// A shard that fails its checks for good, in Get, Scrub or compaction, is marked bad: it moves from 'b' to 'x', its
// record is dead, List and Stat do not have it, Get says KindCorrupt, Put replaces it. OnBad is told. The mark is in the
// index alone; it may be lost in a crash, and then is found again. A new index does not have shards whose records are damaged.
//
// A segment with both copies of its header overwritten or cut off cannot be checked: its shards are marked bad when the
// store is opened, deletions and epochs that it may have held are written anew from the index, and then the
// file is made a free segment. A file that is only cut short gets its size back. If the headers cannot be
// read at all, the file is left alone. If the index is lost with such a segment, deletions that were
// recorded there alone are too, and their shards may be found again until they are deleted again.
//
// # Read-only
//
// A store whose directory cannot be written when it is opened (EROFS, EACCES, EPERM) is opened for reading alone: its lock is that of
// an open file, segments are read, and its index is opened with what Pebble has to write kept in memory. That is what a replay
// enters, of about two segments, if the index is sound. If it has to be made anew it is all of it, about 100 bytes for each shard, and the
// whole disk is read: Options.MemoryIndexBytes bounds it, and beyond that the store does not open. Writes are refused with
// KindReadOnly until the store is opened anew and can be written.
//
// # Index made anew
//
// An index that is absent or unusable when the store is opened is made anew from all segments before it serves. One
// in which damage is met later is made anew beside the old one, by the compactor, so that no record moves and no segment is
// recycled meanwhile. What a lookup in the old one cannot answer is an error, and for the reader an erasure.
//
//  1. The log is replayed into index.new up to the position of the old index, again and again until little is left. All
//     before that position is durable.
//  2. Ops are not admitted any more (Store.admit), and those that are, which may hold what the old index said, come to their end. Now
//     the position is the end of the log, and nothing under way knows either index.
//  3. The rest is replayed, the epochs that the store knows are entered, and the new index is flushed and closed.
//  4. REBUILD-INDEX is there, and durable. The old index is closed and removed, the new one takes its name, which is made durable,
//     and is opened. Readers wait for this step alone. The mark is removed.
//  5. Ops are admitted again.
//
// So the new index is what Open would make of the whole log at the moment of the switch: no acknowledged shard is missing, for its record is before the end, and
// no deleted one is back, for what the deletion outlives is still there, as at any Open. A crash before 4 leaves the old
// index, one in 4 the mark, with which Open makes the index anew; one after it the new index, behind whose position nothing
// was recycled. If an error comes between, before 4 the old index stays in use, and it is tried again when damage is met; in 4
// the store has no index, refuses reads and writes, and waits for a restart.
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
//	'b' pg block shard              ->  file, page, length, epoch, block length, k, m
//	'd' pg block shard incarnation  ->  that segment holds a dead record of the shard
//	'e' pg                          ->  newest epoch
//	'm'                             ->  version, store id, position
//	's' file                        ->  incarnation, bytes of live records, end of the last record
//	't' incarnation page            ->  length of the deletions record there
//	'x' pg block shard              ->  as 'b', of a shard that is bad
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
