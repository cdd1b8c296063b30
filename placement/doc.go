// Package placement maps data to targets. It is pure: functions from cluster
// state to placement groups, without I/O, clock or randomness.
//
// A placement group (PG) is an ordered list of k+m slots, each a target (a
// disk of a node), no two in the same failure domain. Slots 0..k-1 hold data
// shards, k..k+m-1 parity. A block lives in one PG; its extent names the block
// and the PG, never nodes, so moving a slot touches no metadata of files.
//
// The order of slots matters as much as the set: a short block stores only its
// first data shards and all its parity shards, so slot 0 and the parity slots
// carry most small data. Groups therefore vary the order, so that over all groups
// each target has equally many slots of each role.
//
// A PG's epoch rises with every change of its slots. Writes carry it, and a
// store refuses an epoch older than the newest it has seen.
//
// # Pools
//
// A pool is a node group with a profile. Reservations.Eligible says which stores may hold its data; the others are Out for it, and so what
// they have leaves them. Its failure domain (Level) is the coarsest of zone, rack, node and disk with at least k+m members when it was made
// (ChooseLevel), and never changes. Over levels above it the slots of a group are spread as evenly as that goes; see tree for what that may cost.
//
// # Copysets
//
// Data is lost when more than m stores of one group are, so the number of distinct sets of stores that are groups matters. With a set for every block
// any m+1 stores that fail together lose something. With few sets that is rare, and when it happens more is lost at once; on average the same. But a store
// shares groups with fewer others then (its scatter width), and these alone rebuild it: repair is slower. That is the trade-off of Cidon et al., Copysets:
// Reducing the Frequency of Data Loss in Cloud Storage, USENIX ATC 2013. Here the groups are the sets: there are PoolState.PerStore for each store,
// whatever moves, and the scatter width is at most PerStore x (k+m) x (k+m-1). They are made as in that paper from permutations: in
// each round every store is used once, in another order (spread). Package sim measures both sides.
//
// # Plan
//
// Static makes the first groups of a pool whose stores are all alike. From then on Plan says which changes a pool needs, given the
// condition of each store: slots of stores that are given up move to others, groups are made for stores that are added, slots move onto them until
// all have what their weight asks for, and while the profile does
// not fit the stores that take writes, new blocks get fallback groups, of the same m and
// the largest k that fits. m is never lowered: what is acknowledged survives m losses in any group.
// Plan decides from the whole state, not from what changed, so it may be called at any time, by anybody, and
// again: applied once, the next plan is empty. Observation and hysteresis are its caller's (package nodegroup).
//
// Assess says what the same state means for an operator, and CanStop what it would be without some stores.
package placement
