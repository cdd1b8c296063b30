package gateway

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
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
	// reencodeUnit is how many block ids are leased at once.
	reencodeUnit = 4096
)

// reencoder rewrites the blocks of closed fallback groups to groups of the pool's full profile. For each block it
// reads what files still use of it, writes that as a new block, and replaces the extents by
// compare-and-swap: whatever is written to the file meanwhile stays. It may stop at any point, and several gateways
// may work on the same blocks: what was written and not used is dead.
type reencoder struct {
	meta     volume.Meta
	cmap     *liveMap
	blocks   func(pool uint32) *blocks
	places   []place
	interval time.Duration
	rate     float64
	log      *slog.Logger
	metrics  *reencodeMetrics

	unit        uint64 // the leased unit's first id, of the shard that is worked on; 0: none
	first, last uint64 // [first, last) of it is left
	buf         []byte
}

// place is a namespace shard and a pool that its file systems write to.
type place struct {
	shard uint16
	pool  uint32
}

type reencodeMetrics struct{ blocks, bytes, failures prometheus.Counter }

func newReencodeMetrics(r prometheus.Registerer) *reencodeMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rackfs_reencode_" + name, Help: help})
		if r != nil {
			r.MustRegister(c)
		}
		return c
	}
	return &reencodeMetrics{
		blocks:   counter("blocks_total", "Blocks of fallback groups that were rewritten to the pool's profile."),
		bytes:    counter("bytes_total", "Bytes of files in them."),
		failures: counter("failures_total", "Passes that ended early."),
	}
}

// run works until ctx ends.
func (r *reencoder) run(ctx context.Context) {
	wait := r.interval
	var last []uint32
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		sources := r.sources()
		if len(sources) == 0 {
			wait, last = r.interval, nil
			continue
		}
		n, err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.metrics.failures.Inc()
			r.log.Warn("re-encoding waits", "blocks", n, "err", err)
			wait = min(2*wait, reencodeIdleMax)
		case n > 0 || !slices.Equal(sources, last):
			wait = r.interval
		default:
			wait = min(2*wait, reencodeIdleMax)
		}
		if n > 0 {
			r.log.Info("blocks of fallback groups were re-encoded", "blocks", n)
		}
		last = sources
	}
}

// sources are the groups to empty, of all pools.
func (r *reencoder) sources() []uint32 {
	s := r.cmap.acquire()
	defer r.cmap.release(s)
	var out []uint32
	for _, p := range s.raw.GetPools() {
		out = append(out, closedFallback(p)...)
	}
	return out
}

func closedFallback(p *metapb.Pool) (ids []uint32) {
	for _, g := range p.GetPgs() {
		if g.K != 0 && g.State == metapb.PGState_PG_CLOSED {
			ids = append(ids, g.Id)
		}
	}
	return ids
}

// pass rewrites every block that it finds, and returns how many. It ends at the first error that is not about one block.
func (r *reencoder) pass(ctx context.Context) (n int, err error) {
	for _, pl := range r.places {
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
		w := work{reencoder: r, shard: pl.shard, k: int(pool.K), blocks: r.blocks(pl.pool)}
		m, err := w.groups(ctx, ids)
		n += m
		r.giveBack(ctx, pl.shard)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// nextID returns a block id that was never used.
func (r *reencoder) nextID(ctx context.Context, shard uint16) (uint64, error) {
	if r.first == r.last {
		res, err := r.meta.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: reencodeUnit}}})
		if err != nil {
			return 0, err
		}
		b := res.GetBlocks()
		r.unit, r.first, r.last = b.GetFirst(), b.GetFirst(), b.GetFirst()+uint64(b.GetCount())
		if r.first == r.last {
			return 0, vfs.Errorf(vfs.KindInternal, "gateway.reencode", "an empty range of block ids")
		}
	}
	r.first++
	return r.first - 1, nil
}

// giveBack ends the use of the leased ids: those that did not become blocks are dead.
func (r *reencoder) giveBack(ctx context.Context, shard uint16) {
	if r.unit == 0 {
		return
	}
	// Without an answer they stay leased until this gateway's end.
	_, err := r.meta.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_ReturnBlocks{ReturnBlocks: &metapb.ReturnBlocks{First: []uint64{r.unit}}}})
	if err != nil && ctx.Err() == nil {
		r.log.Warn("block ids were not given back", "shard", shard, "err", err)
	}
	r.unit, r.first, r.last = 0, 0, 0
}

// work is one pass over one shard and pool.
type work struct {
	*reencoder
	shard  uint16
	k      int // of the pool
	blocks *blocks
}

