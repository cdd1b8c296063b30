// Package localssd is a vfs.FS over a directory of the node's own disk: the kernel's file system does the work, this package gives it
// NFS's view of the world. One node, one process: nobody else serves the directory, and what local processes do in it is seen, as said below.
//
// # Directory
//
// [Open] takes a directory that holds one volume:
//
//	VOLUME   magic, format and a random id (JSON)
//	lock     flock'ed by the process
//	data/    the root of what is exported
//
// It lies on any Linux file system whose handles are known (ext3, ext4, xfs, btrfs, f2fs; tmpfs for tests), which may hold other things too.
//
// # Inode numbers and handles
//
// A vfs.Ino names a file for all time, and is all that an NFS handle holds. A kernel handle (name_to_handle_at) names it as well: by inode
// number and generation, so that a number that is used again is another file. The two are the same thing in two forms:
//
//	vfs.Ino = inode number << 32 | generation       the root is vfs.RootIno
//
// So nothing has to be remembered: after a restart open_by_handle_at finds the file again, whatever its name is by then. What kernel
// file systems add to these two in their handles is constant for a volume (codec, in handle.go). Only inode numbers up to 2^32 fit: all of ext4 and
// tmpfs, btrfs up to four billion files ever made, xfs below 1 TiB or mounted with inode32. A file that does not fit is KindNotSupported.
//
// # Nothing outside
//
// Names are single components, opened with openat2 RESOLVE_BENEATH, RESOLVE_NO_XDEV and RESOLVE_NO_SYMLINKS: a symlink is an object that clients
// resolve, "..", "." and "/" are no names, and what is mounted inside the directory is not entered and not listed.
//
// A kernel handle reaches every file of the file system, so a vfs.Ino is not believed before all of this holds:
//
//   - the handle of what was opened is the one that was asked for (kernels take generation 0 for any), and on the mount of the root;
//   - it carries the volume's mark, the extended attribute trusted.rackfs.volume with the volume's id. What is made here gets it when it is made, what
//     else is found by a name when it is found. Only root on the node can set it;
//   - of a directory, that the way up from it (..) comes to the root;
//   - it has a name, or is open.
//
// What an administrator moves out of data/ keeps its mark: a file (not a directory) can be used by clients that knew it, as with any NFS server.
//
// # Who does it
//
// What a caller asks for is done by a thread that has the caller's fsuid, fsgid and groups, and no capabilities (identity.go): the kernel decides about
// permission, owner, group, setuid and setgid bits, quota and reserved blocks. Two rules are the project's own instead: who may set
// which attribute is first asked of vfs.CheckSetAttr, and protected_hardlinks, a rule for users of this machine, does not bind clients. Reading and COMMIT act on what was opened, by the process itself.
//
// # What is durable when
//
// A mutation that returned survives a power failure: fsync of the new file or directory, or of the directories whose names changed. (ext4, xfs and
// btrfs write all earlier changes with it, so a new file needs one fsync, not one of its directory too.) Unstable writes are the page cache's until
// COMMIT, which is fsync. A failed fsync loses what it was for, so it changes the verifier; so does each start.
// With Options.LazyNames changes of names and attributes are not synced: the kernel does it within seconds, in their order, or with the next COMMIT of anything (on ext4
// and xfs; on btrfs, of the file itself). That is what Ganesha's VFS module and exports "async" of knfsd do, and not what NFS promises: clients' fsync of a directory asks for
// nothing.
//
// # Change
//
// Kernels count changes of an inode, but tell programs only its ctime, whose steps may be milliseconds (before Linux 6.13). So Change is the ctime in nanoseconds, and
// grows by one at least with each change made here: a number of changes within one step is added to it. That addend is memory.
// Where it may have been lost, by a restart or because the inode fell out of the table, a constant larger than it takes its place ([settle]), for files whose
// ctime is not later than that moment: their Change may grow once although nothing happened, and never repeats. Local processes' changes within one
// step cannot be told apart, and a clock that was set back may repeat a value after a restart.
//
// # Descriptors
//
// Each inode in use has an O_PATH descriptor, files that are read or written one more or two. What is not in use stays, the least recently used goes
// when there are more than Options.Descriptors. Open files need none, unless they have no name any more.
//
// # What it does not do
//
// Opens and locks are the front end's (package state), which lets clients reclaim them after a restart (decision 0049); a file
// without a name that was open when the process ended is gone. Birth times cannot be set. Limits of names and sizes of extended attributes are those of
// the file system: names of 250 bytes, on ext4 4 KiB in all. Targets of symlinks have 1023 bytes on xfs, directories one link on btrfs. A clone (xfs, btrfs) whose
// end is in the middle of a page has to end both files, as in the kernel; ext4 and tmpfs clone nothing, and copy without the bytes' leaving the kernel.
// A read beside writes of the same bytes may see parts of several, as for any process of the machine.
package localssd
