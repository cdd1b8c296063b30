// Package node runs the roles of one machine of a cluster as one process: meta (a voter of the metadata, the cluster's guardian, the
// CA), block (a server of the machine's disks) and gateway (volumes and NFS). `rackfs node` is this package and a configuration
// file. It assembles the parts that `rackfs dev` has too and contains no logic of theirs.
//
// # Data directory
//
//	node.json    format, name, random id, cluster id, settings of the cluster, how far the node was made
//	lock         flock'ed by the process
//	pki/         ca.crt, node.crt, node.key; ca.key on meta nodes only, mode 0600
//	nodes.json   the other nodes and their addresses as they were known last
//	removed.json nodes that were removed, whose certificates are refused
//	gossip.json  the keys of gossip
//	disks.json   which store each disk's directory holds
//	meta/        the replicas of a meta node
//	admin.sock   the node's administration, mode 0600: who may open it is root here, or the user that runs the node
//
// Disks are directories of their own, named in the configuration.
//
// # How a cluster begins
//
// `rackfs cluster init` makes the first node's directory: cluster id, CA, certificate, and one voter for each shard. When that node
// runs it makes what shard 0 has to hold (its own record, the pool, the handle key, the file system) and says so in node.json. All of that is idempotent,
// in this order, and a crash is repaired by the next start.
//
// # Joining
//
// A token is v1.FINGERPRINT.SECRET.ADDRESSES: the SHA-256 of the CA's certificate, 32 random bytes, and where meta nodes listen
// for control. It is as good as a key until it is used or has expired; the cluster knows the hash of the secret only.
//
// The node that joins makes a key and an id, connects by TLS to a node whose certificate chain has that fingerprint and the role meta, and sends
// the secret, its record (name, id, roles, labels, addresses) and a signing request. The meta node checks clock, expiry and roles, and
// proposes JoinNode, which uses the token up and makes the record, both or none; then it signs a certificate with the name and the roles of the
// record. An answer that was lost is asked for again with the same token, id and key, which are durable before the first question. A node with the role meta gets the CA's
// key in the answer, for every meta node signs.
//
// # Names and addresses
//
// Everything that is trusted is a name: certificates, replicas, stores. Addresses are found by name in the records of shard 0, of which
// each node keeps a copy (Directory), on disk too, for who cannot reach the cluster before it knows where that is. A node that starts
// with other addresses than its record has puts them there.
//
// # Leaving
//
// A node is drained and removed by commands of the API (api/nodes.go); decision 0041. Each node learns with the directory who was removed, and from then on
// every TLS configuration of it refuses their keys (pki.Holder.Revoke). The control port lets them in and tells them, on /v1/standing, what a refused
// handshake cannot: a node that does not reach the metadata, at its start or later, asks there, and ends if it was removed.
//
// # Order of start
//
// Listen on everything; voters; wait for a leader; provision (first node); record of this node; disks: open, admit, record, serve; gateway;
// guardian. A node that cannot do a step for others are away waits and says for what; what is wrong with itself ends it.
//
// # Gateways of a node group
//
// Gateways of one group serve the same file systems. That there are several is said in the configuration of each (nfs.several), and in its
// record: who takes itself for the only one gives nothing back that others want. Otherwise each node group, and the shared part of the cluster, has one
// (nodegroup.MayServe). A join with the role gateway is refused while another node of the group has it, and so are the start of a second one and
// a move of nodes between groups; of two that came at once the one whose name sorts first serves.
package node
