package upkeep

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Metadata is the metadata client. Errors are of kind vfs.Kind.
type Metadata interface {
	// Apply runs a command that needs no identity.
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
	// Query is a linearizable read. It may wait for as long as ctx lets it.
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

const (
	// shardShift is where a block id's namespace shard begins.
	shardShift = 48
	// askBatch is how many blocks are asked for at once; the state machine answers up to 10,000.
	askBatch = 4096
	// askTimeout bounds one query: a shard that is gone never answers, and the others' blocks are not to wait for it.
	askTimeout = 15 * time.Second
)

// query asks a shard. One that let a query wait in vain is not asked again for a while.
func (k *Keeper) query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	k.mu.Lock()
	until := k.silent[shard]
	k.mu.Unlock()
	if time.Now().Before(until) {
		return nil, vfs.Errorf(vfs.KindUnavailable, "upkeep.ask", "shard %d did not answer a moment ago", shard)
	}
	qctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := k.o.Meta.Query(qctx, shard, q)
	if err != nil && qctx.Err() != nil && ctx.Err() == nil {
		k.mu.Lock()
		k.silent[shard] = time.Now().Add(k.o.Retry)
		k.mu.Unlock()
	}
	return r, err
}

// standing is what the metadata says of a block.
type standing struct {
	state metapb.BlockState
	pg    uint32 // of a live or dying block
}

// in reports whether the block is, or was until a moment ago, part of a file, and in this group.
func (s standing) in(pg uint32) bool { return s.kept() && s.pg == pg }

func (s standing) kept() bool {
	return s.state == metapb.BlockState_BLOCK_LIVE || s.state == metapb.BlockState_BLOCK_DYING
}

// answer is what the metadata said of some blocks. Blocks whose shard did not answer, or is not to be believed, are in neither map.
type answer struct {
	own   map[uint64]standing // by this store's own metadata
	other map[uint64]standing // by this cluster's metadata of another incarnation
	err   error               // why some are missing or in other
}

// of is the standing of a block by whatever metadata of this cluster.
func (a *answer) of(block uint64) (s standing, own, ok bool) {
	if s, ok = a.own[block]; ok {
		return s, true, true
	}
	s, ok = a.other[block]
	return s, false, ok
}

// ask asks for blocks, at most askBatch, each of its own namespace shard.
func (k *Keeper) ask(ctx context.Context, blocks []uint64) answer {
	a := answer{own: map[uint64]standing{}, other: map[uint64]standing{}}
	byShard := map[uint16][]uint64{}
	for _, b := range blocks {
		byShard[uint16(b>>shardShift)] = append(byShard[uint16(b>>shardShift)], b)
	}
	for shard, ids := range byShard {
		states, own, err := k.askShard(ctx, shard, ids)
		if err != nil {
			a.err = err
		}
		into := a.other
		if own {
			into = a.own
		}
		for i, s := range states {
			into[ids[i]] = s
		}
	}
	return a
}

// askShard asks one shard. own says that its answer is this store's own metadata's; else err says what is different.
func (k *Keeper) askShard(ctx context.Context, shard uint16, ids []uint64) (states []standing, own bool, err error) {
	const op = "upkeep.ask"
	if shard == clusterShard {
		return nil, false, vfs.Errorf(vfs.KindInvalid, op, "block %#x is of shard 0, which has no blocks", ids[0])
	}
	before, err := k.identity(ctx, shard)
	if err != nil {
		return nil, false, vfs.Wrap(op, err)
	}
	r, err := k.query(ctx, shard, &metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: ids}}})
	if err != nil {
		return nil, false, vfs.Wrap(op, err)
	}
	after, err := k.identity(ctx, shard)
	if err != nil {
		return nil, false, vfs.Wrap(op, err)
	}
	b := r.GetBlockStates()
	if len(b.GetStates()) != len(ids) || len(b.GetPgs()) != len(ids) {
		return nil, false, vfs.Errorf(vfs.KindInternal, op, "shard %d answered %d states for %d blocks", shard, len(b.GetStates()), len(ids))
	}
	for i := range ids {
		states = append(states, standing{b.States[i], b.Pgs[i]})
	}
	if before != after {
		return nil, false, vfs.Errorf(vfs.KindUnavailable, op, "shard %d changed its incarnation from %d to %d meanwhile", shard, before, after)
	}
	if mine := k.o.Store.Info().MetadataIncarnation; before != mine {
		return states, false, vfs.Errorf(vfs.KindIncompatible, op,
			"the metadata of shard %d has incarnation %d, this store is of %d: nothing is deleted until an operator allows it", shard, before, mine)
	}
	return states, true, nil
}

// identity is the incarnation of a shard's metadata, which must be of this cluster.
func (k *Keeper) identity(ctx context.Context, shard uint16) (uint64, error) {
	r, err := k.query(ctx, shard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	if err != nil {
		return 0, err
	}
	i, mine := r.GetShardInfo(), k.o.Store.Info().Cluster
	if string(i.GetCluster()) != string(mine[:]) {
		return 0, vfs.Errorf(vfs.KindIncompatible, "upkeep.identity", "the metadata is of cluster %x, this store of %x", i.GetCluster(), mine[:])
	}
	if i.GetShard() != uint32(shard) {
		return 0, vfs.Errorf(vfs.KindIncompatible, "upkeep.identity", "shard %d was asked, shard %d answered", shard, i.GetShard())
	}
	return i.Incarnation, nil
}

// filled declares that slot i of a group, which this store has, lacks nothing any more. Only to its own metadata: what follows
// is that other stores delete what they have of it.
func (k *Keeper) filled(ctx context.Context, g *group, i int) error {
	is, err := k.identity(ctx, clusterShard)
	if err != nil {
		return vfs.Wrap("upkeep.filled", err)
	}
	if mine := k.o.Store.Info().MetadataIncarnation; is != mine {
		return vfs.Errorf(vfs.KindIncompatible, "upkeep.filled", "the cluster map has incarnation %d, this store is of %d: no slot is declared filled until an operator allows it", is, mine)
	}
	for try := 0; ; try++ {
		pg := g.pg.CloneVT()
		pg.Slots[i].Filling, pg.Slots[i].Previous = false, 0
		err := k.changePG(ctx, g.pool, pg)
		if vfs.KindOf(err) != vfs.KindChanged || try == filledTries {
			return vfs.Wrap("upkeep.filled", err)
		}
		// Another member may have ended its filling, which leaves the epoch, and what the survey proved.
		m, rerr := k.refresh(ctx)
		if rerr != nil {
			return vfs.Wrap("upkeep.filled", rerr)
		}
		now := m.groups[g.pg.Id]
		if now == nil || now.pg.Epoch != g.pg.Epoch || now.slotOf(k.o.ID) != i {
			return vfs.Wrap("upkeep.filled", err)
		}
		if g = now; !g.unfinished(i) {
			return nil
		}
	}
}

// filledTries bounds how often a change of a group is tried again because others changed it too.
const filledTries = 5

func (k *Keeper) changePG(ctx context.Context, pool uint32, pg *metapb.PlacementGroup) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := k.o.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{
		Pool: pool, Changes: []*metapb.PGChange{{ExpectEpoch: pg.Epoch, Pg: pg}},
	}}})
	return err
}