// groups rewrites the blocks of some groups.
func (w *work) groups(ctx context.Context, ids []uint32) (n int, err error) {
	q := &metapb.BlocksQ{Pgs: ids, Limit: reencodePage}
	for {
		res, err := w.meta.Query(ctx, w.shard, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: q}})
		if err != nil {
			return n, err
		}
		for _, b := range res.GetBlocks().GetBlocks() {
			began := time.Now()
			moved, err := w.block(ctx, b)
			if err != nil {
				return n, vfs.Wrap("gateway.reencode", err)
			}
			if moved > 0 {
				n++
				w.metrics.blocks.Inc()
				w.metrics.bytes.Add(float64(moved))
			}
			pause := time.Duration(float64(b.Length)/w.rate*float64(time.Second)) - time.Since(began)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return n, ctx.Err()
			}
		}
		if q.After = res.GetBlocks().GetNext(); q.After == 0 {
			return n, nil
		}
	}
}

// block rewrites what its file uses of a block, and returns how many bytes were put elsewhere.
func (w *work) block(ctx context.Context, b *metapb.BlockInfo) (uint64, error) {
	parts, err := w.parts(ctx, b)
	if err != nil || len(parts) == 0 {
		switch vfs.KindOf(err) {
		case vfs.KindStale, vfs.KindNotFound: // the file is gone
			return 0, nil
		}
		return 0, err
	}
	return w.move(ctx, b, parts)
}

// parts are the extents that point into a block. A block is a contiguous piece of its file.
func (w *work) parts(ctx context.Context, b *metapb.BlockInfo) (parts []*metapb.Extent, err error) {
	q := &metapb.ExtentsQ{Ino: b.Ino, Offset: b.Offset, Length: uint64(b.Length)}
	for {
		res, err := w.meta.Query(ctx, w.shard, &metapb.Query{Fs: b.Fs, Q: &metapb.Query_Extents{Extents: q}})
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

// move puts parts of a block into a new one. If they are too many for one command, into several.
func (w *work) move(ctx context.Context, b *metapb.BlockInfo, parts []*metapb.Extent) (uint64, error) {
	lead, tail := parts[0], parts[len(parts)-1]
	base, end := lead.BlockOffset, tail.BlockOffset+tail.Length
	n := int(end - base)
	if n > blockstore.MaxBlock || end > tail.BlockLength {
		return 0, vfs.Errorf(vfs.KindCorrupt, "gateway.reencode", "inode %d names bytes %d to %d of block %#x, which has %d", b.Ino, base, end, b.Id, tail.BlockLength)
	}
	if cap(w.buf) < n+blockstore.MaxPadding {
		w.buf = make([]byte, n+blockstore.MaxPadding)
	}
	data := w.buf[:n]
	old := volume.Block{ID: b.Id, PG: b.Pg, K: uint8(lead.K), M: uint8(lead.M), Len: lead.BlockLength}
	if err := w.blocks.Read(ctx, old, base, data); err != nil {
		if vfs.KindOf(err) == vfs.KindNotFound { // deleted meanwhile, or found again next time
			return 0, nil
		}
		return 0, err
	}
	id, err := w.nextID(ctx, w.shard)
	if err != nil {
		return 0, err
	}
	owner := volume.Owner{FS: b.Fs, Ino: b.Ino, Offset: lead.Offset}
	to, err := w.blocks.write(ctx, id, owner, data, w.k)
	if err != nil {
		return 0, err
	}
	c := &metapb.RewriteExtents{Ino: b.Ino}
	for _, e := range parts {
		c.Extents = append(c.Extents, &metapb.ExtentRewrite{
			Offset: e.Offset, Length: e.Length, OldBlock: b.Id, OldBlockOffset: e.BlockOffset,
			Block: id, BlockOffset: e.BlockOffset - base, BlockLength: uint32(n), Pg: to.PG, K: uint32(to.K), M: uint32(to.M),
		})
	}
	res, err := w.meta.Apply(ctx, w.shard, &metapb.Command{Fs: b.Fs, Op: &metapb.Command_RewriteExtents{RewriteExtents: c}})
	switch k := vfs.KindOf(err); {
	case err == nil:
		return res.GetRewrite().GetBytes(), nil
	case k == vfs.KindStale:
		return 0, nil
	case k == vfs.KindTooMany && len(parts) > 1:
		half := len(parts) / 2
		a, err := w.move(ctx, b, parts[:half])
		if err != nil {
			return a, err
		}
		z, err := w.move(ctx, b, parts[half:])
		return a + z, err
	}
	return 0, err
}
