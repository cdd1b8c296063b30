package volume

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// quotaAhead is how many bytes are reserved beyond what a write needs, far from a limit. A quarter of it left asks for more.
	quotaAhead = 16 << 20
	// quotaIdle is after how long without writes a project's reservation goes back, and it is forgotten whether there
	// is a limit.
	quotaIdle = 10 * time.Second

	pagesPerChunk = chunkSize / pageSize
)

// allotments are the bytes that the metadata has reserved for this gateway within the limits of quotas, by project (0:
// none). Where there is no limit nothing is reserved and every write passes.
//
// A write that is buffered takes a hold on what it may add to its file at most: a whole page for each page in which the
// file's known extents leave room for it to add anything, unless the chunk's hold has that page already. When the flush is
// committed the metadata says how much it took; the rest of the hold is free again. So what was acknowledged can be committed,
// and at a full quota what exists can be overwritten.
//
// Whether there is a limit is asked with the first write in a project, and told by each commit. What was
// buffered before it was known is committed in any case (CommitData.unlimited).
type allotments struct {
	mu  sync.Mutex // guards all below, and every allotment
	gen uint64     // grows when all is void
	by  map[uint32]*allotment
}

type allotment struct {
	known   bool // whether there is a limit
	limited bool
	free    uint64 // reserved, and in no hold
	held    uint64
	more    bool // the last question was answered in full: it is of use to ask ahead
	short   bool // the last question was not even granted what was needed
	asking  chan struct{}
	err     error // of the last question
	used    time.Time
}

// hold is what the dirty pieces of a chunk may add at most.
type hold struct {
	gen     uint64
	project uint32
	bytes   uint64
	pages   pageSet
}

// pageSet are pages of a chunk.
type pageSet [pagesPerChunk / 64]uint64

func (s *pageSet) has(i uint64) bool { return s[i/64]&(1<<(i%64)) != 0 }
func (s *pageSet) add(i uint64)      { s[i/64] |= 1 << (i % 64) }

// of is the allotment of a project. q.mu is held.
func (q *allotments) of(project uint32) *allotment {
	a := q.by[project]
	if a == nil {
		if q.by == nil {
			q.by = make(map[uint32]*allotment)
		}
		a = &allotment{}
		q.by[project] = a
	}
	return a
}

// admission is how much of a write may be buffered.
type admission struct {
	n       int    // bytes, from its beginning
	missing uint64 // for the rest
	unknown bool   // it must be asked first whether there is a limit
	limited bool
	hold    hold // what it takes, of its chunk
}

// admit takes what [off, off+n), which lies in one chunk, needs. If that is not there it takes nothing, or, with part, as
// much as the first pages need that can have it. e.mu is held.
func (v *Volume) admit(e *inode, off uint64, n int, part bool) (got admission) {
	q := &v.quota
	project := e.meta.Project
	ask := false
	defer func() {
		if ask {
			v.reserveAhead(project)
		}
	}()
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.of(project)
	a.used = v.cfg.Now()
	if !a.known {
		return admission{unknown: true}
	}
	if !a.limited {
		return admission{n: n}
	}
	got = admission{limited: true, hold: hold{gen: q.gen, project: project}}
	var has *hold
	if ch := e.chunks[off/chunkSize]; ch != nil {
		has = ch.hold
	}
	end := off + uint64(n)
	for lo := off; lo < end; {
		hi := min(end, lo-lo%pageSize+pageSize)
		page := lo % chunkSize / pageSize
		need := uint64(0)
		if (has == nil || !has.pages.has(page)) && e.ext.mayGrow(lo, hi) {
			need = pageSize
		}
		if got.missing > 0 || got.hold.bytes+need > a.free {
			got.missing += need
		} else {
			if need > 0 {
				got.hold.bytes += need
				got.hold.pages.add(page)
			}
			got.n = int(hi - off)
		}
		lo = hi
	}
	if got.missing > 0 && !part {
		return admission{limited: true, missing: got.missing + got.hold.bytes - a.free}
	}
	a.free -= got.hold.bytes
	a.held += got.hold.bytes
	ask = a.more && a.free < quotaAhead/4 && a.asking == nil
	return got
}

