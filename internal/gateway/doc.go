// Package gateway puts together one gateway of the cluster: the metadata
// client, the stripe client, a volume for each file system, and the NFS server
// in front of them. It holds no logic of theirs; it owns their order of start
// and stop.
//
// # Start
//
// The gateway registers itself as an origin on every shard it uses, under its
// name and a random incarnation. That supersedes its former incarnation: its
// write leases, block-id ranges and orphan holds are void from then on. The
// caller vouches that the former self is dead (it holds the lock of the node's
// directory). Then it reads the cluster map, handle keys and file systems from
// shard 0, opens volumes, and serves.
//
// # File systems
//
// The list of file systems is asked for every second, by version. The gateway serves those that are active and of its node's group, or shared if
// that is in none. A new one gets a volume and an export. Of one that is not to be served any more the export goes first, so that
// clients get NFS4ERR_STALE, then calls under way end, then the volume flushes what it has buffered. The NFS server goes on to know it by the same
// vfs.FS (leasedFS), so that opens and locks end in order; if it is served again it has a new volume behind it, with a verifier of its own.
//
// # Leases
//
// Each registration is a lease that the metadata client renews. While one that a file system needs is not valid, others
// may already have been given what this gateway thinks it holds, so every call is to be tried again later (leasedFS). When
// an origin was ended the gateway registers anew under a fresh incarnation, unless somebody else has its name by
// then, and its volumes go on without what they had buffered.
//
// # NFS clients
//
// At feature level 3 of all its shards the gateway is a state.SessionStore: clients and sessions are records of shard 0 that belong to its origin. At
// the start it takes over those of its former incarnation, when a session comes that it does not know those of a gateway whose origin has
// ended or that gives them up, and after its own origin ended those that nobody else has taken; the others end here. Below that level clients are only recorded, and reclaim
// after a restart. Which it is is decided at the start.
//
// # The cluster map
//
// The map is asked for every second, by version, and at once by a call that failed with the one it had. Calls
// work with snapshots: one map as a whole, and connections that stay open as long as a call may use them.
//
// # Rewriting in the background
//
// Two rewriters (package volume/rewrite) work beside the service, each at a bounded rate. Folding puts what small flushes left in
// the metadata and in many pieces into blocks, when it was not written for a while.
//
// Blocks that were written while the pool's profile did not fit, in fallback groups, are rewritten when it fits
// again (re-encoding): the groups are closed then. The leader may hand out this work one day; until then each gateway does it, which is harmless: the
// replacement of extents is a compare-and-swap.
//
// # Stop
//
// First the NFS server (no new calls, running ones are answered), then the
// volumes (everything flushed, leases given back), then the clients below. One of several gateways gives its NFS clients up before its volumes flush, so that others take them
// over at once, and ends its registrations at the end.
//
// # Several gateways
//
// With Config.Several other gateways serve the same file systems (decision 60). For each namespace shard the gateway hears from the leader which files others want,
// and has the volume give them back; from that of shard 0 which NFS clients (decision 72); it answers for files that lost their names elsewhere and may be open here. NFS clients get no delegations.
package gateway
