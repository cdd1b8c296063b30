//go:build linux

package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/api"
)

const manual = "../../docs/operations.md"

// reader follows the manual: what it does is written there.
type reader struct {
	t    *testing.T
	text string
	did  map[string]bool
}

// line says that the next thing that is done is a command of the manual, as it is written there.
func (r *reader) line(command string) { r.did[command] = true }

// commands are those of the manual about clusters of machines: indented lines, without remarks.
func (r *reader) commands() (all []string) {
	for l := range strings.Lines(r.text) {
		l, indented := strings.CutPrefix(strings.TrimRight(l, "\n"), "    ")
		l = strings.TrimLeft(l, " ") // also those in a list
		if !indented || !strings.HasPrefix(l, "rackfs ") {
			continue
		}
		l, _, _ = strings.Cut(l, "  ")
		l, _, _ = strings.Cut(l, " # ")
		all = append(all, strings.TrimSpace(l))
	}
	return all
}

// eventually repeats a command until it succeeds and says something: on a slow machine a node may just have missed a probe.
func eventually(m *machine, want string, args ...string) {
	m.t.Helper()
	m.await(fmt.Sprintf("%v says %q", args, want), func() (bool, string) {
		out, err := m.run(args...)
		return err == nil && strings.Contains(out, want), fmt.Sprint(out, err)
	})
}

// checked is what `cluster check` finds. It must not find errors of other kinds than these.
func (m *machine) checked(may ...string) *api.Report {
	m.t.Helper()
	r := new(api.Report)
	m.await("the check finds nothing else", func() (bool, string) {
		out, err := m.run("cluster", "check", "--json")
		*r = api.Report{}
		if bad := json.Unmarshal([]byte(out), r); bad != nil {
			return false, fmt.Sprint(bad, err)
		}
		for _, f := range r.Findings {
			if f.Severity == "error" && !slices.Contains(may, string(f.Kind)) {
				return false, f.Text
			}
		}
		return (err == nil) == (r.Errors == 0), fmt.Sprint(err)
	})
	return r
}

