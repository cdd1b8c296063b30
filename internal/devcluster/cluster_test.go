package devcluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/vfs"
)

// content is what file i holds: sizes that are inlined, one data shard, several, and several blocks.
func content(i int) []byte {
	sizes := []int{0, 1, 4096, 5000, 40 << 10, 200 << 10, 1 << 20, 5<<20 + 123}
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	p := make([]byte, sizes[i%len(sizes)])
	for j := range p {
		p[j] = byte(rng.Uint32())
	}
	return p
}

const testFiles = 24

func writeFiles(t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	cl, root := dial(t, c, 1)
	defer cl.Close(context.WithoutCancel(ctx))
	for i := range testFiles {
		f, err := cl.Create(ctx, root, fmt.Sprintf("f%d", i), 0o640)
		if err != nil {
			t.Fatal(err)
		}
		p := content(i)
		for off := 0; off < len(p); off += 1 << 20 {
			if _, err := cl.Write(ctx, f, uint64(off), nfsv4.UNSTABLE4, p[off:min(off+1<<20, len(p))]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := cl.Commit(ctx, f.FH, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := cl.CloseFile(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
}

func readFiles(t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	cl, root := dial(t, c, 1)
	defer cl.Close(context.WithoutCancel(ctx))
	for i := range testFiles {
		f, err := cl.Open(ctx, root, nfsclient.OpenArgs{Name: fmt.Sprintf("f%d", i), Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
		if err != nil {
			t.Fatalf("open f%d: %v", i, err)
		}
		want := content(i)
		var got []byte
		buf := make([]byte, 1<<20)
		for {
			n, eof, err := cl.Read(ctx, f, uint64(len(got)), buf)
			if err != nil {
				t.Fatalf("read f%d at %d: %v", i, len(got), err)
			}
			got = append(got, buf[:n]...)
			if eof {
				break
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("f%d: read %d bytes that are not the %d written", i, len(got), len(want))
		}
		if err := cl.CloseFile(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRestartFindsEverything(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := startCluster(t, dir)
	writeFiles(t, c)
	stopCluster(t, c)
	c = startCluster(t, dir)
	defer stopCluster(t, c)
	readFiles(t, c)
}

// A cluster that lost as many stores as it has parity shards, and a minority of
// its voters, serves all it has. The voter is replaced: after it, another one may be lost.
// (What becomes of the stores: TestLostStoresAreReplaced.)
func TestLostDirectories(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := startCluster(t, dir)
	writeFiles(t, c)
	stopCluster(t, c)
	for _, lost := range []string{"store-2", "store-5", "meta-1"} {
		if err := os.RemoveAll(filepath.Join(dir, lost)); err != nil {
			t.Fatal(err)
		}
	}
	c = startCluster(t, dir)
	readFiles(t, c)
	awaitHealth(t, c, "meta-1")
	stopCluster(t, c)

	// An empty directory, such as one where a disk is not mounted, is a lost one too. The replaced voter's vote is needed now.
	if err := os.RemoveAll(filepath.Join(dir, "meta-2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "meta-2"), 0o700); err != nil {
		t.Fatal(err)
	}
	c = startCluster(t, dir)
	readFiles(t, c)
	awaitHealth(t, c, "meta-2")
	stopCluster(t, c)

	// More of either than can be spared is too much at once, and is said; nothing is made in their place.
	for _, tooMuch := range []struct {
		dirs []string
		says string
	}{{[]string{"store-1", "store-3", "store-6"}, "3 of 6"}, {[]string{"meta-1", "meta-3"}, "2 of 3"}} {
		for _, d := range tooMuch.dirs {
			if err := os.Rename(filepath.Join(dir, d), filepath.Join(dir, "saved-"+d)); err != nil {
				t.Fatal(err)
			}
		}
		c, err := devcluster.Start(t.Context(), devcluster.Config{DataDir: dir, NFSAddr: "127.0.0.1:0"})
		if err == nil {
			stopCluster(t, c)
			t.Fatalf("started without %s", tooMuch.dirs)
		}
		if vfs.KindOf(err) != vfs.KindUnavailable || !strings.Contains(err.Error(), tooMuch.says) {
			t.Errorf("without %s: %v, want %q", tooMuch.dirs, err, tooMuch.says)
		}
		for _, d := range tooMuch.dirs {
			if err := os.Rename(filepath.Join(dir, "saved-"+d), filepath.Join(dir, d)); err != nil {
				t.Error(err)
			}
		}
	}
	c = startCluster(t, dir)
	defer stopCluster(t, c)
	readFiles(t, c)
}

// A voter with a flipped bit in its log serves no shard with it, is replaced while the cluster serves, and its
// directory stays for inspection.
func TestDamagedVoter(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := startCluster(t, dir)
	writeFiles(t, c)
	stopCluster(t, c)
	segments, err := filepath.Glob(filepath.Join(dir, "meta-3", "shard-00001", "wal", "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments %q: %v", segments, err)
	}
	b, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(bytes.TrimRight(b, "\x00"))/2] ^= 1
	if err := os.WriteFile(segments[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	c = startCluster(t, dir)
	readFiles(t, c)
	awaitHealth(t, c, "meta-3")
	stopCluster(t, c)
	aside, err := filepath.Glob(filepath.Join(dir, "meta-3", "shard-*.damaged-*"))
	if err != nil || len(aside) != 1 || !strings.Contains(aside[0], "shard-00001") {
		t.Errorf("set aside: %q, %v", aside, err)
	}
	// Its vote is needed now.
	if err := os.RemoveAll(filepath.Join(dir, "meta-1")); err != nil {
		t.Fatal(err)
	}
	c = startCluster(t, dir)
	defer stopCluster(t, c)
	readFiles(t, c)
	awaitHealth(t, c, "meta-1")
}

func healthz(t *testing.T, c *devcluster.Cluster) string {
	t.Helper()
	resp, err := http.Get("http://" + c.HTTPAddr() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/healthz: %s %q %v", resp.Status, b.String(), err)
	}
	return b.String()
}

// awaitHealth waits until /healthz does not speak of part any more.
func awaitHealth(t *testing.T, c *devcluster.Cluster, part string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		text := healthz(t, c)
		if !strings.Contains(text, part) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("/healthz still says %q", text)
		}
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	for _, c := range []devcluster.Config{
		{Voters: 1, BlockStores: 1, Profile: "1+0"},
		{Voters: 1, BlockStores: 3, Profile: "2+1", LogStore: "raft-boltdb"},
		{Voters: 1, BlockStores: 8, Profile: "4+2", Encrypt: true},
	} {
		t.Run(fmt.Sprintf("%d voters, %s on %d stores %s", c.Voters, c.Profile, c.BlockStores, c.LogStore), func(t *testing.T) {
			c.DataDir, c.NFSAddr, c.HTTPAddr = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "127.0.0.1:0"
			cluster, err := devcluster.Start(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer stopCluster(t, cluster)
			writeFiles(t, cluster)
			readFiles(t, cluster)
			checkHTTP(t, cluster, c.BlockStores)
		})
	}
}

func checkHTTP(t *testing.T, c *devcluster.Cluster, stores int) {
	t.Helper()
	hc := &http.Client{Timeout: 30 * time.Second}
	defer hc.CloseIdleConnections()
	get := func(path string) []byte {
		resp, err := hc.Get("http://" + c.HTTPAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s %v", path, resp.Status, err)
		}
		return b.Bytes()
	}
	var st struct {
		Stores  []json.RawMessage `json:"stores"`
		Exports []struct {
			Path string `json:"path"`
		} `json:"exports"`
	}
	if err := json.Unmarshal(get("/status"), &st); err != nil {
		t.Fatal(err)
	}
	if len(st.Stores) != stores || len(st.Exports) != 1 || st.Exports[0].Path != "/default" {
		t.Errorf("status %+v", st)
	}
	for _, metric := range []string{"rackfs_store_puts_total", "rackfs_stripe_writes_total", "rackfs_nfs_", "rackfs_meta_", "rackfs_placement_margin"} {
		if !bytes.Contains(get("/metrics"), []byte(metric)) {
			t.Errorf("/metrics has no %s", metric)
		}
	}
	if got := string(get("/healthz")); got != "ok\n" {
		t.Errorf("/healthz: %q", got)
	}
}

func TestRefusedConfigurations(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  devcluster.Config
		says string
	}{
		"no directory":        {devcluster.Config{NFSAddr: "127.0.0.1:0"}, "--data"},
		"even voters":         {devcluster.Config{DataDir: "x", NFSAddr: "127.0.0.1:0", Voters: 2}, "even number"},
		"wide profile":        {devcluster.Config{DataDir: "x", NFSAddr: "127.0.0.1:0", Profile: "8+3"}, "needs 11 block stores"},
		"no profile":          {devcluster.Config{DataDir: "x", NFSAddr: "127.0.0.1:0", Profile: "raid5"}, "raid5"},
		"nine gateways":       {devcluster.Config{DataDir: "x", NFSAddr: "127.0.0.1:0", Gateways: 9}, "use 1 to 8"},
		"unknown log store":   {devcluster.Config{DataDir: "x", NFSAddr: "127.0.0.1:0", LogStore: "sqlite"}, "raft-wal or raft-boltdb"},
		"address not an addr": {devcluster.Config{DataDir: "x", NFSAddr: "2049"}, "host:port"},
		"short lease":         {devcluster.Config{DataDir: "x", NFSAddr: "127.0.0.1:0", Lease: time.Millisecond}, "1s to 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			cl, err := devcluster.Start(t.Context(), c.cfg)
			if err == nil {
				stopCluster(t, cl)
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("refused with %q, which does not say %q", err, c.says)
			}
			if _, err := os.Stat("x"); err == nil {
				t.Error("a refused start left a directory behind")
			}
		})
	}
}
