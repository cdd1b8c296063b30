// Package gossip tells the nodes of a cluster about each other: who is alive, where, and what it is. It is memberlist (SWIM), encrypted.
//
// # What it is good for, and what not
//
// All of it is hints. What is true of nodes and stores is in shard 0, and whether a store works is what the leader's own probes say; an asymmetric
// partition makes gossip flap, and a node that has the key can claim anything. A hint makes something happen earlier that would happen anyway:
//
//   - the leader of shard 0 probes at once when a node dies or is back (nodegroup.Manager.Hint);
//   - a node finds another one's address while shard 0 does not answer, or before it says so. Who answers there has to show the certificate of the
//     name, so a wrong address is a failed connection and nothing worse;
//   - people see it in `rackfs cluster status`.
//
// Nothing else may be made of it: not who votes, not what is in the cluster, not where data goes.
//
// # What travels
//
// Packets and streams are AES-GCM with the cluster's gossip keys (shard 0, kind "gossip"; the highest id is to encrypt). A node that learns of a new
// key understands it at once, encrypts with it when the others have had the time to learn of it, and understands the former ones a while longer
// (SetKeys; internal/node decides when). The label is the cluster's id, so that what a node of another cluster sends is dropped. A member's name is
// the node's; its meta data, at most 512 bytes:
//
//	version    1 byte, 1; others are not understood: such a member has a name only
//	strings    id (16 bytes), host, roles joined by ',', zone, rack, release: each 1 byte of length and the bytes
//	ports      control, meta, block, NFS: 2 bytes each, big-endian; 0: none
//
// # Rejoining
//
// memberlist asks members that it takes for alive only. When a network was cut for so long that each side declared the other dead, nobody ever speaks
// to the other side again, however whole the network is. So every RejoinEvery a node joins anew all nodes that it knows of (from the
// records of shard 0, and the members that died) and that are not alive, a few at a time in random order; one success on either side heals all.
package gossip
