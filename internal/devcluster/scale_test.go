package devcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/vfs"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// queries is how many queries of the namespace all voters were asked; shard 0 is asked by the clock, too.
func (c *Cluster) queries(t *testing.T) (n int) {
	t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "rackfs_meta_call_items_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			l := map[string]string{}
			for _, p := range m.GetLabel() {
				l[p.GetName()] = p.GetValue()
			}
			if l["op"] == "query" && l["shard"] == strconv.Itoa(namespaceShard) {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	if n == 0 {
		t.Fatal("no query was ever counted")
	}
	return n
}

// TestListingCalls: a long directory is listed with attributes in at most one
// metadata query per thousand entries, and completely.
func TestListingCalls(t *testing.T) {
	t.Parallel()
	files := 10_000
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		files = 100_000
	}
	c, err := Start(t.Context(), Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	}()
	fs := c.gateway.Exports()[0].FS
	mode := uint32(0o644)
	var next atomic.Int64
	var creators sync.WaitGroup
	begin := time.Now()
	for range 256 {
		creators.Go(func() {
			for i := next.Add(1); i <= int64(files); i = next.Add(1) {
				if _, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, fmt.Sprintf("checkpoint-%07d.bin", i),
					vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	creators.Wait()
	t.Logf("%d files made at %.0f/s", files, float64(files)/time.Since(begin).Seconds())
	cl, err := nfsclient.Dial(t.Context(), nfsclient.Config{Addr: c.NFSAddr(), Owner: t.Name(), Patient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close(context.Background())
	root, _, err := cl.Walk(t.Context(), "/default")
	if err != nil {
		t.Fatal(err)
	}
	// A slow machine may repeat a query, and others ask meanwhile: once of five times is enough.
	for try := 1; ; try++ {
		before := c.queries(t)
		entries, err := cl.Readdir(t.Context(), root, attr.Of(nfsv4.FATTR4_TYPE, nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_SIZE,
			nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEHANDLE, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_MODE, nfsv4.FATTR4_NUMLINKS,
			nfsv4.FATTR4_OWNER, nfsv4.FATTR4_OWNER_GROUP, nfsv4.FATTR4_RAWDEV, nfsv4.FATTR4_SPACE_USED, nfsv4.FATTR4_TIME_ACCESS,
			nfsv4.FATTR4_TIME_METADATA, nfsv4.FATTR4_TIME_MODIFY, nfsv4.FATTR4_MOUNTED_ON_FILEID))
		if err != nil {
			t.Fatal(err)
		}
		calls := c.queries(t) - before
		t.Logf("listed with %d metadata queries", calls)
		names := map[string]bool{}
		for _, e := range entries {
			names[e.Name] = true
		}
		if len(names) != files || len(entries) != files {
			t.Fatalf("%d entries, %d names, want %d", len(entries), len(names), files)
		}
		limit := files / 1000
		if calls <= limit {
			break
		}
		if try == 5 {
			t.Fatalf("listing %d entries took %d metadata queries, want at most %d", files, calls, limit)
		}
	}
}
