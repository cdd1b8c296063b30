// Package bench measures file systems: rackfs, and any other the same way, so that they can be compared.
//
// # What there is
//
// A [Target] is a place under test, seen as an [FS]: a mounted directory of any file system (package-internal dirFS), an NFS export spoken
// to directly without a kernel (nfsFS, many sessions: what the server can do, not what one kernel client asks for), or a file system
// through the storage API (apiFS, whole files only).
//
// A [Workload] is a list of [Phase]s that run one after another in a fresh directory, with a number of workers. A phase is an operation
// that each worker repeats: create a file, read 4 KiB, save a checkpoint. A [Run] is workloads x numbers of workers x repeats x targets.
// A [Sample] is what one phase of it did: operations, bytes, seconds, latencies, CPU.
//
// # Promises of a sample
//
//   - Data is seeded ([Pattern]): what any page of any file must hold follows from the seed, the file's number, the offset and how often
//     it was written. What is read is compared, every byte; listings must have exactly the names, attributes the right size and type, locks
//     one holder. A phase that finds anything else fails the run: there are no numbers of a file system that lies.
//   - What operations a worker does follows from the seed, never from time (plan.go). Time only decides how far it comes: a phase
//     ends when each worker did its operations or time was up, and the phases after it use what was done. With
//     Options.Complete, which the command sets where it compares, phases that have a number of operations do all of them, so that what
//     comes after works on as much with each target.
//   - The durability of the target is detected or declared ([Durability]) and is part of every result. A run on a target whose promise is
//     not known is refused. Where two targets promise different things their ratio says so.
//   - Latencies are kept in HdrHistograms, 100 ns to 10 min, 3 digits, and travel whole in the results, so that reports can merge them.
//     Workers are closed loops: the next operation starts when the one before has ended. A stall delays the operations behind it and
//     is counted once; latencies are service times, not what an open stream of requests would see.
//   - What a target holds while a phase lasts (resident memory, Go's heap, goroutines, open files) is looked at now and then if that is to be a
//     minute or more, and is reported as a slope after the warm-up with Student's interval of 95 % (drift.go). Workload mixed is for that: it does
//     all kinds of operations on a number of files that stays, so that whatever grows meanwhile grows for good.
//   - Targets that are compared are run interleaved, repeat by repeat and in alternating order (A B, B A, ...), so that what changes on
//     the machine meanwhile hits both. Ratios are means of the logarithms of paired samples with Student's interval of 95 % (stats.go).
//
// # Growth
//
// [Grow] makes two targets of one place, with sizes as they are and so many times as large, which are compared like any two: the ratio of server
// CPU for an operation says what more files, longer listings and longer files cost.
//
// # What counts
//
// The time of a phase is from the common start of its workers to the end of the last, with the sync that makes its writes durable, where
// the phase has one. Preparation, verification by reading back after writes, dropping of caches and cleaning up are outside.
//
// Server CPU is what the processes of the target used meanwhile, user and system, by their metrics (process_cpu_seconds_total) or from
// /proc by their ids, in steps of 10 ms. Client CPU is this process', with the processes that were declared to work
// for it, such as the daemon of a FUSE mount. A mounted directory of a local file system works inside the system calls of this process, so its
// cost is client CPU; that of kernel threads (write-back, the journal, an NFS client's) is in neither.
//
// A durable write is: on a directory, write and fsync; over NFS, a WRITE with FILE_SYNC4 if it is one call, else UNSTABLE4 and COMMIT,
// which is what Linux sends; by the API, an upload, whose answer is the promise. Closing a file over NFS commits what it wrote, as Linux
// does; closing one of a plain directory does not.
package bench
