package upkeep

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// survey is what a scan of a group found.
type survey struct {
	scanned               uint64
	missing, missingBytes uint64
	spare                 []uint64 // missing, by what is left of their redundancy: 0..m
	spareBytes            []uint64 // their bytes
	pending, damaged      uint64
	absent                []string // members that did not answer
	vouched               bool
	foreign               bool  // something was answered by other metadata
	err                   error // why blocks were not answered for
}

// complete reports whether the group lacks nothing here, and is known to.
func (s *survey) complete() bool {
	return s.missing+s.pending+s.damaged == 0 && len(s.absent) == 0 && s.vouched && !s.foreign && s.err == nil
}

// scan reads the lists of a group and hands out what this store lacks of blocks that exist, and what is pending.
func (k *Keeper) scan(ctx context.Context, v view, g *group, i int, p *background.Permit, missing func(lack) error) (*survey, error) {
	ls, err := k.lists(ctx, v, g, i)
	if err != nil {
		return nil, err
	}
	s := &survey{spare: make([]uint64, g.m+1), spareBytes: make([]uint64, g.m+1)}
	var batch []lack
	flush := func() error {
		ids := make([]uint64, len(batch))
		for j := range batch {
			ids[j] = batch[j].block
		}
		a := k.ask(ctx, ids)
		if a.err != nil {
			s.err = a.err
			if ctx.Err() != nil {
				return vfs.Wrap("upkeep.scan", ctx.Err())
			}
		}
		s.foreign = s.foreign || len(a.other) > 0
		for _, l := range batch {
			st, _, ok := a.of(l.block)
			switch {
			case !ok:
			case st.in(g.pg.Id) && k.came(ctx, g, i, l):
			case st.in(g.pg.Id):
				if err := missing(l); err != nil {
					return err
				}
				s.missing++
				s.missingBytes += uint64(l.shape.ShardLen)
				if l.spare >= 0 {
					s.spare[min(l.spare, g.m)]++
					s.spareBytes[min(l.spare, g.m)] += uint64(l.shape.ShardLen)
				}
			case st.state == metapb.BlockState_BLOCK_LEASED && l.older:
				s.pending++
			}
		}
		batch = batch[:0]
		return nil
	}
	sources := ls.all()
	err = merge(ctx, sources, func(b *seen) error {
		s.scanned++
		p.Did(1, 0)
		l, ok := b.lacks(g, i)
		if !ok {
			return nil
		}
		if batch = append(batch, l); len(batch) == askBatch {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = ls.targets[i].err
	}
	if err != nil {
		return nil, err
	}
	for j, t := range ls.targets {
		if t.err != nil {
			s.absent = append(s.absent, v.target(g.pg.Slots[j].Store).String()+": "+t.err.Error())
		}
	}
	s.vouched = ls.vouched()
	k.o.Metrics.Scanned.Add(float64(s.scanned))
	return s, nil
}

// came reports whether a shard that the list of this store lacked is there: the lists are read one after the other, and a block that was written meanwhile is in
// some of them only. It became live with all its shards, so what the others list of it says nothing of what is left.
func (k *Keeper) came(ctx context.Context, g *group, i int, l lack) bool {
	_, _, err := k.o.Store.Stat(ctx, keyOf(g.pg.Id, l.block, i))
	return err == nil
}

// survey scans a group without repairing anything.
func (k *Keeper) survey(ctx context.Context, v view, g *group, i int, p *background.Permit) (*survey, error) {
	k.progress(g, i, func(p *GroupStatus) { p.State = StateScanning })
	var hopeless []lack // a few of them, to be told of
	n := uint64(0)
	s, err := k.scan(ctx, v, g, i, p, func(l lack) error {
		if l.spare < 0 {
			if n++; len(hopeless) < damageTold {
				hopeless = append(hopeless, l)
			}
		}
		return nil
	})
	if err != nil {
		k.progress(g, i, func(p *GroupStatus) { p.State, p.Error = StateIncomplete, err.Error() })
		return nil, err
	}
	if len(s.absent) == 0 {
		s.missing -= n
		s.damaged = n
		for _, l := range hopeless {
			k.damage(ctx, v, g, l, vfs.Errorf(vfs.KindNotFound, "upkeep.survey", "%d shards are left, %d are needed", len(l.slots), l.shape.Data))
		}
	}
	k.progress(g, i, func(p *GroupStatus) { p.surveyed(s) })
	return s, nil
}

// job is a group in a pass of the healer.
type job struct {
	g       *group
	slot    int
	survey  *survey
	level   int    // of redundancy, that is to be rebuilt next
	tried   uint64 // to rebuild
	damaged uint64
	err     error
}

// Heal checks the shards that were reported, surveys the groups that are marked, and repairs what they lack. It
// returns when all that can be done now is done.
func (k *Keeper) Heal(ctx context.Context) error {
	k.healing.Lock()
	defer k.healing.Unlock()
	if err := k.writable(); err != nil {
		k.noteHeal(err)
		return err // marks stay
	}
	m, err := k.refresh(ctx)
	if old := k.lastMap(); err != nil && ctx.Err() == nil && old != nil {
		k.log.Debug("upkeep: the cluster map cannot be read, repair goes on with the last one", "store", k.o.ID, "err", err)
		m, err = old, nil
	}
	if err == nil {
		err = k.own(m)
	}
	k.noteHeal(err)
	if err != nil {
		return err // marks stay
	}
	v := view{m, k.peers}
	if err := k.heal(ctx, v); err != nil {
		k.noteHeal(err)
		return err
	}
	return nil
}

func (k *Keeper) heal(ctx context.Context, v view) error {
	if err := k.checkSuspects(ctx, v); err != nil {
		return err
	}
	var jobs []*job
	for _, pg := range k.takeMarked() {
		g := v.groups[pg]
		if g == nil || g.slotOf(k.o.ID) < 0 {
			k.forget(pg)
			continue
		}
		jobs = append(jobs, &job{g: g, slot: g.slotOf(k.o.ID)})
	}
	// By what is known before: those of which the most slots are being filled.
	slices.SortStableFunc(jobs, func(a, b *job) int { return cmp.Compare(a.g.spare(), b.g.spare()) })
	suspects := func() error { return k.checkSuspects(ctx, v) }
	for n, j := range jobs {
		if err := k.surveyJob(ctx, v, j, suspects); err != nil {
			k.putBack(jobs[n:])
			return err
		}
		if err := suspects(); err != nil {
			k.putBack(jobs)
			return err
		}
	}
	if err := k.repair(ctx, v, jobs, suspects); err != nil {
		k.putBack(jobs)
		return err
	}
	for _, j := range jobs {
		if j.err == nil && j.tried > 0 {
			if err := k.surveyJob(ctx, v, j, suspects); err != nil {
				k.putBack(jobs)
				return err
			}
		}
		if err := k.conclude(ctx, j); err != nil {
			k.putBack(jobs)
			return err
		}
	}
	return nil
}

// surveyJob surveys the group of a job with the leader's permission, anew if that is taken back. An error ends the pass.
func (k *Keeper) surveyJob(ctx context.Context, v view, j *job, meanwhile func() error) error {
	for {
		p, err := k.desk.Acquire(ctx, meanwhile, &metapb.WorkTask{
			Kind: metapb.WorkKind_WORK_SURVEY, Pool: j.g.pool, Pg: j.g.pg.Id, Slot: uint32(j.slot), Spare: j.g.spare(),
		})
		if err != nil {
			return err
		}
		j.survey, j.err = k.survey(p.Context(), v, j.g, j.slot, p)
		back := p.TakenBack()
		p.Done()
		if ctx.Err() != nil {
			return vfs.Wrap("upkeep.heal", ctx.Err())
		}
		if !back {
			return nil
		}
	}
}

// conclude ends a group's turn in a pass.
func (k *Keeper) conclude(ctx context.Context, j *job) error {
	switch {
	case ctx.Err() != nil:
		return vfs.Wrap("upkeep.heal", ctx.Err())
	case j.err == nil && j.damaged == 0 && j.survey.complete():
		k.whole(j.g.pg.Id)
		if j.g.unfinished(j.slot) {
			if j.err = k.filled(ctx, j.g, j.slot); j.err == nil {
				k.log.Info("upkeep: slot filled", "store", k.o.ID, "pg", j.g.pg.Id, "slot", j.slot, "epoch", j.g.pg.Epoch)
				k.o.Metrics.Filled.Inc()
			}
		}
	default:
		k.putOff(j.g.pg.Id)
	}
	k.progress(j.g, j.slot, func(p *GroupStatus) {
		p.Damaged += j.damaged
		switch {
		case j.err != nil:
			p.State, p.Error = StateIncomplete, j.err.Error()
		case j.damaged > 0 || !j.survey.complete():
			p.State = StateIncomplete
		default:
			p.State = StateClean
		}
	})
	if j.err != nil {
		k.log.Warn("upkeep: a placement group could not be repaired, it will be tried again", "store", k.o.ID, "pg", j.g.pg.Id, "err", j.err)
		k.putOff(j.g.pg.Id)
	}
	return nil
}

// repair rebuilds what the surveys found, with the leader's permission: those blocks first that can lose the least, of all stores.
func (k *Keeper) repair(ctx context.Context, v view, jobs []*job, meanwhile func() error) error {
	var bytes uint64
	for _, j := range jobs {
		if j.survey != nil {
			bytes += j.survey.missingBytes
		}
	}
	if bytes == 0 {
		return nil
	}
	k.beginRepair(bytes)
	defer k.endRepair()
	for {
		var wanted []*job
		for _, j := range jobs {
			if j.next() {
				wanted = append(wanted, j)
			}
		}
		if len(wanted) == 0 {
			return nil
		}
		// Among groups, those with the most such blocks first.
		slices.SortStableFunc(wanted, func(a, b *job) int {
			return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(b.survey.spare[b.level], a.survey.spare[a.level]))
		})
		tasks := make([]*metapb.WorkTask, len(wanted))
		for i, j := range wanted {
			tasks[i] = j.task()
		}
		p, err := k.desk.Acquire(ctx, meanwhile, tasks...)
		if err != nil {
			return err
		}
		j := wanted[slices.Index(tasks, p.Task)]
		err = k.repairLevel(ctx, v, j, j.level, p)
		if !p.TakenBack() {
			j.level++
		}
		p.Done()
		if err != nil {
			return err
		}
		if err := meanwhile(); err != nil {
			return err
		}
	}
}

// next finds the level of redundancy that is to be rebuilt next.
func (j *job) next() bool {
	if j.survey == nil || j.err != nil {
		return false
	}
	for j.level < len(j.survey.spare) && j.survey.spare[j.level] == 0 {
		j.level++
	}
	return j.level < len(j.survey.spare)
}

// task is the rebuilding of the next level.
func (j *job) task() *metapb.WorkTask {
	kind := metapb.WorkKind_WORK_REPAIR
	if j.g.pg.Slots[j.slot].Previous != 0 {
		kind = metapb.WorkKind_WORK_MOVE
	}
	return &metapb.WorkTask{
		Kind: kind, Pool: j.g.pool, Pg: j.g.pg.Id, Slot: uint32(j.slot), Spare: int32(j.level),
		BlocksTotal: j.survey.spare[j.level], BytesTotal: j.survey.spareBytes[j.level],
	}
}

// repairLevel rebuilds what a group lacks of the blocks with the given redundancy left. An error is one that other groups would
// meet too.
func (k *Keeper) repairLevel(ctx context.Context, v view, j *job, level int, p *background.Permit) error {
	k.progress(j.g, j.slot, func(p *GroupStatus) { p.State = StateRebuilding })
	var mu sync.Mutex // guards j.tried and j.damaged
	workers, wctx := errgroup.WithContext(p.Context())
	workers.SetLimit(k.o.Workers)
	room := semaphore.NewWeighted(inFlight)
	_, err := k.scan(wctx, v, j.g, j.slot, nil, func(l lack) error {
		if min(l.spare, j.g.m) != level {
			return nil
		}
		size := int64(min(l.shape.ShardLen*(l.shape.Data+1), inFlight))
		if err := room.Acquire(wctx, size); err != nil {
			return err
		}
		workers.Go(func() error {
			defer room.Release(size)
			n, err := k.rebuild(wctx, v, j.g, j.slot, l, false, p)
			if wctx.Err() != nil {
				return wctx.Err()
			}
			damaged := false
			if err == nil {
				k.repaired(j.g, j.slot, n)
			} else if damaged, err = k.failed(wctx, v, j.g, l, err); err != nil {
				return err
			}
			p.Did(1, uint64(n))
			mu.Lock()
			defer mu.Unlock()
			j.tried++ // or tried to: the group is surveyed again
			if damaged {
				j.damaged++
			}
			return nil
		})
		return wctx.Err()
	})
	if werr := workers.Wait(); werr != nil {
		err = werr
	}
	switch {
	case err == nil || vfs.KindOf(err) == vfs.KindFenced:
		j.err = err
		return nil
	case ctx.Err() != nil:
		return vfs.Wrap("upkeep.repair", ctx.Err())
	case p.TakenBack():
		return nil // what is left is asked for again
	}
	return err
}

// failed classifies the failure of one rebuild. An error ends the repair.
func (k *Keeper) failed(ctx context.Context, v view, g *group, l lack, cause error) (damaged bool, err error) {
	switch vfs.KindOf(cause) {
	case vfs.KindNotFound, vfs.KindCorrupt, vfs.KindExists:
		k.damage(ctx, v, g, l, cause)
		return true, nil
	case vfs.KindUnavailable:
		k.log.Debug("upkeep: a shard cannot be rebuilt now", "store", k.o.ID, "pg", g.pg.Id, "block", l.block, "err", cause)
		return false, nil
	}
	return false, cause
}

// putBack marks the groups of a pass that was ended early.
func (k *Keeper) putBack(jobs []*job) {
	for _, j := range jobs {
		k.putOff(j.g.pg.Id)
	}
}

// takeMarked empties the set of marked groups.
func (k *Keeper) takeMarked() []uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []uint32
	for pg := range k.marked {
		out = append(out, pg)
	}
	clear(k.marked)
	slices.Sort(out)
	return out
}

// beginRepair and endRepair enclose what the estimate of the remaining time is made from.
func (k *Keeper) beginRepair(bytes uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Repair = RepairStatus{Running: true, Since: time.Now(), Bytes: bytes}
}

func (k *Keeper) endRepair() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Repair.Running = false
}

// keyOf is the shard of a slot.
func keyOf(pg uint32, block uint64, slot int) segment.Key {
	return segment.Key{PG: pg, Block: block, Shard: uint8(slot)}
}
