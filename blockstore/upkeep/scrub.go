package upkeep

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// minScrubRate is how many bytes a scrub reads per second at least: a store that is nearly empty is checked in little time.
const minScrubRate = 1 << 20

// Limiter holds work to a rate.
type Limiter interface {
	// WaitN returns when n more bytes may be read, or an error when ctx ends.
	WaitN(ctx context.Context, n int) error
}

// scrubSpare orders scrubs among each other only: nothing is known to be missing.
const scrubSpare = 1

// permitted is the scrub's own rate, within it that of its permit, and what clients leave of the disk.
type permitted struct {
	own  *limiter
	p    *background.Permit
	disk *budget.Budget
}

// WaitN implements Limiter.
func (l permitted) WaitN(ctx context.Context, n int) error {
	if err := l.own.WaitN(ctx, n); err != nil {
		return err
	}
	l.p.Did(0, uint64(n))
	if err := l.p.WaitN(ctx, n); err != nil {
		return err
	}
	return l.disk.WaitN(ctx, n)
}

// Scrub checks all shards of the store behind after, or all if it is nil, in the order of keys, at the rate that limit
// allows, and tells bad of those that fail. next is behind which shard to go on, nil when all are checked.
type Scrub func(ctx context.Context, after *segment.Key, limit Limiter, bad func(segment.Key)) (next *segment.Key, shards, bytes int64, err error)

// ScrubOf is the scrub of a store.
func ScrubOf(s *store.Store) Scrub {
	return func(ctx context.Context, after *segment.Key, limit Limiter, bad func(segment.Key)) (*segment.Key, int64, int64, error) {
		r, err := s.Scrub(ctx, after, limit, func(b store.Bad) { bad(b.Key) })
		return r.Next, r.Shards, r.Bytes, err
	}
}

// ScrubStatus is the scrub's present or last pass.
type ScrubStatus struct {
	Began  time.Time `json:"began,omitzero"`
	Ended  time.Time `json:"ended,omitzero"`
	Shards int64     `json:"shards"` // checked
	Bytes  int64     `json:"bytes"`
	Bad    int64     `json:"bad"`
	Error  string    `json:"error,omitempty"`
}

// scrubber makes pass after pass. The first one begins anywhere, so that a process that is restarted more often
// than a pass takes checks all shards alike, in the long run.
func (k *Keeper) scrubber(ctx context.Context) {
	m, err := k.refresh(ctx)
	for ; err != nil; m, err = k.refresh(ctx) {
		if !sleep(ctx, k.o.Retry) {
			return
		}
	}
	var after *segment.Key
	if m.last > 0 {
		after = &segment.Key{PG: rand.Uint32N(m.last + 1)}
	}
	for ctx.Err() == nil {
		began, done := time.Now(), false
		if after, done = k.scrub(ctx, after); done {
			sleep(ctx, max(k.o.Retry, k.o.ScrubPeriod-time.Since(began)))
		} else {
			sleep(ctx, k.o.Retry)
		}
	}
}

// scrub makes a pass, or what is left of one, and returns whether it came to the end, and where to go on.
func (k *Keeper) scrub(ctx context.Context, after *segment.Key) (next *segment.Key, done bool) {
	p, err := k.desk.Acquire(ctx, nil, &metapb.WorkTask{
		Kind: metapb.WorkKind_WORK_SCRUB, BytesTotal: uint64(max(k.o.Store.Info().Used, 0)), Spare: scrubSpare,
	})
	if err != nil {
		return after, false
	}
	defer p.Done()
	st := ScrubStatus{Began: time.Now()}
	k.noteScrub(st)
	rate := max(int64(float64(k.o.Store.Info().Used)/k.o.ScrubPeriod.Seconds()), minScrubRate)
	next, shards, bytes, err := k.o.Scrub(p.Context(), after, permitted{newLimiter(rate), p, k.o.Budget}, func(key segment.Key) {
		st.Bad++
		k.Report([]segment.Key{key})
	})
	st.Shards, st.Bytes, st.Ended = shards, bytes, time.Now()
	if err != nil && p.Context().Err() == nil {
		st.Error = err.Error()
		k.log.Warn("upkeep: scrub stopped, it will be continued", "store", k.o.ID, "err", err)
	}
	k.o.Metrics.Scrubbed.Add(float64(shards))
	k.o.Metrics.ScrubbedBytes.Add(float64(bytes))
	k.noteScrub(st)
	return next, err == nil
}

func (k *Keeper) noteScrub(st ScrubStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Scrub = st
}

// sleep waits; false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
