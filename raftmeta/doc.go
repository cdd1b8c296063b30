// Package raftmeta is the replicated metadata: a Server is one voter process with a replica of each of its
// shards, a Client is how everything else changes and reads them.
//
// # Parts
//
//	pieces               which extents of a file are worth joining: a pure function
//	metapb               commands, results, queries, records
//	fsm                  the state machine of a shard: a pure function
//	internal/replica     the directory: identity, lock, Raft log and vote
//	internal/members     who may vote: the steps in which a lost voter is replaced
//	internal/machine     fsm on Pebble, driven by Raft
//	internal/snapstore   Raft snapshots by reference
//	internal/mux         one port for RPC and every shard's Raft streams
//	internal/raftnet     Raft's messages between the replicas of a shard
//	internal/propose     commands coalesced into log entries
//	internal/readindex   linearizable reads without clocks
//
// # Writing
//
// A Client gives each command an identity (origin, slot, seq, op index), sends it with others of the same
// moment to the shard's leader, and repeats it under the same identity until it has a definite answer; so
// it takes effect exactly once, whatever happens to leaders and connections. The leader puts the commands of
// all clients into few log entries; a majority of voters makes an entry durable; the state machine
// applies it and its results are the answers.
//
// # Reading
//
// A query is answered by the leader: it notes the commit index, has a majority of voters confirm
// that there is no later term, waits until its own state contains that index, and reads a consistent view. A leader first commits
// a barrier in its term, for until then it may not know what was committed before it.
//
// # Background work
//
// The leader purges and reaps, each at its own pace and under a rate limit, compares the voters' digests, and ends gateways
// that do not renew their leases. When a grace or a lease is over it decides by its own monotonic clock and by what it saw
// itself since it took office; stamped times decide nothing. The feature level is raised, on request or by itself (Options.Level), when
// every voter has said that it can apply it.
//
// Work that others do in the background, stores and gateways, is done with the leader's permission (OpWork, package background). The leader
// of a namespace shard also looks for chunks of files that nobody remembers to fold (find.go).
//
// # Several gateways
//
// Who needs a file that another gateway has to itself wishes for it at the leader (Client.Wish), and waits there; each gateway has a call at
// the leader that tells what others want of it (Client.Recalls), gives that back and says so. Wishes are in the leader's memory, bounded, and hints: the lease tells
// who has a file, and who wishes asks again, of the next leader too. A gateway that renews its lease and has not given back what was wished for all of a lease
// is not renewed any more. What lost its last name by another gateway is held for all who may have it open, until each has answered (Client.Holds).
//
// # User's requests
//
// A call says of which users' requests its commands or queries are part (vfs.RequestID), in its payload, so that a voter's log names them. They are no
// part of commands: the state does not depend on them.
//
// # Identity
//
// A replica's id is NODE.RANDOM. It is the Raft server id and address; a Resolver finds NODE's current network
// address. Ids are made by Format with the directory, and Bootstrap names those that form a new shard.
// A replica whose id is not in a shard's configuration takes no part in its votes.
//
// # Nodes that leave
//
// Options.Fates says which nodes are drained or removed. The leader takes their votes away, one at a time, after, or before, a node that stands by got one (package
// members). Who leaves has no replica in the end and makes no new one.
//
// # A lost voter
//
// A replica is lost when its directory is gone, when it or the log is damaged, when its state differs from that of most voters, or when it
// was removed. One whose disk failed is opened again first, once (keeper.reopen). It stops, alone, and says why (Status). A server that knows the other nodes (Options.Nodes) then makes a new replica in its
// place and has the leader take it in, as package members says. It begins only while the other voters are a healthy majority; what it did
// is in the directory and in the configuration, so that it goes on after a crash of anybody. A server without Options.Nodes leaves everything as it is.
package raftmeta
