package upkeep

import (
	"context"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// suspectBatch is how many reported shards are looked at in one go.
const suspectBatch = 256

// rebuild stores a shard anew and returns how many bytes. Unless it is known to be bad, one that is there meanwhile is left.
//
// KindNotFound and KindCorrupt mean that too few others are left, KindExists that what is here contradicts them.
func (k *Keeper) rebuild(ctx context.Context, v view, g *group, slot int, l lack, bad bool, p *background.Permit) (int, error) {
	key := keyOf(g.pg.Id, l.block, slot)
	if !bad {
		if _, _, err := k.o.Store.Stat(ctx, key); err == nil {
			return 0, nil
		}
	}
	// What is read is paid for at the disks that it is read from.
	if err := k.o.Budget.WaitN(ctx, l.shape.ShardLen); err != nil {
		return 0, err
	}
	if err := p.WaitN(ctx, l.shape.ShardLen*l.shape.Data); err != nil {
		return 0, err
	}
	buf := wire.GetBuf(l.shape.ShardLen)
	defer buf.Release()
	b := stripe.Block{PG: g.pg.Id, ID: l.block, Len: uint32(l.shape.BlockLen)}
	owner, err := k.stripe.Rebuild(ctx, v, b, slot, buf.B)
	if err != nil {
		return 0, err
	}
	if owner.FS == 0 { // of a store that does not tell
		if owner, err = k.owner(ctx, v, g, l); err != nil {
			return 0, err
		}
	}
	err = k.o.Store.Put(ctx, &store.Put{
		Key: key, Epoch: g.pg.Epoch, K: uint8(g.k), M: uint8(g.m), BlockLen: b.Len, Owner: owner, Data: buf.B,
	})
	if err != nil {
		return 0, err
	}
	return l.shape.ShardLen, nil
}

// holders are where the shards of a slot may be, other than here.
func (k *Keeper) holders(v view, g *group, slot int) []placement.Target {
	var out []placement.Target
	for _, s := range []uint32{g.pg.Slots[slot].Store, g.pg.Slots[slot].Previous} {
		if s != 0 && s != k.o.ID {
			out = append(out, v.target(s))
		}
	}
	return out
}

// owner asks whose the block is.
func (k *Keeper) owner(ctx context.Context, v view, g *group, l lack) (segment.Owner, error) {
	err := vfs.Errorf(vfs.KindNotFound, "upkeep.owner", "no shard of block %#x is left", l.block)
	for _, slot := range l.slots {
		for _, t := range k.holders(v, g, slot) {
			r, serr := v.stat(ctx, t, keyOf(g.pg.Id, l.block, slot))
			if serr == nil {
				return r.Owner, nil
			}
			if vfs.KindOf(serr) != vfs.KindNotFound && vfs.KindOf(serr) != vfs.KindCorrupt {
				err = vfs.Errorf(vfs.KindUnavailable, "upkeep.owner", "%v: %w", t, serr)
			}
		}
	}
	return segment.Owner{}, err
}

// damage tells of a block that cannot be made whole.
func (k *Keeper) damage(ctx context.Context, v view, g *group, l lack, cause error) {
	d := Damage{PG: g.pg.Id, Block: l.block, Error: cause.Error()}
	if o, err := k.owner(ctx, v, g, l); err == nil {
		d.FS, d.Inode, d.Offset = o.FS, o.Ino, o.Offset
	}
	if !k.noteDamage(d) {
		return // it is known
	}
	k.o.Metrics.Damaged.Inc()
	k.log.Error("upkeep: too few shards of a block are left: data is lost unless a store that is away comes back",
		"store", k.o.ID, "pg", d.PG, "block", d.Block, "fs", d.FS, "inode", d.Inode, "offset", d.Offset, "length", l.shape.BlockLen, "err", cause)
}

// checkSuspects looks at the shards that were reported.
func (k *Keeper) checkSuspects(ctx context.Context, v view) error {
	for {
		keys := k.suspects.take(suspectBatch)
		if len(keys) == 0 {
			return nil
		}
		for n, key := range keys {
			err := k.checkSuspect(ctx, v, key)
			if err == nil {
				continue
			}
			if ctx.Err() != nil {
				k.suspects.add(keys[n:])
				return vfs.Wrap("upkeep.check", ctx.Err())
			}
			k.log.Warn("upkeep: a reported shard could not be made good, it will be tried again", "store", k.o.ID, "pg", key.PG, "block", key.Block, "shard", key.Shard, "err", err)
			k.suspects.later(key)
		}
	}
}

// checkSuspect reads a shard and rebuilds it if that fails.
func (k *Keeper) checkSuspect(ctx context.Context, v view, key segment.Key) error {
	g := v.groups[key.PG]
	if g == nil || g.slotOf(k.o.ID) != int(key.Shard) {
		return nil // it is not this store's
	}
	slot := int(key.Shard)
	switch err := k.verify(ctx, key); vfs.KindOf(err) {
	case vfs.KindOK:
		return nil
	case vfs.KindCorrupt:
		k.o.Metrics.Bad.Inc()
	case vfs.KindNotFound:
	default:
		return err
	}
	b := seen{block: key.Block}
	var away error
	for j := range g.pg.Slots {
		for _, t := range k.holders(v, g, j) {
			r, err := v.stat(ctx, t, keyOf(key.PG, key.Block, j))
			if err == nil {
				b.others = append(b.others, r.Shard)
				break
			}
			if vfs.KindOf(err) != vfs.KindNotFound && vfs.KindOf(err) != vfs.KindCorrupt {
				away = err
			}
		}
	}
	a := k.ask(ctx, []uint64{key.Block})
	st, own, ok := a.of(key.Block)
	switch {
	case !ok:
		return a.err
	case own && st.state == metapb.BlockState_BLOCK_DEAD:
		_, err := k.o.Store.Delete(ctx, []segment.Key{key}) // and with it the store's mark that it is bad
		return err
	case st.state == metapb.BlockState_BLOCK_LEASED:
		return vfs.Errorf(vfs.KindBusy, "upkeep.check", "the block is neither live nor dead yet")
	case !st.in(key.PG):
		return nil
	}
	l, ok := b.lacks(g, slot)
	switch {
	case !ok && len(b.others) > 0:
		return nil // the block has no such shard
	case (!ok || l.spare < 0) && away != nil:
		return away
	case !ok || l.spare < 0:
		l.block = key.Block
		k.damage(ctx, v, g, l, vfs.Errorf(vfs.KindNotFound, "upkeep.check", "%d shards are left", len(b.others)))
		return vfs.Errorf(vfs.KindNotFound, "upkeep.check", "too few shards are left")
	}
	n, err := k.rebuild(ctx, v, g, slot, l, true, nil)
	switch vfs.KindOf(err) {
	case vfs.KindOK:
		k.repaired(g, slot, n)
	case vfs.KindNotFound, vfs.KindCorrupt:
		k.damage(ctx, v, g, l, err)
	}
	return err
}

// verify reads a shard whole.
func (k *Keeper) verify(ctx context.Context, key segment.Key) error {
	e, _, err := k.o.Store.Stat(ctx, key)
	if err != nil {
		return err
	}
	r, err := k.o.Store.Get(ctx, key, 0, int(e.Length))
	if err != nil {
		return err
	}
	r.Release()
	return nil
}
