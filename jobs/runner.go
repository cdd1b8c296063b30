package jobs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// ErrCanceled is the cause of the end of the context of a job that was canceled.
var ErrCanceled = errors.New("the job was canceled")

// refusal is the cause when whoever asked for the job may not do any more what it does.
type refusal struct{ err error }

func (r *refusal) Error() string { return "stopped: " + r.err.Error() }

// errLost is the cause when the job is another runner's by now.
var errLost = errors.New("another gateway has the job")

const (
	defaultInterval = time.Second
	defaultSave     = 2 * time.Second
	defaultParallel = 4
	defaultRecheck  = 5 * time.Second

	retries  = 8
	retryMin = time.Second
	retryMax = time.Minute

	// callTimeout bounds one call of the metadata.
	callTimeout = 10 * time.Second
	// longestError and longestNote bound texts in a record.
	longestError = 1024
	longestNote  = 512
)

// Kind does jobs of one kind.
type Kind interface {
	Run(ctx context.Context, j *Job) error
}

// Limited is a Kind of which a runner runs only so many jobs at a time, so that there is room for others.
type Limited interface {
	Kind
	AtMost() int
}

// Func is a Kind.
type Func func(ctx context.Context, j *Job) error

// Run implements Kind.
func (f Func) Run(ctx context.Context, j *Job) error { return f(ctx, j) }

// Options of a Runner.
type Options struct {
	Meta   Meta
	Name   string        // of the gateway
	Origin func() uint64 // its origin at shard 0; 0 while it has none
	Serves func(fs uint32) bool
	Kinds  map[string]Kind
	// May refuses a job that whoever asked for it may not do any more; nil: none is refused. It is asked before the job is begun, or gone on with, and each Recheck while it runs. An error of
	// a kind other than KindPerm and KindUnauthorized says that it is not known now.
	May func(ctx context.Context, j *metapb.Job) error

	Recheck  time.Duration // default 5 s
	Interval time.Duration // between looks for jobs; default 1 s
	Save     time.Duration // between writes of progress; default 2 s
	Parallel int           // jobs at a time; default 4
	Now      func() time.Time
	Logger   *slog.Logger
}

// Runner takes jobs and runs them.
type Runner struct {
	o    Options
	wake chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // guards running
	running map[uint64]*Job
}

// Start begins to look for jobs; Close ends it.
func Start(o Options) *Runner {
	o.Interval, o.Save, o.Parallel = cmp.Or(o.Interval, defaultInterval), cmp.Or(o.Save, defaultSave), cmp.Or(o.Parallel, defaultParallel)
	o.Recheck = cmp.Or(o.Recheck, defaultRecheck)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Runner{o: o, wake: make(chan struct{}, 1), stop: stop, running: map[uint64]*Job{}}
	r.done.Go(func() { r.loop(ctx) })
	return r
}

// Close ends the runs, and waits for them. The jobs stay running, for the next runner.
func (r *Runner) Close() {
	if r == nil {
		return
	}
	r.stop()
	r.done.Wait()
}

// Nudge has the runner look now: there is a new job.
func (r *Runner) Nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Runner) loop(ctx context.Context) {
	tick := time.NewTicker(r.o.Interval)
	defer tick.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.wake:
		}
	}
}

// look takes what there is to do, and tells runs what became of their jobs.
func (r *Runner) look(ctx context.Context) {
	qctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := active(qctx, r.o.Meta)
	if err != nil {
		return // below the level that has jobs, or nobody answers now
	}
	origin := r.o.Origin()
	for i := len(list) - 1; i >= 0; i-- { // the oldest first
		j := list[i]
		r.mu.Lock()
		run, n := r.running[j.Id], len(r.running)
		same := 0
		for _, o := range r.running {
			if o.kind == j.Kind {
				same++
			}
		}
		r.mu.Unlock()
		kind := r.o.Kinds[j.Kind]
		l, limited := kind.(Limited)
		switch {
		case run != nil:
			run.heard(j)
		case origin == 0 || n >= r.o.Parallel || kind == nil || limited && same >= l.AtMost() || !r.o.Serves(j.Fs):
		default:
			r.take(ctx, j, origin)
		}
	}
}

