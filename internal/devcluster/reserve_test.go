package devcluster

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// shardsOf counts the shards that the stores in some racks have of a pool's placement groups.
func (c *Cluster) shardsOf(t *testing.T, pool uint32, in func(rack string) bool) (n int) {
	t.Helper()
	for _, p := range c.cmap(t).Pools {
		if p.Id != pool {
			continue
		}
		for _, s := range c.stores {
			if !in(rackOf(s.name)) {
				continue
			}
			for _, g := range p.Pgs {
				list, more, err := s.store.List(t.Context(), g.Id, nil, 1000)
				if err != nil || more {
					t.Fatal(err, more)
				}
				n += len(list)
			}
		}
	}
	return n
}

// atRest is "" when nothing is where it may not be, and all shards are where they should be and nowhere else.
func (c *Cluster) atRest(t *testing.T) string {
	if x := nodegroup.Exclusive(c.cmap(t)); len(x) > 0 {
		return fmt.Sprintf("%d slots, such as %v; %s", len(x), x[0], c.unfinished())
	}
	return c.astray(t, false)
}

// Racks with shared data are reserved for a group: all of it leaves them, and stays as it is; what the group's file system writes is on them
// and nowhere else; who still has the map of before can write nothing there. A node that is taken from the group by force keeps what has nowhere
// to go, which is read, and is sent nothing more: new data is narrower, until the node is back.
func TestReservedRacks(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.BlockStores, cfg.Profile = 7, "2+1"
	var group atomic.Value // of the gateway
	group.Store("")
	cfg.gatewayGroup = func() string { return group.Load().(string) }
	c := startQuick(t, cfg)
	defer c.mustStop(t)
	// serve has the gateway serve the file system of a group.
	serve := func(of string, id uint32) vfs.FS {
		t.Helper()
		group.Store(of)
		await(t, func() string {
			if e := c.gateway.Exports(); len(e) == 1 && e[0].FSID == id {
				return ""
			}
			return fmt.Sprintf("file system %d is not served", id)
		})
		return c.fs()
	}
	admin := api.Dial(c.dir.sub(api.SocketName))
	defer admin.Close()
	ctx := t.Context()
	for i := range 12 {
		writeFile(t, c.fs(), fmt.Sprint("shared-", i), fileContent(i))
	}
	racks := []string{"rack-5", "rack-6", "rack-7"}
	reserved := func(rack string) bool { return slices.Contains(racks, rack) }
	other := func(rack string) bool { return !reserved(rack) }
	if c.shardsOf(t, defaultPool, reserved) == 0 {
		t.Fatal("no shared data on the racks: the test shows nothing")
	}
	before := c.cmap(t)

	if _, err := admin.CreateGroup(ctx, "gpu"); err != nil {
		t.Fatal(err)
	}
	// Two racks are not enough for 2+1, and five cannot be spared.
	_, err := admin.ReserveRacks(ctx, "gpu", append(slices.Clone(racks), "rack-3", "rack-4"), false)
	if vfs.KindOf(err) != vfs.KindBusy || !strings.Contains(err.Error(), "2 disks instead of 7, and 2+1 needs 3") {
		t.Fatalf("five of seven racks: %v", err)
	}
	if _, err := admin.ReserveRacks(ctx, "gpu", []string{"rack-77"}, false); vfs.KindOf(err) != vfs.KindNotFound || !strings.Contains(err.Error(), "rack-1, rack-2") {
		t.Fatalf("a rack without nodes: %v", err)
	}
	change, err := admin.ReserveRacks(ctx, "gpu", racks, false)
	if err != nil || len(change.Effects) != 1 || change.Effects[0].After != 4 || len(change.Notes) != 3 {
		t.Fatalf("%+v, %v", change, err)
	}
	if _, err := admin.AddNodes(ctx, "gpu", []string{"store-5", "store-6", "store-7"}, false); err != nil {
		t.Fatal(err)
	}
	await(t, func() string { return c.atRest(t) })
	if n := c.shardsOf(t, defaultPool, reserved); n > 0 {
		t.Fatalf("%d shards of shared data on reserved racks", n)
	}
	for i := range 12 {
		checkFile(t, c.fs(), fmt.Sprint("shared-", i), fileContent(i))
	}
	c.refusesOldMap(t, before, reserved)

	// A file system of the group.
	pool := c.newPool(t, placement.Profile{K: 2, M: 1})
	// Another pool is not used, and goes with its placement groups.
	unused := c.newPool(t, placement.Profile{K: 1, M: 1})
	await(t, func() string {
		m := c.cmap(t)
		_, err := c.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemovePool{RemovePool: &metapb.RemovePool{Id: unused.Id, ExpectMapVersion: m.Version}}})
		if err != nil {
			return err.Error()
		}
		return map[bool]string{true: "the pool is still there"}[len(c.cmap(t).Pools) > 2]
	})
	if f, err := admin.CreateFileSystem(ctx, api.NewFileSystem{Name: "gpu", Kind: "group", Group: "gpu", Profile: "2+1"}); err != nil || f.ID != 2 {
		t.Fatal(f, err)
	}
	for i := range 8 {
		writeFile(t, c.fs(), fmt.Sprint("more-", i), fileContent(i+3))
	}
	fs := serve("gpu", 2)
	for i := range 8 {
		writeFile(t, fs, fmt.Sprint("gpu-", i), fileContent(i))
	}
	await(t, func() string { return c.atRest(t) })
	if here, there := c.shardsOf(t, pool.Id, reserved), c.shardsOf(t, pool.Id, other); here == 0 || there != 0 {
		t.Fatalf("%d shards of the group on its racks, %d elsewhere", here, there)
	}
	if n := c.shardsOf(t, defaultPool, reserved); n > 0 {
		t.Fatalf("%d shards of shared data on reserved racks", n)
	}
	shared := serve("", defaultFS)
	for i := range 8 {
		checkFile(t, shared, fmt.Sprint("more-", i), fileContent(i+3))
	}
	fs = serve("gpu", 2)
	for i := range 8 {
		checkFile(t, fs, fmt.Sprint("gpu-", i), fileContent(i))
	}
	g, err := admin.Group(ctx, "gpu")
	if err != nil || len(g.Nodes) != 3 || !g.Nodes[0].Usable || len(g.Racks) != 3 || g.Racks[0].Leaving+g.Racks[0].Waiting != 0 || len(g.Pools) != 1 || g.Pools[0].Groups == 0 {
		t.Fatalf("%+v, %v", g, err)
	}
	if err := admin.DeleteGroup(ctx, "gpu"); vfs.KindOf(err) != vfs.KindBusy || !strings.Contains(err.Error(), "nodes store-5, store-6, store-7; reserved racks rack-5, rack-6, rack-7; file systems default/gpu") {
		t.Fatal(err)
	}
	// A node cannot leave that the group's pool needs.
	if _, err := admin.RemoveNodes(ctx, "gpu", []string{"store-5"}, false); vfs.KindOf(err) != vfs.KindBusy || !strings.Contains(err.Error(), "and 2+1 needs 3") {
		t.Fatal(err)
	}
	if _, err := admin.RemoveNodes(ctx, "gpu", []string{"store-5"}, true); err != nil {
		t.Fatal(err)
	}
	await(t, func() string { return c.placed(t, nodegroup.Waiting) })
	on5 := func() int { return c.shardsOf(t, pool.Id, func(rack string) bool { return rack == "rack-5" }) }
	held, files := 0, 0
	await(t, func() string { // the gateway learns of it
		held = on5()
		files++
		writeFile(t, fs, fmt.Sprint("narrow-", files), fileContent(2))
		return map[bool]string{true: "what is written goes to store 5"}[on5() > held]
	})
	if held == 0 {
		t.Fatal("store 5 has nothing of the group: the test shows nothing")
	}
	if n := c.shardsOf(t, pool.Id, other); n > 0 {
		t.Fatalf("%d shards of the group elsewhere", n)
	}
	for i := range 8 {
		checkFile(t, fs, fmt.Sprint("gpu-", i), fileContent(i))
	}
	if _, err := admin.AddNodes(ctx, "gpu", []string{"store-5"}, false); err != nil {
		t.Fatal(err)
	}
	await(t, func() string { return c.atRest(t) })
	await(t, func() string {
		held = on5()
		files++
		writeFile(t, fs, fmt.Sprint("wide-", files), fileContent(2))
		return map[bool]string{true: "nothing that is written goes to store 5"}[on5() <= held]
	})
	checkFile(t, fs, "narrow-1", fileContent(2))
	checkFile(t, fs, fmt.Sprint("wide-", files), fileContent(2))

	// The group is deleted while the data of its file system is being destroyed, and goes by itself when that is done.
	if _, err := admin.DeleteFileSystem(ctx, "", "gpu", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RemoveNodes(ctx, "gpu", []string{"store-5", "store-6", "store-7"}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ReleaseRacks(ctx, racks, false); err != nil {
		t.Fatal(err)
	}
	if err := admin.DeleteGroup(ctx, "gpu"); err != nil {
		t.Fatal(err)
	}
	if err := admin.DeleteGroup(ctx, "gpu"); err != nil && vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("a repeated deletion: %v", err)
	}
	await(t, func() string {
		g, err := admin.Group(ctx, "gpu")
		return map[bool]string{true: fmt.Sprintf("the group is still there: %+v, %v", g, err)}[vfs.KindOf(err) != vfs.KindNotFound]
	})
	if pools := c.cmap(t).Pools; len(pools) != 1 {
		t.Errorf("%d pools", len(pools))
	}
	await(t, func() string { return c.atRest(t) })
}

