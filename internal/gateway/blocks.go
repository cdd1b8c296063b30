package gateway

import (
	"context"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// readMaps is how many versions of the map a read tries.
const readMaps = 3

// blocks is volume.Blocks: the stripe client with one pool of the live map.
type blocks struct {
	client *stripe.Client
	cmap   *liveMap
	pool   uint32
}

var _ volume.Blocks = (*blocks)(nil)

// Write implements volume.Blocks.
func (b *blocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	return b.write(ctx, id, o, data, 0)
}

// write writes to a group with at least minK data shards.
func (b *blocks) write(ctx context.Context, id uint64, o volume.Owner, data []byte, minK int) (volume.Block, error) {
	w := stripe.Write{Pool: b.pool, Block: id, Owner: blockstore.Owner{FS: o.FS, Ino: o.Ino, Offset: o.Offset}, MinK: minK, Data: data}
	v := b.cmap.view(ctx)
	defer v.release()
	for {
		pg, err := b.client.Write(ctx, &attempt{view: v}, &w)
		if err == nil {
			return volume.Block{ID: id, PG: pg.ID, K: uint8(pg.K), M: uint8(pg.M), Len: uint32(len(data))}, nil
		}
		// A newer map may have groups without the targets that are down or full.
		if k := vfs.KindOf(err); k != vfs.KindUnavailable && k != vfs.KindNoSpace || ctx.Err() != nil || !v.retry() {
			return volume.Block{}, err
		}
	}
}

// Read implements volume.Blocks.
func (b *blocks) Read(ctx context.Context, bl volume.Block, off uint32, p []byte) error {
	const op = "gateway.read block"
	s := b.cmap.acquire()
	for try := 1; ; try++ {
		if !s.has(bl.PG) {
			b.cmap.release(s)
			if err := b.cmap.confirm(ctx); err != nil {
				return vfs.Errorf(vfs.KindUnavailable, op, "block %#x is in placement group %d, which is not in the cluster map that is known here: %w", bl.ID, bl.PG, err)
			}
			if s = b.cmap.acquire(); !s.has(bl.PG) {
				b.cmap.release(s)
				// A group is removed when no block is in it: the extents that name it are old.
				return vfs.Errorf(vfs.KindNotFound, op, "block %#x was in placement group %d, which was removed", bl.ID, bl.PG)
			}
		}
		err := b.client.Read(ctx, s, stripe.Block{PG: bl.PG, ID: bl.ID, Len: bl.Len}, int(off), p)
		again := false
		switch vfs.KindOf(err) {
		case vfs.KindNotFound, vfs.KindCorrupt, vfs.KindUnavailable:
			// Shards may have moved since this map, and the group may be newer than it.
			again = try < readMaps && ctx.Err() == nil && b.cmap.renewed(ctx, s)
		}
		b.cmap.release(s)
		if !again {
			return err
		}
		s = b.cmap.acquire()
	}
}
