// Package stripe writes and reads blocks: it cuts and encodes them, chooses a placement group, talks
// to the block servers, and makes good what they cannot deliver.
//
// # Write
//
// Write picks at random among the PGs of the pool none of whose targets failed recently, encodes, and sends all shards
// at once, straight from the caller's buffer. It succeeds when every target acknowledged, all under the
// epoch of the PG it began with. At the first failure the attempt is abandoned: the other calls are
// cancelled, the target that failed is avoided for a while, growing with
// each failure in a row, and the block is tried on another PG. The number of attempts is bounded; then, or when no
// healthy PG is left, the error is KindUnavailable. Redundancy is never reduced to make a write succeed.
//
// # Read
//
// Read asks the targets of the data shards the range touches, each for its part of the range, which arrives in the caller's
// buffer. A shard that is missing, bad or unreachable is rebuilt, for that part only, from the same part of
// any others; parts that were asked for anyway are used for that too. A slow
// one is rebuilt on the side after a delay that follows the measured latencies, and what is
// there first is used. A slot that is being moved is read at its new, then at its previous target.
//
// # Errors of Read
//
//	KindNotFound     more shards are gone than the code can make good: the block was deleted. Fetch the
//	                 file's extents again; only if they still name it is data lost.
//	KindCorrupt      more shards are bad than the code can make good: data is lost
//	KindUnavailable  too many targets do not answer now
package stripe
