// Package members decides who may vote on a shard: pure functions over its configuration.
//
// # Replacing a voter
//
// A node whose voter is lost gets a new replica with a new id. It never takes the lost one's place in the
// configuration; it goes through these steps, each one Raft configuration change of one server:
//
//	1  other non-voters of its node are removed: what is left of an attempt that was abandoned
//	2  it joins as a non-voter: it gets the log, or the state by snapshot, and counts for nothing
//	3  when it has caught up the lost voter of its node is removed
//	4  it becomes a voter
//
// [Next] derives the step from the configuration alone, so that whoever crashes, at any point, goes on where the
// configuration says.
//
// The lost one is removed before the new one votes. A shard with two healthy voters of three, or of two, needs both
// of them; with the new one as a fourth it would need three, and a node that fails once more while it
// is being replaced would stop a shard of which all other nodes are well.
//
// # Growing
//
// A shard that has fewer voters than are wanted takes in non-voters of nodes that have none, two after another, so that their
// number is even for a moment only ([Grow]).
//
// # Leaving
//
// A node that is drained gives its votes away: a non-voter of another node becomes a voter, then the leader removes the voter of
// the one that leaves ([Leave]), which never lowers how many failures the shard survives. The voter of a node that was removed for good is removed first, as that of a
// replica that is replaced: the rest has to be a healthy majority anyway. Without a non-voter to take its place the shard is left with one voter less.
//
// # Quorum
//
// [Check] refuses a step after which fewer than a majority of the voters would be healthy. Healthy
// means that the leader has just heard from that very replica, that it follows this leader, and that it is
// not far behind. A voter that is down could not be outvoted by those that are left: the shard would stand still.
//
// # Who never votes
//
// A replica that has a log and is not in the configuration was removed, or its join was undone. It may have
// voted, so it does not join again: its directory is set aside and a new replica is made.
package members
