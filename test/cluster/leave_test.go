//go:build linux

package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/nodegroup"
)

func (m *machine) node(name string) *api.NodeDetail {
	m.t.Helper()
	n, err := ask(m, func(c *api.Client, ctx context.Context) (*api.NodeDetail, error) { return c.Node(ctx, name) })
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// voters waits until these nodes, all healthy, are the voters of both shards.
func (m *machine) voters(names ...string) {
	m.t.Helper()
	m.await(fmt.Sprintf("the voters are %v", names), func() (bool, string) {
		all, err := ask(m, (*api.Client).Voters)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, s := range all {
			var got []string
			for _, r := range s.Replicas {
				if r.Voter {
					got = append(got, r.Node)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, names) || s.Healthy != len(names) {
				return false, fmt.Sprintf("%+v", all)
			}
		}
		return len(all) == 2, fmt.Sprintf("%+v", all)
	})
}

// A node is drained and removed, another one is lost for good; both come back and are told so. Votes and data go to those that stand by.
func TestNodesLeave(t *testing.T) {
	t.Parallel() // beside TestReservedRack
	ms := machines(t, "meta, block, gateway", "meta, block", "meta, block", "meta, block", "meta, block")
	n1, n2, n3, n4, n5 := ms[0], ms[1], ms[2], ms[3], ms[4]
	n1.must("cluster", "init", "--profile", "2+1", "--nodes", "3")
	n1.start()
	join := func(m *machine) {
		t.Helper()
		m.must("node", "join", "--token", n1.must("cluster", "token"))
		m.start()
	}
	join(n2)
	join(n3)
	n1.healthy(3, "2+1")
	c, root := mount(t, n1)
	data := random(9<<20 + 777)
	write(t, c, root, "before", data)

	n1.refused("needs 3 failure domains (node), one for each shard: without n2 it has 2 of its 3", "node", "drain", "n2")
	n1.refused("drain it first", "node", "remove", "n2", "--yes", "--force")
	n1.refused("ask another node", "node", "remove", "n1", "--yes")
	n1.refused("no record of a node n9", "node", "drain", "n9")
	n1.refused("nothing was changed", "node", "remove", "n2")

	stops := func(code bool, says []string, names ...string) {
		t.Helper()
		// On a slow machine a store may just have missed a probe.
		n1.await(fmt.Sprintf("can-stop %v is %v and says %q", names, code, says), func() (bool, string) {
			out, err := n1.run(append([]string{"cluster", "can-stop"}, names...)...)
			ok := (err == nil) == code
			for _, s := range says {
				ok = ok && strings.Contains(out, s)
			}
			return ok, fmt.Sprintf("%v: %s", err, out)
		})
	}
	stops(false, []string{"new blocks would be 1+1", "2 of 3 would be, and 2 are needed", "no: n2"}, "n2")
	stops(false, []string{"could not be read", "1 of 3 would be, and 2 are needed: it would stand still", "no: n2, n3"}, "n2", "n3")

	// Drained: all that n2 has goes to n4, while all of it is read.
	join(n4)
	n1.must("node", "drain", "n2")
	n1.must("node", "drain", "n2")
	n1.await("n2 is drained", func() (bool, string) {
		same(t, n1, "before", data)
		d := n1.node("n2")
		if st := n1.status(); st.Placement != nil && !slices.ContainsFunc(st.Placement.Stores, func(s nodegroup.StoreStatus) bool { return !s.Readable }) {
			for _, p := range st.Placement.Pools {
				if p.Margin < 1 {
					t.Errorf("a drain of a healthy node made the pool less redundant: %+v", p)
				}
			}
		}
		return d.Life == api.LifeDrained && len(d.Waits) == 0, fmt.Sprintf("%s %v, %d slots", d.Life, d.Waits, d.SlotsLeft)
	})
	n1.voters("n1", "n3", "n4")
	write(t, c, root, "without", data)
	n1.must("node", "remove", "n2", "--yes")
	n2.ended("was removed from the cluster")
	n2.refused("was removed from the cluster", "node")
	if b, err := os.ReadFile(n3.dir + "/n3/removed.json"); err != nil || !strings.Contains(string(b), `"n2"`) {
		n3.await("n3 remembers whom it refuses", func() (bool, string) {
			b, err := os.ReadFile(n3.dir + "/n3/removed.json")
			return err == nil && strings.Contains(string(b), `"n2"`), fmt.Sprint(err)
		})
	}
	n1.healthy(3, "2+1")

	// Lost: n3 is killed for good. Its vote goes to n5, what it had is rebuilt there.
	join(n5)
	n1.refused("n3 is not lost: its store", "node", "remove", "n3", "--lost", "--yes")
	n3.kill()
	n1.await("n3 can be given up", func() (bool, string) {
		_, err := n1.run("node", "remove", "n3", "--lost", "--yes")
		return err == nil, fmt.Sprint(err)
	})
	// Whoever looks now must not be told of the time before: what follows waits for the cluster to be healthy, and stops another node.
	for _, s := range n1.status().Placement.Stores {
		if s.Node == "n3" && s.Record == "STORE_IN" {
			t.Errorf("the status does not know that n3 was removed: %+v", s)
		}
	}
	same(t, n1, "before", data)
	n1.voters("n1", "n4", "n5")
	st := n1.healthy(3, "2+1")
	if len(st.Nodes) != 3 {
		t.Errorf("%d nodes", len(st.Nodes))
	}
	n3.refused("was removed from the cluster", "node")

	// The vote and the data of n5 are needed.
	n4.kill()
	same(t, n1, "before", data)
	same(t, n1, "without", data)
	write(t, c, root, "after", data)
	same(t, n1, "after", data)
	n4.start()

	// The machine of n2 is a new node, under its old name.
	for _, d := range []string{"n2", "n2-disk1", "n2-disk2"} {
		if err := os.RemoveAll(n2.dir + "/" + d); err != nil {
			t.Fatal(err)
		}
	}
	join(n2)
	n1.healthy(3, "2+1")
	c.Disconnect()
	for _, m := range []*machine{n1, n2, n4, n5} {
		m.stop()
	}
}

// ended waits until the node ends by itself, and says why.
func (m *machine) ended(says string) {
	m.t.Helper()
	m.await("it ends", func() (bool, string) {
		select {
		case <-m.done:
			return true, ""
		default:
			return false, "it runs"
		}
	})
	m.cmd = nil
	if b, _ := os.ReadFile(m.log); !strings.Contains(string(b), says) {
		m.t.Errorf("%s ended without saying %q", m.name, says)
	}
}