// join adds what a write took to the hold of its chunk. e.mu is held.
func (ch *chunk) join(got *admission) {
	switch {
	case !got.limited:
		ch.unlimited = true
	case got.hold.bytes == 0:
	case ch.hold == nil:
		h := got.hold
		ch.hold = &h
	default:
		ch.hold.bytes += got.hold.bytes
		for i := range ch.hold.pages {
			ch.hold.pages[i] |= got.hold.pages[i]
		}
	}
}

// grant is what the commands that commit some chunks may add.
type grant struct {
	reserved, taken uint64 // of this gateway's reservation
	unlimited       bool
}

// add adds what a chunk's flush may. e.mu is held.
func (g *grant) add(ch *chunk) {
	if ch.leaving != nil {
		g.reserved += ch.leaving.bytes
	}
	g.unlimited = g.unlimited || ch.leavingUnlimited
}

// settle ends a hold of which the metadata took some. h may be nil.
func (q *allotments) settle(h *hold, taken uint64) {
	if h == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if h.gen != q.gen {
		return
	}
	a := q.of(h.project)
	a.held -= h.bytes
	a.free += h.bytes - min(taken, h.bytes)
}

// learn takes what a commit told.
func (q *allotments) learn(project uint32, limited bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.of(project)
	a.known, a.limited = true, limited
}

// void forgets everything: the origin ended.
func (q *allotments) void() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gen++
	q.by = nil
}

// totals are the free and the held bytes of a project and of all.
func (q *allotments) totals(project uint32) (free, allFree, held uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p, a := range q.by {
		if p == project {
			free = a.free
		}
		allFree += a.free
		held += a.held
	}
	return free, allFree, held
}

// Steps of making room for a write that the allotment does not suffice for.
const (
	roomAsk    = iota // ask for more
	roomSettle        // turn holds into what they really add, give back what other projects do not use
	roomAgain         // ask for more again
	roomNone          // there is none
)

// makeRoom takes the next step and returns the one after it.
func (v *Volume) makeRoom(ctx context.Context, e *inode, off uint64, n int, got *admission, step int) (int, error) {
	const op = "write"
	e.mu.Lock()
	project := e.meta.Project
	e.mu.Unlock()
	switch {
	case got.unknown:
		return step, v.askLimits(ctx, e, project)
	case step == roomAsk || step == roomAgain:
		short, err := v.reserve(ctx, project, got.missing)
		if short {
			step++
		}
		return step, err
	}
	if err := v.flushHeld(ctx); err != nil {
		return step, err
	}
	// Also what is known: the metadata has filled holes in pages meanwhile.
	first := off - off%pageSize
	if _, err := v.queryExtents(ctx, e, first, (off-first+uint64(n)+pageSize-1)/pageSize*pageSize, true); err != nil {
		return step, vfs.Wrap(op, err)
	}
	v.releaseFree(ctx, func(p uint32, _ *allotment) bool { return p != project })
	return step + 1, nil
}

// askLimits asks whether there is a limit where e is.
func (v *Volume) askLimits(ctx context.Context, e *inode, project uint32) error {
	r, err := v.query(ctx, "write", nil, &metapb.Query{Q: &metapb.Query_Statfs{Statfs: &metapb.StatFSQ{Ino: uint64(e.ino)}}})
	if err != nil {
		return err
	}
	s := r.GetStatfs()
	v.quota.learn(project, s.GetQuotaBytes() != 0 || s.GetProject().GetLimitBytes() != 0)
	return nil
}

