// Package backup makes one file of the metadata of a running cluster, and begins the metadata anew from such a file. What it knows nothing of
// is file data: that stays where it is, in the block stores, and a backup is good for as long as they have it (below).
//
// # What is in a file, and in which order it is copied
//
// A copy of every shard's state (raftmeta.Server.OpenState: hard links to a checkpoint, made while writes go on), each at some moment after the
// backup began, so each has everything that was acknowledged before. The shards' moments differ: first come those of all namespace shards,
// then that of shard 0. What a namespace names in shard 0, placement groups above all, was in shard 0 before the namespace named it, so it
// is in the later copy of shard 0, unless it was removed in between. A placement group is removed when no block is in it, live or dying, and a block that was
// live in the earlier copy is dying for a whole grace (raftmeta.Options.Grace); so all copies are made within the grace, or the backup
// fails. In the other order a group that was made in between, and acknowledged blocks in it, would be lost. Only then are the copies streamed, however
// long that takes.
//
// The rest of what spans shards does not need the order: a file system that was made in between is active in shard 0 and has no namespace; it
// goes back to "being created" (fsm.Renew). One that was purged in between is gone from shard 0, and its namespace is left over, which the check of
// the cluster lists. Clients, sessions and leases end anyhow.
//
// # How long it is good
//
// Blocks that files drop after the backup are dead a grace later, and stores delete them. So what is restored is whole if it is restored, or
// deletion stopped, within the grace; later, files that were changed or deleted since have lost blocks. The grace has to be longer than the interval of
// backups. The head of a file says until when it is good.
//
// # Restoring
//
// All voters are formed anew, with the state and a new incarnation of the metadata. fsm.Renew says what that voids: origins, leases, sessions, file handles,
// join tokens; and that nothing that was given out since is given out again: ids of blocks, inodes, origins and clients, epochs. Incarnations are
// never used twice, also if one backup is restored twice: they have the time and 16 random bits. Block stores belong to the former
// incarnation: they serve, take writes and repair, but delete nothing until an operator allows deletion for the new one.
//
// # Format
//
//	magic "RKFSBKUP" | u32 version (1) | sections
//	section: u32 kind | u64 length | u32 CRC32C of the 12 bytes before | body | u32 CRC32C of the body
//
// big-endian. Kinds: 1 head (JSON, Head), then for each shard 2 (JSON, Shard) and 3 (the stream of package snapstore), at last 4 end (JSON, End), and nothing
// behind it. A file without its end is no backup.
package backup
