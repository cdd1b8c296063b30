// Package ledger decides which of the tasks that workers want to do they may do now: it is the pure part of package
// background, of which each leader of a shard has one. It has no clock, network or disk: what happened and when comes
// with each call.
//
// # What it knows
//
// Every report is all that a worker does and wants, and replaces the one before. So there is no state that could be lost: a
// new leader begins empty and knows all workers after they reported once. A task that a worker says is running, and of which
// this ledger does not know, was granted by another leader: it is taken over while there is room, and else taken back.
//
// A worker that was not heard of for Limits.Silence is forgotten with its tasks. Its own grants lapsed before, by its own clock,
// for Limits.Lapse is shorter. So two leaders, or a leader and a worker that it has forgotten, may for a moment
// let more be done than the limits say. Nothing but rate and order depends on that.
//
// # Order
//
// Work is divided into classes, each with a number of tasks and of bytes per second for all workers together; a worker has one task of
// a class at a time. Within a class those with the least redundancy left come first, of all workers, and of equal ones who has waited longest.
// Every turnOf-th grant goes to who has waited longest of all, so that nobody waits for ever; but not while something waits that
// another loss would take away (spare 0 or less), for such work ends. If all tasks of a class are taken and such a one waits, the running task with the most redundancy
// is taken back.
//
// A task is only ever granted in the answer to its own worker's report. Of free places, those are kept for others that are
// more urgent and were heard within Limits.Fresh; a worker that waits asks more often than that.
//
// # Rate
//
// A class's bytes per second are divided equally among those who have a task or are about to. What a worker was told counts until it was told
// otherwise, so that the sum is never more than the limit: who comes gets what is left of it and waits if that is less than half of
// its part, and the others are told of their smaller parts when they report next.
package ledger
