package raftmeta

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// purgeKeys and reapBlocks bound one command.
	purgeKeys  = 1000
	reapBlocks = 1000
	// rateWindow is over how long the rate of background work is measured, at least.
	rateWindow = 10 * time.Second
)

// Work is the state of a leader's background work of one kind.
type Work struct {
	Queue     uint64  // what waits: items of the purge queue, dying blocks
	Done      uint64  // keys removed, blocks reaped, since this replica leads
	PerSecond float64 // the same over the last seconds
}

// work counts background work.
type work struct {
	mu    sync.Mutex // guards the fields below
	queue uint64
	done  uint64
	looks uint64 // how often the queue was looked at
	marks [2]struct {
		at   time.Duration
		done uint64
	} // the newest is older than now by less than rateWindow, if anybody looks
}

func newWork(now time.Duration) *work {
	w := new(work)
	w.marks[0].at, w.marks[1].at = now, now
	return w
}

func (w *work) add(queue, done uint64, now time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = queue
	w.done += done
	w.looks++
	if now-w.marks[1].at >= rateWindow {
		w.marks[0] = w.marks[1]
		w.marks[1].at, w.marks[1].done = now, w.done
	}
}

func (w *work) status(now time.Duration) Work {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Work{Queue: w.queue, Done: w.done}
	if d := now - w.marks[0].at; d > 0 {
		s.PerSecond = float64(w.done-w.marks[0].done) / d.Seconds()
	}
	return s
}

// background does a leader's work, each kind at its own pace, until ctx ends.
func (sh *shard) background(ctx context.Context, l *leadership) {
	o := &sh.s.opt
	g := &grace{wait: o.Grace}
	var wg sync.WaitGroup
	for _, k := range []struct {
		w    *work
		rate int // per second
		step func(context.Context, *metapb.ShardInfoR) (done uint64, more bool)
		left func(*metapb.ShardInfoR) uint64
	}{
		{l.purge, o.PurgeKeysPerSecond, sh.purge, (*metapb.ShardInfoR).GetPurgeQueue},
		{l.reap, o.ReapBlocksPerSecond, func(ctx context.Context, i *metapb.ShardInfoR) (uint64, bool) { return sh.reap(ctx, i, g) }, (*metapb.ShardInfoR).GetDyingBlocks},
	} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				info, began := sh.look(), o.Monotonic()
				done, more := k.step(ctx, info)
				k.w.add(k.left(info)-min(done, k.left(info)), done, o.Monotonic())
				wait := o.PurgeInterval
				if more {
					// Where commands take long there are others that wait: renewals of leases, too.
					wait = max(time.Duration(done)*time.Second/time.Duration(k.rate), o.Monotonic()-began)
				}
				if pause(ctx, wait) != nil {
					return
				}
			}
		}()
	}
	wg.Go(func() { sh.watchLeases(ctx, l.leases) })
	wg.Go(func() { sh.keepRaising(ctx) })
	wg.Go(func() { sh.keepLeaving(ctx) })
	if sh.id == 0 {
		wg.Go(func() { sh.watchClients(ctx) })
	} else {
		wg.Go(func() { sh.findPieces(ctx, &l.work.pieces) })
	}
	wg.Wait()
}

// look reads what the leader's own state says of its queues; nil if it cannot be read. That is a hint:
// commands look themselves.
func (sh *shard) look() *metapb.ShardInfoR {
	v, _, err := sh.host.View()
	if err != nil {
		return nil
	}
	defer v.Release()
	return fsm.Query(v, nil, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}}).GetShardInfo()
}

// purge removes a piece of what the purge queue holds.
func (sh *shard) purge(ctx context.Context, info *metapb.ShardInfoR) (done uint64, more bool) {
	if info.GetPurgeQueue() == 0 {
		return 0, false
	}
	r := sh.proposeOne(ctx, "purge", &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: purgeKeys}}})
	return uint64(r.GetPurge().GetKeys()), r.GetPurge().GetMore()
}

// reap ends the grace of a number of dying blocks, if it is over for any.
func (sh *shard) reap(ctx context.Context, info *metapb.ShardInfoR, g *grace) (done uint64, more bool) {
	g.note(info.GetDyingNext(), sh.s.opt.Monotonic()) // a time after the state was read
	through, some := g.due(sh.s.opt.Monotonic())
	if !some {
		return 0, false
	}
	r := sh.proposeOne(ctx, "reap", &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: through, Max: reapBlocks}}})
	if r == nil {
		return 0, false
	}
	if more = r.GetReap().GetMore(); !more {
		g.reaped()
	}
	if dead := r.GetReap().GetBlocks(); len(dead) > 0 && sh.s.opt.OnDead != nil {
		sh.s.opt.OnDead(dead)
	}
	return uint64(len(r.GetReap().GetBlocks())), more
}

// proposeOne runs a command of the leader's own; nil if it did not succeed.
func (sh *shard) proposeOne(ctx context.Context, what string, cmd *metapb.Command) *metapb.Result {
	r, err := sh.command(ctx, cmd)
	if err != nil {
		return nil // not leader any more; the next one goes on
	}
	if k := vfs.Kind(r.GetKind()); k != vfs.KindOK {
		sh.log.Error("raftmeta: background work failed", "command", what, "kind", k, "text", r.GetText())
		return nil
	}
	return r
}

// command puts a command of the server's own through the log.
func (sh *shard) command(ctx context.Context, cmd *metapb.Command) (*metapb.Result, error) {
	now := sh.s.opt.Clock()
	cmd.Time = &metapb.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	enc, err := cmd.MarshalVT()
	if err != nil {
		return nil, err
	}
	res, errs, err := sh.batch.Do(ctx, [][]byte{enc})
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return res[0], nil
}
