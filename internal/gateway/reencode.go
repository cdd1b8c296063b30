package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

const (
	// defaultReencodeInterval is how often it is looked for blocks to rewrite, reencodeIdleMax how rarely
	// when there were none, though their groups are still there.
	defaultReencodeInterval = 5 * time.Second
	reencodeIdleMax         = 2 * time.Minute
	// defaultReencodeRate is in bytes of blocks per second.
	defaultReencodeRate = 64 << 20
	// reencodePage is how many blocks are asked for at a time.
	reencodePage = 128
)

// reencoding is the source of the blocks of closed fallback groups, which are rewritten to groups of the pool's full
// profile.
type reencoding struct {
	cmap   *liveMap
	blocks func(pool uint32) *blocks
	places func() []place
}

// place is a namespace shard and a pool that its file systems write to.
type place struct {
	shard uint16
	pool  uint32
}

var _ rewrite.Source = (*reencoding)(nil)

// Pending implements rewrite.Source: the groups to empty, of all pools.
func (r *reencoding) Pending() string {
	s := r.cmap.acquire()
	defer r.cmap.release(s)
	var ids []uint32
	for _, p := range s.raw.GetPools() {
		ids = append(ids, closedFallback(p)...)
	}
	if len(ids) == 0 {
		return ""
	}
	return fmt.Sprint(ids)
}

func closedFallback(p *metapb.Pool) (ids []uint32) {
	for _, g := range p.GetPgs() {
		if g.K != 0 && g.State == metapb.PGState_PG_CLOSED {
			ids = append(ids, g.Id)
		}
	}
	return ids
}

// Pass implements rewrite.Source.
func (r *reencoding) Pass(ctx context.Context, m *rewrite.Mover) error {
	for _, pl := range r.places() {
		s := r.cmap.acquire()
		var pool *metapb.Pool
		for _, p := range s.raw.GetPools() {
			if p.Id == pl.pool {
				pool = p
			}
		}
		r.cmap.release(s)
		ids := closedFallback(pool)
		if len(ids) == 0 {
			continue
		}
		w := emptying{Mover: m, shard: pl.shard, blocks: fullBlocks{r.blocks(pl.pool), int(pool.K)}}
		t := &metapb.WorkTask{Kind: metapb.WorkKind_WORK_REENCODE, Pool: pl.pool, Spare: 1}
		if err := m.Task(ctx, pl.shard, t, func(ctx context.Context) error { return w.groups(ctx, ids) }); err != nil {
			return vfs.Wrap("gateway.reencode", err)
		}
	}
	return nil
}

// fullBlocks writes to groups with at least k data shards only.
type fullBlocks struct {
	*blocks
	k int
}

func (b fullBlocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	return b.write(ctx, id, o, data, b.k)
}

// emptying is one pass over one shard and pool.
type emptying struct {
	*rewrite.Mover
	shard  uint16
	blocks volume.Blocks
}

// groups rewrites the blocks of some groups.
func (w *emptying) groups(ctx context.Context, ids []uint32) error {
	q := &metapb.BlocksQ{Pgs: ids, Limit: reencodePage}
	for {
		res, err := w.Query(ctx, w.shard, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: q}})
		if err != nil {
			return err
		}
		for _, b := range res.GetBlocks().GetBlocks() {
			if err := w.block(ctx, b); err != nil {
				return err
			}
		}
		if q.After = res.GetBlocks().GetNext(); q.After == 0 {
			return nil
		}
	}
}

// block rewrites what its file uses of a block.
func (w *emptying) block(ctx context.Context, b *metapb.BlockInfo) error {
	parts, err := w.parts(ctx, b)
	switch k := vfs.KindOf(err); {
	case k == vfs.KindStale || k == vfs.KindNotFound: // the file is gone
		return nil
	case err != nil || len(parts) == 0:
		return err
	}
	_, err = w.Move(ctx, rewrite.File{Shard: w.shard, FS: b.Fs, Ino: b.Ino, Blocks: w.blocks}, parts)
	return err
}

// parts are the extents that point into a block. A block is a contiguous piece of its file.
func (w *emptying) parts(ctx context.Context, b *metapb.BlockInfo) (parts []*metapb.Extent, err error) {
	q := &metapb.ExtentsQ{Ino: b.Ino, Offset: b.Offset, Length: uint64(b.Length)}
	for {
		res, err := w.Query(ctx, w.shard, &metapb.Query{Fs: b.Fs, Q: &metapb.Query_Extents{Extents: q}})
		if err != nil {
			return nil, err
		}
		for _, e := range res.GetExtents().GetExtents() {
			if e.Block == b.Id {
				parts = append(parts, e)
			}
		}
		next := res.GetExtents().GetNext()
		if next == 0 || next >= b.Offset+uint64(b.Length) {
			return parts, nil
		}
		q.Offset, q.Length = next, b.Offset+uint64(b.Length)-next
	}
}
