// Package vfs is the contract between the front ends (NFS, HTTP API) and the
// things that hold files (volume over the cluster, localssd over one SSD). It
// imports nothing of ours but byterange, the arithmetic of locks; everything else may import it.
//
// It consists of
//
//   - the interface [FS]: inode-based POSIX operations that carry the caller's
//     credentials and return attributes together with their effect, so that a
//     front end needs no second call to answer its client;
//   - what an FS may have besides, for front ends to assert: [Allocator], [Seeker], [Cloner], [Viewer];
//   - the plain data it speaks in: [Ino], [Attr], [Cred], [SetAttr], [Dirent];
//   - the POSIX permission rules as pure functions ([Attr.Permits],
//     [CheckSetAttr], [CheckSticky], ...), used by the replicated state machine inside
//     its commands and by gateways for opened files, so that there is one copy
//     of the rules;
//   - the error type of the whole system, [Error]: kind, operation, cause. The
//     kind is stable on the wire and maps once to an NFS status, an errno and
//     an HTTP status.
//
// # Rules of the interface
//
// An implementation checks permissions for every operation that takes a Cred,
// atomically with its effect, except [FS.Read], [FS.Write] and [FS.Commit]:
// these act on files whose access was decided when they were opened.
//
// Every mutation is durable and visible to all clients when it returns, except
// Write with [Unstable], which is visible at once and durable after Commit.
//
// Attr.Change grows with every change of data or attributes of an inode and is
// never reused, not even across a crash. A reply that carries attributes
// reflects the operation itself.
//
// Read and ReadDir move Atime as relatime does ([Attr.ReadAt]), without changing Attr.Change; this need not survive a crash.
//
// Inode numbers are never reused within a file system.
//
// A file whose last link is dropped while it is open (between [FS.Open] and
// [FS.Close]) keeps its data and attributes (Nlink 0) until its last Close.
//
// Methods are safe for concurrent use and honour their context: a mutation
// whose context ends may or may not have happened.
package vfs
