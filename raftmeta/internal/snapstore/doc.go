// Package snapstore keeps a replica's Raft snapshots. Each is a directory
//
//	INDEX-TERM-SERIAL/SNAPSHOT   JSON record, then a line with its CRC32C
//	                 /db/        a Pebble checkpoint: hard links to the files of the state
//
// made under a name ending in .tmp and renamed when everything in it is durable. So a
// snapshot is a reference: taking one writes no state, and removing the
// directory, when newer snapshots make it superfluous, removes the checkpoint.
//
// The state becomes bytes only when Raft sends a snapshot to a follower that
// needs entries the leader no longer has. The stream is
//
//	magic "RKFSSNAP" | u32 version (1) | u32 kind (1 checkpoint files) | u64 applied | u32 files | u32 CRC32C of the 28 bytes before
//	per file: u16 n, name | u64 size | content | u32 CRC32C of name, size and content
//
// big-endian, and the receiver's sink unpacks it while it arrives, so both ends
// hold the same thing. Its size is known beforehand, as Raft demands. A backup of the metadata has the same stream, of a checkpoint that is no
// snapshot (OpenCheckpoint, Unpack).
//
// # Applied
//
// A snapshot is labelled with the index Raft asked for, while its state may be
// newer: the checkpoint is taken while entries go on being applied. That is
// sound because the state machine knows its own applied index and skips entries
// it has, and because only committed entries are ever applied. Record.Applied
// is a lower bound of the state's own applied index; it differs from the label also
// because the state machine does not see entries that only Raft reads.
package snapstore
