package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rackfs/rackfs/vfs"
)

const (
	pieceSize = 1 << 20 // of whole-file transfers and streams

	// What histograms tell apart, in nanoseconds.
	minLatency    = 100
	maxLatency    = int64(10 * time.Minute)
	latencyDigits = 3

	progressEvery = 250 * time.Millisecond
)

// Workload is a list of phases.
type Workload struct {
	Name    string
	About   string
	Workers []int // how many, if nothing else is asked for
	Phases  func(e *Env) []Phase
}

// Env is where a workload runs: one target, one number of workers, one repeat.
type Env struct {
	FS      FS
	Dir     Dir // a fresh directory
	Options Options
	Workers int
	Pattern *Pattern

	bufs    [][]byte
	closers []func(ctx context.Context) error
}

// buf is a worker's own memory for pieces.
func (e *Env) buf(w int) []byte { return e.bufs[w] }

// later calls fn when the workload has ended, also if it failed.
func (e *Env) later(fn func(ctx context.Context) error) { e.closers = append(e.closers, fn) }

// Work is what an operation has done.
type Work struct {
	Ops   int64 // 0 counts as one; a listing counts its entries
	Bytes int64
}

// Phase is one operation that each worker repeats.
type Phase struct {
	Name string
	Unit string // what is counted: "file", "entry", "MiB"
	Cold bool   // caches are dropped before, if that was asked for
	// Count is how many operations a worker does at most; nil: as many as there is time for, and one in any case. Whole: all of them, whatever
	// time it takes.
	Count func(w int) int
	Whole bool
	Least int // operations that a worker does in any case, if Count allows

	Before func(ctx context.Context) error // not measured
	Op     func(ctx context.Context, w, i int) (Work, error)
	Finish func(ctx context.Context, w int) error // the end of a worker: counts as time, not as an operation
	After  func(ctx context.Context) error        // not measured; verifies what Op could not
}

// Progress is how far a phase is.
type Progress struct {
	Target, Workload, Phase string
	Workers, Repeat         int
	Ops, Bytes              int64
	Elapsed                 time.Duration
}

// measured is what a phase did.
type measured struct {
	ops, bytes int64
	elapsed    time.Duration
	latency    *hdr.Histogram
	server     *Usage // CPU used meanwhile, resident memory after it
	client     time.Duration
	held       []Held // while it ran, if it was to last
}

// phaseRun runs phases.
type phaseRun struct {
	env   *Env
	cpu   Meter
	own   Meter                           // of the client's other processes; nil: there are none
	drop  func(ctx context.Context) error // nil: caches stay
	watch func(Progress)                  // nil: nobody does
}

// run runs one phase. An error of KindNotSupported says that the target cannot do this.
func (r *phaseRun) run(ctx context.Context, p *Phase) (*measured, error) {
	if p.Before != nil {
		if err := p.Before(ctx); err != nil {
			return nil, fmt.Errorf("preparation: %w", err)
		}
	}
	if p.Cold && r.drop != nil {
		if err := r.drop(ctx); err != nil {
			return nil, fmt.Errorf("dropping caches: %w", err)
		}
	}
	runtime.GC() // what was left behind by the phase before is not this one's cost
	m, err := r.measure(ctx, p)
	if err != nil {
		return nil, err
	}
	if p.After != nil {
		if err := p.After(ctx); err != nil {
			return nil, fmt.Errorf("verification: %w", err)
		}
	}
	return m, nil
}

func (r *phaseRun) measure(ctx context.Context, p *Phase) (*measured, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		ops, bytes atomic.Int64
		wg         sync.WaitGroup
		begin      = make(chan struct{})
		latencies  = make([]*hdr.Histogram, r.env.Workers)
		start      time.Time
	)
	for w := range r.env.Workers {
		h := hdr.New(minLatency, maxLatency, latencyDigits)
		latencies[w] = h
		wg.Go(func() {
			<-begin
			if err := r.worker(ctx, p, w, start, h, &ops, &bytes); err != nil {
				cancel(err)
			}
		})
	}
	var before Usage
	if r.cpu != nil {
		var err error
		if before, err = r.cpu.Read(ctx); err != nil {
			cancel(err)
		}
	}
	stop := r.progress(&ops, &bytes)
	client, err := r.client(ctx)
	if err != nil {
		cancel(err)
	}
	start = time.Now()
	held := r.hold(ctx, cancel, start, &ops)
	close(begin)
	wg.Wait()
	m := &measured{elapsed: time.Since(start), latency: latencies[0]}
	after, err := r.client(ctx)
	if err != nil {
		cancel(err)
	}
	m.client = after - client
	stop()
	m.held = held()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if r.cpu != nil {
		after, err := r.cpu.Read(ctx)
		for misses := 1; err != nil && misses < holdMisses && ctx.Err() == nil; misses++ { // a long phase is not lost for a server that is busy
			time.Sleep(missPause)
			after, err = r.cpu.Read(ctx)
		}
		if err != nil {
			return nil, err
		}
		// What Prometheus' client says moves when the clock is set by a little.
		if math.Abs(after.Started-before.Started) > 2 || after.CPU < before.CPU {
			return nil, vfs.Errorf(vfs.KindUnavailable, "bench.cpu", "a process of the target was started anew meanwhile: what it used before is not known, measure again")
		}
		m.server = &Usage{CPU: after.CPU - before.CPU, Resident: after.Resident}
	}
	m.ops, m.bytes = ops.Load(), bytes.Load()
	for _, h := range latencies[1:] {
		m.latency.Merge(h)
	}
	return m, nil
}

