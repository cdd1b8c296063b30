package nodegroup

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// retireMax is how many groups are retired together.
const retireMax = 256

// RetireStatus is how the removal of groups stands.
type RetireStatus struct {
	Groups  int    `json:"groups"`          // that the scan under way is about; 0: there is none
	Pages   uint64 `json:"pages"`           // of the scans since this process leads
	Removed uint64 `json:"removed"`         // groups, since then
	Err     string `json:"error,omitempty"` // why the last look ended early
}

// sight is what the manager knew at one moment. The connections are its own: one may end under a call.
type sight struct {
	cmap   *metapb.ClusterMapR
	states map[uint32][]placement.StoreState // by pool
	conns  map[string]*conn
}

// see makes what is known now the base of what is retired, or nothing if that is not known.
func (m *Manager) see(known bool) {
	var s *sight
	if known {
		s = &sight{m.cmap, map[uint32][]placement.StoreState{}, maps.Clone(m.conns)}
		for _, p := range m.cmap.GetPools() {
			s.states[p.Id] = m.view(p).states
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sight = s
}

// retire looks for groups to remove, again and again, until ctx ends. It runs beside the observation of the stores, which never
// waits for it.
func (m *Manager) retire(ctx context.Context) {
	tick := time.NewTicker(m.o.RetireEvery)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := m.retireGroups(ctx)
		if ctx.Err() != nil {
			return
		}
		text := ""
		if err != nil {
			if text = err.Error(); text != told {
				m.o.Logger.Warn("empty placement groups are not removed now", "err", err)
			}
		}
		told = text
		m.mu.Lock()
		m.retiring.Err = text
		m.mu.Unlock()
	}
}

// candidate is a group that may be removed, and the epoch that this is decided at.
type candidate struct {
	pool  uint32
	group *metapb.PlacementGroup
}

// retireGroups removes closed fallback groups that hold nothing. The steps are those of the package comment, each taken for all
// of them, with one scan of the shards' blocks. A crash in the middle leaves groups that are fenced and not removed.
func (m *Manager) retireGroups(ctx context.Context) error {
	m.mu.Lock()
	s := m.sight
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	left := map[uint32]candidate{}
	for _, p := range s.cmap.GetPools() {
		if r := placement.Assess(poolState(p, 0), s.states[p.Id]); !p.Retiring && (r.Writable == 0 || r.Closed == 0) {
			continue // they may be wanted again
		}
		for _, g := range p.GetPgs() {
			if (g.K != 0 || p.Retiring) && g.State == metapb.PGState_PG_CLOSED && len(left) < retireMax && s.fenceEmpty(ctx, g) {
				left[g.Id] = candidate{p.Id, g}
			}
		}
	}
	if len(left) == 0 || ctx.Err() != nil {
		return nil
	}
	m.scanning(len(left))
	defer m.scanning(0)
	shards, err := m.namespaceShards(ctx)
	if err != nil {
		return err
	}
	for _, shard := range shards {
		// A block that dies between the two was seen by the first.
		for _, dying := range []bool{false, true} {
			if err := m.scanBlocks(ctx, shard, dying, left); err != nil {
				return err
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		c := left[id]
		err := m.propose(ctx, &metapb.ChangePGs{Pool: c.pool, Changes: []*metapb.PGChange{{
			ExpectEpoch: c.group.Epoch, Pg: &metapb.PlacementGroup{Id: id}, Remove: true,
		}}})
		if vfs.KindOf(err) == vfs.KindChanged {
			continue // it was opened meanwhile
		}
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.retiring.Removed++
		m.mu.Unlock()
		m.o.Logger.Info("an empty placement group was removed", "pool", c.pool, "pg", id, "k", c.group.K)
	}
	return nil
}

// retirePool closes the groups of a pool that no file system has any more, so that they are removed as empty fallback groups
// are, and removes the pool when they are gone.
func (m *Manager) retirePool(ctx context.Context, p *metapb.Pool) error {
	if len(p.Pgs) == 0 {
		ctx, cancel := context.WithTimeout(ctx, metaTimeout)
		defer cancel()
		_, err := m.o.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemovePool{RemovePool: &metapb.RemovePool{Id: p.Id, ExpectMapVersion: m.cmap.Version}}})
		if err == nil {
			m.o.Logger.Info("a pool that no file system has any more was removed", "pool", p.Id, "name", p.Name, "group", p.Group)
		}
		if vfs.KindOf(err) == vfs.KindChanged {
			err = nil // the next step looks at what there is then
		}
		return vfs.Wrap("nodegroup.retire", err)
	}
	c := &metapb.ChangePGs{Pool: p.Id}
	for _, g := range p.Pgs {
		if g.State == metapb.PGState_PG_OPEN && len(c.Changes) < maxChanges {
			g = g.CloneVT()
			g.State = metapb.PGState_PG_CLOSED
			c.Changes = append(c.Changes, &metapb.PGChange{ExpectEpoch: g.Epoch, Pg: g})
		}
	}
	if len(c.Changes) == 0 {
		return nil
	}
	if err := m.propose(ctx, c); err != nil && vfs.KindOf(err) != vfs.KindChanged {
		return err
	}
	return nil
}

func (m *Manager) scanning(groups int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retiring.Groups = groups
}

// fenceEmpty reports whether the members of a group list nothing, and still list nothing when no write can be under way.
func (s *sight) fenceEmpty(ctx context.Context, g *metapb.PlacementGroup) bool {
	if !s.listsNothing(ctx, g) {
		return false // a member does not answer, or has something: later
	}
	for _, id := range s.members(g) {
		epochs := segment.AppendEpochs(nil, []segment.Epoch{{PG: g.Id, Epoch: g.Epoch + 1}})
		if err := s.call(ctx, id, func(c Conn, ctx context.Context) error {
			req := blockstore.DiskRequest{Disk: id}
			reply, err := c.Call(ctx, blockstore.OpFence, req.Append(nil), [][]byte{epochs}, nil)
			reply.Release()
			return err
		}); err != nil {
			return false
		}
	}
	return s.listsNothing(ctx, g)
}

// scanBlocks drops the groups in which a shard has a block. It reads page by page, with a pause after each.
func (m *Manager) scanBlocks(ctx context.Context, shard uint16, dying bool, left map[uint32]candidate) error {
	q := &metapb.BlocksQ{Dying: dying}
	for len(left) > 0 {
		q.Pgs = slices.Sorted(maps.Keys(left))
		r, err := m.query(ctx, shard, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: q}})
		if err != nil {
			return vfs.Wrap("nodegroup.retire", err)
		}
		for _, b := range r.GetBlocks().GetBlocks() {
			delete(left, b.Pg)
		}
		m.mu.Lock()
		m.retiring.Pages++
		m.mu.Unlock()
		if q.After = r.GetBlocks().GetNext(); q.After == 0 {
			return nil
		}
		select {
		case <-time.After(m.o.RetirePause):
		case <-ctx.Done():
			return vfs.Wrap("nodegroup.retire", ctx.Err())
		}
	}
	return nil
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

