//go:build linux

package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/vfs"
)

// groupStory is a cluster with a node group, and what was written to its file systems.
type groupStory struct {
	*cluster
	t       *testing.T
	asks    *machine          // answers commands
	content map[string][]byte // by file system/file
	of      map[string]*machine
}

// A group gets a rack of its own beside the shared part of a cluster; then nodes go in and out of it, racks are reserved and released, a node is
// lost and another one retired. Shared data is never on a reserved rack, and the group's data only on its nodes: the check of the cluster, which looks at what every
// store has, finds no error at any moment, and after each step nothing that still has to move. Each group's file systems are served by its gateway, and by no other.
//
// It waits more than it works, and runs beside TestNodesLeave, whose nodes are on other addresses.
func TestReservedRack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, 3, "health: {suspect_after: 2s, out_after: 4s}")
	s := &groupStory{cluster: c, t: t, asks: c.all[0], content: map[string][]byte{}, of: map[string]*machine{"default": c.gateway()}}
	n := func(i int) *machine { return c.all[i-1] }
	s.write("default", short(t, 6, 60))
	s.settled("shared files")

	s.asks.must("group", "create", "gpu")
	s.asks.must("group", "reserve", "gpu", "r4", "--force") // ahead of its nodes
	s.join("gpu", "block", "block", "block, gateway")
	s.settled("three nodes in rack r4 join for the group")
	s.asks.must("fs", "create", "models", "--kind", "group", "--group", "gpu", "--profile", "2+1")
	s.of["models"] = n(12)
	s.write("models", short(t, 6, 60))
	s.write("default", 2)
	s.settled("the group's file system")
	s.served()

	s.asks.must("group", "add", "gpu", "n9")
	s.write("models", 2)
	s.write("default", 2)
	s.settled("n9 joins the group")
	s.asks.must("group", "create", "db")
	s.asks.refused("rack r4 is reserved for group gpu: release it first", "group", "reserve", "db", "r4")
	s.asks.must("group", "delete", "db")
	s.asks.must("group", "remove", "gpu", "n9")
	s.write("models", 2)
	s.settled("n9 leaves it")

	s.asks.must("group", "release", "r4")
	s.settled("rack r4 is released")
	s.asks.must("group", "reserve", "gpu", "r3")
	s.write("default", 2)
	s.settled("rack r3 is reserved")
	for _, m := range c.inRack(2) {
		if left := s.slots(m); left != 0 {
			t.Errorf("%d slots are on %s, whose rack is reserved", left, m.name)
		}
	}
	s.asks.refused("without n5 it has 5 of its 6", "node", "drain", "n5")
	s.asks.must("group", "release", "r3")
	s.asks.must("group", "reserve", "gpu", "r4")
	s.settled("r4 instead of r3")

	n(5).kill()
	s.asks.sees("n5 is lost and its data made anew", redundantAgain)
	s.asks.must("node", "remove", "n5", "--lost", "--yes")
	s.settled("n5 was killed and removed")
	if long { // TestNodesLeave drains, without groups
		s.asks.must("node", "drain", "n6")
		s.write("default", 2)
		s.asks.await("n6 is drained", func() (bool, string) {
			d := s.node("n6")
			return d.Life == api.LifeDrained, d.Life
		})
		s.asks.must("node", "remove", "n6", "--yes")
		s.settled("n6 was drained and removed")
	}
	s.served()
	s.read()
}

// redundantAgain says what is missing of the redundancy of data, whoever is away.
func redundantAgain(st *api.ClusterStatus) string {
	if st.Placement == nil {
		return "nobody looks after the pools"
	}
	for _, p := range st.Placement.Pools {
		if p.Writes != p.Profile || p.Filling > 0 || p.Leaving+p.Waiting > 0 {
			return fmt.Sprintf("pool %s: new blocks are %q, %d slots are being filled, %d leave, %d wait", p.Name, p.Writes, p.Filling, p.Leaving, p.Waiting)
		}
	}
	for _, s := range st.Placement.Stores {
		if s.Node == "n5" && s.Slots > 0 {
			return fmt.Sprintf("n5 has %d slots", s.Slots)
		}
	}
	return ""
}

// join adds a rack of nodes to the cluster, which are in a group from the beginning.
func (s *groupStory) join(group string, roles ...string) {
	s.t.Helper()
	rack := s.net.NewRack(s.t)
	s.racks = append(s.racks, rack)
	first := s.all[0]
	var row []*machine
	for _, r := range roles {
		h := rack.NewHost(s.t)
		m := &machine{t: s.t, name: fmt.Sprintf("n%d", len(s.all)+1), dir: first.dir, host: h.Addr(), base: 7000, at: h,
			conf: configuration{roles: r, rack: fmt.Sprintf("r%d", len(s.racks)), disks: 1, more: first.conf.more + "\ngroup: " + group}}
		m.log = filepath.Join(s.t.ArtifactDir(), m.name+".log")
		m.configure()
		row, s.all = append(row, m), append(s.all, m)
	}
	s.t.Cleanup(func() { end(s.t, row) })
	for _, m := range row {
		m.must("node", "join", "--token", first.must("cluster", "token", "--roles", strings.ReplaceAll(m.conf.roles, " ", "")))
		m.begin()
	}
	for _, m := range row {
		m.ready()
	}
}

