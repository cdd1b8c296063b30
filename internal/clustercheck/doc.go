// Package clustercheck verifies every invariant of a running cluster and lists what does not hold. It changes nothing and asks only: leaders by
// linearizable queries, a voter for a check of its state, block servers for what they have.
//
// # What is checked
//
//   - each shard's state by itself, on a copy of it at one voter (raftmeta.Server.CheckShard): links, sizes, usage, references and back references of
//     blocks, leased ids, queues, what clients have;
//   - the digests of all voters;
//   - file systems against namespaces, both ways;
//   - the cluster map (Placement, a pure function): slots on distinct stores and in distinct domains, on stores that exist and are eligible for
//     the pool;
//   - every store: that it answers, is the disk that the map names, and of which incarnation of the metadata it is;
//   - what stores have against what namespaces name, both ways (below).
//
// # Inventory
//
// Block ids are looked at in ranges of up to Options.Blocks live blocks, over all shards' ids. For each range: (1) the live blocks are
// asked for; (2) every store lists what it has of the range in every placement group it has anything of; (3) what was listed and is
// not live by (1) is asked for by BlockStatesQ.
//
// A listed shard whose block is dead by (3) is an orphan: dead is final, and the answer is later than the list. A block that is live by (1) had
// all its shards before (2), as it is committed after they are acknowledged; one that is missing in (2) was missing, unless the block has ended
// or the shard moved since, so the block is asked for again, and the store for that very shard, with a map that was read after.
// A cluster that is being written to thus has no findings of that.
//
// # Severity
//
// An error is an invariant that does not hold, or what could not be checked; a notice is what the cluster is about to put right: shards of
// dead blocks that wait for the collector, slots that are being filled, copies that have moved away. After a restore, as long as deletion is
// not allowed, orphans are errors: nothing will remove them.
//
// # Bounds
//
// Memory is bounded by Options.Blocks and Options.Records, whatever the size of the cluster; findings beyond the first of a kind are counted.
// Time grows with the number of blocks times shards, and with the square of a state that is larger than Options.Records.
package clustercheck