func (r *Runner) take(ctx context.Context, j *metapb.Job, origin uint64) {
	qctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := r.o.Meta.Apply(qctx, clusterShard, &metapb.Command{Op: &metapb.Command_TakeJob{TakeJob: &metapb.TakeJob{Id: j.Id, Version: j.Version, Runner: r.o.Name, Origin: origin}}})
	if err != nil {
		if k := vfs.KindOf(err); k != vfs.KindBusy && k != vfs.KindChanged {
			r.o.Logger.Warn("jobs: a job cannot be taken; it is tried again", "job", j.Id, "err", err)
		}
		return
	}
	jctx, end := context.WithCancelCause(ctx)
	run := &Job{r: r, kind: j.Kind, end: end, rec: res.GetJob().GetJob(), saving: make(chan struct{}, 1)}
	run.saving <- struct{}{}
	r.mu.Lock()
	r.running[j.Id] = run
	r.mu.Unlock()
	r.done.Go(func() {
		defer end(nil)
		run.do(ctx, jctx)
		r.mu.Lock()
		delete(r.running, j.Id)
		r.mu.Unlock()
		r.Nudge() // there is room for another one
	})
}

// Progress is how far a job is. Totals of 0 are not known.
type Progress struct {
	ItemsDone, ItemsTotal, ItemsFailed uint64
	BytesDone, BytesTotal              uint64
	Note                               string // what it is at
	Error                              string // the first thing that failed
}

// Job is a job that runs here.
type Job struct {
	r    *Runner
	kind string
	end  context.CancelCauseFunc

	saving chan struct{} // holds a token while nobody writes the record

	mu      sync.Mutex // guards the following
	rec     *metapb.Job
	changed bool // since it was written down
}

// Record is the job's record as it stands; not to be changed.
func (j *Job) Record() *metapb.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rec.CloneVT()
}

// Progress is how far the job is, as it was reported last, perhaps by another gateway.
func (j *Job) Progress() Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.rec
	return Progress{c.ItemsDone, c.ItemsTotal, c.ItemsFailed, c.BytesDone, c.BytesTotal, c.Note, c.Error}
}

// Report says how far it is. It costs nothing: it is written down soon.
func (j *Job) Report(p Progress) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.report(p)
}

// report is Report, with the lock held.
func (j *Job) report(p Progress) {
	c := j.rec
	c.ItemsDone, c.ItemsTotal, c.ItemsFailed, c.BytesDone, c.BytesTotal = p.ItemsDone, p.ItemsTotal, p.ItemsFailed, p.BytesDone, p.BytesTotal
	c.Note, c.Error = clip(p.Note, longestNote), clip(p.Error, longestError)
	j.changed = true
}

// Checkpoint says from where to go on. It is written down soon, together with the progress.
func (j *Job) Checkpoint(b []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rec.Checkpoint, j.changed = b, true
}

// Stand says where the job stands: how far it is, from where to go on, and what became of what, for people. They are written down together.
func (j *Job) Stand(p Progress, checkpoint, report []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.report(p)
	j.rec.Checkpoint, j.rec.Report = checkpoint, report
}

// Save writes progress and checkpoint down now.
func (j *Job) Save(ctx context.Context) error { return j.write(ctx, func(*metapb.Job) {}) }

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 { // not within a character
		n--
	}
	return s[:n]
}

// heard notes what the record says.
func (j *Job) heard(rec *metapb.Job) {
	j.mu.Lock()
	mine := rec.RunnerOrigin == j.rec.RunnerOrigin
	j.mu.Unlock()
	switch {
	case !mine:
		j.end(errLost)
	case rec.Cancel:
		j.end(ErrCanceled)
	}
}

// write writes the record down after edit.
func (j *Job) write(ctx context.Context, edit func(*metapb.Job)) error {
	const op = "job"
	select {
	case <-j.saving:
	case <-ctx.Done():
		return vfs.Wrap(op, context.Cause(ctx))
	}
	defer func() { j.saving <- struct{}{} }()
	for try := 1; ; try++ {
		j.mu.Lock()
		rec := j.rec.CloneVT()
		j.changed = false
		j.mu.Unlock()
		edit(rec)
		now, err := put(ctx, j.r.o.Meta, rec, op)
		if err == nil {
			j.mu.Lock()
			j.rec.Version, j.rec.Cancel = now.Version, now.Cancel
			j.mu.Unlock()
			return nil
		}
		j.mu.Lock()
		j.changed = true
		j.mu.Unlock()
		if vfs.KindOf(err) != vfs.KindChanged || try == changeTries {
			return err
		}
		now, err = Find(ctx, j.r.o.Meta, rec.Id)
		if err != nil {
			return err
		}
		j.heard(now)
		if now.RunnerOrigin != rec.RunnerOrigin || Over(now.State) {
			j.end(errLost)
			return vfs.Errorf(vfs.KindFenced, op, "job %d: %w", rec.Id, errLost)
		}
		j.mu.Lock()
		j.rec.Version, j.rec.Cancel = now.Version, now.Cancel
		j.mu.Unlock()
	}
}