// reserve asks for need bytes and some ahead, or waits for a question that is under way. short: they are not there.
func (v *Volume) reserve(ctx context.Context, project uint32, need uint64) (short bool, err error) {
	const op = "write"
	q := &v.quota
	q.mu.Lock()
	a := q.of(project)
	wait := a.asking
	if wait == nil {
		wait = v.ask(a, project, need)
	}
	q.mu.Unlock()
	if wait == nil {
		return false, vfs.Errorf(vfs.KindUnavailable, op, "the volume is closed")
	}
	timer := time.NewTimer(v.cfg.StallTimeout)
	defer timer.Stop()
	select {
	case <-wait:
	case <-ctx.Done():
		return false, vfs.Wrap(op, ctx.Err())
	case <-timer.C:
		return false, vfs.Errorf(vfs.KindUnavailable, op, "the metadata does not answer what the quota leaves")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return a.short, a.err
}

// reserveAhead asks for more before it is needed.
func (v *Volume) reserveAhead(project uint32) {
	q := &v.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	if a := q.of(project); a.asking == nil {
		v.ask(a, project, 0)
	}
}

// ask asks the metadata in the background, as the outcome must be learned whoever waits for it. It returns what is closed when
// it is answered; nil if the volume is closed. q.mu is held.
func (v *Volume) ask(a *allotment, project uint32, need uint64) chan struct{} {
	q := &v.quota
	gen, done := q.gen, make(chan struct{})
	a.asking = done
	ok := v.spawn(func() {
		r, err := v.apply(v.ctx, "quota.reserve", nil, &metapb.Command{Op: &metapb.Command_ReserveQuota{ReserveQuota: &metapb.ReserveQuota{
			Project: project, Need: need, Ahead: quotaAhead, Min: pageSize,
		}}})
		q.mu.Lock()
		defer q.mu.Unlock()
		a.asking, a.err, a.short, a.more = nil, nil, false, false
		close(done)
		switch {
		case gen != q.gen: // what was granted is void
		case vfs.KindOf(err) == vfs.KindQuota:
			a.short = true
		case err != nil:
			a.err = err
		default:
			granted := r.GetReserve().GetGranted()
			a.known, a.limited = true, r.GetReserve().GetLimited()
			a.free += granted
			a.short = a.limited && granted < need
			a.more = granted >= need+quotaAhead
		}
	})
	if !ok {
		a.asking = nil
		return nil
	}
	return done
}

// flushHeld flushes what has holds and waits for it: what they turn out not to need is free then.
func (v *Volume) flushHeld(ctx context.Context) error {
	const op = "write"
	if _, _, held := v.quota.totals(0); held == 0 {
		return nil
	}
	timer := time.NewTimer(v.cfg.StallTimeout)
	defer timer.Stop()
	dirty := v.dirty.list()
	for _, e := range dirty {
		e.mu.Lock()
		v.flushLocked(e, 0, maxOffset)
		e.mu.Unlock()
	}
	for _, e := range dirty {
		e.mu.Lock()
		seq := e.seq
		for !e.dead && e.pending(0, maxOffset, seq) {
			v.flushLocked(e, 0, maxOffset)
			wait := e.notify
			e.mu.Unlock()
			select {
			case <-wait:
			case <-ctx.Done():
				return vfs.Wrap(op, ctx.Err())
			case <-v.ctx.Done():
				return vfs.Errorf(vfs.KindUnavailable, op, "the volume is closed")
			case <-timer.C:
				return vfs.Errorf(vfs.KindUnavailable, op, "the quota may be full: it is not known before the cluster took what is buffered")
			}
			e.mu.Lock()
		}
		e.mu.Unlock()
	}
	return nil
}

// releaseFree gives back what is free of the allotments that match.
func (v *Volume) releaseFree(ctx context.Context, match func(project uint32, a *allotment) bool) {
	q := &v.quota
	type part struct {
		project uint32
		bytes   uint64
	}
	var parts []part
	q.mu.Lock()
	gen := q.gen
	for p, a := range q.by {
		if a.free > 0 && match(p, a) {
			parts = append(parts, part{p, a.free})
			a.free, a.more = 0, false
		}
	}
	q.mu.Unlock()
	for _, p := range parts {
		_, err := v.apply(ctx, "quota.release", nil, &metapb.Command{Op: &metapb.Command_ReleaseQuota{ReleaseQuota: &metapb.ReleaseQuota{Project: p.project, Bytes: p.bytes}}})
		if err == nil || vfs.KindOf(err) == vfs.KindUnknown {
			continue // what may have gone back must not be used; at worst it stays reserved until the origin ends
		}
		q.mu.Lock()
		if q.gen == gen {
			q.of(p.project).free += p.bytes
		}
		q.mu.Unlock()
	}
}

// retireQuota gives back what was not used for a while, and forgets what is known of idle projects.
func (v *Volume) retireQuota(ctx context.Context) {
	q := &v.quota
	before := v.cfg.Now().Add(-quotaIdle)
	v.releaseFree(ctx, func(_ uint32, a *allotment) bool { return a.asking == nil && a.used.Before(before) })
	q.mu.Lock()
	defer q.mu.Unlock()
	for p, a := range q.by {
		if a.free == 0 && a.held == 0 && a.asking == nil && a.used.Before(before) {
			delete(q.by, p)
		}
	}
}

// capacity is that of the pool. Where it is not known it is so much that only used counts.
func (v *Volume) capacity(used uint64) (total, free uint64) {
	if v.cfg.Capacity != nil {
		return v.cfg.Capacity()
	}
	const unknown = 1 << 50
	return unknown, unknown - min(used, unknown)
}

// StatFS implements vfs.FS.
func (v *Volume) StatFS(ctx context.Context, ino vfs.Ino) (vfs.StatFS, error) {
	q := &metapb.StatFSQ{}
	if ino != vfs.RootIno {
		q.Ino = uint64(ino)
	}
	r, err := v.query(ctx, "statfs", nil, &metapb.Query{Q: &metapb.Query_Statfs{Statfs: q}})
	if err != nil {
		return vfs.StatFS{}, err
	}
	u := r.GetStatfs()
	p := u.GetProject()
	free, allFree, _ := v.quota.totals(p.GetProject())
	s := vfs.StatFS{UsedFiles: u.GetUsedInodes()}
	// Reservations that buffered writes hold count as used, those that are free here do not.
	s.UsedBytes = u.GetUsedBytes() + u.GetReservedBytes() - min(allFree, u.GetReservedBytes())
	s.TotalBytes, s.FreeBytes = v.capacity(s.UsedBytes)
	// Inodes are only keys: without a limit there are as many as one may want.
	s.FreeFiles = 1 << 40
	s.TotalFiles = s.FreeFiles + s.UsedFiles
	limit := func(bytes, used, inodes, files uint64) {
		if bytes != 0 {
			s.UsedBytes = used
			s.TotalBytes = bytes
			s.FreeBytes = min(s.FreeBytes, bytes-min(bytes, used))
		}
		if inodes != 0 {
			s.UsedFiles = files
			s.TotalFiles = max(inodes, files)
			s.FreeFiles = min(s.FreeFiles, inodes-min(inodes, files))
		}
	}
	limit(min(u.GetQuotaBytes(), s.TotalBytes), s.UsedBytes, u.GetQuotaInodes(), u.GetUsedInodes())
	limit(min(p.GetLimitBytes(), s.TotalBytes), p.GetUsedBytes()+p.GetReservedBytes()-min(free, p.GetReservedBytes()), p.GetLimitInodes(), p.GetUsedInodes())
	s.TotalBytes = max(s.TotalBytes, s.UsedBytes)
	s.FreeBytes = min(s.FreeBytes, s.TotalBytes-s.UsedBytes)
	s.AvailBytes = s.FreeBytes
	return s, nil
}
