package devcluster_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// `rackfs dev` answers what a cluster of several machines does, and says of what it cannot be.
func TestAdministration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cl := startCluster(t, dir)
	defer stopCluster(t, cl)
	c := api.Dial(filepath.Join(dir, api.SocketName))
	defer c.Close()
	ctx := t.Context()
	var st *api.ClusterStatus
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) { // until the leader has looked at its stores
		var err error
		if st, err = c.Status(ctx); err != nil {
			t.Fatal(err)
		}
		if st.Placement != nil && st.Health == "ok" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("health %s, %+v", st.Health, st.Placement)
		}
	}
	nodes, err := c.Nodes(ctx)
	if err != nil || len(nodes) != 3+6+1 || len(st.Shards) != 2 || len(st.Shards[0].Voters) != 3 || len(st.Placement.Stores) != 6 {
		t.Fatalf("%d nodes, %v; %+v", len(nodes), err, st)
	}
	if n, err := c.Node(ctx, "meta-1"); err != nil || len(n.Votes) != 2 || !n.Votes[0].Voter {
		t.Errorf("meta-1: %+v %v", n, err)
	}
	if n, err := c.Node(ctx, "store-2"); err != nil || len(n.Stores) != 1 || n.SlotsLeft == 0 {
		t.Errorf("store-2: %+v %v", n, err)
	}
	voters, err := c.Voters(ctx)
	if err != nil || len(voters) != 2 || voters[1].Healthy != 3 || voters[1].Survives != 1 {
		t.Errorf("voters: %+v %v", voters, err)
	}
	levels, err := c.RaiseLevel(ctx, 0)
	if err != nil || len(levels.Shards) != 2 || levels.Shards[0].Level != raftmeta.NewestLevel || levels.Shards[1].CanBe != raftmeta.NewestLevel {
		t.Errorf("levels: %+v %v", levels, err)
	}
	if s, err := c.CanStop(ctx, "meta-1"); err != nil || !s.OK || !strings.Contains(s.Text(), "yes: meta-1") {
		t.Errorf("stop a voter: %+v %v", s, err)
	}
	if s, err := c.CanStop(ctx, "store-1", "store-2"); err != nil || s.OK || !s.Pools[0].Reads { // of 4+2 on six stores
		t.Errorf("stop two stores: %+v %v", s, err)
	}
	if s, err := c.CanStop(ctx, "meta-1", "meta-2"); err != nil || s.OK || s.Shards[0].OK {
		t.Errorf("stop two voters: %+v %v", s, err)
	}
	for what, x := range map[string]struct {
		err  error
		kind vfs.Kind
		says string
	}{
		"token":   {second(c.NewToken(ctx, []string{"block"}, time.Hour)), vfs.KindNotSupported, "no node joins"},
		"no node": {second(c.Node(ctx, "x")), vfs.KindNotFound, "no record of a node x"},
		"drain":   {second(c.DrainNode(ctx, "meta-1", false)), vfs.KindNotFound, "no record of a node meta-1"},
		"stop":    {second(c.CanStop(ctx, "x")), vfs.KindNotFound, "no node or rack"},
	} {
		if vfs.KindOf(x.err) != x.kind || !strings.Contains(x.err.Error(), x.says) {
			t.Errorf("%s: %v, want %v saying %q", what, x.err, x.kind, x.says)
		}
	}
}

func second[T any](_ T, err error) error { return err }
