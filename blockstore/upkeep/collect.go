package upkeep

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// collectPage is how many shards are listed, asked for and deleted at once.
	collectPage = 2048
	// gapMax is up to which id groups are looked at that the map does not have (any more).
	gapMax = 1 << 20
	// shardsMax is more than the shards that a block can have in one store.
	shardsMax = 32
	// hintBatch is how many hinted blocks are looked at in one go.
	hintBatch = 512
)

// Collected counts what a pass of the collector did.
type Collected struct {
	Listed     uint64 `json:"listed"`     // shards
	Dead       uint64 `json:"dead"`       // deleted: the block is dead
	Elsewhere  uint64 `json:"elsewhere"`  // deleted: the block is live in another group
	Moved      uint64 `json:"moved"`      // deleted: the shard is at another store now
	Bytes      uint64 `json:"bytes"`      // of what was deleted
	Unanswered uint64 `json:"unanswered"` // kept: no answer that counts
	Strange    uint64 `json:"strange"`    // kept: live in a group that the map does not have, or that lacks such a slot
}

func (c *Collected) add(d Collected) {
	c.Listed += d.Listed
	c.Dead += d.Dead
	c.Elsewhere += d.Elsewhere
	c.Moved += d.Moved
	c.Bytes += d.Bytes
	c.Unanswered += d.Unanswered
	c.Strange += d.Strange
}

// fate is what is to become of a shard.
type fate uint8

const (
	keep      fate = iota
	dead           // the block is dead
	elsewhere      // the block is live in another group
	astray         // the block is live, and the shard is not this store's; it goes if it is where it belongs
)

// fateOf decides about a shard that was listed before the answer was asked for.
func fateOf(key segment.Key, s standing) fate {
	switch {
	case s.state == metapb.BlockState_BLOCK_DEAD:
		return dead
	case s.kept() && s.pg != 0 && s.pg != key.PG:
		return elsewhere
	case s.kept() && s.pg == key.PG:
		return astray // unless the map says that it belongs here
	}
	return keep
}

// belongs reports whether shard i of a group is, or may be, needed in a store, by a map that was read after the shard was
// listed. strange says that the map cannot tell.
func (m *clusterMap) belongs(key segment.Key, store uint32) (needed, strange bool) {
	g := m.groups[key.PG]
	if g == nil || int(key.Shard) >= len(g.pg.Slots) {
		return true, true
	}
	if g.pg.Slots[key.Shard].Store == store {
		return true, false
	}
	for i, s := range g.pg.Slots {
		if g.unfinished(i) || s.Previous == store {
			return true, false
		}
	}
	return false, false
}

// Collect makes a pass over all shards of the store and deletes what is dead or not this store's. An error ends it early;
// what it has deleted was to be deleted.
func (k *Keeper) Collect(ctx context.Context) (c Collected, err error) {
	k.collecting.Lock()
	defer k.collecting.Unlock()
	began := time.Now()
	defer func() { k.collected(began, c, err) }()
	if err := k.writable(); err != nil {
		return c, err
	}
	m, err := k.refresh(ctx)
	if err == nil {
		err = k.own(m)
	}
	if err == nil {
		err = k.accept(ctx)
	}
	if err != nil {
		return c, err
	}
	var failed error // of a shard that does not answer; the others' blocks are collected all the same
	for id := uint32(1); id <= m.last; id++ {
		if m.groups[id] == nil && id > gapMax {
			continue
		}
		d, answered, err := k.collectGroup(ctx, id)
		c.add(d)
		if err != nil {
			return c, err
		}
		if answered != nil {
			failed = answered
		}
	}
	return c, failed
}

// collectGroup is a pass over the store's shards of one placement group. answered is why the metadata did not answer for some.
func (k *Keeper) collectGroup(ctx context.Context, id uint32) (c Collected, answered, err error) {
	var after *segment.Key
	for {
		if err := ctx.Err(); err != nil {
			return c, answered, vfs.Wrap("upkeep.collect", err)
		}
		entries, more, err := k.o.Store.List(ctx, id, after, collectPage)
		if err != nil || len(entries) == 0 {
			return c, answered, err
		}
		d, unanswered, err := k.sweep(ctx, entries)
		c.add(d)
		if unanswered != nil {
			answered = unanswered
		}
		if err != nil || !more {
			return c, answered, err
		}
		last := entries[len(entries)-1].Key
		after = &last
	}
}

// CollectHinted looks at the blocks of hints.
func (k *Keeper) CollectHinted(ctx context.Context) (c Collected, err error) {
	k.collecting.Lock()
	defer k.collecting.Unlock()
	if err := k.writable(); err != nil {
		return c, err
	}
	if m := k.clusterMap(); m == nil || k.own(m) != nil {
		if m, err = k.refresh(ctx); err == nil {
			err = k.own(m)
		}
		if err != nil {
			return c, err
		}
	}
	for {
		hints := k.hints.take(hintBatch)
		if len(hints) == 0 {
			return c, nil
		}
		var entries []store.Entry
		for _, h := range hints {
			found, err := k.shardsOf(ctx, h.PG, h.Block)
			if err != nil {
				return c, err
			}
			entries = append(entries, found...)
		}
		d, answered, err := k.sweep(ctx, entries)
		c.add(d)
		if err == nil {
			err = answered
		}
		if err != nil {
			return c, err
		}
	}
}