// settled checks the cluster until nothing has to move any more. Meanwhile there is no error.
func (s *groupStory) settled(step string) {
	s.t.Helper()
	began, checks, moving := time.Now(), 0, 0
	s.asks.await("all has moved: "+step, func() (bool, string) {
		out, err := s.asks.run("cluster", "check", "--json")
		var r api.Report
		if bad := json.Unmarshal([]byte(out), &r); bad != nil {
			s.t.Fatalf("%s: check: %v %v", step, err, bad)
		}
		for _, f := range r.Findings {
			if f.Severity == clustercheck.Error {
				s.t.Errorf("%s: %s: %s", step, f.Kind, f.Text)
			}
		}
		if code := exitCode(err); (code != 0) != (r.Errors > 0) {
			s.t.Fatalf("%s: %d errors, and the command ends with %d: %v", step, r.Errors, code, err)
		}
		if s.t.Failed() {
			s.t.FailNow()
		}
		checks++
		moving = max(moving, r.Counts[clustercheck.KindReservation])
		left := r.Counts[clustercheck.KindReservation] + r.Counts[clustercheck.KindMoving] + r.Counts[clustercheck.KindMisplaced]
		return left == 0, fmt.Sprintf("%d findings, such as %v", left, r.Findings)
	})
	s.t.Logf("%s: at rest after %v, %d checks, up to %d slots where they might not be", step, time.Since(began).Round(100*time.Millisecond), checks, moving)
}

func exitCode(err error) int {
	var x *exec.ExitError
	if errors.As(err, &x) {
		return x.ExitCode()
	}
	return 0
}

func (s *groupStory) node(name string) *api.NodeDetail {
	s.t.Helper()
	return s.asks.node(name)
}

// slots counts those that are on a node.
func (s *groupStory) slots(m *machine) int { return s.node(m.name).SlotsLeft }

// dial mounts a file system through the gateway of its group.
func (s *groupStory) dial(fs string, at *machine) (*nfsclient.Client, nfsclient.FH, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	x, err := nfsclient.Dial(ctx, nfsclient.Config{
		DialFunc: func(ctx context.Context) (net.Conn, error) { return s.net.Dial(ctx, at.host+":2049") },
		Owner:    rand.Text(), Patient: true, Cred: vfs.Cred{},
	})
	if err != nil {
		return nil, "", err
	}
	root, _, err := x.Walk(ctx, "/"+fs)
	if err != nil {
		x.Disconnect()
	}
	return x, root, err
}

// write makes so many files of a MiB and some in a file system.
func (s *groupStory) write(fs string, n int) {
	s.t.Helper()
	c, root, err := s.dial(fs, s.of[fs])
	if err != nil {
		s.t.Fatalf("mount %s from %s: %v", fs, s.of[fs].name, err)
	}
	defer c.Disconnect()
	for range n {
		name := fmt.Sprintf("f%d", len(s.content))
		data := random(1<<20 + 777*len(s.content))
		write(s.t, c, root, name, data)
		s.content[fs+"/"+name] = data
	}
}

// read compares all that was written, as a client that has nothing of it.
func (s *groupStory) read() {
	s.t.Helper()
	for fs, at := range s.of {
		c, root, err := s.dial(fs, at)
		if err != nil {
			s.t.Fatal(err)
		}
		for name, want := range s.content {
			name, ok := strings.CutPrefix(name, fs+"/")
			if !ok {
				continue
			}
			f, err := c.Open(s.t.Context(), root, nfsclient.OpenArgs{Name: name, Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
			if err != nil {
				s.t.Fatal(err)
			}
			got := make([]byte, len(want))
			for off := 0; off < len(got); {
				n, _, err := c.Read(s.t.Context(), f, uint64(off), got[off:min(off+1<<20, len(got))])
				if err != nil || n == 0 {
					s.t.Fatalf("%s of %s at %d: %d bytes, %v", name, fs, off, n, err)
				}
				off += n
			}
			if !bytes.Equal(got, want) {
				s.t.Errorf("%s of %s has other bytes than were written", name, fs)
			}
		}
		c.Disconnect()
	}
}

// served checks that each file system is exported by the gateway of its group and by no other, and that `rackfs mount`
// says so wherever it is asked.
func (s *groupStory) served() {
	s.t.Helper()
	for fs, at := range s.of {
		for _, m := range []*machine{s.all[0], s.all[len(s.all)-1]} {
			if line := m.must("mount", fs, "/mnt", "--print"); !strings.Contains(line, " "+at.host+":/"+fs+" /mnt") {
				s.t.Errorf("rackfs mount %s on %s: %s, not from %s", fs, m.name, line, at.host)
			}
		}
		for other, by := range s.of {
			c, _, err := s.dial(fs, by)
			if other == fs && err != nil || other != fs && nfsclient.StatusOf(err) != nfsv4.NFS4ERR_NOENT {
				s.t.Errorf("%s from the gateway of %s: %v", fs, other, err)
			}
			if err == nil {
				c.Disconnect()
			}
		}
	}
}