// client is what the client has used.
func (r *phaseRun) client(ctx context.Context) (time.Duration, error) {
	if r.own == nil {
		return ownCPU(), nil
	}
	u, err := r.own.Read(ctx)
	return ownCPU() + u.CPU, err
}

// worker is one worker's loop.
func (r *phaseRun) worker(ctx context.Context, p *Phase, w int, start time.Time, h *hdr.Histogram, ops, bytes *atomic.Int64) error {
	count, end := -1, start.Add(r.env.Options.Time)
	if p.Count != nil {
		count = p.Count(w)
	}
	whole := p.Whole || p.Count != nil && r.env.Options.Complete
	now := time.Now()
	pace := pace{period: r.env.Options.period(r.env.Workers), due: start}
	for i := 0; i != count && (i < max(1, p.Least) || whole || now.Before(end)) && ctx.Err() == nil; i++ {
		if pace.period > 0 {
			now = pace.wait(ctx)
		}
		done, err := p.Op(ctx, w, i)
		if err != nil {
			return fmt.Errorf("worker %d, operation %d: %w", w, i, err)
		}
		then := now
		now = time.Now()
		if err := h.RecordValue(min(max(now.Sub(then).Nanoseconds(), minLatency), maxLatency)); err != nil {
			return vfs.Errorf(vfs.KindInternal, "bench.latency", "%w", err)
		}
		ops.Add(max(done.Ops, 1))
		bytes.Add(done.Bytes)
	}
	if p.Finish != nil && ctx.Err() == nil {
		if err := p.Finish(ctx, w); err != nil {
			return fmt.Errorf("worker %d, at its end: %w", w, err)
		}
	}
	return nil
}

// pace keeps a worker from beginning an operation sooner than a period after the one before. Time that was lost is not made up for.
type pace struct {
	period time.Duration
	due    time.Time
}

// wait waits until the next operation is due, and tells the time.
func (p *pace) wait(ctx context.Context) time.Time {
	if d := time.Until(p.due); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	now := time.Now()
	p.due = now.Add(p.period)
	return now
}

// hold looks at what the target holds now and then, if the phase is to last, until the function that it returns is called. A look that fails is left
// out; when holdMisses of them in a row did, the phase is cancelled.
func (r *phaseRun) hold(ctx context.Context, cancel context.CancelCauseFunc, start time.Time, ops *atomic.Int64) func() []Held {
	if r.cpu == nil || r.env.Options.Time < watchFrom {
		return func() []Held { return nil }
	}
	end := make(chan struct{})
	var out []Held
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(r.env.Options.Time / watched)
		defer t.Stop()
		for misses := 0; len(out) < 2*watched; { // whoever takes longer than was asked for is seen long enough
			select {
			case <-end:
				return
			case <-ctx.Done():
				return
			case <-t.C:
				u, err := r.cpu.Read(ctx)
				if err != nil {
					if misses++; misses == holdMisses {
						cancel(err)
						return
					}
					continue
				}
				misses = 0
				out = append(out, Held{At: time.Since(start).Seconds(), Ops: ops.Load(), Resident: u.Resident, Heap: u.Heap, Goroutines: u.Goroutines, Files: u.Files})
			}
		}
	})
	return func() []Held { close(end); wg.Wait(); return out }
}

// progress tells how far the phase is until stop is called.
func (r *phaseRun) progress(ops, bytes *atomic.Int64) (stop func()) {
	if r.watch == nil {
		return func() {}
	}
	end, start := make(chan struct{}), time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		for {
			select {
			case <-end:
				return
			case <-t.C:
				r.watch(Progress{Ops: ops.Load(), Bytes: bytes.Load(), Elapsed: time.Since(start)})
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

// parallel calls fn(0..n-1) by some workers at once, for preparation and cleaning up.
func parallel(ctx context.Context, workers, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := fn(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// cleaners is how many workers remove what is left.
const cleaners = 16

// removeAll empties a directory.
func removeAll(ctx context.Context, fs FS, dir Dir) error {
	var files, dirs []string
	err := fs.List(ctx, dir, func(e Entry) error {
		if e.Dir {
			dirs = append(dirs, e.Name)
		} else {
			files = append(files, e.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := parallel(ctx, cleaners, len(files), func(ctx context.Context, i int) error { return fs.Remove(ctx, dir, files[i]) }); err != nil {
		return err
	}
	for _, name := range dirs {
		self, err := fs.Enter(ctx, dir, name)
		if err == nil {
			err = removeAll(ctx, fs, self)
		}
		if err == nil {
			err = fs.Rmdir(ctx, dir, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notOffered reports whether err says that the target has no such operation.
func notOffered(err error) bool {
	var e *vfs.Error
	return errors.As(err, &e) && vfs.KindOf(err) == vfs.KindNotSupported
}
