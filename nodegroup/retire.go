package nodegroup

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// retireGroups removes closed fallback groups that hold nothing. It goes group by group, so
// that a crash in the middle leaves at most one that is fenced and not removed.
func (m *Manager) retireGroups(ctx context.Context) error {
	var shards []uint16
	removed := false
	for _, p := range m.cmap.GetPools() {
		if r := placement.Assess(poolState(p, 0), m.storeStates()); r.Writable == 0 || r.Closed == 0 {
			continue // they may be wanted again
		}
		for _, g := range p.GetPgs() {
			if ctx.Err() != nil || g.K == 0 || g.State != metapb.PGState_PG_CLOSED {
				continue
			}
			if empty, err := m.listsNothing(ctx, g); err != nil || !empty {
				continue // a member does not answer, or has something: later
			}
			if shards == nil {
				var err error
				if shards, err = m.namespaceShards(ctx); err != nil {
					return err
				}
			}
			ok, err := m.retireGroup(ctx, p, g, shards)
			if err != nil {
				return err
			}
			removed = removed || ok
		}
	}
	if removed {
		return m.refresh(ctx)
	}
	return nil
}

// retireGroup removes a group whose members list nothing, if that is still so when no write can be under way.
func (m *Manager) retireGroup(ctx context.Context, p *metapb.Pool, g *metapb.PlacementGroup, shards []uint16) (bool, error) {
	for _, s := range members(g) {
		epochs := segment.AppendEpochs(nil, []segment.Epoch{{PG: g.Id, Epoch: g.Epoch + 1}})
		if err := m.call(ctx, s, func(c Conn, ctx context.Context) error {
			req := blockstore.DiskRequest{Disk: s}
			reply, err := c.Call(ctx, blockstore.OpFence, req.Append(nil), [][]byte{epochs}, nil)
			reply.Release()
			return err
		}); err != nil {
			return false, nil // later
		}
	}
	if empty, err := m.listsNothing(ctx, g); err != nil || !empty {
		return false, nil
	}
	for _, shard := range shards {
		for _, dying := range []bool{false, true} {
			if n, err := m.blocksIn(ctx, shard, g.Id, dying); err != nil || n > 0 {
				return false, err
			}
		}
	}
	err := m.propose(ctx, &metapb.ChangePGs{Pool: p.Id, Changes: []*metapb.PGChange{{
		ExpectEpoch: g.Epoch, Pg: &metapb.PlacementGroup{Id: g.Id}, Remove: true,
	}}})
	if vfs.KindOf(err) == vfs.KindChanged {
		return false, nil
	}
	if err == nil {
		m.o.Logger.Info("an empty placement group was removed", "pool", p.Id, "pg", g.Id, "k", g.K)
	}
	return err == nil, err
}

// members are the stores where shards of a group may be.
func members(g *metapb.PlacementGroup) []uint32 {
	var out []uint32
	for _, s := range g.GetSlots() {
		out = append(out, s.Store)
		if s.Previous != 0 {
			out = append(out, s.Previous)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// call calls the node of a store.
func (m *Manager) call(ctx context.Context, store uint32, f func(Conn, context.Context) error) error {
	for _, s := range m.cmap.GetStores() {
		if c := m.conns[s.Node]; s.Id == store && s.State != metapb.StoreState_STORE_LOST && c != nil {
			ctx, cancel := context.WithTimeout(ctx, metaTimeout)
			defer cancel()
			return f(c, ctx)
		}
	}
	return vfs.Errorf(vfs.KindUnavailable, "nodegroup.call", "store %d is not in the map, or lost", store)
}

// listsNothing reports whether every store where shards of g may be says that it has none.
func (m *Manager) listsNothing(ctx context.Context, g *metapb.PlacementGroup) (bool, error) {
	for _, s := range members(g) {
		some := false
		err := m.call(ctx, s, func(c Conn, ctx context.Context) error {
			req := blockstore.ListRequest{Disk: s, PG: g.Id, Limit: 1}
			reply, err := c.Call(ctx, blockstore.OpList, req.Append(nil), nil, nil)
			if err != nil {
				return err
			}
			defer reply.Release()
			var l blockstore.ListReply
			if err := l.Decode(reply.Meta); err != nil {
				return err
			}
			some = len(reply.Payload) > 0 || l.More
			return nil
		})
		if err != nil || some {
			return false, err
		}
	}
	return true, nil
}

// namespaceShards are those of all file systems, whatever state they are in.
func (m *Manager) namespaceShards(ctx context.Context) ([]uint16, error) {
	r, err := m.query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}})
	if err != nil {
		return nil, vfs.Wrap("nodegroup.retire", err)
	}
	shards := []uint16{}
	for _, fs := range r.GetFileSystems().GetFileSystems() {
		shards = append(shards, uint16(fs.Shard))
	}
	slices.Sort(shards)
	return slices.Compact(shards), nil
}

// blocksIn counts blocks of a shard in a group, up to the first page that has any.
func (m *Manager) blocksIn(ctx context.Context, shard uint16, pg uint32, dying bool) (int, error) {
	q := &metapb.BlocksQ{Pgs: []uint32{pg}, Limit: 1, Dying: dying}
	for {
		r, err := m.query(ctx, shard, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: q}})
		if err != nil {
			return 0, vfs.Wrap("nodegroup.retire", err)
		}
		b := r.GetBlocks()
		if n := len(b.GetBlocks()); n > 0 || b.GetNext() == 0 {
			return n, nil
		}
		q.After = b.Next
	}
}
