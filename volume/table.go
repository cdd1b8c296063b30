package volume

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// table holds the inodes that this gateway has to do with.
type table struct {
	mu     sync.Mutex // guards the fields below, and refs, opens, shares, used, elem of inodes
	inodes map[vfs.Ino]*inode
	full   chan struct{}      // wakes the evictor
	idle   lruElem            // ring of the inodes with refs 0, oldest first
	open   map[vfs.Ino]*inode // those with opens
	opened uint64             // how often an inode came to be open
	loose  loose              // shares that are not recorded

	losses     map[vfs.Ino]uint64 // of inodes that were evicted after losses
	lossesBase uint64             // what every inode has at least
}

// lruElem links inodes into the idle ring.
type lruElem struct {
	prev, next *lruElem
	inode      *inode
}

// maxLossRecords bounds table.losses; beyond it all inodes count as having
// lost something.
const maxLossRecords = 4096

func (t *table) init() {
	t.inodes = make(map[vfs.Ino]*inode)
	t.open = make(map[vfs.Ino]*inode)
	t.losses = make(map[vfs.Ino]uint64)
	t.full = make(chan struct{}, 1)
	t.idle.prev, t.idle.next = &t.idle, &t.idle
	t.loose.init()
}

func (l *lruElem) unlink() {
	if l.next != nil {
		l.prev.next, l.next.prev = l.next, l.prev
		l.prev, l.next = nil, nil
	}
}

func (l *lruElem) insertBefore(at *lruElem) {
	l.prev, l.next = at.prev, at
	at.prev.next, at.prev = l, l
}

// acquire returns the entry of ino, made if there is none, and keeps it until
// release.
func (v *Volume) acquire(ino vfs.Ino) *inode {
	t := &v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.inodes[ino]
	if e == nil {
		e = newInode(ino)
		e.losses = max(t.losses[ino], t.lossesBase)
		t.inodes[ino] = e
	}
	t.take(e)
	return e
}

// find is acquire without making one; nil if there is none.
func (v *Volume) find(ino vfs.Ino) *inode {
	t := &v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.inodes[ino]
	if e != nil {
		t.take(e)
	}
	return e
}

// overlay makes of attributes that the metadata told the effective ones of those files that are leased.
func (t *table) overlay(as []vfs.Attr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range as {
		a := &as[i]
		if a.Type != vfs.TypeFile {
			continue
		}
		e := t.inodes[a.Ino]
		if e == nil {
			continue
		}
		e.mu.Lock()
		if !e.dead && e.leased() && e.known {
			e.learn(*a)
			*a = e.attr()
		}
		e.mu.Unlock()
	}
}

func (t *table) take(e *inode) {
	e.refs++
	e.elem.unlink()
}

// release ends acquire. An entry that holds nothing goes at once.
func (v *Volume) release(e *inode) {
	t := &v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.refs--; e.refs > 0 || e.opens != [2]int{} {
		return
	}
	e.mu.Lock()
	empty := len(e.chunks) == 0 && (e.dead || !e.leased() && len(e.ext.leaves) == 0 && e.err == nil)
	e.mu.Unlock()
	if empty {
		t.remove(e)
		return
	}
	e.used = v.cfg.Now()
	e.elem.inode = e
	e.elem.insertBefore(&t.idle)
	if len(t.inodes) > v.cfg.InodeLimit {
		select {
		case t.full <- struct{}{}:
		default:
		}
	}
}

// remove takes e out of the table. t.mu is held and e has no users.
func (t *table) remove(e *inode) {
	e.elem.unlink()
	delete(t.inodes, e.ino)
	for _, k := range e.shares { // of opens that ended before them
		t.loose.drop(k)
	}
	if e.losses <= t.lossesBase || e.dead {
		return
	}
	if len(t.losses) >= maxLossRecords {
		for _, n := range t.losses {
			t.lossesBase = max(t.lossesBase, n)
		}
		t.lossesBase = max(t.lossesBase, e.losses) + 1
		for _, o := range t.inodes {
			o.mu.Lock()
			o.losses = max(o.losses, t.lossesBase)
			o.mu.Unlock()
		}
		clear(t.losses)
		return
	}
	t.losses[e.ino] = e.losses
}

// openIndex is where an open is counted in inode.opens.
func openIndex(f vfs.OpenFlags) int {
	if f&vfs.OpenWrite != 0 {
		return 1
	}
	return 0
}

// addOpen counts an open, which also holds the entry.
func (v *Volume) addOpen(e *inode, f vfs.OpenFlags) {
	t := &v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.opens == [2]int{} {
		t.opened++
		e.opened = t.opened
	}
	t.open[e.ino] = e
	e.opens[openIndex(f)]++
}

// dropOpen ends one; last reports that it was the last. ok is false if there was none.
func (v *Volume) dropOpen(e *inode, f vfs.OpenFlags) (last, ok bool) {
	t := &v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.opens[openIndex(f)] == 0 {
		return false, false
	}
	e.opens[openIndex(f)]--
	last = e.opens == [2]int{}
	if last {
		delete(t.open, e.ino)
	}
	return last, true
}

