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
// # Plan
//
// Static makes a pool's first groups. From then on Plan says which changes the pool needs, given the
// condition of each store: slots of stores that are given up move to spare stores, and while the profile does
// not fit the stores that take writes, new blocks get fallback groups, of the same m and
// the largest k that fits. m is never lowered: what is acknowledged survives m losses in any group.
// Plan decides from the whole state, not from what changed, so it may be called at any time, by anybody, and
// again: applied once, the next plan is empty. Observation and hysteresis are its caller's (package nodegroup).
// Assess says what the same state means for an operator.
package placement
