package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hangs is after what time a test that hangs ends.
const hangs = 5 * time.Minute

// needs leaves a test out on a machine that lacks what it needs; in CI, where all is shown, that is a failure.
func needs(t *testing.T, has bool, why string) {
	t.Helper()
	switch {
	case has:
	case os.Getenv("CI") == "true":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// A node with the role local serves its volumes, says so to the cluster, and goes on when that is gone, also when it starts then.
func TestLocalRole(t *testing.T) {
	needs(t, os.Geteuid() == 0, "acts as other users, so it needs root")
	ctx, cancel := context.WithTimeout(t.Context(), hangs)
	defer cancel()
	until := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("never: %s", what)
			}
		}
	}
	first := testConfig(t, "n1", RoleMeta, RoleBlock)
	if _, _, err := Init(first, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n1, err := Start(ctx, first, Options{Release: "test"})
	if err != nil {
		t.Fatal(err)
	}
	up := true
	defer func() {
		if up {
			_ = n1.Close(context.Background())
		}
	}()
	if _, err := n1.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: "g"}}}); err != nil {
		t.Fatal(err)
	}
	create := filesystem.Request{Name: "scratch", Kind: filesystem.Local, Group: "g"}
	_, err = filesystem.Create(ctx, n1.meta, filesystem.ClusterPools{Meta: n1.meta}, create, time.Now())
	refusal(t, "a group without such a node", err, vfs.KindInvalid, "role local")

	second := testConfig(t, "n2", RoleLocal)
	second.Group, second.Lease = "g", 10*time.Minute
	tok, err := admin{n1}.NewToken(ctx, []string{RoleLocal}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := Join(ctx, second, tok.Token, "test"); err != nil {
		t.Fatal(err)
	}
	n2, err := Start(ctx, second, Options{Release: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filesystem.Create(ctx, n1.meta, nil, create, time.Now()); err != nil {
		t.Fatal(err)
	}
	until("served", func() bool { return len(n2.localVolumes.Volumes()) == 1 })
	until("in the status", func() bool {
		for _, n := range n1.clusterStatus(ctx).Nodes {
			if len(n.LocalVolumes) == 1 && n.Name == "n2" {
				v := n.LocalVolumes[0]
				return v.FS == "scratch" && v.Problem == "" && v.TotalBytes > 0 && v.Address == second.LocalListen
			}
		}
		return false
	})
	// What it may ask and change is its own.
	if _, err := n2.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: "handle"}}}); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("it asks for the key of handles: %v", err)
	}
	other := n1.record()
	other.Version = 99
	if _, err := n2.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: other}}}); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("it changes another node's record: %v", err)
	}
	if _, err := n2.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: "h"}}}); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("it makes a group: %v", err)
	}

	dial := func() *nfsclient.Client {
		t.Helper()
		var c *nfsclient.Client
		until("the volume answers", func() bool {
			c, err = nfsclient.Dial(ctx, nfsclient.Config{Addr: second.LocalListen, Owner: "workload", Minor: 2, Patient: true})
			return err == nil
		})
		t.Cleanup(c.Disconnect)
		return c
	}
	c := dial()
	dir, _, err := c.Walk(ctx, "/scratch")
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.Create(ctx, dir, "f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	write := func(c *nfsclient.Client, text string) {
		t.Helper()
		if _, err := c.Write(ctx, f, 0, nfsv4.FILE_SYNC4, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write(c, "with the cluster")
	if err := n1.Close(ctx); err != nil {
		t.Error(err)
	}
	up = false
	write(c, "without the cluster")
	c.Disconnect()
	if err := n2.Close(ctx); err != nil {
		t.Error(err)
	}

	// It starts, and waits for the cluster with everything but its volumes.
	run, stop := context.WithCancel(ctx)
	started := make(chan error, 1)
	go func() {
		_, err := Start(run, second, Options{Release: "test", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		started <- err
	}()
	c = dial()
	if _, a, err := c.Walk(ctx, "/scratch/f"); err != nil || a.Size != uint64(len("without the cluster")) {
		t.Errorf("after a start without the cluster: %+v, %v", a, err)
	}
	g, err := c.Open(ctx, dir, nfsclient.OpenArgs{Name: "f"})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if n, _, err := c.Read(ctx, g, 0, p); err != nil || string(p[:n]) != "without the cluster" {
		t.Errorf("read %q, %v", p[:n], err)
	}
	c.Disconnect()
	stop()
	if err := <-started; err == nil || !strings.Contains(err.Error(), "record this node") {
		t.Errorf("the start ended with %v", err)
	}
}

// A disk of local volumes that is full keeps nothing else of its node from starting.
func TestFullLocalDisk(t *testing.T) {
	const why = "mounts a small file system, so it needs root, and CAP_SYS_ADMIN"
	needs(t, os.Geteuid() == 0, why)
	c := testConfig(t, "n1", RoleMeta, RoleBlock, RoleLocal)
	if err := os.MkdirAll(c.LocalDir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("tmpfs", c.LocalDir, "tmpfs", 0, "size=64k")
	needs(t, !errors.Is(err, unix.EPERM), why)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(c.LocalDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	full, err := os.Create(filepath.Join(c.LocalDir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = full.Write(make([]byte, 4096))
	}
	full.Close()
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), c, Options{Release: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close(context.Background())
	if text, ok := n.health(); !ok || !strings.Contains(text, "serves no local volumes") || !strings.Contains(text, "no space left") {
		t.Errorf("%v %s", ok, text)
	}
}
