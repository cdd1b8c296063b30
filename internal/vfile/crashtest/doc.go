// Package crashtest cuts the power before every step of a sequence of operations, and shows for every sync
// that somebody would notice if it were gone.
//
// A Test runs what a program really does, on a vfile.Mem. Before each operation that changes names or makes
// something durable, everything that a power cut could leave then is kept (vfile.Mem.Crashes), with what had been
// acknowledged by then. Afterwards each of these disks is opened and has to hold what was acknowledged.
//
// Prove does that once as the program is, when nothing may be missing, and then once for each call of the program that syncs, with
// that call doing nothing: at least one of the disks has to be found wanting. A sync is named by the function that
// calls it and what is synced, a directory with its name, in which numbers are N:
//
//	snapstore.Sink.Close: dir snapshots
//	machine.setCurrent > WriteFileAtomic: file
//
// Syncs that Pebble and other libraries do by themselves are theirs to test.
package crashtest
