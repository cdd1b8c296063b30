// Package devcluster runs a whole cluster in one process: metadata voters,
// block stores, a gateway and the admin HTTP server, on real sockets and real
// files. `rackfs dev` and tests use it. It assembles the same parts that
// production nodes run and contains no logic of theirs.
//
// # Data directory
//
//	rackfs.json        format version, cluster id, shape (voters, stores, profile)
//	lock               flock'ed by the process that runs the cluster
//	pki/               the cluster's CA and the nodes' certificates
//	meta-N/            a metadata voter
//	store-N/           a block store (one "disk")
//
// The shape is fixed when the directory is made; a start with another one is
// refused. rackfs.json is written first, durably: a directory without it that
// holds anything else is not ours and is refused too.
//
// # Start
//
// Every step is idempotent, so a crash during the first start is repaired by
// the second: listen, start voters, bootstrap shards (only where no log
// exists), wait for leaders, admit and register stores and make the pool in shard 0, make the
// handle key, create the file system `default` (creating, namespace, active),
// register the gateway (which supersedes its former incarnation: the lock
// proves that it is dead), serve NFS and HTTP. Ports inside the cluster are
// chosen by the kernel at each start; addresses are resolved by node name.
//
// # Lost stores
//
// Which store of the cluster a directory holds is asked from shard 0, by the uuid in its superblock. In a formed
// cluster a directory that is absent or empty is a lost store, which a new one with a new id replaces, unless more are lost than
// the profile survives, or data would be given up that may come back (package nodegroup, Admit). A directory that holds anything
// else but a store, and a link that leads nowhere, are left alone: that store does not run.
package devcluster