// isOpen reports whether e is open here.
func (v *Volume) isOpen(e *inode) bool {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	return e.opens != [2]int{}
}

// openSince reports whether e is open here and was so, without a break, at the moment at of openInodes.
func (v *Volume) openSince(e *inode, at uint64) bool {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	return e.opens != [2]int{} && e.opened <= at
}

// openInodes lists the inodes that are open at the moment at; nil, false if they are more than max.
func (t *table) openInodes(max int) (list []uint64, few bool, at uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) > max {
		return nil, false, t.opened
	}
	out := make([]uint64, 0, len(t.open))
	for ino := range t.open {
		out = append(out, uint64(ino))
	}
	return out, true, t.opened
}

// all returns every entry that matches, held; the caller releases them.
func (v *Volume) all(match func(*inode) bool) []*inode {
	t := &v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*inode
	for _, e := range t.inodes {
		if match(e) {
			t.take(e)
			out = append(out, e)
		}
	}
	return out
}

// leaseIdle is how long an unused inode keeps its lease and extents.
const leaseIdle = time.Minute

// evictor gives back what idle inodes hold, now and then and whenever the table
// is over its limit.
func (v *Volume) evictor() {
	tick := time.NewTicker(min(v.cfg.FlushAge, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.table.full:
		case <-tick.C:
		}
		for v.evict(v.ctx) {
		}
		v.retireQuota(v.ctx)
	}
}

// evict gives back what some idle inodes hold: those idle for long, and the
// oldest ones while the table is over its limit. Dirty ones are flushed first, and
// go in a later round. It reports whether another round is of use now.
func (v *Volume) evict(ctx context.Context) bool {
	t := &v.table
	const round = 256
	t.mu.Lock()
	var old []*inode
	before := len(t.inodes)
	over := before - v.cfg.InodeLimit
	since := v.cfg.Now().Add(-leaseIdle)
	for l := t.idle.next; l != &t.idle && len(old) < round; l = l.next {
		if len(old) >= over && l.inode.used.After(since) {
			break
		}
		old = append(old, l.inode)
	}
	for _, e := range old {
		t.take(e)
	}
	t.mu.Unlock()
	v.giveBack(old, func(e *inode) { v.giveBackIdle(ctx, e, over > 0) })
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(old) == round && len(t.inodes) < before && ctx.Err() == nil
}

// giveBack runs one for entries that are held, several at a time, and releases
// the entries.
func (v *Volume) giveBack(entries []*inode, one func(*inode)) {
	const parallel = 64
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for _, e := range entries {
		slots <- struct{}{}
		wg.Go(func() {
			one(e)
			v.release(e)
			<-slots
		})
	}
	wg.Wait()
}

// giveBackIdle returns the lease of e if that is clean and nobody uses it.
func (v *Volume) giveBackIdle(ctx context.Context, e *inode, flush bool) {
	if !e.gate.TryAcquire(gateWide) {
		return // somebody uses it
	}
	defer e.gate.Release(gateWide)
	if v.isOpen(e) {
		return
	}
	v.giveBackLease(ctx, e, flush)
}

// giveBackLease returns the lease of e, whose gate the caller holds
// exclusively. If e is dirty it is flushed instead (if flush), and keeps the lease.
func (v *Volume) giveBackLease(ctx context.Context, e *inode, flush bool) {
	e.mu.Lock()
	if len(e.chunks) > 0 {
		if flush {
			v.flushLocked(e, 0, maxOffset)
		}
		e.mu.Unlock()
		return
	}
	if e.dead || !e.leased() {
		e.ext, e.extChange = extentMap{}, 0
		e.mu.Unlock()
		return
	}
	ask := &metapb.ReleaseLease{Ino: uint64(e.ino), Epoch: e.lease.Epoch, Change: e.top()}
	several := v.cfg.Want != nil
	if several {
		// Others may change the file from when the metadata is told.
		v.loseLease(e, nil)
		e.ended = ask.Epoch
	}
	e.mu.Unlock()
	_, err := v.apply(ctx, "lease.release", nil, &metapb.Command{Op: &metapb.Command_ReleaseLease{ReleaseLease: ask}})
	switch kindOfCommand(err) {
	case vfs.KindOK, vfs.KindFenced, vfs.KindStale, vfs.KindUnknownOrigin:
		if !several {
			e.mu.Lock()
			v.loseLease(e, nil) // nothing is dirty, so nothing is lost
			e.mu.Unlock()
		}
	default:
		if several { // it may be ours without our knowing
			e.mu.Lock()
			e.ended = ask.Epoch - 1
			e.mu.Unlock()
		}
	}
}

// releaseAll gives all leases back, also of files that are open: NFS clients reclaim
// their opens from the next incarnation, which continues the change values where
// this one ends.
func (v *Volume) releaseAll(ctx context.Context) {
	leased := v.all(func(e *inode) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.leased()
	})
	v.giveBack(leased, func(e *inode) {
		if e.gate.Acquire(ctx, gateWide) == nil {
			defer e.gate.Release(gateWide)
			v.giveBackLease(ctx, e, false)
		}
	})
}