// shardsOf lists what the store has of a block in a group.
func (k *Keeper) shardsOf(ctx context.Context, pg uint32, block uint64) ([]store.Entry, error) {
	var after *segment.Key
	if block > 0 {
		after = &segment.Key{PG: pg, Block: block - 1, Shard: 255}
	}
	entries, _, err := k.o.Store.List(ctx, pg, after, shardsMax)
	for i := range entries {
		if entries[i].Key.Block != block {
			return entries[:i], err
		}
	}
	return entries, err
}

// sweep asks for the blocks of shards that were just listed and deletes those that may go. answered is why the metadata did
// not answer for some.
func (k *Keeper) sweep(ctx context.Context, entries []store.Entry) (c Collected, answered, err error) {
	c.Listed = uint64(len(entries))
	for len(entries) > 0 {
		n := min(len(entries), collectPage)
		d, unanswered, err := k.sweepPage(ctx, entries[:n])
		c.add(d)
		if unanswered != nil {
			answered = unanswered
		}
		if err != nil {
			return c, answered, err
		}
		entries = entries[n:]
	}
	return c, answered, nil
}

func (k *Keeper) sweepPage(ctx context.Context, entries []store.Entry) (c Collected, answered, err error) {
	ids := make([]uint64, 0, len(entries))
	for _, e := range entries {
		if len(ids) == 0 || ids[len(ids)-1] != e.Key.Block {
			ids = append(ids, e.Key.Block)
		}
	}
	a := k.ask(ctx, ids)
	var gone []segment.Key
	counts := [...]*uint64{dead: &c.Dead, elsewhere: &c.Elsewhere, astray: &c.Moved}
	var bytes, reasons = uint64(0), [len(counts)]uint64{}
	doom := func(e *store.Entry, f fate) {
		gone = append(gone, e.Key)
		bytes += uint64(e.Length)
		reasons[f]++
	}
	var strays []*store.Entry
	for i := range entries {
		e := &entries[i]
		s, ok := a.own[e.Key.Block]
		if !ok {
			c.Unanswered++
			continue
		}
		switch f := fateOf(e.Key, s); f {
		case dead, elsewhere:
			doom(e, f)
		case astray:
			strays = append(strays, e)
		}
	}
	k.o.Metrics.Unanswered.Add(float64(c.Unanswered))
	if strays, c.Strange, err = k.strays(ctx, strays); err != nil {
		return c, a.err, err
	}
	for _, e := range strays {
		doom(e, astray)
	}
	if len(gone) == 0 {
		return c, a.err, nil
	}
	if _, err := k.o.Store.Delete(ctx, gone); err != nil {
		return c, a.err, err
	}
	c.Bytes = bytes
	k.o.Metrics.DeletedBytes.Add(float64(bytes))
	for f, n := range reasons {
		if n > 0 {
			*counts[f] += n
			k.o.Metrics.Deleted.WithLabelValues([...]string{dead: "dead", elsewhere: "elsewhere", astray: "moved"}[f]).Add(float64(n))
		}
	}
	return c, a.err, nil
}

// strays are those of the given shards, of live blocks and listed before, that have moved away.
func (k *Keeper) strays(ctx context.Context, entries []*store.Entry) (out []*store.Entry, strange uint64, err error) {
	m := k.clusterMap()
	suspect := false
	for _, e := range entries {
		// Any map will do to see that all is in order: what belongs here by an old one is looked at again in the next pass.
		if needed, odd := m.belongs(e.Key, k.o.ID); !needed || odd {
			suspect = true
			break
		}
	}
	if !suspect {
		return nil, 0, nil
	}
	if m, err = k.refresh(ctx); err != nil {
		return nil, 0, err
	}
	v := view{m, k.peers}
	for _, e := range entries {
		needed, odd := m.belongs(e.Key, k.o.ID)
		if odd {
			strange++
		}
		if needed {
			continue
		}
		holder := m.groups[e.Key.PG].pg.Slots[e.Key.Shard].Store
		r, serr := v.stat(ctx, m.target(holder), e.Key)
		if serr == nil && r.Shard.Length == e.Length && r.Shard.BlockLen == e.BlockLen && r.Shard.K == e.K && r.Shard.M == e.M {
			out = append(out, e)
		} else if ctx.Err() != nil {
			return nil, strange, vfs.Wrap("upkeep.strays", ctx.Err())
		}
	}
	return out, strange, nil
}
