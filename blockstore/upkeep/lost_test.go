package upkeep

import (
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// A node whose store was replaced is called where its present store is, not where the lost one was: that
// record stays, with an address at which nobody answers.
func TestCallersOfReplacedStores(t *testing.T) {
	p := &peers{conns: map[string]peer{}, dial: func(_, address string) Conn { return named{address: address} }}
	r := &metapb.ClusterMapR{}
	for i := range uint32(32) {
		node := fmt.Sprintf("n%d", i)
		r.Stores = append(r.Stores,
			&metapb.Store{Id: 1 + i, Node: node, Address: "old", State: metapb.StoreState_STORE_LOST, ReplacedBy: 100 + i},
			&metapb.Store{Id: 100 + i, Node: node, Address: "new"})
	}
	v := view{newClusterMap(r), p}
	for i := range uint32(32) {
		node := fmt.Sprintf("n%d", i)
		c, err := v.Caller(node)
		if err != nil || c.(named).address != "new" {
			t.Fatalf("%s is called at %v: %v", node, c, err)
		}
		if c, err := p.conn(v.clusterMap, placement.Target{Node: node, Disk: 100 + i}); err != nil || c.(named).address != "new" {
			t.Fatalf("store %d is called at %v: %v", 100+i, c, err)
		}
	}
}

// named is a connection that only has an address.
type named struct {
	Conn
	address string
}

// What is told of groups ends with them: fallback groups come and go.
func TestRemovedGroupsAreForgotten(t *testing.T) {
	r := newRig(t, rigOptions{stores: 6, k: 4, m: 2, pgs: 6})
	r.writeMany(6)
	n := r.nodes[0]
	before := n.heal()
	if before.Groups < 2 {
		t.Fatalf("%d groups", before.Groups)
	}
	pool := r.cluster().Pools[0]
	gone := pool.Pgs[0]
	r.meta.must(t, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: pool.Id, Changes: []*metapb.PGChange{
		{ExpectEpoch: gone.Epoch, Pg: &metapb.PlacementGroup{Id: gone.Id}, Remove: true},
	}}}})
	if _, err := n.keeper.refresh(r.ctx); err != nil { // as it does by itself, long before the next survey
		t.Fatal(err)
	}
	if after := n.heal(); after.Groups != before.Groups-1 {
		t.Fatalf("the status has %d groups after %d, one of which was removed", after.Groups, before.Groups)
	}
}
