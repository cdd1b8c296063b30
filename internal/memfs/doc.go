// Package memfs is the reference implementation of vfs.FS: one mutex, maps, no
// cluster. Tests of the front ends run on it, and vfstest compares the real
// implementations with it.
//
// It is written to be obviously right, so where the contract leaves an order of
// checks open it does what Linux does, and says so beside the code:
//
//   - an operation on a name checks the name, that the directory exists and is
//     one, search permission, whether the entry exists, and only then write
//     permission and the sticky bit;
//   - an inode that is gone is KindStale, a name that is not there KindNotFound;
//   - SetAttr applies owner and group, then what chown does to the mode, then
//     the asked mode, then size and times.
//
// Unstable writes are visible at once. An undo record beside the inode keeps the
// pages and the size as they were when the file was last durable, so that
// [FS.Crash] can take them back; it then also changes the verifier. Opens
// survive a crash, as the replicated open records of the cluster do.
//
// [Kept] adds what a vfs.Keeper does: opens and locks of clients and outcomes of calls that outlive the front end.
package memfs
