// Package raftnet carries the messages of hashicorp/raft between the replicas of a shard: a raft.Transport.
//
// # Protocol
//
// It is the second protocol of Raft streams; package mux says how two nodes agree on it, who is at the other end of a stream, and how that is
// secured. A stream carries requests in one direction and answers in the other, each answer in the order of its request:
//
//	0  u8   magic 0x52
//	1  u8   kind: 1 append, 2 vote, 3 snapshot, 4 timeout now, 5 pre-vote; 0x80 more for an answer
//	2  u16  zero
//	4  u32  bytes that follow, at most maxBody
//
// All numbers are little-endian. Who speaks is not repeated: the sender's id and address are what the stream's hello says. A request begins with the
// version of Raft's protocol, and goes on with
//
//	append      term | index, term of the entry before | commit index | u32 n | n heads | n times data, extensions
//	    head    term | u8 type | i64 appended at, ns since 1970 or 0 | u32 bytes of data | u32 bytes of extensions
//	vote        term | index, term of the last entry | u8: 1 it is a transfer of leadership
//	pre-vote    term | index, term of the last entry
//	snapshot    u32 version | term | index, term of the last entry | index of the configuration | u64 size | u32 n, peers | u32 n, configuration
//	timeout now nothing
//
// where numbers without a type are u64. The entries of an append follow one another, so they have no indexes. Behind the request of a snapshot come its bytes, as
// many as its size says; the stream ends with the answer to it. An answer begins with a byte. If that is 1, the rest is the text of an error; if it is 0:
//
//	append      term | last index | u8: 1 success, 2 no need to wait before the next try
//	vote, pre-vote  term | u8: 1 granted
//	snapshot    term | u8: 1 success
//	timeout now nothing
//
// What is malformed, longer than its limit, or not the answer that is due, ends the stream. Memory is taken as bytes arrive, not as a length says.
//
// # Fewer wake-ups
//
// An entry that one caller waits for costs less in work than in goroutines that wake each other. So a stream has one goroutine at either end: the follower's
// reads a request, waits for Raft, and writes the answer; the leader's reads answers and gives them to Raft, and sends are made by who has
// something to send. What says nothing new to a follower that lives is not sent: Raft makes such an append every 50 to 100 ms. Deadlines are looked after by a timer of the pipeline's, not set for each message.
//
// # Followers apply together
//
// Nobody waits for a follower's state machine: reads and answers are the leader's. Its work for an entry is mostly the same for several. So the
// commit index that comes with entries is given to Raft at most every commitPause, unless commitEntries wait; one that comes without entries, as
// Raft sends when none were for a while, always. A commit index that is lower than the leader's is one that it had a moment ago. A follower that becomes the leader has
// at most that much to apply.
package raftnet
