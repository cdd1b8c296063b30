package clustercheck

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// shardShift is where a block id's namespace shard begins.
	shardShift = 48
	// askBatch is how many blocks are asked for at once; the state machine answers up to 10,000.
	askBatch = 4096
	// againMost bounds how many shards of one range are asked for a second time, one by one, before they count as missing.
	againMost = 10000
	// listsAtOnce is how many stores are listed side by side.
	listsAtOnce = 8
)

// liveBlock is a block that some file has.
type liveBlock struct {
	id     uint64
	pg     uint32
	length uint32
	seen   uint32 // slots of which a shard was listed where the map says
	prev   uint32 // slots of which one was listed where the map says that it comes from
}

// strayShard is a listed shard of a block that is not live, or not in that group.
type strayShard struct {
	store uint32
	key   blockstore.Key
	bytes uint32
}

// slots is a placement group as the inventory needs it.
type slots struct {
	k, m  int
	slots []*metapb.Slot
	epoch uint32
}

func (c *checker) groups() map[uint32]*slots {
	out := map[uint32]*slots{}
	for _, p := range c.cmap.GetPools() {
		for _, g := range p.Pgs {
			out[g.Id] = &slots{k: int(cmp.Or(g.K, p.K)), m: int(p.M), slots: g.Slots, epoch: g.Epoch}
		}
	}
	return out
}

// inventory compares what stores have with what namespaces name, range by range over all block ids.
func (c *checker) inventory(ctx context.Context) error {
	next := uint64(0) // the first id that was not looked at
	for _, shard := range c.o.Shards {
		if shard == clusterShard {
			continue
		}
		first := uint64(shard) << shardShift
		if next < first {
			if err := c.foreign(ctx, next, first-1); err != nil {
				return err
			}
		}
		if err := c.namespace(ctx, shard); err != nil {
			return err
		}
		if next = first + 1<<shardShift; next == 0 {
			return nil
		}
	}
	return c.foreign(ctx, next, ^uint64(0))
}

// foreign looks for shards of blocks of shards that do not exist.
func (c *checker) foreign(ctx context.Context, first, last uint64) error {
	return c.lists(ctx, max(first, 1)-1, last, func(s *storeConn, pg uint32, e *blockstore.ShardInfo) {
		c.r().add(Error, KindUnknown, "store %d has shard %d of block %#x in placement group %d, and there is no shard %d of the metadata", s.rec.Id, e.Shard, e.Block, pg, e.Block>>shardShift)
	})
}

// namespace looks at all ids of one shard.
func (c *checker) namespace(ctx context.Context, shard uint16) error {
	step := "blocks of shard " + string(appendUint(nil, uint64(shard)))
	lo, end := uint64(shard)<<shardShift, uint64(shard)<<shardShift+(1<<shardShift-1)
	after := lo
	if after > 0 {
		after--
	}
	c.o.Progress(Progress{Step: step, Done: c.report.Blocks})
	for {
		live, through, more, err := c.live(ctx, shard, after)
		if err != nil {
			return err
		}
		if !more {
			through = end
		}
		if err := c.span(ctx, shard, after, through, live); err != nil {
			return err
		}
		c.report.Blocks += uint64(len(live))
		c.o.Progress(Progress{Step: step, Done: c.report.Blocks})
		if !more {
			return nil
		}
		after = through
	}
}

func appendUint(b []byte, v uint64) []byte {
	if v >= 10 {
		b = appendUint(b, v/10)
	}
	return append(b, byte('0'+v%10))
}

// live asks for live blocks above an id, up to Options.Blocks of them, and how far that goes.
func (c *checker) live(ctx context.Context, shard uint16, after uint64) (out []liveBlock, through uint64, more bool, err error) {
	for {
		r, err := c.o.Meta.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_LiveBlocks{LiveBlocks: &metapb.LiveBlocksQ{After: after}}})
		if err != nil {
			return nil, 0, false, err
		}
		page := r.GetBlocks()
		for _, b := range page.GetBlocks() {
			out = append(out, liveBlock{id: b.Id, pg: b.Pg, length: b.Length})
		}
		if page.GetNext() == 0 {
			return out, 0, false, nil
		}
		if after = page.Next; len(out) >= c.o.Blocks {
			return out, after, true, nil
		}
	}
}

