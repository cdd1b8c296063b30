//go:build linux

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/kclient"
)

// alarmed waits until a node has one alarm of a kind and no other, or none for "", by its metrics, and says so where it is asked.
func (m *machine) alarmed(kind, says string) {
	m.t.Helper()
	m.await(fmt.Sprintf("its alarm is %q", kind), func() (bool, string) {
		all, err := m.scrape()
		if err != nil {
			return false, err.Error()
		}
		want := 0.0
		if kind != "" {
			want = 1
		}
		if all["rackfs_node_alarms"] != want { // of all kinds together
			return false, fmt.Sprintf("%v alarms", all["rackfs_node_alarms"])
		}
		st, err := m.seen()
		if err != nil {
			return false, err.Error()
		}
		for _, n := range st.Nodes {
			if n.Name != m.name || n.Local == nil {
				continue
			}
			if kind == "" {
				return len(n.Local.Alarms) == 0, fmt.Sprint(n.Local.Alarms)
			}
			return len(n.Local.Alarms) == 1 && n.Local.Alarms[0].Kind == kind && strings.Contains(n.State, says) && strings.Contains(st.Health, says), fmt.Sprint(n.Local.Alarms, st.Health)
		}
		return false, "it does not say how it is"
	})
}

// What docs/operations.md lists as alarms of a small cluster is provoked, one after the other: metrics and status show exactly that, and nothing of it after what the manual
// says to do.
func TestAlarms(t *testing.T) {
	kclient.RequireNet(t) // who may not make networks may not mount either
	t.Parallel()          // see TestReservedRack
	ms := machinesFrom(t, 150, "meta, block, gateway", "meta, block", "meta, block")
	for _, m := range ms {
		m.conf.http = m.host + ":7070"
		m.configure()
	}
	n1, n2, n3 := ms[0], ms[1], ms[2]
	small := filepath.Join(n3.dir, "n3-disk1")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	n3.mounts = newMounts(t)
	at := func(what string, f func() error) {
		t.Helper()
		if err := n3.mounts.do(f); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	at("mount", func() error { return unix.Mount("tmpfs", small, "tmpfs", 0, "size=256m") })
	n1.must("cluster", "init", "--profile", "4+2", "--nodes", "3")
	n1.start()
	for _, m := range []*machine{n2, n3} {
		m.must("node", "join", "--token", n1.must("cluster", "token"))
		m.start()
	}
	calm := func(what string) {
		t.Helper()
		n1.healthy(3, "4+2")
		for _, m := range ms {
			m.alarmed("", "")
		}
		t.Logf("%s: all is well", what)
	}
	calm("at the begin")
	c, root := mount(t, n1)
	data, files := random(4<<20), 0
	writeSome := func() {
		files++
		write(t, c, root, fmt.Sprintf("f%d", files), data)
	}

	// A disk is full: writes go on without it. Room on it ends that.
	filler := filepath.Join(small, "filler")
	at("fill", func() error {
		var fs unix.Statfs_t
		if err := unix.Statfs(small, &fs); err != nil {
			return err
		}
		return os.WriteFile(filler, make([]byte, (int64(fs.Bavail)*fs.Bsize)-(32<<20)), 0o600)
	})
	n3.await("its disk is full", func() (bool, string) {
		writeSome()
		all, err := n3.scrape()
		return err == nil && all["rackfs_node_alarms"] == 1, fmt.Sprint(err, all["rackfs_node_alarms"])
	})
	n3.alarmed("disk_full", "n3-disk1 is full")
	n1.alarmed("", "")
	writeSome()
	at("make room", func() error { return os.Remove(filler) })
	calm("with room again")

	// A disk's file system becomes read-only: it takes no writes until it is mended and the node is restarted.
	remount := func(flags uintptr) {
		t.Helper()
		at("remount", func() error { return unix.Mount("", small, "", unix.MS_REMOUNT|flags, "") })
	}
	n3.stop() // with files open for writing it cannot be made read-only
	remount(unix.MS_RDONLY)
	n3.start()
	n3.alarmed("disk_read_only", "n3-disk1 takes no writes")
	writeSome()
	n3.stop()
	remount(0)
	n3.start()
	calm("writable again")

	// A disk is not mounted.
	other := filepath.Join(n3.dir, "n3-disk2")
	n3.stop()
	if err := os.Rename(other, other+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	n3.start()
	n3.alarmed("disk_away", "n3-disk2 does not run")
	n3.stop()
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other+"-away", other); err != nil {
		t.Fatal(err)
	}
	n3.start()
	calm("mounted again")

	// A node is away, and with it a voter and two stores: one more may not be lost.
	n2.kill()
	n1.sees("n2 is missed", func(st *api.ClusterStatus) string {
		switch {
		case !strings.Contains(st.Health, "node n2: does not answer"):
			return st.Health
		case strings.Contains(st.Health, "node n3:") || strings.Contains(st.Health, "node n1:"):
			return st.Health
		case st.Placement == nil || st.Placement.Pools[0].Margin != 0:
			return "the margin is not 0"
		}
		return ""
	})
	n1.await("its vote is missed", func() (bool, string) {
		out, err := n1.run("cluster", "voters")
		return err == nil && strings.Contains(out, "2 of 3 voters healthy"), fmt.Sprint(out, err)
	})
	n1.await("the margin is 0 by the leader's metrics", func() (bool, string) {
		for _, m := range []*machine{n1, n3} {
			if all, err := m.scrape(); err == nil {
				if margin, ok := all["rackfs_placement_margin"]; ok && margin == 0 {
					return true, ""
				}
			}
		}
		return false, "it is not"
	})
	n1.alarmed("", "")
	n2.start()
	calm("n2 is back")
	c.Disconnect()
	for _, m := range ms {
		m.stop()
	}
}
