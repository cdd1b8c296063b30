package volume

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// blockIDRange is how many block ids are leased at once (16 GiB of full blocks), and how many a unit has in
	// which the state machine leases them. Of a smaller range the rest of the unit is never used.
	blockIDRange = 4096
	// returnUnits bounds one ReturnBlocks.
	returnUnits = 1000
)

// blockIDs gives out ids from ranges that the namespace shard leased to this
// gateway, and gives the ranges back.
//
// A range is given back when all its ids were given out, or it was leased long ago (it is retired: no more ids are taken
// from it), and none of them is held any more. Who took
// an id holds it until no write with it is under way and none will begin, and no CommitData that
// brings it is under way: it was refused, or it was applied, or the id was given up. So no id of a range that was given back
// is ever written or committed. From then on what is not
// in a file is dead, and the shards of abandoned attempts can be deleted, also while little is written. An id that
// keeps being tried keeps its range.
type blockIDs struct {
	mu     sync.Mutex // guards the fields below
	next   uint64     // of the range that ids are taken from
	last   uint64     // its end; next == last: there is none
	since  time.Time  // when it was leased
	ranges map[uint64]*idRange
	asking chan struct{}
	err    error // of the last asking

	gen       int      // grows when all ranges are void
	idle      []uint64 // first ids of ranges that can be given back
	returning bool
	tried     time.Time // when giving back ended last
}

// idRange is a leased range. Its key is its first id.
type idRange struct {
	held int  // ids given out and not settled
	open bool // ids are taken from it
}

func firstOf(id uint64) uint64 { return id &^ (blockIDRange - 1) }

// take returns an id that was never used. The caller settles it.
func (b *blockIDs) take(ctx context.Context, v *Volume) (uint64, error) {
	for {
		b.mu.Lock()
		if b.next < b.last {
			id := b.next
			b.next++
			r := b.ranges[firstOf(id)]
			r.held++
			r.open = b.next < b.last
			b.mu.Unlock()
			return id, nil
		}
		if b.asking == nil {
			b.asking = make(chan struct{})
			b.mu.Unlock()
			if err := b.ask(ctx, v); err != nil {
				return 0, err
			}
			continue
		}
		wait := b.asking
		b.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		b.mu.Lock()
		err, empty := b.err, b.next >= b.last
		b.mu.Unlock()
		if empty && err != nil {
			return 0, err
		}
	}
}

// ask leases a range and lets those who wait go on.
func (b *blockIDs) ask(ctx context.Context, v *Volume) error {
	b.mu.Lock()
	gen := b.gen
	b.mu.Unlock()
	r, err := v.apply(ctx, "blocks.alloc", nil, &metapb.Command{
		Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: uint32(v.cfg.BlockIDs)}},
	})
	if err == nil && r.GetBlocks().GetCount() == 0 {
		err = vfs.Errorf(vfs.KindInternal, "blocks.alloc", "an empty range")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil && gen == b.gen { // else they may be the former origin's: who waits asks again
		b.next = r.GetBlocks().First
		b.last = b.next + uint64(r.GetBlocks().Count)
		if b.ranges == nil {
			b.ranges = make(map[uint64]*idRange)
		}
		b.ranges[b.next] = &idRange{open: true}
		b.since = v.cfg.Now()
	}
	b.err = err
	close(b.asking)
	b.asking = nil
	return err
}

// settle ends the holding of an id.
func (b *blockIDs) settle(v *Volume, id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := firstOf(id)
	r := b.ranges[first]
	if r == nil {
		return // it was void before
	}
	r.held--
	if r.held > 0 || r.open {
		return
	}
	b.giveBackLater(v, first)
}

// giveBackLater gives back a range of which no id is held, and those that could not be given back before. b.mu is held.
func (b *blockIDs) giveBackLater(v *Volume, first ...uint64) {
	for _, id := range first {
		delete(b.ranges, id)
	}
	b.idle = append(b.idle, first...)
	if len(b.idle) > 0 && !b.returning {
		// A volume that is closed gives back nothing: only a clean shutdown knows that nothing is under way.
		b.returning = v.spawn(func() { b.giveBack(v.ctx, v) })
	}
}

// retire ends taking ids from a range that was leased long ago.
func (b *blockIDs) retire(v *Volume) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := v.cfg.Now().Add(-v.cfg.BlockIDAge)
	if b.next < b.last && !b.since.After(old) {
		first := firstOf(b.next)
		b.next = b.last
		r := b.ranges[first]
		if r.open = false; r.held == 0 {
			b.giveBackLater(v, first)
		}
	}
	if !b.tried.After(old) {
		b.giveBackLater(v)
	}
}

// void forgets all ranges: they ended with the origin.
func (b *blockIDs) void() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gen++
	b.next, b.last = 0, 0
	b.idle = nil
	clear(b.ranges)
}

// giveBack returns idle ranges. Those that could not be returned wait for the next time, at the latest the
// end of this gateway, which voids them.
func (b *blockIDs) giveBack(ctx context.Context, v *Volume) {
	for {
		b.mu.Lock()
		n := min(len(b.idle), returnUnits)
		if n == 0 {
			b.returning, b.tried = false, v.cfg.Now()
			b.mu.Unlock()
			return
		}
		units := slices.Clone(b.idle[:n])
		b.idle = slices.Delete(b.idle, 0, n)
		b.mu.Unlock()
		_, err := v.apply(ctx, "blocks.return", nil, &metapb.Command{
			Op: &metapb.Command_ReturnBlocks{ReturnBlocks: &metapb.ReturnBlocks{First: units}},
		})
		if err == nil {
			continue
		}
		v.cfg.Logger.Debug("volume: block ids are not given back yet", "err", err) // a shard of level 1 does not take them
		b.mu.Lock()
		b.idle = append(units, b.idle...)
		b.returning, b.tried = false, v.cfg.Now()
		b.mu.Unlock()
		return
	}
}

// close gives back every range of which no id is held, that which ids are taken from too. Nobody takes
// ids any more.
func (b *blockIDs) close(ctx context.Context, v *Volume) {
	b.mu.Lock()
	b.next = b.last
	for first, r := range b.ranges {
		if r.held == 0 {
			delete(b.ranges, first)
			b.idle = append(b.idle, first)
		}
	}
	b.returning = true
	b.mu.Unlock()
	b.giveBack(ctx, v)
}
