//go:build linux

package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/vfs"
)

// mount is an NFS client with the root of the file system `default`.
func mount(t *testing.T, m *machine) (*nfsclient.Client, nfsclient.FH) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := nfsclient.Dial(ctx, nfsclient.Config{Addr: m.host + ":2049", Owner: rand.Text(), Patient: true, Cred: vfs.Cred{}})
	for err != nil && strings.Contains(err.Error(), "NFS4ERR_DELAY") && ctx.Err() == nil { // a mount is as patient
		time.Sleep(100 * time.Millisecond)
		c, err = nfsclient.Dial(ctx, nfsclient.Config{Addr: m.host + ":2049", Owner: rand.Text(), Patient: true, Cred: vfs.Cred{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Disconnect)
	root, _, err := c.Walk(ctx, "/default")
	if err != nil {
		t.Fatal(err)
	}
	return c, root
}

// write makes a file with these bytes, which are durable when it returns.
func write(t *testing.T, c *nfsclient.Client, dir nfsclient.FH, name string, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := c.Create(ctx, dir, name, 0o644)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	for off := 0; off < len(data); off += 1 << 20 {
		if _, err := c.Write(ctx, f, uint64(off), nfsv4.UNSTABLE4, data[off:min(off+1<<20, len(data))]); err != nil {
			t.Fatalf("write %s: %v", name, err)
		}
	}
	if _, err := c.Commit(ctx, f.FH, 0, 0); err != nil {
		t.Fatalf("commit %s: %v", name, err)
	}
	if err := c.CloseFile(ctx, f); err != nil {
		t.Fatal(err)
	}
}

// same reads a file as another client that has nothing of it, and compares.
func same(t *testing.T, m *machine, name string, want []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, root := mount(t, m)
	f, err := c.Open(ctx, root, nfsclient.OpenArgs{Name: name, Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	got := make([]byte, len(want))
	for off := 0; off < len(got); {
		n, eof, err := c.Read(ctx, f, uint64(off), got[off:min(off+1<<20, len(got))])
		if err != nil {
			t.Fatalf("read %s at %d: %v", name, off, err)
		}
		if off += n; eof && off < len(got) {
			t.Fatalf("%s ends at %d of %d", name, off, len(got))
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s has other bytes than were written", name)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// A cluster is begun with one node, grows to three by tokens, loses a node to kill -9 while files are used, and gets it back at
// another address; then that node's vote and data are needed, for another one is killed.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	ms := machinesFrom(t, 170, "meta, block, gateway", "meta, block", "meta, block", "meta, block, gateway")
	n1, n2, n3, late := ms[0], ms[1], ms[2], ms[3]

	n1.refused("needs 6 failure domains", "cluster", "init", "--profile", "4+2")
	n1.refused("belongs to no cluster", "node")
	n1.must("cluster", "init", "--profile", "4+2", "--nodes", "3")
	n1.refused("already", "cluster", "init")
	n1.refused("start `rackfs node`", "cluster", "token")
	n1.start()
	n1.refused("in use by another process", "node")
	if st := n1.status(); !strings.Contains(st.Health, "writers wait") && st.Health != "ok" {
		t.Errorf("health of the first node alone: %s", st.Health)
	}

	late.refused("not a whole token", "node", "join", "--token", "v1.x")
	token := n1.must("cluster", "token", "--roles", "meta,block,gateway")
	late.refused("node n1 is the gateway of the shared part of the cluster already", "node", "join", "--token", token) // and the token is not used up by that
	n2.must("node", "join", "--token", token)
	n3.refused("used already, by node n2", "node", "join", "--token", token)
	n3.must("node", "join", "--token", n1.must("cluster", "token"))
	n2.start()
	n3.start()
	st := n1.healthy(3, "4+2")
	if len(st.Nodes) != 3 || len(st.Placement.Stores) != 6 {
		t.Fatalf("%d nodes, %d stores", len(st.Nodes), len(st.Placement.Stores))
	}
	if out := n3.must("node", "list"); strings.Count(out, "\n") != 3 {
		t.Errorf("node list: %s", out)
	}

	c, root := mount(t, n1)
	before, during := random(9<<20+777), random(5<<20+1)
	write(t, c, root, "before", before)
	n2.kill()
	same(t, n1, "before", before)
	handle := byNFS3(t, n1, "before", before, nil)
	write(t, c, root, "during", during)
	same(t, n1, "during", during)

	n2.base = 7100
	n2.configure()
	n2.start()
	n1.healthy(3, "4+2")
	n3.kill()
	same(t, n1, "before", before)
	same(t, n1, "during", during)
	write(t, c, root, "after", before)
	same(t, n1, "after", before)

	// All at once are gone, and find each other again by what each remembers.
	for _, m := range []*machine{n1, n2} {
		m.kill()
	}
	for _, m := range []*machine{n1, n2, n3} {
		m.begin()
	}
	for _, m := range []*machine{n1, n2, n3} {
		m.ready()
	}
	n1.healthy(3, "4+2")
	same(t, n1, "during", during)
	same(t, n1, "after", before)
	byNFS3(t, n1, "before", before, handle)
	c.Disconnect()
	for _, m := range []*machine{n1, n2, n3} {
		m.stop()
	}
}
