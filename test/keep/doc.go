// Package keep shows that a client keeps what it has while its server goes away and another one takes its place.
//
// Two programs, on two machines that have mounted one directory. The holder has an fcntl lock and a flock, a file that stays open, one that it has removed while it was open, and one that the
// other program removes while the holder has it open. In each round it opens a file only for reading, which the other program removes, and reads one that it opened some time before; others are open since the
// beginning, are removed one by one, and are read at the end only. Round after round it reads and writes them, past its kernel's cache, takes and frees locks of ranges, and makes, renames,
// links and removes names, each by a call that has exactly one right outcome: an exclusive create that says EEXIST, or a rename that says ENOENT, was done twice. The prober tries to get the locks, to make
// the names that are taken, and reads what the holder writes: the locks are never free, and no record is ever older than one that was seen before.
//
// Whatever goes wrong ends the program with an error. How long things took, and how long nothing was answered, is told on request (journal.Times).
//
// # Program
//
//	hold  -dir DIR    make what is to be kept in DIR, which must be empty, print "ready", go on until told to end
//	probe -dir DIR    on another machine, once the holder is ready
//
// Both obey lines on their standard input and answer on their standard output:
//
//	alarm N         print "alarm" right after N more rounds
//	mark            print "times JSON": what was measured since the last mark (journal.Measured)
//	quit            end the round, free everything, print "ended ROUNDS", and end with status 0
package keep
