//go:build linux

package cluster

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rackfs/rackfs/internal/kclient"
)

// A client in a real kernel writes with a journal through an address that moves: its gateway is killed, then the next one is stopped, then the first one, which is back, is
// paused, then the second one is cut off. No call fails, and all that was acknowledged is there. How long nothing was answered is reported.
func TestAddressMoves(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	const first, second = "10.77.0.240", "10.77.0.241"
	network := kclient.NewNet(t)
	rack := network.NewRack(t)
	dir := t.TempDir()
	var all []*machine
	for i, roles := range []string{"meta, block", "gateway", "gateway"} {
		h := rack.NewHost(t)
		m := &machine{t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, host: h.Addr(), base: 7000, at: h,
			conf: configuration{roles: roles, disks: 3, anywhere: true}}
		switch i {
		case 1:
			m.conf.nfs = fmt.Sprintf(", several: true, lease: 5m, addresses: [%s/24, %s/24]", first, second)
		case 2:
			m.conf.nfs = fmt.Sprintf(", several: true, lease: 5m, addresses: [%s/24, %s/24]", second, first)
		}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		m.configure()
		all = append(all, m)
	}
	t.Cleanup(func() { end(t, all) })
	n1, n2, n3 := all[0], all[1], all[2]
	n1.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	n1.start()
	for _, m := range []*machine{n2, n3} {
		m.must("node", "join", "--token", n1.must("cluster", "token", "--roles", "gateway"))
		m.start()
	}
	w := kernelWriterAt(t, network, first)
	w.during("a gateway was killed", 100, n2.kill)
	n2.start()
	w.during("a gateway was stopped", 100, n3.stop)
	n3.start()
	w.during("a gateway was paused", 100, func() { n2.signal(syscall.SIGSTOP) })
	n2.signal(syscall.SIGCONT)
	w.during("the one that was paused is back", 100, func() {})
	w.during("a gateway was cut off", 100, func() { n3.at.Cut(t, true) })
	n3.at.Cut(t, false)
	w.during("the one that was cut off is back", 100, func() {})
	w.verify()
	w.say("quit", "")
	for _, m := range []*machine{n3, n2, n1} {
		m.stop()
	}
}
