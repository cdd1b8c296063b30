// Package posix checks that a mounted directory behaves as a local Linux file system does.
//
// It is a table of named checks (Checks) that use system calls only, so it runs against any mount: rackfs through the
// kernel's NFS client inside a guest (test/kernel), another NFS server, or a local file system, which is how the checks
// themselves are checked (go test ./test/posix). By hand:
//
//	go run ./test/posix/posixcheck run -dir /mnt/x [-run REGEXP]
//
// Main has these subcommands:
//
//	run      run the checks; one line PASS, FAIL or SKIP with name and detail for each, exit status 1 if any failed
//	copy     copy a tree with modes and times, as cp -a does, and print files/s and MB/s
//	compare  compare two trees: names, types, checksums, modes, sizes, times
//	hold     take a lock, say so, hold it until the input ends (the second process of the lock checks)
//	create   create empty files one after the other, print files/s
//	xattr    set an extended attribute, or compare it with a value
//	fill     write a file of a given size and fsync it, read it back, print MB/s
//	contend  count, append, create, rename or replace in a directory in which others do the same
//	maildir  deliver mail into a maildir and fetch from it, while others do the same
//	read-only  try to change a directory in every way; each has to be refused
//	random-io  read, write, truncate, map, punch, allocate, clone and copy at random, compare every byte with a copy in memory
//
// Where the rules are that programs rely on, and a local disk keeps:
//
//	times: mtime, ctime, atime, relatime        times-of-changes, times-of-directories, time-of-access, utimes, utimes-rules, times-64-bit
//	setuid and setgid bits, setgid and sticky   setuid-is-cleared, setgid-directory, sticky-directory, chmod-bits, chmod-chown-rules, owner-of-new-files
//	permissions                                 read-write-execute, directory-permissions, xattr-permissions
//	limits of names, paths, symlinks, sizes     long-names, odd-names, deep-path, path-max, symlink-limits, sparse-8-eib, sparse-5gib
//	special files, statfs                       special-files, statfs
//	mmap, ETXTBSY                               mmap, mapped-by-two, text-busy
//	files that are removed while they are open  unlink-open-file, rename-over-open-file, rename-parent-of-open-file
//	listing while names change                  listing-during-changes, remove-while-listing, large-directory
//	locks, exclusive creation                   fcntl-*, flock-*, create-exclusive, create-flags
//	ranges                                      allocate, fallocate, punch-hole, seek-data-hole, clone, clone-range, copy-range*
//
// What a mount cannot show, or only in hours, is tested at the server: 65,000 links (nfsserver/v4: TestLinkLimit), EDQUOT and ENOSPC (test/kernel: TestQuota;
// nfsserver/v4: TestRanges; blockstore/stripe: TestFullStores), protocol rules (nfsserver/state, nfsserver/v4, nfsserver).
//
// Everything runs as root, as the permission checks take other identities, each in a thread of its own. Every check
// gets an empty directory, which run removes afterwards unless -keep says otherwise. A check is a function of its seed, which is
// printed; nothing is decided by how long something takes.
//
// With -drop-caches a check that reads back what it wrote first makes the kernel forget it, so that the bytes come from
// the server and not from the client's page cache.
package posix
