// Package stripe writes and reads blocks: it cuts and encodes them, chooses a placement group, talks
// to the block servers, and makes good what they cannot deliver.
//
// # Write
//
// Write picks at random among the open PGs of the pool none of whose targets failed recently, of those with the
// most data shards: the pool's own first, then smaller ones, which exist while
// the pool's cannot be written. It encodes, and sends all shards at once, straight from the caller's buffer. It succeeds when every target acknowledged, all under the
// epoch of the PG it began with. At the first failure the attempt is abandoned: the other calls are
// cancelled, the target that failed is avoided for a while, growing with
// each failure in a row, and the block is tried on another PG. The number of attempts is bounded; then, or when no
// healthy PG is left, the error is KindUnavailable, or KindNoSpace if every PG has full targets and nothing else is wrong with
// any. Redundancy is never reduced to make a write succeed: every group of a
// pool has its m. The block's k is that of the group that took it.
//
// A target that takes connections and does not answer, or is far slower than targets usually are, ends the attempt
// like one that failed. How long it may take follows the measured times of shards, as mean + 4 deviations times the number of
// shards on their way to the target, but at least PatienceMin; PatienceAlone if no other group could take the block; and all
// of AttemptTimeout in the last attempt. An attempt that was cut short counts as a time measured, so patience grows as long as
// it is too short. What the abandoned attempt left in its group is collected like that of any other. After that, where Probe is
// called, writes keep off the target until it answered a probe and said that it takes writes and has room for them.
//
// # Read
//
// Read asks the targets of the data shards the range touches, each for its part of the range, which arrives in the caller's
// buffer. A shard that is missing, bad or unreachable is rebuilt, for that part only, from the same part of
// any others; parts that were asked for anyway are used for that too. A slow
// one is rebuilt on the side after a delay that follows the measured latencies, and what is
// there first is used. A slot that is being moved is read at its new, then at its previous target. A slot that is
// being filled may lack a shard of a block that exists: for the reader that is an erasure like any other.
//
// # Near and far
//
// Where the Map says how far nodes are (Located), a read that needs all data shards, and any of a block that has only one, takes a parity shard in the place of a
// data shard that is farther away: that costs no shard more, only the computation. What is made good is made of near shards first, too. Near is weighed
// against slow: each target counts as the time of its last fetches, times those under way, times a weight of its distance, and the far target
// stays the better one when the near one is busy or slow by more than that. A read of a part of one of several data shards has no choice.
//
// # Errors of Read
//
//	KindNotFound     more shards are not there than the code can make good: the block was deleted. Fetch the
//	                 file's extents again; only if they still name it is data lost. That a slot which is being filled has
//	                 nothing is no sign of deletion beside shards that are bad.
//	KindCorrupt      more shards are bad, or bad and not filled yet, than the code can make good: data is lost
//	KindUnavailable  too many targets do not answer now
package stripe
