package upkeep

import (
	"context"
	"sync"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/vfs"
)

// source is one store's list of a group, of which only the shards of one slot are looked at.
type source struct {
	slot int
	own  bool
	read func(ctx context.Context, after *segment.Key) ([]blockstore.ShardInfo, bool, error)

	page  []blockstore.ShardInfo
	at    int
	begun bool
	more  bool
	err   error // it has not acknowledged the epoch, or the list ended early
}

// peek is the next shard, nil at the end.
func (s *source) peek(ctx context.Context) *blockstore.ShardInfo {
	for s.err == nil {
		for ; s.at < len(s.page); s.at++ {
			if int(s.page[s.at].Shard) == s.slot {
				return &s.page[s.at]
			}
		}
		if s.begun && !s.more {
			return nil
		}
		var after *segment.Key
		if n := len(s.page); n > 0 {
			after = &segment.Key{Block: s.page[n-1].Block, Shard: s.page[n-1].Shard}
		}
		s.page, s.more, s.err = s.read(ctx, after)
		s.begun, s.at = true, 0
	}
	return nil
}

// seen is one block of a group, as the lists have it.
type seen struct {
	block  uint64
	here   bool                   // this store lists its shard
	others []blockstore.ShardInfo // what other stores list, at most one of each slot
}

// merge visits the blocks of all lists in order. A list that fails is as one that ends; its err says so.
// What visit gets is overwritten by the next.
func merge(ctx context.Context, sources []*source, visit func(*seen) error) error {
	var b seen
	for {
		first := true
		for _, s := range sources {
			if e := s.peek(ctx); e != nil && (first || e.Block < b.block) {
				b.block, first = e.Block, false
			}
		}
		if first {
			return nil
		}
		b.here, b.others = false, b.others[:0]
		slots := uint32(0)
		for _, s := range sources {
			e := s.peek(ctx)
			if e == nil || e.Block != b.block {
				continue
			}
			switch bit := uint32(1) << s.slot; {
			case s.own:
				b.here = true
			case slots&bit == 0:
				slots |= bit
				b.others = append(b.others, *e)
			}
			s.at++
		}
		if err := visit(&b); err != nil {
			return err
		}
	}
}

// lack is a block of which this store should have a shard and has none.
type lack struct {
	block uint64
	shape blockstore.Shape
	slots []int // whose targets, or previous ones, list a shard of it
	spare int   // how many more of them there are than a repair needs; negative: too few
	older bool  // a shard was written under an older epoch than the group's
}

// lacks says what b lacks in slot i of g. Shards of another geometry than most of the others do not count.
func (b *seen) lacks(g *group, i int) (lack, bool) {
	if b.here {
		return lack{}, false
	}
	length, most := uint32(0), 0
	for _, e := range b.others {
		n := 0
		for _, f := range b.others {
			if f.BlockLen == e.BlockLen && fits(f, g) {
				n++
			}
		}
		if n > most {
			length, most = e.BlockLen, n
		}
		if n == len(b.others) {
			break
		}
	}
	shape, err := blockstore.ShapeOf(int(length), g.k, g.m)
	if err != nil || !shape.Stored(i) {
		return lack{}, false
	}
	l := lack{block: b.block, shape: shape, spare: most - shape.Data}
	for _, e := range b.others {
		if e.BlockLen == length && fits(e, g) {
			l.slots = append(l.slots, int(e.Shard))
			l.older = l.older || e.Epoch < g.pg.Epoch
			if int(e.Shard) == i {
				l.spare = max(l.spare, 0) // the previous target has it: it need only be copied
			}
		}
	}
	return l, true
}

func fits(e blockstore.ShardInfo, g *group) bool { return int(e.K) == g.k && int(e.M) == g.m }

func infoOf(e store.Entry) blockstore.ShardInfo {
	return blockstore.ShardInfo{Block: e.Key.Block, Shard: e.Key.Shard, K: e.K, M: e.M, Length: e.Length, Epoch: e.Epoch, BlockLen: e.BlockLen}
}

// lists are the lists of a group.
type lists struct {
	g       *group
	targets []*source // of each slot's store
	before  []*source // of its previous one, nil where there is none
}

// lists has all members acknowledge the group's epoch and begins to read their lists.
func (k *Keeper) lists(ctx context.Context, v view, g *group, i int) (*lists, error) {
	pg, n := g.pg.Id, len(g.pg.Slots)
	epoch := segment.Epoch{PG: pg, Epoch: g.pg.Epoch}
	if err := k.o.Store.Fence(ctx, []segment.Epoch{epoch}); err != nil {
		return nil, err
	}
	l := &lists{g: g, targets: make([]*source, n), before: make([]*source, n)}
	l.targets[i] = &source{slot: i, own: true, read: func(ctx context.Context, after *segment.Key) ([]blockstore.ShardInfo, bool, error) {
		entries, more, err := k.o.Store.List(ctx, pg, after, listPage)
		infos := make([]blockstore.ShardInfo, len(entries))
		for j := range entries {
			infos[j] = infoOf(entries[j])
		}
		return infos, more, err
	}}
	var fences sync.WaitGroup
	remote := func(slot int, store uint32) *source {
		t := v.target(store)
		s := &source{slot: slot, read: func(ctx context.Context, after *segment.Key) ([]blockstore.ShardInfo, bool, error) {
			return v.list(ctx, t, pg, after)
		}}
		fences.Go(func() {
			if err := v.fence(ctx, t, epoch); err != nil {
				s.err = vfs.Errorf(vfs.KindOf(err), "upkeep.fence", "%v: %w", t, err)
			}
		})
		return s
	}
	for j, s := range g.pg.Slots {
		if j != i {
			l.targets[j] = remote(j, s.Store)
		}
		if s.Previous != 0 && s.Previous != k.o.ID {
			l.before[j] = remote(j, s.Previous)
		}
	}
	fences.Wait()
	for _, s := range l.targets {
		if vfs.KindOf(s.err) == vfs.KindFenced {
			return nil, s.err // the map is old
		}
	}
	return l, nil
}

func (l *lists) all() []*source {
	var out []*source
	for j := range l.targets {
		out = append(out, l.targets[j])
		if l.before[j] != nil {
			out = append(out, l.before[j])
		}
	}
	return out
}

// vouched reports whether one slot, of those in which every block has a shard, is known whole: no write under
// an older epoch can come to it any more, and the lists that were read of it name every block.
func (l *lists) vouched() bool {
	for j, s := range l.g.pg.Slots {
		if (j == 0 || j >= l.g.k) && l.targets[j].err == nil &&
			(s.Previous == 0 && !s.Filling || l.before[j] != nil && l.before[j].err == nil) {
			return true
		}
	}
	return false
}
