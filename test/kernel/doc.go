// Package kernel tests rackfs as a Linux machine meets it: mounted by the kernel's own NFS client, in a User Mode Linux
// guest (internal/kclient).
//
//   - TestPosix: the checks of test/posix, and a source tree copied, compared after a remount, for vers=4.1 and 4.2.
//   - TestTwoClients: locks and close-to-open consistency between two machines.
//   - TestLocal: a local volume, from the networks of its node's workloads and from elsewhere, and over a kill of the server.
//   - TestLocalQuota: a local volume and the quotas of its disk's file system, which the guest's kernel has: of a user, of a project.
//   - TestFileSystems: file systems are created, deleted, brought back and made read-only under a mount.
//   - TestRandomIO: random reads, writes, truncations, mappings, holes, clones and copies against a copy in memory.
//   - TestSlots (long): sessions get more slots and give them back.
//   - TestContention: two machines count under a lock, append, and race for names; a lock outlives a short absence.
//   - TestTwoGateways: the same with a gateway for each, and an SQLite database, a git repository and a maildir that both use.
//   - TestServerKilled: the server dies by SIGKILL under a writer of test/journal; everything acknowledged is there.
//   - TestPowerCut: the server's machine loses power under that writer, with everything that was not on its disk.
//   - TestMetadataPowerCut: voters alone lose power while they take, drop and send snapshots of little logs.
//
// TestPosix measures and runs alone; the others share the machine.
//
// # Switches
//
//	RACKFS_TEST_LONG=1            larger numbers: the whole of GOROOT/src, more rounds
//	RACKFS_TEST_SEED=N            repeat the random choices of a run that printed its seed
//	RACKFS_TEST_EXACTLY_ONCE=1    a call repeated after a crash must not be answered as already done
//	RACKFS_TEST_BINARY=PATH       test this rackfs instead of building one (docs/durability.md)
//	RACKFS_TEST_SERVER=ganesha    run the tests against Debian's nfs-ganesha with its VFS module instead, the control that
//	                              tells a fault of a test from a fault of ours. It does not sync names, so for
//	                              TestPowerCut its disk is mounted with sync and dirsync, and without them fails.
package kernel