// do runs the job and writes down how it ended. ctx ends with the job, runner with the runner.
func (j *Job) do(runner, ctx context.Context) {
	id, kind := j.rec.Id, j.r.o.Kinds[j.rec.Kind]
	log := j.r.o.Logger.With("job", id, "kind", j.rec.Kind)
	if j.rec.Cancel {
		j.end(ErrCanceled)
	}
	var side sync.WaitGroup
	sctx, stop := context.WithCancel(ctx)
	side.Go(func() { j.keepSaved(sctx) })
	side.Go(func() { j.keepAllowed(sctx) })
	err := j.attempts(ctx, kind, log)
	stop()
	side.Wait()
	state, text := metapb.JobState_JOB_DONE, ""
	var refused *refusal
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrCanceled) && err != nil:
		state = metapb.JobState_JOB_CANCELED
	case errors.As(cause, &refused) && err != nil:
		state, text = metapb.JobState_JOB_FAILED, clip(refused.Error(), longestError)
	case cause != nil && err != nil:
		if !errors.Is(cause, errLost) { // so that who goes on knows how far this came
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			_ = j.Save(last)
		}
		return
	case err != nil:
		state, text = metapb.JobState_JOB_FAILED, clip(err.Error(), longestError)
	}
	log.Info("jobs: over", "state", StateName(state), "err", err)
	j.conclude(runner, log, func(rec *metapb.Job) {
		rec.State, rec.Finished, rec.Note = state, stamp(j.r.o.Now()), ""
		if text != "" {
			rec.Error = text
		}
	})
}

// conclude writes the end down, for as long as the runner runs.
func (j *Job) conclude(ctx context.Context, log *slog.Logger, edit func(*metapb.Job)) {
	pause := retryMin
	for {
		wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		err := j.write(wctx, edit)
		cancel()
		if err == nil || vfs.KindOf(err) == vfs.KindFenced || vfs.KindOf(err) == vfs.KindNotFound {
			return
		}
		log.Warn("jobs: the end of a job cannot be written down; it is tried again", "err", err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// attempts runs the job until it ends, or fails for a reason that does not pass.
func (j *Job) attempts(ctx context.Context, kind Kind, log *slog.Logger) error {
	pause := retryMin
	var before uint64
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := j.allowed(ctx)
		if err == nil {
			err = kind.Run(ctx, j)
		}
		if p := j.Progress(); p.ItemsDone+p.ItemsFailed > before { // it got further
			n, pause, before = 1, retryMin, p.ItemsDone+p.ItemsFailed
		}
		if err == nil || ctx.Err() != nil || n == retries || !vfs.KindOf(err).Retryable() {
			return err
		}
		log.Warn("jobs: begins again after a while", "err", err)
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
		pause = min(2*pause, retryMax)
	}
}

// allowed ends the job if whoever asked for it may not do it any more.
func (j *Job) allowed(ctx context.Context) error {
	if j.r.o.May == nil {
		return nil
	}
	qctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := j.r.o.May(qctx, j.Record())
	if k := vfs.KindOf(err); k == vfs.KindPerm || k == vfs.KindUnauthorized {
		j.end(&refusal{err})
	}
	return err
}

// keepAllowed asks now and then until ctx ends. What is not known now is asked again.
func (j *Job) keepAllowed(ctx context.Context) {
	tick := time.NewTicker(j.r.o.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = j.allowed(ctx)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// keepSaved writes progress down now and then until ctx ends.
func (j *Job) keepSaved(ctx context.Context) {
	tick := time.NewTicker(j.r.o.Save)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		j.mu.Lock()
		changed := j.changed
		j.mu.Unlock()
		if changed {
			wctx, cancel := context.WithTimeout(ctx, callTimeout)
			_ = j.Save(wctx) // the next one
			cancel()
		}
	}
}
