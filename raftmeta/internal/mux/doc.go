// Package mux shares one TCP port between the metadata RPC and the Raft
// streams of every shard.
//
// # Protocol
//
// A connection starts with a prelude of 8 bytes from the client, in the clear:
//
//	0  4 B  magic "RKMX"
//	4  u8   version (1)
//	5  u8   kind: 1 RPC, 2 Raft, 3 Raft by its second protocol in the mode insecure
//	6  u16  shard, big-endian (Raft; 0 for RPC)
//
// An RPC connection is then package wire's from its first byte on. A Raft
// connection goes on with TLS 1.3 (unless the cluster's security mode is
// insecure), and inside it a hello of the client, which the server answers:
//
//	hello   magic "RKMH" | u8 version | u16 shard | u8 n, cluster id | u8 n, from replica | u8 n, to replica
//	answer  u8 status: 0 accepted | u16 n, reason
//
// then Raft's own messages follow in both directions, by one of two protocols: that of hashicorp/raft's NetworkTransport, or that of
// package raftnet. TLS agrees on it, by the names rackfs-raft/1 and rackfs-raft/2 (ALPN), so that replicas of releases that know one and of those
// that know both understand each other, and nobody in between can choose. In the mode insecure, which is for tests, the kind says it.
//
// The prelude is not authenticated, so everything that matters is said again
// in the hello: a stream of another cluster, another shard, or for another
// replica is refused. The last is a matter of safety, not of tidiness: a voter
// that lost its directory comes back under its old name and address with a new
// replica id, and must not answer a vote request, or acknowledge an entry, that was meant
// for the replica it was before. The sender's certificate must be for the node
// that is the first part of its replica id.
package mux
