package ledger

import (
	"cmp"
	"slices"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Class is what shares limits.
type Class uint8

// Classes.
const (
	Survey Class = iota
	Repair
	Scrub
	Rewrite
	Classes // how many there are
)

func (c Class) String() string {
	return [...]string{"survey", "repair", "scrub", "rewrite", "none"}[c]
}

// ClassOf is the class of a kind; Classes if it has none.
func ClassOf(k metapb.WorkKind) Class {
	switch k {
	case metapb.WorkKind_WORK_SURVEY:
		return Survey
	case metapb.WorkKind_WORK_REPAIR, metapb.WorkKind_WORK_MOVE:
		return Repair
	case metapb.WorkKind_WORK_SCRUB:
		return Scrub
	case metapb.WorkKind_WORK_FOLD, metapb.WorkKind_WORK_REENCODE:
		return Rewrite
	}
	return Classes
}

const (
	// MaxTasks is how many tasks of a worker are looked at, MaxWorkers how many workers. Together they bound the memory.
	MaxTasks   = 64
	MaxWorkers = 1024
	// turnOf: every so manieth grant is for who has waited longest.
	turnOf = 8
	// rateWindow is over how long rates are measured, at least.
	rateWindow = 5 * time.Second
)

// ClassLimits are for all workers together.
type ClassLimits struct {
	Tasks          int
	BytesPerSecond uint64 // 0: no limit
}

// Limits of a ledger.
type Limits struct {
	Classes [Classes]ClassLimits
	Lapse   time.Duration // how long a grant lasts, from when the worker sent its report
	Silence time.Duration // after which a worker is forgotten
	Fresh   time.Duration // how recently a worker was heard for whom a place is kept
}

// Default are the limits of a ledger of which nothing else was said.
func Default() Limits {
	return Limits{
		Classes: [Classes]ClassLimits{
			Survey:  {Tasks: 16},
			Repair:  {Tasks: 64}, // as fast as the disks' own limits allow
			Scrub:   {Tasks: MaxWorkers, BytesPerSecond: 4 << 30},
			Rewrite: {Tasks: 8, BytesPerSecond: 256 << 20},
		},
		Lapse: 10 * time.Second, Silence: 15 * time.Second, Fresh: 2 * time.Second,
	}
}

// WithDefaults fills in what is zero. Silence is never shorter than Lapse.
func (l Limits) WithDefaults() Limits {
	d := Default()
	for c := range l.Classes {
		if l.Classes[c].Tasks <= 0 {
			l.Classes[c] = d.Classes[c]
		}
	}
	l.Lapse = cmp.Or(l.Lapse, d.Lapse)
	l.Silence = max(cmp.Or(l.Silence, d.Silence), l.Lapse)
	l.Fresh = cmp.Or(l.Fresh, d.Fresh)
	return l
}

// name is what makes two tasks of a worker the same.
type name struct {
	kind               metapb.WorkKind
	pool, pg, slot, fs uint32
}

func nameOf(t *metapb.WorkTask) name { return name{t.Kind, t.Pool, t.Pg, t.Slot, t.Fs} }

// task is one of a worker's.
type task struct {
	*metapb.WorkTask
	name    name
	worker  *worker
	class   Class
	granted bool
	since   time.Duration // when it came or, granted, when that was
	order   uint64        // in which tasks began to wait
	told    uint64        // bytes per second, if granted
	marks   [2]mark       // what the rate is measured from
}

type mark struct {
	at            time.Duration
	blocks, bytes uint64
}

type worker struct {
	id    string
	run   uint64
	heard time.Duration
	tasks []*task // in the order of the last report
}

// Ledger is the table of one leader. It is not safe for concurrent use.
type Ledger struct {
	limits  Limits
	workers map[string]*worker
	order   uint64
	grants  [Classes]uint64 // how many there were
	busy    [Classes]int    // tasks that are granted now
}

// New makes an empty ledger.
func New(l Limits) *Ledger { return &Ledger{limits: l.WithDefaults(), workers: map[string]*worker{}} }

// Lapse is how long a grant lasts.
func (l *Ledger) Lapse() time.Duration { return l.limits.Lapse }

// Expire forgets workers that are silent at now.
func (l *Ledger) Expire(now time.Duration) {
	for id, w := range l.workers {
		if now-w.heard >= l.limits.Silence {
			l.drop(w.tasks)
			delete(l.workers, id)
		}
	}
}

// drop ends tasks.
func (l *Ledger) drop(tasks []*task) {
	for _, t := range tasks {
		l.revoke(t)
	}
}

func (l *Ledger) revoke(t *task) {
	if t.granted {
		t.granted, t.told = false, 0
		l.busy[t.class]--
	}
}

// Report takes in all that the worker called id, in its present run, does and wants to do, at now, and answers which of
// these tasks it may do. ok is false if there are too many workers: it may do nothing.
func (l *Ledger) Report(id string, run uint64, tasks []*metapb.WorkTask, now time.Duration) (grants []*metapb.WorkGrant, ok bool) {
	l.Expire(now)
	w := l.workers[id]
	if w == nil {
		if len(l.workers) >= MaxWorkers {
			return nil, false
		}
		w = &worker{id: id, run: run}
		l.workers[id] = w
	}
	if w.run != run {
		l.drop(w.tasks)
		w.run, w.tasks = run, nil
	}
	w.heard = now
	l.take(w, tasks, now)
	for c := range Classes {
		l.preempt(w, c, now)
		l.grant(w, c, now)
		l.rate(w, c, now)
	}
	for i, t := range w.tasks {
		if t.granted {
			grants = append(grants, &metapb.WorkGrant{Task: uint32(i), BytesPerSecond: t.told})
		}
	}
	if len(w.tasks) == 0 {
		delete(l.workers, id)
	}
	return grants, true
}

// take makes tasks those of w.
func (l *Ledger) take(w *worker, tasks []*metapb.WorkTask, now time.Duration) {
	had := make(map[name]*task, len(w.tasks))
	for _, t := range w.tasks {
		had[t.name] = t
	}
	w.tasks = nil
	running := [Classes]bool{}
	seen := make(map[name]bool, len(tasks))
	for _, m := range tasks[:min(len(tasks), MaxTasks)] {
		n := nameOf(m)
		t := had[n]
		delete(had, n)
		if t == nil {
			l.order++
			t = &task{name: n, worker: w, class: ClassOf(m.Kind), since: now, order: l.order}
			t.marks[0].at, t.marks[1].at = now, now
		}
		t.WorkTask = m
		w.tasks = append(w.tasks, t)
		if seen[n] || t.class == Classes {
			t.class = Classes // named twice, or of no class: its place in the report is kept, it is never granted
			continue
		}
		seen[n] = true
		t.progress(now)
		if m.Running && !t.granted && !running[t.class] && l.has(w, t.class) == nil && l.busy[t.class] < l.limits.Classes[t.class].Tasks {
			l.begin(t, now)
		}
		running[t.class] = running[t.class] || m.Running
	}
	for _, t := range had {
		l.revoke(t)
	}
}

// has is the task of a class that w may do.
func (l *Ledger) has(w *worker, c Class) *task {
	for _, t := range w.tasks {
		if t.granted && t.class == c {
			return t
		}
	}
	return nil
}

func (l *Ledger) begin(t *task, now time.Duration) {
	t.granted, t.since = true, now
	t.marks[0] = mark{now, t.BlocksDone, t.BytesDone}
	t.marks[1] = t.marks[0]
	l.busy[t.class]++
}

// waiting are the tasks that could be granted next: of each worker that was heard of lately and has no task of the class, the
// most urgent and the oldest one. workers is how many there are.
func (l *Ledger) waiting(c Class, now time.Duration) (list []*task, workers int) {
	for _, w := range l.workers {
		if now-w.heard >= l.limits.Fresh || l.has(w, c) != nil {
			continue
		}
		var first, oldest *task
		for _, t := range w.tasks {
			if t.class != c {
				continue
			}
			if first == nil || before(t, first) < 0 {
				first = t
			}
			if oldest == nil || t.order < oldest.order {
				oldest = t
			}
		}
		if first == nil {
			continue
		}
		workers++
		if list = append(list, first); oldest != first {
			list = append(list, oldest)
		}
	}
	return list, workers
}

func before(a, b *task) int {
	return cmp.Or(cmp.Compare(a.Spare, b.Spare), cmp.Compare(a.order, b.order))
}

// next is the index of who gets the n-th grant.
func next(list []*task, n uint64) int {
	if (n+1)%turnOf != 0 || list[0].Spare <= 0 {
		return 0
	}
	oldest := 0
	for i, t := range list {
		if t.order < list[oldest].order {
			oldest = i
		}
	}
	return oldest
}

// preempt takes back what w does if somebody else's data is in danger and all places are taken.
func (l *Ledger) preempt(w *worker, c Class, now time.Duration) {
	mine := l.has(w, c)
	if mine == nil || l.busy[c] < l.limits.Classes[c].Tasks {
		return
	}
	list, _ := l.waiting(c, now)
	if !slices.ContainsFunc(list, func(t *task) bool { return t.Spare <= 0 && t.Spare < mine.Spare }) {
		return
	}
	for _, o := range l.workers {
		if t := l.has(o, c); t != nil && t.Spare > mine.Spare {
			return // another one is the last that has to go on
		}
	}
	l.revoke(mine)
	l.order++
	mine.since, mine.order = now, l.order
}

// grant gives w a task of a class if a place is free that nobody else is to have.
func (l *Ledger) grant(w *worker, c Class, now time.Duration) {
	limit := l.limits.Classes[c]
	free := limit.Tasks - l.busy[c]
	if free <= 0 || l.has(w, c) != nil {
		return
	}
	list, workers := l.waiting(c, now)
	slices.SortFunc(list, before)
	for n := l.grants[c]; free > 0 && len(list) > 0; n, free = n+1, free-1 {
		i := next(list, n)
		if t := list[i]; t.worker == w {
			if left, part := l.share(c, t, workers); limit.BytesPerSecond > 0 && left < part/2 {
				return // the others have to be told first
			}
			l.begin(t, now)
			l.grants[c]++
			return
		}
		taken := list[i].worker
		list = slices.DeleteFunc(list, func(t *task) bool { return t.worker == taken })
	}
}

// share is what is left of the bytes per second of a class for t, and its fair part if as many workers wait.
func (l *Ledger) share(c Class, t *task, waiting int) (left, part uint64) {
	limit := l.limits.Classes[c]
	left = limit.BytesPerSecond
	for _, w := range l.workers {
		if o := l.has(w, c); o != nil && o != t {
			left -= min(left, o.told)
		}
	}
	n := min(l.busy[c]+waiting, limit.Tasks)
	return left, limit.BytesPerSecond / uint64(max(n, 1))
}

// rate tells w how fast it may do its task of a class.
func (l *Ledger) rate(w *worker, c Class, now time.Duration) {
	t := l.has(w, c)
	if t == nil || l.limits.Classes[c].BytesPerSecond == 0 {
		return
	}
	_, workers := l.waiting(c, now)
	left, part := l.share(c, t, workers)
	t.told = max(min(left, part), 1) // 0 would be no limit
}

// progress notes how far a task is.
func (t *task) progress(now time.Duration) {
	m := mark{now, t.BlocksDone, t.BytesDone}
	if last := t.marks[1]; m.blocks < last.blocks || m.bytes < last.bytes {
		t.marks[0], t.marks[1] = m, m // it began anew
	}
	if now-t.marks[1].at >= rateWindow {
		t.marks[0], t.marks[1] = t.marks[1], m
	}
}

// Entry is a task as people see it.
type Entry struct {
	Worker string `json:"worker"`
	Kind   string `json:"kind"`
	Pool   uint32 `json:"pool,omitempty"`
	PG     uint32 `json:"pg,omitempty"`
	Slot   uint32 `json:"slot"`
	FS     uint32 `json:"fs,omitempty"`
	Ino    uint64 `json:"ino,omitempty"`
	Offset uint64 `json:"offset,omitempty"`
	Spare  int32  `json:"spare"` // how many more shards of the worst block may be lost

	Running     bool          `json:"running"` // else it waits
	For         time.Duration `json:"for_ns"`  // it runs, or waits
	BlocksDone  uint64        `json:"blocks_done"`
	BlocksTotal uint64        `json:"blocks_total,omitempty"` // 0: not known
	BytesDone   uint64        `json:"bytes_done"`
	BytesTotal  uint64        `json:"bytes_total,omitempty"`

	BlocksPerSecond float64 `json:"blocks_per_second"`
	BytesPerSecond  float64 `json:"bytes_per_second"`
	Limit           uint64  `json:"limit_bytes_per_second,omitempty"`
	ETASeconds      float64 `json:"eta_seconds,omitempty"` // 0: not known
}

// List is everything at now: running tasks first, then those that wait, in their order.
func (l *Ledger) List(now time.Duration) []Entry {
	var all []*task
	for _, w := range l.workers {
		if now-w.heard < l.limits.Silence {
			for _, t := range w.tasks {
				if t.class != Classes {
					all = append(all, t)
				}
			}
		}
	}
	rank := func(t *task) int {
		if t.granted {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b *task) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.class, b.class), before(a, b))
	})
	var out []Entry
	for _, t := range all {
		e := Entry{
			Worker: t.worker.id, Kind: KindName(t.Kind), Pool: t.Pool, PG: t.Pg, Slot: t.Slot, FS: t.Fs, Ino: t.Ino, Offset: t.Offset, Spare: t.Spare,
			Running: t.granted, For: now - t.since, Limit: t.told,
			BlocksDone: t.BlocksDone, BlocksTotal: t.BlocksTotal, BytesDone: t.BytesDone, BytesTotal: t.BytesTotal,
		}
		if d := (t.worker.heard - t.marks[0].at).Seconds(); t.granted && d > 0 {
			e.BlocksPerSecond = float64(t.BlocksDone-t.marks[0].blocks) / d
			e.BytesPerSecond = float64(t.BytesDone-t.marks[0].bytes) / d
		}
		switch {
		case t.BytesTotal > t.BytesDone && e.BytesPerSecond > 0:
			e.ETASeconds = float64(t.BytesTotal-t.BytesDone) / e.BytesPerSecond
		case t.BlocksTotal > t.BlocksDone && e.BlocksPerSecond > 0:
			e.ETASeconds = float64(t.BlocksTotal-t.BlocksDone) / e.BlocksPerSecond
		}
		out = append(out, e)
	}
	return out
}

// KindName is how people call a kind.
func KindName(k metapb.WorkKind) string {
	switch k {
	case metapb.WorkKind_WORK_SURVEY:
		return "survey"
	case metapb.WorkKind_WORK_REPAIR:
		return "repair"
	case metapb.WorkKind_WORK_MOVE:
		return "move"
	case metapb.WorkKind_WORK_SCRUB:
		return "scrub"
	case metapb.WorkKind_WORK_FOLD:
		return "fold"
	case metapb.WorkKind_WORK_REENCODE:
		return "reencode"
	}
	return "unknown"
}
