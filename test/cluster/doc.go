// Package cluster tests clusters of real `rackfs node` processes: begun, joined, used, killed and restarted by the commands that an operator
// has, with files read and written through NFS.
//
// Some tests run three nodes or so on this machine, each with an address of its own in 127/8, so that ports are the usual ones and clusters of
// several test processes do not meet. The others (newCluster) run nine nodes in three racks, each node on a host of a network of racks
// (internal/kclient): hosts are network namespaces, so any host, rack or direction between two hosts is cut without touching anything of this machine. They need root, and
// skip with the reason where they cannot run, or fail with CI=true.
//
// # Storm
//
// While nodes are killed, paused, cut off and restarted, four NFS clients write, read back, rename and remove files (storm). A call that fails is a failure of the test, and so is a
// byte that is not what was acknowledged: while it runs, and at the end, when clients that have nothing of it read everything. How long nothing was answered and how long the longest call took
// is reported, and decides nothing: every test waits for conditions. RACKFS_TEST_LONG=1 has larger numbers, and a client in a real kernel.
//
// TestAddressMoves has two clients in real kernels: test/keep says what each of them wants to keep. TestIPv6AddressMoves has a client of our own at an address of IPv6.
//
// # Several gateways
//
// A fleet is three nodes with voters and stores and three gateways. TestThousandFaults has faults happen to all of them, two at a time, while workers with two clients each, at two gateways, check what they are told
// against what was acknowledged (work), and histories of what several clients were told about the same names, bytes and locks are checked with porcupine (histories). It prints the seed of its choices:
// 20 faults of one seed in make test, a thousand with RACKFS_TEST_LONG=1, of a seed that RACKFS_TEST_SEED sets. TestFindsBrokenGateways runs the same against programs
// that are wrong in one place, and each has to be found.
//
// `go test -artifacts` keeps the logs of all nodes; of a failed test they end with the stacks of all goroutines.
package cluster
