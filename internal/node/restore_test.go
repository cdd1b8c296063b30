package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// A cluster of three meta nodes, of which the metadata of one is restored from a backup: the others, which still have what there was, join it; stores
// accept it when an operator allows deletion.
func TestRestore(t *testing.T) {
	ctx := t.Context()
	quiet := slog.New(slog.DiscardHandler)
	var cfgs []*Config
	for i := range 3 {
		cfgs = append(cfgs, testConfig(t, fmt.Sprintf("n%d", i+1), RoleMeta, RoleBlock))
	}
	if _, _, err := Init(cfgs[0], InitOptions{Nodes: 3}, time.Now()); err != nil {
		t.Fatal(err)
	}
	running := map[int]*Node{}
	start := func(i int) {
		t.Helper()
		n, err := Start(ctx, cfgs[i], Options{Release: "test", Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		running[i] = n
	}
	stop := func(i int) {
		t.Helper()
		if err := running[i].Close(context.Background()); err != nil {
			t.Error(err)
		}
		delete(running, i)
	}
	t.Cleanup(func() {
		for i := range running {
			stop(i)
		}
	})
	await := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited for %s", what)
			}
		}
	}
	voters := func(incarnation uint64) func() bool {
		return func() bool {
			for _, n := range running {
				for _, st := range n.voter.Status() {
					if st.Member != raftmeta.Voter || len(st.Voters) != 3 || st.Err != "" {
						return false
					}
				}
				i, err := provision.Incarnation(ctx, n.meta)
				if err != nil || i != incarnation {
					return false
				}
			}
			return true
		}
	}
	start(0)
	for i := 1; i < 3; i++ {
		tok, _, err := running[0].authority.newToken(ctx, []string{RoleMeta, RoleBlock}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := Join(ctx, cfgs[i], tok.String(), "test"); err != nil {
			t.Fatal(err)
		}
		start(i)
	}
	await("three voters", voters(raftmeta.FirstIncarnation))
	client := api.Dial(filepath.Join(cfgs[1].Data, api.SocketName)) // any meta node will do
	defer client.Close()
	path := filepath.Join(t.TempDir(), "backup")
	if _, _, err := backup.Save(path, func(w io.Writer) error { return client.Backup(ctx, w) }); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	_, err = Restore(ctx, cfgs[0], f, quiet)
	refusal(t, "the node itself runs", err, vfs.KindBusy, "in use")
	stop(0)
	_, err = Restore(ctx, cfgs[0], f, quiet)
	refusal(t, "another node runs", err, vfs.KindBusy, "n2 runs")
	stop(1)
	stop(2)
	_, err = Restore(ctx, cfgs[0], f, quiet)
	refusal(t, "over metadata", err, vfs.KindExists, "not empty")
	if err := os.RemoveAll(filepath.Join(cfgs[0].Data, metaDir)); err != nil {
		t.Fatal(err)
	}
	_, err = Restore(ctx, testConfig(t, "other", RoleMeta), f, quiet)
	refusal(t, "a node of no cluster", err, vfs.KindInvalid, "belongs to no cluster")
	r, err := Restore(ctx, cfgs[0], f, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Others, []string{"n2", "n3"}) || r.Now <= raftmeta.FirstIncarnation {
		t.Fatalf("%+v", r)
	}
	for i := range 3 {
		start(i)
	}
	await("three voters of the restored metadata", voters(r.Now))
	check := func() *api.Report {
		t.Helper()
		rep, err := client.Check(ctx, func(api.Progress) {})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := check(); rep.Deletion != clustercheck.DeletionStopped || rep.Errors != 1 || rep.Stopped != 1 {
		t.Fatalf("%+v", rep)
	}
	if err := client.AllowDeletion(ctx, r.Now); err != nil {
		t.Fatal(err)
	}
	await("all stores to accept the restored metadata", func() bool {
		rep := check()
		return rep.Deletion == clustercheck.DeletionOn && rep.Errors == 0
	})
}
