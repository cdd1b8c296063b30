package node

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestFates(t *testing.T) {
	meta := []string{RoleMeta}
	got := fates([]*metapb.RetiredNode{{Name: "gone"}, {Name: "again"}}, []*metapb.Node{
		{Name: "in", Roles: meta}, {Name: "drains", Roles: meta, State: metapb.NodeState_NODE_DRAINING}, {Name: "again", Roles: meta}, {Name: "block", Roles: []string{RoleBlock}},
	})
	want := map[string]raftmeta.Fate{"gone": raftmeta.Gone, "drains": raftmeta.Leaves, "block": raftmeta.Gone}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A node is drained and removed; it ends, is refused, and is told why; its machine joins anew, under its name, without what it held.
func TestRemovedNodeIsRefused(t *testing.T) {
	ctx := t.Context()
	first, second := testConfig(t, "n1", RoleMeta, RoleBlock), testConfig(t, "n2", RoleBlock)
	if _, _, err := Init(first, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, first)
	join := func(c *Config) {
		t.Helper()
		tok, err := admin{n}.NewToken(ctx, []string{RoleBlock}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := Join(ctx, c, tok.Token, "test"); err != nil {
			t.Fatal(err)
		}
	}
	join(second)
	b, err := Start(ctx, second, Options{})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			b.Close(context.Background())
		}
	}()
	record := func(name string) *metapb.Node {
		t.Helper()
		if err := n.directory.refresh(ctx, n.meta); err != nil {
			t.Fatal(err)
		}
		for _, x := range n.directory.records() {
			if x.Name == name {
				return x
			}
		}
		return nil
	}
	for _, x := range []*Node{n, b} {
		if r := record(x.cfg.Name); !bytes.Equal(r.GetKey(), x.id.Identity().Key()) {
			t.Errorf("the record of %s does not have its key: %v", x.cfg.Name, r)
		}
	}
	// It cannot get a certificate for another key, by which it would not be known.
	other, err := pki.NewRequest("n2")
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.authority.renew(ctx, "n2", []string{RoleBlock}, &renewRequest{CSR: other.DER})
	refusal(t, "renewal for another key", err, vfs.KindPerm, "joined with another key")

	call := func(name, what string) error {
		c := api.Dial(n.dir.sub(adminFile))
		defer c.Close()
		switch what {
		case "drain":
			_, err := c.DrainNode(ctx, name, true)
			return err
		case "lost":
			return c.RemoveNode(ctx, name, api.RemoveRequest{Lost: true})
		case "remove":
			return c.RemoveNode(ctx, name, api.RemoveRequest{})
		}
		_, err := c.UndrainNode(ctx, name)
		return err
	}
	refusal(t, "not drained", call("n2", "remove"), vfs.KindBusy, "drain it first")
	refusal(t, "itself", call("n1", "remove"), vfs.KindInvalid, "ask another node")
	refusal(t, "unknown", call("n3", "remove"), vfs.KindNotFound, "no record of a node n3")
	if err := call("n2", "drain"); err != nil {
		t.Fatal(err)
	}
	if s := record("n2").State; s != metapb.NodeState_NODE_DRAINING {
		t.Errorf("drained: %v", s)
	}
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) { // its slots move to n1, if it got any
		if err = call("n2", "remove"); err == nil {
			break
		}
		if vfs.KindOf(err) != vfs.KindBusy || time.Now().After(end) {
			t.Fatal(err)
		}
	}

	// The node that runs learns of it and ends, and does not start again.
	select {
	case err := <-b.failed:
		refusal(t, "while it runs", err, vfs.KindPerm, "node n2 was removed from the cluster")
	case <-time.After(5 * time.Minute):
		t.Fatal("the removed node goes on")
	}
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
	closed = true
	_, err = Start(ctx, second, Options{})
	refusal(t, "a start", err, vfs.KindPerm, "node n2 was removed from the cluster")
	if record("n2") != nil {
		t.Error("its record is still there")
	}
	if raw, err := os.ReadFile(filepath.Join(first.Data, removedFile)); err != nil || !strings.Contains(string(raw), `"n2"`) {
		t.Errorf("who was removed is not on disk: %v %s", err, raw)
	}

	// Its machine is a new node when it was emptied; its disk alone is not taken.
	if err := os.RemoveAll(second.Data); err != nil {
		t.Fatal(err)
	}
	join(second)
	_, err = Start(ctx, second, Options{})
	refusal(t, "with its old disk", err, vfs.KindUnavailable, "which was removed from the cluster")
	if err := os.RemoveAll(second.Disks[0]); err != nil {
		t.Fatal(err)
	}
	again, err := Start(ctx, second, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(ctx); err != nil {
		t.Error(err)
	}
}
