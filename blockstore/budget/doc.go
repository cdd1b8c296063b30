// Package budget divides what a disk moves between clients and background work: repair, the scrub, compaction, the making of a new index.
//
// A Budget has a limit in bytes per second, read and written together. Clients are never held up by it: what they move is counted, and background work
// takes what they leave of the limit, but at least a LeastPart of it, so that a disk that is always busy is repaired too. Besides, whoever is about to move
// bytes in the background lets the calls of clients pass that are under way at the disk, for YieldMax at most.
//
// Whoever moves n bytes in the background waits before (WaitN), in the order in which they came. A counter runs at the rate of the background work; who
// wants n bytes begins when it has passed them. Nothing is saved up but Burst, so that a pause of the work is not followed by a flood.
//
// Package store counts and limits the disk's own work; package server counts what clients read and write, and holds the reads
// that other stores make for their repair. So a limit is one of the disk that is read or written, whoever has its shards rebuilt from it.
package budget
