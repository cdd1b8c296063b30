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
	r := c.reader(ctx, m, pg, b, s)
	defer r.release()
	r.state[i] = shardState{gone, vfs.Errorf(vfs.KindNotFound, op, "it is what is being rebuilt")}
	result := make(chan error, 1)
	r.wg.Go(func() { result <- r.remake(part{i, 0, s.ShardLen}, out) })
	err = r.oversee(result, 1)
	r.end()
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
		_, err := r.askTarget(ctx, *prev, pt, out, new([32]byte))
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
