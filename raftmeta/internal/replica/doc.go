// Package replica is the directory of a metadata node and of the replicas in
// it: who they are, which files hold their Raft log, and that all of it is durable.
//
//	DIR/LOCK                      held (flock) by the process that uses DIR
//	DIR/rackfs-meta.json          magic, format version, cluster id, node name
//	DIR/shard-00001/replica.json  magic, format version, cluster id, shard, replica id, log backend
//	               /stable.db     raft-boltdb: term and vote
//	               /tail          index of the last acknowledged entry
//	               /wal/ or log.db   the log: raft-wal or raft-boltdb
//	               /snapshots/    package snapstore
//	               /state/        package machine
//	    /shard-00001.damaged-TIME/  a replica that was replaced (Node.Replace); only the newest stays
//
// A replica's id is NODE.RANDOM, made with its directory and never used
// again. A directory is complete or absent: it is made under a temporary name,
// with its log and stable store initialised, and renamed. So a directory from
// which files are missing was damaged, and is refused: a voter that forgot its
// vote or its log must not come back under its id.
//
// # What is synced, and when
//
// raft-wal writes a batch of entries with one WriteAt and one fdatasync
// (File.SyncData) before StoreLogs returns; its segment list is a bbolt file,
// whose transactions end with fdatasync. raft-boltdb commits with two. A new
// segment's name is made durable when it is created. raft-wal's own file layer
// does that at the first sync instead, and forgets it when the process is killed
// in between and recovers the segment; so Open also syncs the directory of the segments.
//
// # When the log fails
//
// A write or sync that failed breaks the log, of either backend, until it is opened
// again: see walFS and fault. The replica stops then, and acknowledges nothing more. On opening,
// the segment that is recovered, and bbolt's files, are synced and dropped from the page cache, so that what is read is
// what the device holds. A value of the stable store that could not be saved stops the
// replica too: Raft gives no vote that was not saved, and where it would end the process because it cannot save its
// term, or read a committed entry, only its goroutine ends (stable, Logs.GetLog).
//
// # Damage
//
// What the stores below do not notice is found here, and is an error of KindCorrupt, never a panic: entries (checked) and
// the values of the stable store (stable) have checksums, the log must reach its tail (tail), and bbolt's files are verified before
// bbolt opens them (checkBolt). A log that cannot be read is damaged; one that cannot be written has failed. A damaged replica is
// replaced by a new one, a failed log is opened again.
package replica
