package upkeep

import (
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A node whose store was replaced is called where its present store is, not where the lost one was: that
// record stays, with an address at which nobody answers. Who still has the map from before does not bring the old address back.
func TestCallersOfReplacedStores(t *testing.T) {
	dialed, closed := map[string]int{}, map[string]int{}
	p := newPeers(func(_, address string) Conn {
		dialed[address]++
		return named{address: address, closed: closed}
	})
	before, after := &metapb.ClusterMapR{Version: 7}, &metapb.ClusterMapR{Version: 8}
	const nodes = 32
	for i := range uint32(nodes) {
		node := fmt.Sprintf("n%d", i)
		before.Stores = append(before.Stores, &metapb.Store{Id: 1 + i, Node: node, Address: "old"})
		after.Stores = append(after.Stores,
			&metapb.Store{Id: 1 + i, Node: node, Address: "old", State: metapb.StoreState_STORE_LOST, ReplacedBy: 100 + i},
			&metapb.Store{Id: 100 + i, Node: node, Address: "new"})
	}
	before.Stores = append(before.Stores, &metapb.Store{Id: 99, Node: "gone", Address: "gone"})
	old, now := view{newClusterMap(before), p}, view{newClusterMap(after), p}
	if _, err := old.Caller("gone"); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(nodes) {
		node := fmt.Sprintf("n%d", i)
		if c, err := p.conn(old.clusterMap, placement.Target{Node: node, Disk: 1 + i}); err != nil || c.(named).address != "old" {
			t.Fatalf("before: store %d is called at %v: %v", 1+i, c, err)
		}
	}
	for _, v := range []view{now, old, now} {
		for i := range uint32(nodes) {
			node := fmt.Sprintf("n%d", i)
			c, err := v.Caller(node)
			if err != nil || c.(named).address != "new" {
				t.Fatalf("%s is called at %v: %v", node, c, err)
			}
			if c, err := p.conn(v.clusterMap, placement.Target{Node: node, Disk: 100 + i}); err != nil || c.(named).address != "new" {
				t.Fatalf("store %d is called at %v: %v", 100+i, c, err)
			}
			if _, err := p.conn(v.clusterMap, placement.Target{Node: node, Disk: 1 + i}); vfs.KindOf(err) != vfs.KindUnavailable {
				t.Fatalf("replaced store %d is called: %v", 1+i, err)
			}
		}
	}
	if _, err := old.Caller("gone"); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("a node that is not in the map is called: %v", err)
	}
	if dialed["old"] != nodes || dialed["new"] != nodes || closed["old"] != nodes || closed["new"] != 0 || closed["gone"] != 1 || len(p.conns) != nodes {
		t.Fatalf("dialed %v, closed %v, %d connections", dialed, closed, len(p.conns))
	}
}

// named is a connection that only has an address.
type named struct {
	Conn
	address string
	closed  map[string]int
}

func (n named) Close() { n.closed[n.address]++ }

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