// placed is "" when all slots that are where they may not be are in one state, and there are some.
func (c *Cluster) placed(t *testing.T, want nodegroup.Place) string {
	all := nodegroup.Exclusive(c.cmap(t))
	for _, x := range all {
		if x.Place != want {
			return x.String()
		}
	}
	return map[bool]string{true: "every slot is where it may be"}[len(all) == 0]
}

func (c *Cluster) put(t *testing.T, shard uint16, cmd *metapb.Command) {
	t.Helper()
	if _, err := c.meta.Apply(t.Context(), shard, cmd); err != nil {
		t.Fatal(err)
	}
}

// newPool makes a pool of group gpu, and waits for its placement groups.
func (c *Cluster) newPool(t *testing.T, profile placement.Profile) *metapb.Pool {
	t.Helper()
	pool, exists, err := nodegroup.NewPool(c.cmap(t), "gpu", profile)
	if err != nil || exists {
		t.Fatal(pool, exists, err)
	}
	c.put(t, clusterShard, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: pool}}})
	await(t, func() string {
		m := c.cmap(t)
		p := m.Pools[len(m.Pools)-1]
		return map[bool]string{true: "the pool has no placement groups"}[p.Id != pool.Id || len(p.Pgs) == 0]
	})
	return pool
}

// refusesOldMap checks that the stores in some racks take no shard of a group that left them from who has the map of before.
func (c *Cluster) refusesOldMap(t *testing.T, before *metapb.ClusterMapR, in func(rack string) bool) {
	t.Helper()
	tried := 0
	for _, g := range before.Pools[0].Pgs {
		for i, slot := range g.Slots {
			n := c.stores[slot.Store-1]
			if !in(rackOf(n.name)) {
				continue
			}
			tried++
			err := n.store.Put(t.Context(), &store.Put{
				Key: segment.Key{PG: g.Id, Block: 1<<48 | 1<<40, Shard: uint8(i)}, Epoch: g.Epoch, K: 2, M: 1, BlockLen: 64 << 10, Data: make([]byte, 32<<10),
			})
			if vfs.KindOf(err) != vfs.KindFenced {
				t.Fatalf("store %d took a shard of placement group %d at epoch %d: %v", slot.Store, g.Id, g.Epoch, err)
			}
		}
	}
	if tried == 0 {
		t.Fatal("nothing was tried")
	}
}