// lists visits what all stores have with ids in (after, through], one shard at a time, listsAtOnce stores side by side.
func (c *checker) lists(ctx context.Context, after, through uint64, visit func(s *storeConn, pg uint32, e *blockstore.ShardInfo)) error {
	var mu sync.Mutex // of c.report, and whatever visit touches
	var wg sync.WaitGroup
	room := make(chan struct{}, listsAtOnce)
	for _, id := range c.ids() {
		s := c.stores[id]
		if s.err != nil {
			continue
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			for _, pg := range s.groups {
				err := s.list(ctx, pg, after, through, func(e *blockstore.ShardInfo) {
					mu.Lock()
					defer mu.Unlock()
					c.report.Shards++
					visit(s, pg, e)
				})
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					c.fail(s, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// span checks the ids in (after, through], of which live are those that files have.
func (c *checker) span(ctx context.Context, shard uint16, after, through uint64, live []liveBlock) error {
	// Newer than the blocks: their placement groups are in it.
	if err := c.readMap(ctx); err != nil {
		return err
	}
	groups := c.groups()
	var strays []strayShard
	var err error
	flush := func() {
		if err == nil {
			err = c.strays(ctx, shard, strays)
		}
		strays = strays[:0]
	}
	lerr := c.lists(ctx, after, through, func(s *storeConn, pg uint32, e *blockstore.ShardInfo) {
		i, ok := slices.BinarySearchFunc(live, e.Block, func(b liveBlock, id uint64) int { return cmp.Compare(b.id, id) })
		if !ok || live[i].pg != pg {
			strays = append(strays, strayShard{s.rec.Id, blockstore.Key{PG: pg, Block: e.Block, Shard: e.Shard}, e.Length})
			if len(strays) == askBatch {
				flush()
			}
			return
		}
		c.listed(s, groups[pg], pg, &live[i], e)
	})
	if lerr != nil {
		return lerr
	}
	if flush(); err != nil {
		return err
	}
	return c.missing(ctx, shard, groups, live)
}

// listed notes a shard of a live block.
func (c *checker) listed(s *storeConn, g *slots, pg uint32, b *liveBlock, e *blockstore.ShardInfo) {
	if g == nil || int(e.Shard) >= len(g.slots) {
		c.r().add(Error, KindMisplaced, "store %d has shard %d of live block %#x in placement group %d, which the map does not have", s.rec.Id, e.Shard, e.Block, pg)
		return
	}
	shape, err := blockstore.ShapeOf(int(b.length), g.k, g.m)
	if err != nil || !shape.Stored(int(e.Shard)) || int(e.Length) != shape.ShardLen || e.BlockLen != b.length || int(e.K) != g.k || int(e.M) != g.m {
		c.r().add(Error, KindMisplaced, "store %d has shard %d of live block %#x as part of %d bytes %d+%d, the block has %d bytes %d+%d",
			s.rec.Id, e.Shard, e.Block, e.BlockLen, e.K, e.M, b.length, g.k, g.m)
		return
	}
	switch slot := g.slots[e.Shard]; s.rec.Id {
	case slot.Store:
		b.seen |= 1 << e.Shard
	case slot.Previous:
		b.prev |= 1 << e.Shard
	default:
		c.r().add(Notice, KindMisplaced, "store %d has shard %d of block %#x, whose place is on store %d: the collector removes it when it is there", s.rec.Id, e.Shard, e.Block, slot.Store)
	}
}

// strays asks what blocks are that have shards and were not live.
func (c *checker) strays(ctx context.Context, shard uint16, strays []strayShard) error {
	if len(strays) == 0 {
		return nil
	}
	var ids []uint64
	for _, s := range strays {
		ids = append(ids, s.key.Block)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	r, err := c.o.Meta.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: ids}}})
	if err != nil {
		return err
	}
	b := r.GetBlockStates()
	if len(b.GetStates()) != len(ids) || len(b.GetPgs()) != len(ids) {
		return vfs.Errorf(vfs.KindInternal, "", "shard %d answered %d states for %d blocks", shard, len(b.GetStates()), len(ids))
	}
	next := c.infos[shard].NextBlock
	counted := map[blockstore.Key]bool{}
	for _, s := range strays {
		i, _ := slices.BinarySearch(ids, s.key.Block)
		kept := b.States[i] == metapb.BlockState_BLOCK_LIVE || b.States[i] == metapb.BlockState_BLOCK_DYING
		switch {
		case kept && b.Pgs[i] != s.key.PG:
			c.r().add(Notice, KindAbandoned, "store %d has shard %d of block %#x in placement group %d, the block is in %d: an abandoned attempt to write it, which the collector removes",
				s.store, s.key.Shard, s.key.Block, s.key.PG, b.Pgs[i])
		case b.States[i] != metapb.BlockState_BLOCK_DEAD:
			// Dying, or leased: a gateway may still commit it, or did since.
		case next != 0 && s.key.Block >= next:
			if err := c.neverGiven(ctx, shard, s); err != nil {
				return err
			}
		default:
			k := s.key
			if k.Shard = 0; !counted[k] {
				counted[k] = true
				c.report.Orphans.Blocks++
			}
			c.report.Orphans.Shards++
			c.report.Orphans.Bytes += uint64(s.bytes)
			c.orphan(ctx, s)
		}
	}
	return nil
}

// neverGiven tells of a shard of a block above all that the metadata gave out, if it did not since.
func (c *checker) neverGiven(ctx context.Context, shard uint16, s strayShard) error {
	info, err := c.info(ctx, shard)
	if err != nil {
		return err
	}
	if s.key.Block < info.NextBlock {
		return nil // it is younger than the check
	}
	c.r().add(Error, KindUnknown, "store %d has shard %d of block %#x in placement group %d, and no such block was ever given out", s.store, s.key.Shard, s.key.Block, s.key.PG)
	return nil
}

// orphan tells of a shard of a dead block, and whose it was.
func (c *checker) orphan(ctx context.Context, s strayShard) {
	severity, then := Notice, "the collector removes it"
	if c.report.Deletion != DeletionOn {
		severity, then = Error, "it stays until deletion is allowed"
	}
	if !c.report.kept(severity, KindOrphan) {
		c.r().add(severity, KindOrphan, "")
		return
	}
	r, err := c.stores[s.store].stat(ctx, s.key)
	if vfs.KindOf(err) == vfs.KindNotFound {
		return // it was collected meanwhile
	}
	c.r().add(severity, KindOrphan, "store %d has shard %d of block %#x (placement group %d, %d bytes, of inode %d of file system %d at %d), which no file has: %s",
		s.store, s.key.Shard, s.key.Block, s.key.PG, s.bytes, r.Owner.Ino, r.Owner.FS, r.Owner.Offset, then)
}

// missing looks for shards that live blocks should have and that nobody listed.
func (c *checker) missing(ctx context.Context, shard uint16, groups map[uint32]*slots, live []liveBlock) error {
	again := 0
	for i := range live {
		b := &live[i]
		g := groups[b.pg]
		if g == nil {
			if err := c.readMap(ctx); err != nil { // the group may be younger than the map
				return err
			}
			if groups = c.groups(); groups[b.pg] == nil {
				c.r().add(Error, KindLost, "block %#x is in placement group %d, which the map does not have", b.id, b.pg)
				continue
			}
			g = groups[b.pg]
		}
		shape, err := blockstore.ShapeOf(int(b.length), g.k, g.m)
		if err != nil {
			c.r().add(Error, KindState, "block %#x: %v", b.id, err)
			continue
		}
		lacks, blind := uint32(0), uint32(0)
		for i, s := range g.slots {
			bit := uint32(1) << i
			if !shape.Stored(i) || b.seen&bit != 0 {
				continue
			}
			if st := c.stores[s.Store]; st == nil || st.err != nil {
				blind |= bit
			} else {
				lacks |= bit
			}
		}
		if lacks|blind&^b.prev == 0 {
			continue
		}
		if again++; again <= againMost && lacks != 0 {
			if lacks, err = c.again(ctx, shard, b, g, lacks); err != nil {
				return err
			}
		}
		c.lacking(b, g, shape, lacks, blind)
	}
	return nil
}

// again asks once more for what a block lacks: 0 if it has ended, or its group has changed, since it was listed.
func (c *checker) again(ctx context.Context, shard uint16, b *liveBlock, g *slots, lacks uint32) (uint32, error) {
	var left uint32
	for i, s := range g.slots {
		if lacks&(1<<i) == 0 {
			continue
		}
		_, err := c.stores[s.Store].stat(ctx, blockstore.Key{PG: b.pg, Block: b.id, Shard: uint8(i)})
		switch {
		case err == nil:
			b.seen |= 1 << i
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		default:
			left |= 1 << i
		}
	}
	if left == 0 {
		return 0, nil
	}
	r, err := c.o.Meta.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: []uint64{b.id}}}})
	if err != nil {
		return 0, err
	}
	if st := r.GetBlockStates(); len(st.GetStates()) != 1 || st.States[0] != metapb.BlockState_BLOCK_LIVE {
		return 0, nil
	}
	if err := c.readMap(ctx); err != nil {
		return 0, err
	}
	if now := c.groups()[b.pg]; now == nil || now.epoch != g.epoch {
		return 0, nil // its slots moved meanwhile: the next check sees
	}
	return left, nil
}

// lacking tells what a block lacks.
func (c *checker) lacking(b *liveBlock, g *slots, shape blockstore.Shape, lacks, blind uint32) {
	filling := uint32(0)
	var where []uint32
	for i, s := range g.slots {
		if lacks&(1<<i) == 0 {
			continue
		}
		if s.Filling {
			filling |= 1 << i
			continue
		}
		where = append(where, s.Store)
	}
	have := bits.OnesCount32(b.seen | b.prev)
	switch {
	case have < shape.Data && have+bits.OnesCount32(blind) >= shape.Data:
		c.r().add(Error, KindMissing, "block %#x (placement group %d): %d shards were found, %d are needed to read it; the rest may be on stores that cannot be looked at", b.id, b.pg, have, shape.Data)
	case have < shape.Data:
		c.r().add(Error, KindLost, "block %#x (placement group %d) cannot be read: %d of its shards are left, %d are needed", b.id, b.pg, have, shape.Data)
	case lacks&^filling != 0:
		c.r().add(Error, KindMissing, "block %#x (placement group %d) lacks shards on stores %v: they are rebuilt from the %d others", b.id, b.pg, where, have)
	}
}