// Somebody who never saw a cluster follows docs/operations.md: begins one, lets machines join, groups them, restarts, drains, loses and replaces machines, disks and
// metadata, upgrades, makes a backup and restores it. Every command that the manual shows for clusters of machines is run, and there is every
// metric that it names.
func TestManual(t *testing.T) {
	t.Parallel() // see TestReservedRack
	raw, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(raw), "\n# Running a cluster of several machines\n")
	if !ok {
		t.Fatal("the manual has no part about clusters")
	}
	r := &reader{t: t, text: text, did: map[string]bool{}}
	ms := machinesFrom(t, 100, "meta, block, gateway", "meta, block", "meta, block", "meta, block", "block", "meta, block", "meta, block")
	for i, m := range ms {
		m.conf.rack, m.conf.http = fmt.Sprintf("r%d", i+1), m.host+":7070"
		m.configure()
	}
	n1, n2, n3, n4, n5, n6, n7 := ms[0], ms[1], ms[2], ms[3], ms[4], ms[5], ms[6]

	// Install, join, look at it.
	r.line("rackfs node --print-config > /etc/rackfs/node.yaml")
	if out := n1.bare("node", "--print-config"); !strings.Contains(out, "advertise:") {
		t.Errorf("the configuration that is printed: %s", out)
	}
	r.line("rackfs cluster init --nodes 3 --profile 4+2")
	n1.must("cluster", "init", "--nodes", "3", "--profile", "4+2")
	n1.start()
	join := func(m *machine) {
		t.Helper()
		m.must("node", "join", "--token", n1.must("cluster", "token", "--roles", "meta,block", "--ttl", "1h"))
		m.start()
	}
	r.line("rackfs cluster token --roles meta,block --ttl 1h")
	r.line("rackfs node join --token v1....")
	join(n2)
	join(n3)
	n1.healthy(3, "4+2")
	r.line("rackfs cluster status [--json] [--watch]")
	says := func(want string, args ...string) {
		t.Helper()
		eventually(n2, want, args...)
	}
	says("health  ok", "cluster", "status")
	r.line("rackfs node list")
	says("n3", "node", "list")
	r.line("rackfs node show NAME [--watch]")
	says("STORE", "node", "show", "n1")
	r.line("rackfs cluster voters")
	says("shard 0: 3 of 3 voters healthy", "cluster", "voters")
	r.line("rackfs cluster can-stop NODE|RACK...")
	n1.refused("", "cluster", "can-stop", "n2", "r3")
	metrics(t, r, ms[:3])

	c, root := mount(t, n1)
	before := random(5<<20 + 777)
	write(t, c, root, "before", before)
	r.line("rackfs cluster check [--json]")
	n1.checked()

	// Grow; a node group.
	join(n4)
	join(n5)
	n1.healthy(3, "4+2")
	r.line("rackfs group create gpu")
	n1.must("group", "create", "gpu")
	r.line("rackfs group add gpu node-7 node-8 node-9")
	eventually(n1, "", "group", "add", "gpu", "n5")
	r.line("rackfs group reserve gpu r3 r4")
	eventually(n1, "", "group", "reserve", "gpu", "r5")
	r.line("rackfs group show gpu")
	says("n5", "group", "show", "gpu")
	r.line("rackfs group list [--json]")
	says(`"gpu"`, "group", "list", "--json")
	eventually(n1, "", "group", "release", "r5")
	eventually(n1, "", "group", "remove", "gpu", "n5")
	n1.must("group", "delete", "gpu")

	// Restart for an upgrade, one machine after the other.
	for _, m := range []*machine{n2, n3, n4, n5} {
		n1.await(m.name+" can be stopped", func() (bool, string) {
			out, err := n1.run("cluster", "can-stop", m.name)
			return err == nil, out
		})
		m.stop()
		m.start()
	}
	r.line("rackfs cluster upgrade-level --check")
	says("SHARD", "cluster", "upgrade-level", "--check")
	r.line("rackfs cluster upgrade-level [--to N]")
	says("SHARD", "cluster", "upgrade-level", "--yes")

	// Shrink.
	r.line("rackfs node drain n2")
	eventually(n1, "", "node", "drain", "n2")
	eventually(n1, "", "node", "undrain", "n2")
	eventually(n1, "", "node", "drain", "n2")
	r.line("rackfs node show n2 --watch")
	n1.await("n2 is drained", func() (bool, string) {
		d := n1.node("n2")
		return d.Life == api.LifeDrained && len(d.Waits) == 0, fmt.Sprintf("%s %v, %d slots", d.Life, d.Waits, d.SlotsLeft)
	})
	r.line("rackfs node remove n2")
	eventually(n1, "", "node", "remove", "n2", "--yes")
	n2.ended("was removed from the cluster")
	n1.healthy(3, "4+2")
	same(t, n1, "before", before)

	// A lost disk, and a lost machine that voted.
	n5.stop()
	disk := filepath.Join(n5.dir, "n5-disk2")
	if err := os.RemoveAll(disk); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	n5.start("--replace-disk", disk)
	r.line("rackfs node join ...")
	join(n6)
	n1.await("the new disk has what the lost one had, so that n3 can be lost", func() (bool, string) {
		out, err := n1.run("cluster", "can-stop", "n3")
		return err == nil, out
	})
	n3.kill()
	r.line("rackfs node remove n3 --lost")
	n1.await("n3 can be given up", func() (bool, string) {
		_, err := n1.run("node", "remove", "n3", "--lost", "--yes")
		return err == nil, fmt.Sprint(err)
	})
	n1.healthy(3, "4+2")
	n1.voters("n1", "n4", "n6")

	// A lost metadata directory of a machine that has the rest.
	n4.stop()
	if err := os.RemoveAll(filepath.Join(n4.dir, "n4", "meta")); err != nil {
		t.Fatal(err)
	}
	n4.start()
	n1.healthy(3, "4+2")
	n1.voters("n1", "n4", "n6")
	same(t, n1, "before", before)
	n1.must("cluster", "rotate-gossip-key")

	// A backup; the data directories of all machines that hold metadata are lost, but for what is in the backup.
	r.line("rackfs cluster backup /backup/rackfs-$(date +%F-%H%M) --with-ca")
	backup, secret := filepath.Join(n1.dir, "backup"), filepath.Join(n1.dir, "passphrase")
	if err := os.WriteFile(secret, []byte("correct horse battery staple\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(n1, "", "cluster", "backup", backup, "--with-ca", "--passphrase-file", secret)
	write(t, c, root, "after", before)
	c.Disconnect()
	for _, m := range []*machine{n1, n4, n5, n6} {
		m.stop()
	}
	if err := os.Rename(filepath.Join(n1.dir, "n1"), filepath.Join(n1.dir, "n1-before")); err != nil {
		t.Fatal(err)
	}
	n1.refused("--with-ca", "cluster", "restore", backup)
	r.line("rackfs cluster restore --config FILE BACKUP --with-ca")
	n1.must("cluster", "restore", backup, "--with-ca", "--passphrase-file", secret)
	for _, m := range []*machine{n1, n4, n5, n6} {
		m.begin()
	}
	for _, m := range []*machine{n1, n4, n5, n6} {
		m.ready()
	}
	n1.voters("n1", "n4", "n6")
	same(t, n1, "before", before)
	report := n1.checked("deletion", "orphan")
	if report.Counts["orphan"] == 0 || report.Errors == 0 {
		t.Errorf("after a restore the check finds %+v", report)
	}
	eventually(n1, "", "cluster", "allow-deletion", "--yes")
	n1.await("what is orphaned is deleted", func() (bool, string) {
		report := n1.checked()
		return report.Counts["orphan"] == 0, fmt.Sprint(report.Findings)
	})
	join(n7)
	same(t, n1, "before", before)
	for _, m := range []*machine{n1, n4, n5, n6, n7} {
		m.stop()
	}

	want := r.commands()
	for _, x := range want {
		if !r.did[x] {
			t.Errorf("nobody tried what the manual says: %s", x)
		}
	}
	for x := range r.did {
		if !slices.Contains(want, x) {
			t.Errorf("the manual does not say what was done: %s", x)
		}
	}
}

// metrics looks for those that the manual names.
func metrics(t *testing.T, r *reader, nodes []*machine) {
	t.Helper()
	raw, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, x := range regexp.MustCompile("`(rackfs_[a-z_0-9]*[a-z0-9])`").FindAllSubmatch(raw, -1) {
		named[string(x[1])] = true
	}
	name := regexp.MustCompile(`(?m)^# HELP (rackfs_[a-z_0-9]+) `)
	// Leaders have some of them, and who leads may change just now.
	nodes[0].await("nodes have all metrics that the manual names", func() (bool, string) {
		have := map[string]bool{}
		for _, m := range nodes {
			resp, err := http.Get("http://" + m.conf.http + "/metrics")
			if err != nil {
				return false, err.Error()
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				return false, err.Error()
			}
			for _, x := range name.FindAllSubmatch(b, -1) {
				have[string(x[1])] = true
			}
		}
		lack := slices.DeleteFunc(slices.Sorted(maps.Keys(named)), func(x string) bool { return have[x] })
		return len(lack) == 0, fmt.Sprint("none has ", lack)
	})
}
