package devcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// quick is a cluster whose background work is done at once.
func quick(t *testing.T) Config {
	return Config{
		DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0",
		GCGrace: time.Second, CollectInterval: 200 * time.Millisecond, retireInterval: time.Second, reencodeInterval: 300 * time.Millisecond,
		retryInterval: time.Second, mapInterval: 500 * time.Millisecond,
	}
}

func startQuick(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Cluster) mustStop(t *testing.T) {
	t.Helper()
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func (c *Cluster) fs() vfs.FS { return c.gateway.Exports()[0].FS }

func (c *Cluster) cmap(t *testing.T) *metapb.ClusterMapR {
	t.Helper()
	m, err := provision.ClusterMap(t.Context(), c.meta)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// await waits until what is "". What takes long to find out is looked at less often: a whole check of a cluster, one after another, keeps it from what it is waited for.
func await(t *testing.T, what func() string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; {
		began := time.Now()
		w := what()
		if w == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", w)
		}
		time.Sleep(max(20*time.Millisecond, 3*time.Since(began)))
	}
}

// extentsOf lists the data shards of a file's blocks.
func (c *Cluster) extentsOf(t *testing.T, name string) (ks []uint32) {
	t.Helper()
	f, err := c.fs().Lookup(t.Context(), &vfs.Root, vfs.RootIno, name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.meta.Query(t.Context(), namespaceShard, &metapb.Query{Fs: defaultFS, Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{Ino: uint64(f.Ino)}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.GetExtents().GetExtents() {
		if e.Block == 0 {
			continue // inline
		}
		if e.M != 2 {
			t.Fatalf("%s: block of %d+%d, every one has two parity shards", name, e.K, e.M)
		}
		ks = append(ks, e.K)
	}
	return ks
}

// Two of six stores at 4+2 stop: writes go on at 2+2. They come back: what was written
// meanwhile becomes 4+2, and the smaller groups go away.
func TestWritesGoOnWithTwoStoresLess(t *testing.T) {
	t.Parallel()
	c := startQuick(t, quick(t))
	defer c.mustStop(t)
	files := map[string][]byte{}
	write := func(prefix string, from, n int) {
		for i := from; i < from+n; i++ {
			name := fmt.Sprintf("%s%d", prefix, i)
			files[name] = fileContent(i)
			writeFile(t, c.fs(), name, files[name])
		}
	}
	check := func() {
		t.Helper()
		for name, want := range files {
			checkFile(t, c.fs(), name, want)
		}
	}
	write("before", 0, 4)
	for _, i := range []int{1, 4} {
		if err := c.stores[i].unserve(); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	write("first", 2, 1) // 1 MiB
	t.Logf("the first write after two stores stopped took %v", time.Since(began))
	write("during", 0, 8)
	for name, data := range files {
		if len(data) < 100<<10 {
			continue // it needs three stores of a group, which may be those that are left of a full one
		}
		for _, k := range c.extentsOf(t, name) {
			if want := map[bool]uint32{true: 4, false: 2}[strings.HasPrefix(name, "before")]; k != want {
				t.Errorf("%s has a block with k=%d, want %d", name, k, want)
			}
		}
	}
	check()
	await(t, func() string { // a store that missed its last probe counts as unreadable until the next
		if st, h := c.placement(), c.health(); st == nil || st.Pools[0].Writes != "2+2" || st.Pools[0].Margin != 0 || !strings.Contains(h.text, "until then they are 2+2") {
			return fmt.Sprintf("status %+v, health %q", st, h.text)
		}
		return ""
	})
	for _, i := range []int{1, 4} {
		n := c.stores[i]
		if err := c.serve(n); err != nil {
			t.Fatal(err)
		}
		if _, err := c.meta.Apply(t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: c.record(n)}}}); err != nil {
			t.Fatal(err)
		}
	}
	began = time.Now()
	await(t, func() string {
		left := 0
		for _, g := range c.cmap(t).Pools[0].Pgs {
			if g.K != 0 {
				left++
			}
		}
		if left > 0 {
			return fmt.Sprintf("%d fallback groups are left: %+v", left, c.placement())
		}
		return ""
	})
	t.Logf("re-encoded, collected and removed after %v", time.Since(began))
	for name := range files {
		for _, k := range c.extentsOf(t, name) {
			if k != 4 {
				t.Errorf("%s has a block with k=%d after re-encoding", name, k)
			}
		}
	}
	check()
	if pgs := c.cmap(t).Pools[0].Pgs; len(pgs) != pgsPerStore*6 {
		t.Errorf("%d groups are left of %d", len(pgs), pgsPerStore*6)
	}
	write("after", 0, 2)
	check()
}

// Two store directories are wiped: new stores with new ids take their place and are filled from the others, so that
// two others may be lost after that. What was given up is refused when it comes back.
func TestLostStoresAreReplaced(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	c := startQuick(t, cfg)
	files := map[string][]byte{}
	for i := range 12 {
		name := fmt.Sprintf("f%d", i)
		files[name] = fileContent(i)
		writeFile(t, c.fs(), name, files[name])
	}
	check := func() {
		t.Helper()
		for name, want := range files {
			checkFile(t, c.fs(), name, want)
		}
	}
	c.mustStop(t)
	dir := func(name string) string { return filepath.Join(cfg.DataDir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	saved := filepath.Join(t.TempDir(), "store-2")
	must(os.Rename(dir("store-2"), saved))
	must(os.RemoveAll(dir("store-5")))
	must(os.Mkdir(dir("store-5"), 0o700))

	c = startQuick(t, cfg)
	check()
	for i, old := range map[int]uint32{1: 2, 4: 5} {
		n := c.stores[i]
		if n.store == nil || n.ID < 7 || n.Replaces != old {
			t.Fatalf("%s: id %d in place of %d (%v)", n.name, n.ID, n.Replaces, n.err)
		}
	}
	for _, s := range c.cmap(t).Stores {
		if lost := s.Id == 2 || s.Id == 5; lost != (s.State == metapb.StoreState_STORE_LOST) {
			t.Errorf("store %+v", s)
		}
	}
	await(t, func() string {
		for _, g := range c.cmap(t).Pools[0].Pgs {
			for _, s := range g.Slots {
				if s.Filling {
					return fmt.Sprintf("group %d is being filled", g.Id)
				}
			}
		}
		return ""
	})
	for _, i := range []int{0, 3} { // others than those that were lost
		must(c.stores[i].unserve())
	}
	check()
	c.mustStop(t)

	// The ids stay over a restart.
	c = startQuick(t, cfg)
	if a, b := c.stores[1], c.stores[4]; a.ID < 7 || b.ID < 7 || a.Replaces+b.Replaces != 0 {
		t.Errorf("after a restart: ids %d and %d, in place of %d and %d", a.ID, b.ID, a.Replaces, b.Replaces)
	}
	c.mustStop(t)

	// The old directory comes back in place of the new one.
	second := filepath.Join(t.TempDir(), "store-2")
	must(os.Rename(dir("store-2"), second))
	must(os.Rename(saved, dir("store-2")))
	c = startQuick(t, cfg)
	if n := c.stores[1]; n.store != nil || n.err == nil || !strings.Contains(n.err.Error(), "given up and replaced by store") {
		t.Errorf("the directory of a store that was given up: %v", n.err)
	}
	check()
	c.mustStop(t)
	must(os.RemoveAll(dir("store-2")))
	must(os.Rename(second, dir("store-2")))

	// Somebody's files, and a link to a disk that is not mounted, are no lost store.
	must(os.Rename(dir("store-6"), filepath.Join(t.TempDir(), "store-6")))
	must(os.Mkdir(dir("store-6"), 0o700))
	must(os.WriteFile(filepath.Join(dir("store-6"), "thesis.tex"), nil, 0o600))
	must(os.Rename(dir("store-1"), filepath.Join(t.TempDir(), "store-1")))
	must(os.Symlink(filepath.Join(t.TempDir(), "mnt", "store-1"), dir("store-1")))
	c = startQuick(t, cfg)
	for i, says := range map[int]string{5: "thesis.tex", 0: "leads nowhere"} {
		if n := c.stores[i]; n.store != nil || n.err == nil || !strings.Contains(n.err.Error(), says) {
			t.Errorf("%s: %v, want %q", n.name, n.err, says)
		}
	}
	check()
	c.mustStop(t)
}
