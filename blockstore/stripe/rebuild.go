package stripe

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// Rebuild makes out, of the length of the block's shards, hold shard i of a block that slot i's target has lost: from
// the slot's previous target, or computed from any others. The kinds of errors are those of Read.
func (c *Client) Rebuild(ctx context.Context, m Map, b Block, i int, out []byte) error {
	const op = "stripe.rebuild"
	pg, ok := m.PG(b.PG)
	if !ok {
		return vfs.Errorf(vfs.KindUnavailable, op, "placement group %d is not in the map", b.PG)
	}
	s, err := shapeIn(pg, int(b.Len))
	if err != nil {
		return err
	}
	if !s.Stored(i) || len(out) != s.ShardLen {
		return vfs.Errorf(vfs.KindInvalid, op, "%d bytes for shard %d of a block of %d bytes in %v", len(out), i, b.Len, pg.Profile())
	}
	rctx, cancel := context.WithCancel(ctx)
	r := &reader{c: c, m: m, pg: pg, block: b, shape: s, ctx: rctx,
		parts: make(map[part]*fetch), state: make([]shardState, s.K+s.M)}
	r.state[i] = shardState{gone, vfs.Errorf(vfs.KindNotFound, op, "it is what is being rebuilt")}
	err = r.remake(part{i, 0, s.ShardLen}, out)
	cancel()
	r.wg.Wait()
	for _, buf := range r.bufs {
		buf.Release()
	}
	if err != nil {
		if ctx.Err() != nil {
			return ended(ctx, op)
		}
		return vfs.Wrap(op, err)
	}
	return nil
}

// remake gets the whole of a shard from elsewhere than its target.
func (r *reader) remake(pt part, out []byte) error {
	if prev := r.pg.Slots[pt.shard].Previous; prev != nil {
		ctx, cancel := context.WithTimeout(r.ctx, r.c.o.FetchTimeout)
		_, err := r.askTarget(ctx, *prev, pt, out)
		cancel()
		if err == nil {
			return nil
		}
	}
	if err := r.rebuild(pt, out); err != nil {
		return r.verdict(err)
	}
	return nil
}
