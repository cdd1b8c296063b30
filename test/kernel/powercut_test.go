//go:build linux

package kernel

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	serverHost = 100 // last byte of the server guest's address, which it keeps across power cuts
	diskBytes  = 24 << 30
	diskMount  = "/mnt/disk"

	dumpDeadline = 10 * time.Second // for the stacks of a server that hangs
)

// TestPowerCut cuts the power of the server's machine under a writer, again and again. The machine's kernel writes back
// nothing by itself while the test runs, so whatever the server did not sync is lost.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, fs := range []diskFS{
		// ext4 as people run it, but with the crutches removed that hide a missing fsync: no commit every 5 s, no flush of a
		// file that is renamed over another.
		{name: "ext4", kind: "ext4", mountOptions: "commit=300,noauto_da_alloc", rounds: 2, longRounds: 30},
		// Without a journal, an fsync of one file does not commit the names of all others: a missing sync of a directory shows.
		{name: "ext2", kind: "ext2", rounds: 1, longRounds: 15},
	} {
		t.Run(fs.name, func(t *testing.T) { powerCut(t, fs) })
	}
}

// noWriteback keeps a guest's kernel from writing anything back by itself.
var noWriteback = map[string]string{
	"vm.dirty_writeback_centisecs": "0", // none from time to time
	"vm.dirty_expire_centisecs":    "360000",
	"vm.dirty_background_ratio":    "80", // and none for pressure either
	"vm.dirty_ratio":               "90",
}

type diskFS struct {
	name, kind, mountOptions string
	rounds, longRounds       int
}

func powerCut(t *testing.T, fs diskFS) {
	kclient.Require(t, "mkfs."+fs.kind, "e2fsck")
	seed, rng := newSeed(t)
	rounds := fs.rounds
	if long() {
		rounds = fs.longRounds
	}
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	host := t.TempDir()
	disk := filepath.Join(host, "disk")
	kclient.NewDisk(t, disk, fs.kind, diskBytes, "-m", "0", "-N", "65536")
	machine := serverMachine{srv: srv, net: n, fs: fs, disk: disk, logs: t.TempDir()}
	s := machine.powerOn(t)
	g := n.Boot(t, kclient.Guest{Name: "writer", MemoryMiB: 768, Writable: []string{host}})
	g.Mount(t, srv.mount(s.Addr(), mountpoint, "4.2"))
	w := startWriter(t, g, mountpoint+"/work", host, seed)
	fresh := srv.mount(s.Addr(), freshMount, "4.1", "nosharecache")
	for round := range rounds {
		w.runUntilAlarm(acknowledgements(rng, 500))
		s.Kill(t)
		w.say("crashed")
		begin := time.Now()
		kclient.CheckDisk(t, disk)
		s = machine.powerOn(t)
		restarted := time.Since(begin)
		acked := w.pause()
		t.Logf("round %d: power cut around acknowledgement %d; served after %.1f s, all calls done after %.1f s",
			round, acked, restarted.Seconds(), time.Since(begin).Seconds())
		w.verifyBoth(fresh)
	}
	w.quit()
	g.Unmount(t, mountpoint)
}

// serverMachine is a guest that runs the server on a disk of its own.
type serverMachine struct {
	srv  server
	net  *kclient.Net
	fs   diskFS
	disk string
	logs string
}

// powerOn boots the machine and returns when the server serves.
func (m *serverMachine) powerOn(t *testing.T) *kclient.Running {
	t.Helper()
	g := m.net.Boot(t, kclient.Guest{
		Name: "server", Host: serverHost, MemoryMiB: 2048, Disk: m.disk, Writable: []string{m.logs},
		Sysctl: noWriteback,
	})
	g.Mount(t, kclient.Mount{Type: m.fs.kind, Source: "/dev/ubda", Target: diskMount, Flags: unix.MS_NOATIME | m.srv.diskFlags, Data: m.fs.mountOptions})
	for _, dir := range m.srv.state {
		onDisk := filepath.Join(diskMount, "state", dir)
		g.MustRun(t, time.Minute, kclient.Command("mkdir", "-p", onDisk))
		g.Mount(t, kclient.Mount{Source: onDisk, Target: dir, Flags: unix.MS_BIND})
	}
	args := m.srv.args(t, diskMount+"/data", g.Addr())
	c := kclient.Command(args[0], args[1:]...)
	c.Env = []string{"GOTRACEBACK=all"}
	task := g.Start(t, c)
	t.Cleanup(func() {
		if !t.Failed() || !g.Alive() {
			return
		}
		// A server that hangs says where.
		if err := task.Signal(syscall.SIGQUIT); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), dumpDeadline)
			defer cancel()
			_, _ = task.Wait(ctx) // it ends by the signal, or is not worth waiting for
		}
	})
	task.WaitOutput(t, m.srv.ready, readyDeadline)
	return g
}

// TestDiskOptionsHideNothing shows on the same machine that the power cut loses a file that nobody synced, and the name
// of a file that was synced without its directory on the file system without a journal.
func TestDiskOptionsHideNothing(t *testing.T) {
	kclient.Require(t, "mkfs.ext4", "mkfs.ext2", "e2fsck")
	if os.Getenv(envServer) != "" {
		t.Skip("about the disk, not about the server")
	}
	n := kclient.NewNet(t)
	disk := filepath.Join(t.TempDir(), "disk")
	kclient.NewDisk(t, disk, "ext2", 64<<20)
	boot := func() *kclient.Running {
		g := n.Boot(t, kclient.Guest{Name: "machine", Host: serverHost, MemoryMiB: 256, Disk: disk, Sysctl: map[string]string{"vm.dirty_writeback_centisecs": "0"}})
		g.Mount(t, kclient.Mount{Type: "ext2", Source: "/dev/ubda", Target: diskMount})
		return g
	}
	g := boot()
	g.MustRun(t, time.Minute, kclient.Program("leave-files", diskMount))
	g.Kill(t)
	kclient.CheckDisk(t, disk)
	g = boot()
	g.MustRun(t, time.Minute, kclient.Program("find-files", diskMount))
}
