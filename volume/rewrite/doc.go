// Package rewrite moves bytes of files to new blocks in the background: what small flushes left in the metadata or in many
// pieces (Folding), and what other sources of work find, such as blocks of groups that are to be emptied.
//
// # Protocol
//
// A Rewriter asks its Source for work. To move parts of a file, which lie in one piece of at most a block, the Mover
//
//  1. reads them as the metadata named them: inline bytes come with the extents, the others from their blocks;
//  2. writes them as one new block, under an id that was leased for it;
//  3. proposes RewriteExtents, which takes those parts that are still where they were read: by block and place, or by
//     the hash of an inline piece.
//
// It needs no lease and changes neither attributes nor usage. A write that comes between wins: its part is refused, and
// counted. So several gateways may work on the same file, and a rewriter may stop at any point.
//
// A new block of which no part was taken, or whose command was not answered, stays leased until its unit of ids is given
// back, at the end of each pass and when it is used up: then it is dead and its shards are deleted. At that time no
// write and no command with such an id is under way, or its outcome does not matter: the metadata makes no block of an id that was
// returned. A gateway that dies leaves it to the end of its origin.
//
// A pass asks the leader of the shard for permission first (package background), which bounds what all gateways do; when it is taken
// back, the pass ends, and what is left is remembered.
//
// # What is folded
//
// A volume remembers chunks (4 MiB of a file) that small flushes left in pieces (volume.Fragment), a bounded number. What it forgets, by its end or
// because there are too many, the leader of the shard finds, and hands to any gateway (Folding.Found).
// When one was not written for an age, its extents are asked for and pieces.Plan chooses:
//
//   - a run of extents without holes that is compactExtents long or longer becomes one block;
//   - else neighbouring inline pieces of more than 4 KiB together become one block. Holes up to three times as long as the
//     piece before them are bridged, so that at least a quarter of a block is used.
//
// A file of at most 4 KiB stays inline: that is cheaper than shards in all members of a group. So does a lone page among
// blocks, until there are enough pieces for the first rule. What was moved does not qualify again, so that the work ends.
package rewrite
