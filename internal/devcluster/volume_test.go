package devcluster

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
)

// clusterFS is the file system of a cluster that runs until the test ends.
func clusterFS(t *testing.T) vfs.FS {
	t.Helper()
	c, err := Start(t.Context(), Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return c.gateway.Exports()[0].FS
}

// The rules of vfs.FS hold over real voters and stores. (Its crash rules are
// tested where a crash can be had: in package volume and in test/kernel.)
func TestConformance(t *testing.T) {
	t.Parallel()
	fs := clusterFS(t)
	mode := uint32(0o777)
	if _, err := fs.SetAttr(t.Context(), &vfs.Root, vfs.RootIno, vfs.SetAttr{Mode: &mode}, false); err != nil {
		t.Fatal(err)
	}
	vfstest.Run(t, func(*testing.T) vfs.FS { return fs })
}

func TestModel(t *testing.T) {
	t.Parallel()
	vfstest.Model(t, clusterFS(t))
}

func TestLimits(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("65,000 links and 10,000 names take a minute")
	}
	vfstest.RunLong(t, clusterFS(t))
}
