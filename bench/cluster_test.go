package bench

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/devcluster"
)

// TestCluster runs all workloads on a small cluster by NFS and by the storage API, which leaves out what whole files cannot do. What the cluster
// promises and uses is found by its metrics.
func TestCluster(t *testing.T) {
	c, err := devcluster.Start(t.Context(), devcluster.Config{
		DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Voters: 1, BlockStores: 3, Profile: "2+1",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	whole := []string{
		"streams/read-again", "random/read", "random/write", "random/write-fsync", "locks/own", "locks/contended", "locks/counter", "training/by-shard", "training/by-record", "mixed/mixed",
	}
	for spec, skipped := range map[string][]string{"nfs:" + c.NFSAddr() + "/default": nil, "api:" + c.APIURL() + "/default/default": whole} {
		s, err := ParseSpec(spec)
		if err != nil {
			t.Fatal(err)
		}
		s.Token, s.Metrics, s.Sessions = c.Token(), []string{"http://" + c.HTTPAddr() + "/metrics"}, 2
		target, end, err := s.Open(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		if target.Durability != (Durability{Disk, Disk, 1, "rackfs with profile 2+1"}) || target.CPU == nil {
			t.Errorf("%s: %+v", spec, target)
		}
		out, err := collected(t, target.FS, target.Durability, Workloads())
		if err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		checkSamples(t, out, skipped)
		if err := end(context.Background()); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}
