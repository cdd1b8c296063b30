// Package journal shows that what was acknowledged survives.
//
// A writer changes a directory on the mount under test, with several workers, each in a directory of its own. After the
// system call returned that makes a change durable, the change is acknowledged and goes as one record into a journal that
// lies elsewhere, on a disk that survives what happens to the server. For names (create, mkdir, rename, link, symlink,
// unlink, rmdir, chmod, truncate) that is the call itself, as NFS promises; for bytes it is fsync, or write with O_SYNC.
// Worker w's records are in the order of its calls, and no other worker touches its directory, so the journal
// determines the exact tree: names, types, link groups, modes, sizes, every byte.
//
// The test kills the server right after some acknowledgement, restarts it, and lets the writer pause: each worker
// finishes the call it is in, which the client's hard mount carries across the restart. Then verify replays the journal
// into a Model and compares. A call that fails ends the writer with an error. One exception: a call that was under way
// at a crash, and that the client therefore repeats, may be answered as already done (mkdir of what its first attempt
// made: EEXIST). Such answers are counted, and with -exactly-once they are errors too: a reply cache that survives the
// server, which NFSv4.1 sessions allow, gives none.
//
// Every worker also holds one file open all the time and appends to it, so opens are recovered across restarts too.
//
// # Program
//
//	write  -dir DIR -journal FILE -seed N [-workers N] [-large-mib N] [-exactly-once] [-pause D]
//	verify -dir DIR -journal FILE [-drop-caches]
//
// write obeys lines on its standard input and answers on its standard output:
//
//	resume          go on (it begins paused)
//	alarm N         print "alarm" right after N more acknowledgements
//	crashed         the server just went away, and is not back yet
//	mark            print "times JSON": how long changes took since the last mark, by kind (Measured)
//	pause           finish all calls, sync the journal, print "paused ACKNOWLEDGED REPEATED"
//	quit            pause, close everything, and end with status 0
package journal
