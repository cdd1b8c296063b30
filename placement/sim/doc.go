// Package sim says, for clusters that nobody has at hand, what package placement would do with them: how evenly data lies, what is moved
// when stores come and go, how long a repair takes, and how probable it is that data is lost.
//
// Nothing of placement is modelled: a run makes a cluster of stores, plans its pool with placement.Plan, applies the plans and counts. All
// randomness is of this package and begins from a seed, so that a run with the same Config gives the same Report, but for
// the time that it took.
//
// # Bytes
//
// Every slot of a group that is there in the beginning holds the same number of bytes: what all stores hold together, by slots. New groups hold none.
//
// # Repair
//
// Of a store that is lost each slot is written once, and read k times from the k+m-1 others of its group, alike from each. A disk reads and
// writes for repair with a given bandwidth, the network is no limit; so it ends when the disk that has most to do is done, after the time until
// the store is given up. The limits that the leader of a cluster sets (package background/ledger) make it slower.
//
// # Loss
//
// Three answers, for none is enough:
//
//   - A Markov chain of one group, whose state is how many of its members are missing: the one by which RAID has been computed
//     since Patterson, Gibson and Katz (A case for redundant arrays of inexpensive disks, SIGMOD 1988). Losses are independent, and so are
//     repairs, with mean times: of a group that lacks one member that of the whole store, of one that lacks more that of its slot alone, because these are
//     repaired first. As Greenan, Plank and Wylie advise (Mean time to meaningless, HotStorage 2010), what counts is not the mean
//     time but what is lost in a year: the probability of any loss, and the share of data.
//   - A Monte Carlo simulation of the same with the real groups, where a disk takes all its groups with it at once, and each slot is back
//     at some moment of the repair of its disk. Losses are so rare that it needs higher failure rates to see any; it is run with rates at which the Markov chain expects some,
//     and shows whether that is to be believed.
//   - Bursts: some share of all disks is lost at once, as after a power cut (Cidon et al., Copysets: Reducing the Frequency of
//     Data Loss in Cloud Storage, USENIX ATC 2013). Here the number of distinct sets of stores decides: Monte Carlo with the real groups, beside what would be if
//     every block had a set of its own, and if stores were cut into sets that have nothing in common.
package sim
