// Package kclient runs test code inside a real Linux kernel with its own NFS client.
//
// # What it is
//
// The kernel is User Mode Linux: Linux compiled as an ordinary process. It boots in about two seconds, needs no KVM,
// and brings the NFSv4.1/4.2 client, ext4 and device mapper of its release. A test makes a network (Net), starts the
// server under test in it (Net.Start) or in a guest of its own, boots one or more guests (Net.Boot), mounts the export
// in them and runs programs there:
//
//	func TestMain(m *testing.M) {
//		kclient.Main(m, kclient.Programs{"hello": func(args []string) int { fmt.Println("hello", args); return 0 }})
//	}
//
//	func TestMount(t *testing.T) {
//		kclient.Require(t)
//		n := kclient.NewNet(t)
//		srv := n.Start(t, kclient.Process{Args: []string{"bin/rackfs", "dev", "--data", t.TempDir(), "--nfs", n.Addr() + ":2049"}})
//		srv.WaitOutput(t, "rackfs ready", time.Minute)
//		g := n.Boot(t, kclient.Guest{Name: "client"})
//		g.Mount(t, kclient.NFS(n.Addr(), 2049, "/default", "/mnt/a", "4.2"))
//		g.MustRun(t, time.Minute, kclient.Program("hello", "/mnt/a"))
//	}
//
// A program of the guest is a function of the test binary, registered by name in Main and started as a process of its
// own; or any executable of the host (Command). Fork and exec cost about 15 ms inside a guest, so a program does its
// work in one process and not in a shell loop.
//
// # What a guest sees
//
// Its root is the host's root, read-only, through hostfs. /dev, /proc, /sys, /run, /mnt, /var/tmp and /dev/shm are its own.
// HOME and TMPDIR are on a tmpfs. The folders named in Guest.Writable are writable under the path they have on the
// host, which is how results leave a guest and how a journal survives it. hostfs caches what it read: a file that the
// host changes after the guest read it may show its old content. A guest has one CPU.
//
// # Networks
//
// A Net is an anonymous network namespace with one bridge; the host side has Net.Addr, each guest a tap on the bridge
// and an address of its own. The namespace has no name and no file, so parallel tests and sessions cannot collide, and
// it disappears, taps included, with the last process in it. TCP uses cubic there, whatever the host's default is.
// Guest.SetLink cuts and restores one guest's cable.
//
// # The life of a guest
//
// linux.uml is process 1 of a PID namespace, so one SIGKILL ends the kernel and every process of the guest at once:
// Kill is a power cut. What the guest's kernel had not written to its disk file by then is gone, which is what makes a
// missing fsync visible (a killed process alone leaves its dirty pages to a kernel that goes on). The guest also dies
// with the test process (parent death signal). Shutdown is the orderly end.
//
// # A guest whose kernel stands still
//
// Debian's build of that kernel can lose the signal of its timer: unblock_signals has two stores in the wrong order, and a signal that comes between them is forgotten. The timer is set
// again only by who handles that signal, so the guest's time stands still; it answers packets, and nothing that waits for a time ends. Each guest therefore runs a copy of the kernel with the two
// stores in order (image_linux.go). What else may be lost is found by watching: the guest's init says once a second that it is alive. To a kernel that is silent
// for some seconds the harness sends the signals of the timer and of devices, which mean nothing if none was lost; what it then knows of it is in the test's log (Running's notes). One that
// stays silent for a minute in which it could run is ended, and what waits for it fails with ErrGuestHangs. A slow guest is not one: looks at which it waited for a processor or for the
// host's disk do not count (silence.go), and a program that hangs in a living guest does not keep init from beating. A test whose guests hold nothing that must be kept may run once more then: AgainIfHangs. Decision 0081.
//
// # Control protocol
//
// The guest's init is the test binary itself, which Main recognises by its environment. It talks to the harness over the
// guest's first serial line, one end of a socket pair, so control survives a cut network. Both directions carry one JSON
// object a line: requests (run, stdin, signal, mount, umount, load, halt) with an id, and events (out, err, done) with the
// id of the request they belong to. Output travels in order; done is the last event of a request. Events without one say what was read (ack) and that init is alive (beat).
//
// # Processors
//
// The kernel of User Mode Linux 6.1 cannot set the registers of a program on a processor with AMX: the guest panics at its
// first program. There linux.uml runs with a small preload that completes these calls (preload/xstate.c, which gcc compiles for
// each guest); elsewhere as it is.
//
// # Missing tools
//
// Require skips the test with the reason when the machine cannot run guests, and fails it when CI=true.
// scripts/setup-test.sh installs what is needed.
package kclient
