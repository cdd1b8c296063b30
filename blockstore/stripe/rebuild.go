package stripe

import (
	"context"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/vfs"
)

// Rebuild makes out, of the length of the block's shards, hold shard i of a block that slot i's target has lost: from
// the slot's previous target, or computed from any others. The kinds of errors are those of Read. The owner is what records of
// the block's other shards say, with Options.Background and stores that tell it; else it is zero.
func (c *Client) Rebuild(ctx context.Context, m Map, b Block, i int, out []byte) (blockstore.Owner, error) {
	r, err := c.rebuilder(ctx, m, b, i, out)
	if err != nil {
		return blockstore.Owner{}, err
	}
	defer r.release()
	result := make(chan error, 1)
	r.wg.Go(func() { result <- r.remake(part{i, 0, r.shape.ShardLen}, out) })
	err = r.oversee(result, 1)
	r.end()
	if err != nil {
		if ctx.Err() != nil {
			return blockstore.Owner{}, ended(ctx, opRebuild)
		}
		return blockstore.Owner{}, vfs.Wrap(opRebuild, err)
	}
	return r.owner, nil
}

const opRebuild = "stripe.rebuild"

// rebuilder is a reader that knows shard i to be gone.
func (c *Client) rebuilder(ctx context.Context, m Map, b Block, i int, out []byte) (*reader, error) {
	const op = opRebuild
	pg, ok := m.PG(b.PG)
	if !ok {
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "placement group %d is not in the map", b.PG)
	}
	s, err := shapeIn(pg, int(b.Len))
	if err != nil {
		return nil, err
	}
	if !s.Stored(i) || len(out) != s.ShardLen {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%d bytes for shard %d of a block of %d bytes in %v", len(out), i, b.Len, pg.Profile())
	}
	r := c.reader(ctx, m, pg, b, s)
	r.state[i] = shardState{gone, vfs.Errorf(vfs.KindNotFound, op, "it is what is being rebuilt")}
	return r, nil
}

// learn takes over what the answer to a background read says.
func (r *reader) learn(meta []byte) {
	if !r.c.o.Background || len(meta) == 0 {
		return
	}
	var s blockstore.StatReply
	if s.Decode(meta) == nil && s.Shard.Block == r.block.ID {
		r.mu.Lock()
		r.owner = s.Owner
		r.mu.Unlock()
	}
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
