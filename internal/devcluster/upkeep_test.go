package devcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/vfs"
)

func fileContent(i int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(i), 0x55})
	p := make([]byte, []int{8 << 10, 100 << 10, 1 << 20, 5<<20 + 99}[i%4])
	_, _ = rng.Read(p)
	return p
}

func writeFile(t *testing.T, fs vfs.FS, name string, data []byte) {
	t.Helper()
	mode := uint32(0o644)
	f, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += 1 << 20 {
		if _, _, err := fs.Write(t.Context(), &vfs.Root, f.Attr.Ino, uint64(off), data[off:min(off+1<<20, len(data))], vfs.FileSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Close(t.Context(), f.Attr.Ino, vfs.OpenWrite); err != nil {
		t.Fatal(err)
	}
}

func checkFile(t *testing.T, fs vfs.FS, name string, want []byte) {
	t.Helper()
	f, err := fs.Lookup(t.Context(), &vfs.Root, vfs.RootIno, name)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 0, len(want)+1)
	buf := make([]byte, 1<<20)
	for {
		n, eof, err := fs.Read(t.Context(), f.Ino, uint64(len(got)), buf)
		if err != nil {
			t.Fatalf("%s at %d: %v", name, len(got), err)
		}
		if got = append(got, buf[:n]...); eof || n == 0 {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes that are not the %d written", name, len(got), len(want))
	}
}

func (c *Cluster) used() (total int64) {
	for _, n := range c.stores {
		total += n.store.Info().Used
	}
	return total
}

func (c *Cluster) keepers() (out []upkeep.Status) {
	for _, n := range c.stores {
		out = append(out, n.keeper.Load().Status())
	}
	return out
}

// The space of deleted files comes back, the others stay as they are, over restarts too; and the status says what is done.
func TestSpaceOfDeletedFiles(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", GCGrace: time.Second, CollectInterval: 100 * time.Millisecond}
	start := func() *Cluster {
		t.Helper()
		c, err := Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	stop := func(c *Cluster) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c := start()
	fs := c.gateway.Exports()[0].FS
	const files = 24
	for i := range files / 2 {
		writeFile(t, fs, fmt.Sprintf("f%d", i), fileContent(i))
	}
	half := c.used()
	for i := files / 2; i < files; i++ {
		writeFile(t, fs, fmt.Sprintf("f%d", i), fileContent(i))
	}
	full := c.used()
	for i := files / 2; i < files; i++ {
		if _, err := fs.Remove(t.Context(), &vfs.Root, vfs.RootIno, fmt.Sprintf("f%d", i), vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, fmt.Sprintf("fall from %d to the %d bytes of the files that are left", full, half), func() bool { return c.used() <= half })
	check := func() {
		t.Helper()
		for i := range files / 2 {
			checkFile(t, fs, fmt.Sprintf("f%d", i), fileContent(i))
		}
	}
	check()
	stop(c)

	c = start()
	defer func() { stop(c) }()
	fs = c.gateway.Exports()[0].FS
	check()
	eventually(t, "check of all groups", func() bool {
		for _, s := range c.keepers() {
			if s.Groups != pgsPerStore*6 || s.Clean != s.Groups || s.Error != "" || s.Collect.Began.IsZero() || s.Collect.Error != "" {
				return false
			}
		}
		return true
	})
	for _, s := range c.keepers() {
		if s.Missing+s.Pending+s.Damaged+s.Rebuilt != 0 {
			t.Errorf("status %+v", s)
		}
	}
	// Less than half is what attempts left that were given up, as a store was slow: no shard was missing.
	eventually(t, fmt.Sprintf("stay at the %d bytes of the files that are left", half), func() bool { return c.used() <= half })
	enc, err := json.Marshal(c.status())
	if err != nil || !bytes.Contains(enc, []byte(`"clean":48`)) {
		t.Errorf("%s: %v", enc, err)
	}
}

// Stores are told of blocks that died: space comes back long before their next pass. Nobody says it again to a store that did not listen, for that there is the
// pass, so not every round has to work.
func TestStoresAreToldOfDeadBlocks(t *testing.T) {
	t.Parallel()
	const rounds, patience = 5, time.Minute
	cfg := quick(t)
	cfg.CollectInterval = 24 * time.Hour
	c := startQuick(t, cfg)
	defer c.mustStop(t)
	for round := range rounds {
		before := c.used()
		for i := range 8 {
			writeFile(t, c.fs(), fmt.Sprintf("f%d", i), fileContent(i))
		}
		for i := range 8 {
			if _, err := c.fs().Remove(t.Context(), &vfs.Root, vfs.RootIno, fmt.Sprintf("f%d", i), vfs.RemoveAny); err != nil {
				t.Fatal(err)
			}
		}
		for removed := time.Now(); time.Since(removed) < patience; time.Sleep(20 * time.Millisecond) {
			if c.used() <= before {
				t.Logf("round %d: with a grace of %v the space was back after %v", round+1, cfg.GCGrace, time.Since(removed))
				return
			}
		}
		t.Logf("round %d: %d bytes are used, %d were before", round+1, c.used(), before)
	}
	t.Errorf("in none of %d rounds did the space come back", rounds)
}

// While stores are repaired, status and metrics say what runs where, how far it is and how fast, and what waits; no more runs than
// the limits say.
func TestWorkIsVisible(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.HTTPAddr = "127.0.0.1:0"
	c := startQuick(t, cfg)
	const files = 64
	for i := range files {
		writeFile(t, c.fs(), fmt.Sprintf("f%d", i), fileContent(2)) // 1 MiB
	}
	c.mustStop(t)
	for _, name := range []string{"store-2", "store-5"} {
		if err := os.RemoveAll(filepath.Join(cfg.DataDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cfg.work.Classes[ledger.Repair] = ledger.ClassLimits{Tasks: 1, BytesPerSecond: 1 << 20}
	c = startQuick(t, cfg)
	defer c.mustStop(t)
	get := func(path string) []byte {
		t.Helper()
		r, err := http.Get("http://" + c.HTTPAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	await(t, func() string {
		var st struct {
			Work []struct {
				Shard uint16 `json:"shard"`
				ledger.Entry
			} `json:"work"`
		}
		if err := json.Unmarshal(get("/status"), &st); err != nil {
			t.Fatal(err)
		}
		running, waiting, seen := 0, 0, false
		for _, e := range st.Work {
			switch {
			case e.Kind != "repair":
			case !e.Running:
				waiting++
			case e.Shard != clusterShard || e.PG == 0 || e.Spare != 0 || e.BlocksTotal == 0 || e.BytesTotal == 0 || !strings.HasPrefix(e.Worker, "store-"):
				t.Fatalf("%+v", e)
			default:
				if running++; running > 1 {
					t.Fatalf("more than one repair at once: %+v", st.Work)
				}
				seen = e.BlocksDone > 0 && e.BytesPerSecond > 0 && e.ETASeconds > 0
			}
		}
		if !seen || waiting == 0 {
			return fmt.Sprintf("%+v", st.Work)
		}
		return ""
	})
	await(t, func() string {
		m := string(get("/metrics"))
		for _, want := range []string{
			`rackfs_work_tasks\{kind="repair",node="meta-[^}]*state="waiting"\} [1-9]`, `rackfs_work_task_blocks_total\{`, `rackfs_work_task_bytes_per_second\{`,
		} {
			if !regexp.MustCompile(want).MatchString(m) {
				return "the metrics have no " + want
			}
		}
		return ""
	})
	for i := range files {
		checkFile(t, c.fs(), fmt.Sprintf("f%d", i), fileContent(2))
	}
}

// Damage on disk that a reader meets is repaired by the store that has it.
func TestDamageIsRepaired(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0"}
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	const files = 8
	for i := range files {
		writeFile(t, c.gateway.Exports()[0].FS, fmt.Sprintf("f%d", i), fileContent(i))
	}
	stop := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	const sick = 3
	names, err := filepath.Glob(filepath.Join(cfg.DataDir, storeName(sick), "segments", "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	noise := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(noise)
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(noise, 4096); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if c, err = Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer func() { stop() }()
	check := func() {
		t.Helper()
		for i := range files {
			checkFile(t, c.gateway.Exports()[0].FS, fmt.Sprintf("f%d", i), fileContent(i))
		}
	}
	check()
	eventually(t, "repair", func() bool {
		s := c.keepers()[sick]
		return s.Rebuilt > 0 && s.Suspects == 0 && s.Clean == s.Groups && s.Groups == pgsPerStore*6
	})
	check()
}
