package node

import (
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// The leader looks at the stores now and then, and seldom under load. What was changed in the map since, as by the removal of a node, is
// part of the cluster's status at once.
func TestStatusIsOfTheNewestMap(t *testing.T) {
	ctx := t.Context()
	c := testConfig(t, "n1", RoleMeta, RoleBlock)
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.ProbeEvery = time.Hour // after the first look there is no other one
	n := startNode(t, c)
	for end := time.Now().Add(5 * time.Minute); n.clusterStatus(ctx).Placement == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the leader does not look at the stores")
		}
	}
	seen := n.guardian.Status()
	uuid := make([]byte, 16)
	uuid[0] = 50
	put := &metapb.PutStore{Store: &metapb.Store{Id: 50, Uuid: uuid, Node: "n9", Address: "127.0.0.1:1", Capacity: 1 << 30}}
	if _, err := n.meta.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: put}}); err != nil {
		t.Fatal(err)
	}
	st := n.clusterStatus(ctx).Placement
	if i := slices.IndexFunc(st.Stores, func(s nodegroup.StoreStatus) bool { return s.ID == 50 }); i < 0 || st.Stores[i].State != nodegroup.Unknown || st.Version <= seen.Version {
		t.Errorf("a store was added after version %d of the map, the status is of version %d: %+v", seen.Version, st.Version, st.Stores)
	}
	if now := n.guardian.Status(); now.Version != seen.Version {
		t.Errorf("the leader looked again, so this shows nothing: version %d, before %d", now.Version, seen.Version)
	}
}
