package raftmeta

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"google.golang.org/protobuf/proto"
)

// What a block server may do at the metadata port. It asks what it needs for deciding by itself which shards to delete or to rebuild:
// the states of blocks, whose metadata it is that answers, the cluster map, the nodes, the keys with which nodes gossip. It changes what is its own: the record of its node, those of its
// stores but for their state, and that a slot of a store of its own is not filling any more.

// gossipKind is the kind of the keys that all nodes have.
const gossipKind = "gossip"

// checkBlockQuery refuses all other queries.
func checkBlockQuery(node string, q *metapb.Query) error {
	switch q.Q.(type) {
	case *metapb.Query_BlockStates, *metapb.Query_ShardInfo, *metapb.Query_ClusterMap, *metapb.Query_Nodes, *metapb.Query_RetiredNodes:
		return nil
	case *metapb.Query_Keys:
		if q.GetKeys().GetKind() == gossipKind {
			return nil
		}
	}
	return vfs.Errorf(vfs.KindPerm, "raftmeta.query", "block server %s may ask for the states of blocks, the shard, the cluster map, the nodes and the keys of gossip only", node)
}

// checkBlockCommands refuses all other commands, as seen in the state that a linearizable read shows. The state may change until the commands are
// applied: the state machine refuses a group of another epoch, and a slot that would begin to fill again.
func (sh *shard) checkBlockCommands(ctx context.Context, node string, cmds [][]byte) error {
	const op = "raftmeta.propose"
	var parsed []*metapb.Command
	for _, enc := range cmds {
		var c metapb.Command
		if err := c.UnmarshalVT(enc); err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "malformed command: %w", err)
		}
		if sh.id != 0 {
			return vfs.Errorf(vfs.KindPerm, op, "block server %s may change nothing of a file system", node)
		}
		parsed = append(parsed, &c)
	}
	v, cache, err := sh.read(ctx)
	if err != nil {
		return err
	}
	defer v.Release()
	r := fsm.Query(v, cache, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return vfs.Errorf(k, op, "%s", r.Text)
	}
	for _, c := range parsed {
		if err := checkBlockCommand(node, r.GetClusterMap(), c); err != nil {
			return err
		}
	}
	return nil
}

// checkBlockCommand refuses what is not a block server's to change.
func checkBlockCommand(node string, m *metapb.ClusterMapR, c *metapb.Command) error {
	const op = "raftmeta.propose"
	record := func(id uint32) *metapb.Store {
		for _, s := range m.Stores {
			if s.Id == id {
				return s
			}
		}
		return nil
	}
	switch x := c.Op.(type) {
	case *metapb.Command_ChangePgs:
		return checkFilled(node, m, x.ChangePgs)
	case *metapb.Command_PutNode:
		if n := x.PutNode.GetNode(); n.GetName() == node && n.GetVersion() > 1 {
			return nil // a record that was removed is not made again by who it was of
		}
	case *metapb.Command_PutStore:
		s := x.PutStore.GetStore()
		old := record(s.GetId())
		if s.GetNode() == node && s.GetState() == old.GetState() && (old == nil || old.Node == node) {
			return nil // a new one is in, which is the zero state
		}
	case *metapb.Command_ReplaceStore:
		r := x.ReplaceStore
		if record(r.Old).GetNode() == node && r.GetNew().GetNode() == node && r.New.State == metapb.StoreState_STORE_IN {
			return nil
		}
	}
	return vfs.Errorf(vfs.KindPerm, op, "block server %s may change the records of its own node and stores, and end the filling of its own slots, and nothing else", node)
}

// checkFilled refuses a change of groups unless all it does is to end the filling of slots of the node's stores.
func checkFilled(node string, m *metapb.ClusterMapR, c *metapb.ChangePGs) error {
	const op = "raftmeta.propose"
	own := map[uint32]bool{}
	for _, s := range m.Stores {
		own[s.Id] = s.Node == node && s.State != metapb.StoreState_STORE_LOST
	}
	groups := map[uint32]*metapb.PlacementGroup{}
	for _, p := range m.Pools {
		if p.Id == c.Pool {
			for _, g := range p.Pgs {
				groups[g.Id] = g
			}
		}
	}
	for _, ch := range c.Changes {
		now, g := groups[ch.GetPg().GetId()], ch.GetPg()
		switch {
		case ch.Remove || ch.ExpectEpoch == 0:
			return vfs.Errorf(vfs.KindPerm, op, "block server %s may not add or remove placement group %d", node, g.GetId())
		case now == nil || now.Epoch != ch.ExpectEpoch:
			return vfs.Errorf(vfs.KindChanged, op, "placement group %d is at epoch %d, not %d", g.GetId(), now.GetEpoch(), ch.ExpectEpoch)
		}
		want, stale := now.CloneVT(), false
		for i, s := range want.Slots {
			if i >= len(g.Slots) {
				break
			}
			switch t := g.Slots[i]; {
			case own[s.Store] && !t.Filling && t.Previous == 0:
				s.Filling, s.Previous = false, 0
			case !s.Filling && t.Filling && s.Store == t.Store:
				// Another member's slot was filled meanwhile.
				s.Filling, s.Previous, stale = t.Filling, t.Previous, true
			}
		}
		if want.State != g.State {
			want.State, stale = g.State, true
		}
		switch {
		case !proto.Equal(want, g):
			return vfs.Errorf(vfs.KindPerm, op, "block server %s may end the filling of slots of its own stores, and change nothing else of placement group %d", node, g.Id)
		case stale:
			return vfs.Errorf(vfs.KindChanged, op, "placement group %d has changed meanwhile: read the map again", g.Id)
		}
	}
	return nil
}
