package volume

import (
	"context"
	"slices"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Opens for reading that are not recorded (loose). Most of them end before anybody could miss them, so a command for each would be for nothing. Those
// that go on are recorded, many in one command: a gateway that dies, is started again or has its place taken by another one takes with it only those of the
// last moment, and for their files the shard waits (package fsm, "NFS clients").

const (
	// keepsPerCommand is how many opens a command records, which is the most that it may.
	keepsPerCommand = 256
	// keepsPerTick bounds what one tick records. More are left to the next.
	keepsPerTick = 4096
	// refusedTicks is after how many ticks what the shard refused to record is tried again: another open denies it, or there are too many.
	refusedTicks = 64
)

// looseRing lists shares in the order they came.
type looseRing struct{ head keptShare }

func (r *looseRing) init() { r.head.prev, r.head.next = &r.head, &r.head }

func (r *looseRing) push(k *keptShare) {
	k.in, k.prev, k.next = r, r.head.prev, &r.head
	k.prev.next, r.head.prev = k, k
}

// loose are the shares of all inodes that are not recorded. Guarded by table.mu.
type loose struct {
	young   looseRing // to be recorded once they are old enough
	refused looseRing // that could not be
	n       int       // in both
	ticks   uint64
	pause   uint64 // nothing is recorded before this tick: the shard does not know how
}

func (l *loose) init() {
	l.young.init()
	l.refused.init()
}

func (l *loose) add(k *keptShare) {
	k.since = l.ticks
	l.young.push(k)
	l.n++
}

// drop takes k out, which may be nil or not among them.
func (l *loose) drop(k *keptShare) {
	if k == nil || k.in == nil {
		return
	}
	k.prev.next, k.next.prev = k.next, k.prev
	k.in, k.prev, k.next = nil, nil, nil
	l.n--
}

// put moves k, if it is still there, to the end of a ring.
func (l *loose) put(k *keptShare, to *looseRing) {
	if k.in == nil {
		return
	}
	l.drop(k)
	k.since = l.ticks
	to.push(k)
	l.n++
}

// tick begins a new one, and returns up to limit shares that were there for all of the last.
func (l *loose) tick(limit int) (old []*keptShare) {
	if l.ticks++; l.ticks < l.pause {
		return nil
	}
	if l.ticks%refusedTicks == 0 {
		for n := 0; n < limit && l.refused.head.next != &l.refused.head; n++ {
			l.put(l.refused.head.next, &l.young)
		}
	}
	for k := l.young.head.next; k != &l.young.head && len(old) < limit && l.ticks-k.since >= 2; k = k.next {
		old = append(old, k)
	}
	return old
}

// looseShares lists shares that are not recorded, of all inodes; nil, false if they are more than max.
func (t *table) looseShares(max int) ([]*metapb.ClientOpen, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.loose.n > max {
		return nil, false
	}
	var out []*metapb.ClientOpen
	for _, r := range []*looseRing{&t.loose.young, &t.loose.refused} {
		for k := r.head.next; k != &r.head; k = k.next {
			out = append(out, pbShare(k.ino, &k.Share))
		}
	}
	return out, true
}

// keeper records opens for reading that go on, until the volume is closed.
func (v *Volume) keeper() {
	tick := time.NewTicker(v.cfg.KeepAge)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.keepOld(v.ctx)
		case <-v.ctx.Done():
			return
		}
	}
}

// keepOld records the opens that are old enough, at most keepsPerTick. What fails is tried again at a later tick.
func (v *Volume) keepOld(ctx context.Context) {
	v.table.mu.Lock()
	old := v.table.loose.tick(keepsPerTick)
	v.table.mu.Unlock()
	for part := range slices.Chunk(old, keepsPerCommand) {
		if !v.keepSome(ctx, part) {
			return
		}
	}
}

// keepSome records shares by one command. It reports whether it could be asked for.
func (v *Volume) keepSome(ctx context.Context, some []*keptShare) bool {
	const op = "keep opens"
	var mine, later []*keptShare
	var files []*inode // of mine
	ask := &metapb.KeepOpens{}
	defer func() {
		for i, e := range files {
			if !slices.Contains(files[:i], e) {
				e.leasing.Release(1)
			}
			v.release(e)
		}
	}()
	for _, k := range some {
		if v.cfg.Serves != nil { // else another gateway has the client, which has closed it there perhaps
			if served, err := v.cfg.Serves(k.Client); err != nil || !served {
				later = append(later, k)
				continue
			}
		}
		e := v.find(k.ino)
		if e == nil { // ended
			continue
		}
		// As in record: what is noted here is what the metadata was told last. Who is about to tell it something else of the file goes first.
		if !slices.Contains(files, e) && !e.leasing.TryAcquire(1) {
			v.release(e)
			later = append(later, k)
			continue
		}
		files = append(files, e)
		mine = append(mine, k)
	}
	var sure []*keptShare // of mine, until now
	v.table.mu.Lock()
	for _, k := range later {
		v.table.loose.put(k, &v.table.loose.young)
	}
	for i, k := range mine {
		if k.in == nil { // ended, or recorded by others
			mine[i] = nil
			continue
		}
		if !k.unsure {
			k.unsure, sure = true, append(sure, k) // whoever ends it from now on tells the metadata
		}
		ask.Opens = append(ask.Opens, pbShare(k.ino, &k.Share))
	}
	v.table.mu.Unlock()
	mine = slices.DeleteFunc(mine, func(k *keptShare) bool { return k == nil })
	if len(mine) == 0 {
		return true
	}
	r, err := v.apply(ctx, op, nil, &metapb.Command{Op: &metapb.Command_KeepOpens{KeepOpens: ask}})
	var refused []uint32
	if err == nil {
		refused = r.GetKeepOpens().GetRefused()
	}
	var ended []*keptShare
	v.table.mu.Lock()
	if vfs.KindOf(err) == vfs.KindNotSupported {
		v.table.loose.pause = v.table.loose.ticks + refusedTicks
		for _, k := range sure {
			k.unsure = false
		}
	}
	for i, k := range mine {
		e := v.table.inodes[k.ino]
		now := e.shares[keyOf(&k.Share)]
		switch {
		case now == nil:
			ended = append(ended, k) // its end may have been told before
		case now != k:
			now.unsure = now.unsure || !now.recorded
		case err != nil:
			v.table.loose.put(k, &v.table.loose.young)
		case slices.Contains(refused, uint32(i)):
			k.unsure = false
			v.table.loose.put(k, &v.table.loose.refused)
		default:
			v.table.loose.drop(k)
			k.recorded, k.unsure = true, false
		}
	}
	v.table.mu.Unlock()
	for _, k := range ended {
		v.closings.add(v, fileClose(k.ino, &k.Share, nil))
	}
	return err == nil
}
