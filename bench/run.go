package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// Run is what is measured: workloads x numbers of workers x repeats x targets.
type Run struct {
	Targets   []*Target
	Workloads []Workload
	Options   Options
	Workers   []int // for all workloads; none: what each has
	Repeats   int
	Command   []string // what asked for it, for whoever repeats it
	Release   string

	Drop  func(ctx context.Context) error // drops caches before phases that read; nil: they stay
	Watch func(Progress)                  // how far it is, now and then; nil: nobody wants to know
	Emit  func(Record) error
	Left  func(what string) // something could not be removed of a run that failed; nil: nobody wants to know
}

// cleanTimeout bounds the closing and removal of what a run leaves that failed or was interrupted.
const cleanTimeout = time.Minute

// Check refuses a run whose numbers would mean nothing.
func (r *Run) Check() error {
	const op = "bench.run"
	if err := r.Options.Check(); err != nil {
		return err
	}
	if len(r.Targets) == 0 || len(r.Workloads) == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "name a target and a workload")
	}
	if r.Repeats < 1 || r.Repeats > 1000 {
		return vfs.Errorf(vfs.KindInvalid, op, "%d repeats: use 1 to 1000", r.Repeats)
	}
	for _, n := range r.Workers {
		if n < 1 || n > MaxWorkers {
			return vfs.Errorf(vfs.KindInvalid, op, "%d workers: use 1 to %d", n, MaxWorkers)
		}
		if int64(n) > r.Options.RandomSize/PageSize {
			return vfs.Errorf(vfs.KindInvalid, op, "%d workers have no page each in a file of %d bytes", n, r.Options.RandomSize)
		}
	}
	seen := map[string]bool{}
	for _, t := range r.Targets {
		if seen[t.Name] {
			return vfs.Errorf(vfs.KindInvalid, op, "two targets are named %s: name them NAME=KIND:PLACE", t.Name)
		}
		seen[t.Name] = true
		if t.Options != nil {
			if err := t.Options.Check(); err != nil {
				return err
			}
		}
		if !t.Durability.Known() {
			return vfs.Errorf(vfs.KindInvalid, op, "nothing here tells what %s (%s) promises, and a number without a promise says nothing: "+
				"declare it with --durability %s=names=memory|disk,data=memory|disk,losses=N", t.Name, t.Spec, t.Name)
		}
	}
	return nil
}

// Do runs all of it and emits the results. Each target gets a directory of its own, which is removed at the end.
func (r *Run) Do(ctx context.Context) (err error) {
	if err := r.Check(); err != nil {
		return err
	}
	begin := time.Now()
	id := fmt.Sprintf("rackfs-bench-%s-%d", begin.UTC().Format("20060102-150405"), os.Getpid())
	info := RunInfo{Format: formatName, Version: formatVersion, ID: id, Begin: begin, Command: r.Command, Release: r.Release, Host: thisHost(), Options: r.Options, Repeats: r.Repeats, Drops: r.Drop != nil}
	if err := r.Emit(Record{Run: &info}); err != nil {
		return err
	}
	dirs := make([]Dir, len(r.Targets))
	for i, t := range r.Targets {
		name := fmt.Sprintf("%s-%d", id, i)
		var root Dir
		if root, err = t.FS.Root(ctx); err == nil { // the same err as the removal at the end looks at
			dirs[i], err = t.FS.Mkdir(ctx, root, name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		defer func() {
			cerr := clean(ctx, err == nil, t.FS, root, name, dirs[i])
			if cerr == nil {
				return
			}
			cerr = fmt.Errorf("%s: remove %s by hand: %w", t.Name, name, cerr)
			if err == nil {
				err = cerr
			} else if r.Left != nil {
				r.Left(cerr.Error())
			}
		}()
		if err := r.Emit(Record{Target: &TargetInfo{Name: t.Name, Spec: t.Spec, Durability: t.Durability, Metered: t.CPU != nil, Options: t.Options}}); err != nil {
			return err
		}
	}
	pattern := NewPattern(r.Options.Seed)
	for repeat := range r.Repeats {
		for _, w := range r.Workloads {
			workers := w.Workers
			if len(r.Workers) > 0 {
				workers = r.Workers
			}
			for _, n := range workers {
				for k := range r.Targets {
					if repeat%2 == 1 { // what changes meanwhile shall hit both
						k = len(r.Targets) - 1 - k
					}
					if err := r.workload(ctx, r.Targets[k], dirs[k], &w, n, repeat, pattern); err != nil {
						return fmt.Errorf("%s: %s with %d workers: %w", r.Targets[k].Name, w.Name, n, err)
					}
				}
			}
		}
	}
	return nil
}

// clean removes a directory with all that is in it: for as long as it takes if all is well, else, or when ctx has ended, within cleanTimeout.
func clean(ctx context.Context, well bool, fs FS, parent Dir, name string, dir Dir) error {
	remove := func(ctx context.Context) error {
		err := removeAll(ctx, fs, dir)
		if err == nil {
			err = fs.Rmdir(ctx, parent, name)
		}
		return err
	}
	if well && ctx.Err() == nil {
		if err := remove(ctx); err == nil || ctx.Err() == nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	return remove(ctx)
}

// workload runs one workload on one target.
func (r *Run) workload(ctx context.Context, t *Target, parent Dir, w *Workload, workers, repeat int, pattern *Pattern) (err error) {
	name := fmt.Sprintf("%s-%d-%d", w.Name, workers, repeat)
	dir, err := t.FS.Mkdir(ctx, parent, name)
	if err != nil {
		return err
	}
	o := r.Options
	if t.Options != nil {
		o = *t.Options
	}
	e := &Env{FS: t.FS, Dir: dir, Options: o, Workers: workers, Pattern: pattern, bufs: make([][]byte, workers)}
	for i := range e.bufs {
		e.bufs[i] = make([]byte, pieceSize)
	}
	defer func() {
		end := ctx
		if err != nil || ctx.Err() != nil {
			var cancel context.CancelFunc
			end, cancel = context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
			defer cancel()
		}
		for _, fn := range e.closers {
			if cerr := fn(end); err == nil {
				err = cerr
			}
		}
		if cerr := clean(ctx, err == nil, t.FS, parent, name, dir); err == nil {
			err = cerr
		}
	}()
	for _, p := range w.Phases(e) {
		x := phaseRun{env: e, cpu: t.CPU, own: t.ClientCPU, drop: r.Drop}
		if r.Watch != nil {
			x.watch = func(g Progress) {
				g.Target, g.Workload, g.Phase, g.Workers, g.Repeat = t.Name, w.Name, p.Name, workers, repeat
				r.Watch(g)
			}
		}
		m, err := x.run(ctx, &p)
		if notOffered(err) {
			// The phases after it build on it.
			return r.Emit(Record{Skipped: &Skipped{Target: t.Name, Workload: w.Name, Phase: p.Name, Why: "the target does not offer it"}})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		s, err := sampleOf(m)
		if err != nil {
			return err
		}
		s.Target, s.Workload, s.Phase, s.Unit, s.Workers, s.Repeat, s.Cold = t.Name, w.Name, p.Name, p.Unit, workers, repeat, p.Cold && r.Drop != nil
		if err := r.Emit(Record{Sample: s}); err != nil {
			return err
		}
	}
	return nil
}

func thisHost() Host {
	h := Host{CPUs: runtime.NumCPU(), Model: cpuModel()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		h.Memory = int64(s.Totalram) * int64(s.Unit)
	}
	return h
}
