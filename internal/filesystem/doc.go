// Package filesystem makes, changes and ends file systems. A file system is a record of shard 0 and a namespace in another shard, so each
// change of both is a sequence of steps that may be repeated, driven from the record's state (metapb.FileSystemState).
//
//	Create    a record "creating", with all that is random in it: id, hash key. A crash from here on loses nothing.
//	Step      the namespace, its limits, then "active": gateways serve it.
//	Change    "active" again, with other settings; Step brings the limits to the namespace.
//	Delete    "deleted", with how long it is to be kept: gateways stop serving it, after they have flushed what they had buffered.
//	Undelete  "active" again: everything is as it was, handles and inode numbers included.
//	Expire    "purging", when it was kept long enough: there is no way back, and the name is free.
//	Step      the namespace is deleted, and when the shard has purged it the record goes. The id is never used again.
//
// The Reconciler of the leader of shard 0 takes every step that is due. Whoever created or changed something takes the first ones himself,
// so that the answer is not given before the change is in force; what he does not finish, the reconciler does. Steps of several at once, and
// late ones, do no harm: a record is changed by its version, a namespace that was deleted is never made again, and limits carry the version of
// the record that they are from.
//
// # When a deleted file system ends
//
// Data is destroyed only if two clocks agree. The record says how long the file system is to be kept, and until when by the wall clock of who
// deleted it. The leader counts, by its monotonic clock, how long it has seen the file system deleted, and writes that down now and then
// (waited_seconds), so that the next leader goes on from there: what nobody watched does not count. It ends when that is the whole
// time, and the leader's wall clock is past the time in the record. So neither a clock that was set wrong nor a leader that was
// paused ends it early; it may end later by what a leader had not written down, a sixteenth of the time, an hour at most.
package filesystem
