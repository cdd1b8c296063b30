// Package vfstest is the conformance suite of vfs.FS: every implementation
// passes it.
//
//   - [Run] checks the rules one by one, each test in a directory of its own, so
//     that the file system may be shared and need not be empty;
//   - [Model] runs random operations on an implementation and on
//     internal/memfs, and compares results, errors by kind, attributes, data and
//     listings;
//   - [RunLong] checks limits that take many operations to reach.
//
// The two sides of a model run have their own inode numbers, change values and
// clocks. They are compared by rules: an inode pairs with the inode found under
// the same name; what changes (or keeps) Change, Mtime and Ctime on one side does so
// on the other; a time given by a client is the same on both.
//
// An implementation that can lose what is not durable implements [Crasher] and is
// then also checked for what Commit and the verifier promise.
package vfstest
