package devcluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// A store is drained: everything moves off it, while files are read and written. It is wanted again: its share of old groups moves on to it, and new
// files are there too. Between the two any two other stores may be lost, as ever.
func TestDrainAndBack(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.BlockStores = 8
	c := startQuick(t, cfg)
	defer c.mustStop(t)
	files := map[string][]byte{}
	write := func(prefix string, n int) {
		for i := range n {
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
	const drained = 3 // the id of a store
	put := func(state metapb.StoreState) {
		t.Helper()
		for _, s := range c.cmap(t).Stores {
			if s.Id == drained {
				s = s.CloneVT()
				s.State = state
				if _, err := c.meta.Apply(t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: s}}}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// slots are those on the store, those that move from it, and all that are being filled.
	slots := func() (on, from, filling int) {
		for _, g := range c.cmap(t).Pools[0].Pgs {
			for _, s := range g.Slots {
				if s.Store == drained {
					on++
				}
				if s.Previous == drained {
					from++
				}
				if s.Filling {
					filling++
				}
			}
		}
		return on, from, filling
	}
	write("before", 12)
	had, _, _ := slots()
	put(metapb.StoreState_STORE_OUT)
	write("during", 6)
	began := time.Now()
	await(t, func() string {
		if on, from, filling := slots(); on+from+filling > 0 {
			return fmt.Sprintf("%d slots are on the store that is drained, %d move from it, %d are being filled", on, from, filling)
		}
		return ""
	})
	t.Logf("%d slots were moved in %v", had, time.Since(began))
	// Nothing needs the store any more.
	if err := c.stores[drained-1].unserve(); err != nil {
		t.Fatal(err)
	}
	check()
	if err := c.serve(c.stores[drained-1]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.meta.Apply(t.Context(), clusterShard, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: c.record(c.stores[drained-1])}}}); err != nil {
		t.Fatal(err)
	}
	put(metapb.StoreState_STORE_IN)
	began = time.Now()
	write("after", 6)
	await(t, func() string {
		on, _, filling := slots()
		if on < had-4 || filling > 0 {
			return fmt.Sprintf("%d slots are on the store, it had %d, and %d are being filled", on, had, filling)
		}
		return ""
	})
	on, _, _ := slots()
	t.Logf("it has %d slots again after %v", on, time.Since(began))
	for _, i := range []int{0, 5} {
		if err := c.stores[i].unserve(); err != nil {
			t.Fatal(err)
		}
	}
	check()
}
