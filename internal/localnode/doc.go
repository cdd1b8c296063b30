// Package localnode is the role local of a node: it serves the node's part of each file system of kind local, a directory on its own disk
// (localssd), by an NFS server of its own. It needs the cluster only to learn which there are.
//
// # Directory
//
//	node.json     magic, format, cluster, name of the node, how often it was started, the key of file handles, and the file systems served last
//	clients.json  NFS clients, for reclaiming after a restart
//	fs-ID/        the volume of the file system with that id (localssd)
//
// What is served is what node.json says, also before the cluster answers, and when it never does. Each newer list of file systems
// replaces it: those that are active, of kind local and of the node's group are served, others are not exported. Nothing is ever deleted here: a
// file system that was deleted, or whose node changed its group, leaves its directory behind, for an administrator to remove (a list may be that of a restored metadata).
//
// # Who may mount
//
// The node's workloads: loopback, the addresses of the node's own interfaces, and the networks of Config.Clients (of its pods). Connections from
// elsewhere are closed and logged, and every request is checked against the same rules again. The protocol does not show which
// directory a client mounts, so a mount of a part cannot be refused here: filesystem.MountFrom says why it is not offered.
//
// # Restart
//
// Handles hold inode numbers that mean the same after a restart, under a key and an export id that stay. Clients reclaim opens and locks in a grace period
// (package state), which ends as soon as all clients of before have done so. See decision 0049.
package localnode