// members are those of a group that may have shards of it, or be told to write some. Of a node that was removed nobody takes anything any more, and it answers to nobody.
func (s *sight) members(g *metapb.PlacementGroup) []uint32 {
	return slices.DeleteFunc(members(g), func(id uint32) bool {
		return slices.ContainsFunc(s.cmap.GetStores(), func(st *metapb.Store) bool { return st.Id == id && st.Gone })
	})
}

// call calls the node of a store.
func (s *sight) call(ctx context.Context, store uint32, f func(Conn, context.Context) error) error {
	for _, st := range s.cmap.GetStores() {
		if c := s.conns[st.Node]; st.Id == store && st.State != metapb.StoreState_STORE_LOST && c != nil {
			ctx, cancel := context.WithTimeout(ctx, metaTimeout)
			defer cancel()
			return f(c, ctx)
		}
	}
	return vfs.Errorf(vfs.KindUnavailable, "nodegroup.call", "store %d is not in the map, or lost", store)
}

// listsNothing reports whether every store where shards of g may be says that it has none.
func (s *sight) listsNothing(ctx context.Context, g *metapb.PlacementGroup) bool {
	for _, id := range s.members(g) {
		some := false
		err := s.call(ctx, id, func(c Conn, ctx context.Context) error {
			req := blockstore.ListRequest{Disk: id, PG: g.Id, Limit: 1}
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
			return false
		}
	}
	return true
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
