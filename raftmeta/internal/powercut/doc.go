// Package powercut is a test and nothing else: a power cut of a whole machine, at every operation on a file, during single
// operations of a file system, a snapshot of its metadata and a collection. The machine is what is under a gateway: a volume, its stripe client, six block stores behind their server, and
// a replica of the namespace shard, a Raft node of one voter with its log, its snapshots and its state. All files of all of them
// are on one vfile.Mem, so that a cut is one moment for all.
//
// What a cut leaves is put into operation as after a restart, and then has to hold:
//
//   - the state machine is consistent (fsm.Check);
//   - names, contents, sizes and link counts are all those before the operation that was under way, or all those after it, and
//     after it once that was acknowledged;
//   - each live block has all its shards, and reads the same from any k of them;
//   - when a new gateway has registered, graces are over and each store's collector made a pass: the stores hold the shards
//     of live blocks and no other, no inode is left without a name, queues are empty, and the tree is still the same;
//   - it takes writes.
//
// It stands here, below what it tests, because machine and replica are internal to raftmeta; no program imports it.
//
// Each operation here is one command for the metadata. A write of more than a block, or over a multiple of 4 MiB, may be several: of
// it a crash may leave a part, as of a large write to any file system.
//
// Not as in a cluster: the voter is alone, its Raft has no network, and its commands do not pass the RPC of package
// raftmeta. Shard 0, the cluster map, is the real state machine in memory: nothing here changes it. bbolt knows no file system
// but the operating system's; its files, term, vote and the list of log segments, are taken over as they are (see crashtest.Library).
package powercut
