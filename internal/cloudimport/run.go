package cloudimport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// countMost is how many objects are counted before the first is read, for the totals.
	countMost = 1_000_000
	// giveUpAfter is how many objects in a row may fail by an endpoint that does not work.
	giveUpAfter = 16
	// tellEvery is between what is told of the progress.
	tellEvery = time.Second
	// longestSave bounds one attempt to write the checkpoint.
	longestSave = 10 * time.Second
)

// run is one run of one job.
type run struct {
	e      *Engine
	j      Journal
	t      Target
	b      *bucket
	spec   Spec
	dest   files.Path
	before *metapb.Job
	stop   context.CancelCauseFunc // ends it with what failed

	mu       sync.Mutex // guards the following
	moved    *sync.Cond // something of it changed
	window   *window
	report   *Report
	reading  uint64 // bytes of objects that are not finished
	first    string // that failed
	row      int    // objects in a row that failed by the endpoint
	changes  uint64 // of window and report
	saved    uint64 // of changes: those that shard 0 has
	finished bool   // no more changes
	at       string // the key that was begun last
}

func (r *run) run(ctx context.Context) error {
	const op = "import"
	r.moved = sync.NewCond(&r.mu)
	r.first = r.before.Error
	wake := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.moved.Broadcast()
	})
	defer wake()
	if err := r.begin(ctx); err != nil {
		return err
	}
	var side, workers sync.WaitGroup
	side.Go(func() { r.keep(ctx) })
	told, quiet := context.WithCancel(ctx)
	side.Go(func() { r.tell(told) })
	items := make(chan work)
	for range cap(r.e.room) {
		workers.Go(func() {
			for w := range items {
				if err := r.one(ctx, w); err != nil {
					r.stop(err)
				}
			}
		})
	}
	err := r.list(ctx, items)
	close(items)
	workers.Wait()
	r.mu.Lock()
	r.finished = true
	r.moved.Broadcast()
	r.mu.Unlock()
	quiet()
	side.Wait()
	// What was done is written down by whoever runs the job, with its end.
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && ctx.Err() == nil {
		r.report.settle()
	}
	r.note()
	if cause := context.Cause(ctx); cause != nil {
		var own *vfs.Error
		if errors.As(cause, &own) {
			return own
		}
		return vfs.Wrap(op, cause)
	}
	if err != nil {
		return plain(err)
	}
	if n := r.report.Failed; n > 0 {
		return vfs.Errorf(vfs.KindIO, op, "%d of %d objects were not imported, the first: %s", n, r.report.Objects, r.first)
	}
	return nil
}

// plain is an error as it leaves the package.
func plain(err error) error {
	var f *fault
	if errors.As(err, &f) {
		return f.err
	}
	return err
}

// begin counts what there is to do, and makes the destination.
func (r *run) begin(ctx context.Context) error {
	if !r.spec.DryRun {
		if _, err := r.t.Tree.Mkdir(ctx, r.dest, true, 0o755); err != nil {
			return err
		}
	}
	if r.spec.DryRun || r.report.Objects > 0 || r.window.cursor != "" {
		return nil
	}
	var objects, bytes uint64
	for token := ""; ; {
		list, next, err := r.page(ctx, "", token)
		if err != nil {
			return plain(err)
		}
		for _, o := range list {
			objects, bytes = objects+1, bytes+o.Size
		}
		if token = next; token == "" {
			break
		}
		if objects >= countMost {
			return nil // the totals are not known
		}
		r.j.Report(jobs.Progress{Note: fmt.Sprintf("counting: %d objects so far", objects)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Objects, r.report.Bytes = objects, bytes
	r.note()
	return nil
}

// page lists, again if that failed in a way that may pass.
func (r *run) page(ctx context.Context, after, token string) (list []Object, next string, err error) {
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return nil, "", context.Cause(ctx)
		}
		list, next, err = r.b.page(after, token)
		var f *fault
		if err == nil || !errors.As(err, &f) || !f.passing || n == tries || !r.e.pause(ctx, n) {
			return list, next, err
		}
	}
}

// work is an item that is under way.
type work struct {
	item Item
	slot *slot
}

// list gives what there is to workers, from the cursor on.
func (r *run) list(ctx context.Context, items chan<- work) error {
	plan := NewPlanner(r.dest, r.spec.Source.Prefix)
	after, last := r.window.cursor, r.window.cursor
	for token := ""; ; {
		list, next, err := r.page(ctx, after, token)
		if err != nil {
			return err
		}
		for _, o := range list {
			if o.Key <= last && last != "" {
				return vfs.Errorf(vfs.KindInvalid, "import", "the endpoint lists %s after %s: without the order of keys an import cannot go on after a restart; buckets of directories (S3 Express) are not supported", Shown(o.Key), Shown(last))
			}
			last = o.Key
			it := plan.Next(o)
			s, was := r.enter(ctx, o.Key)
			if s == nil {
				return nil // ctx ended
			}
			if was {
				continue
			}
			select {
			case items <- work{it, s}:
			case <-ctx.Done():
				return nil
			}
		}
		if token = next; token == "" {
			return nil
		}
		after = "" // the token says it
	}
}

// enter puts an object into the window when there is room; nil: ctx ended.
func (r *run) enter(ctx context.Context, key string) (*slot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.window.full() && ctx.Err() == nil {
		r.moved.Wait()
	}
	if ctx.Err() != nil {
		return nil, false
	}
	s, was := r.window.add(key)
	if was {
		r.change()
	}
	return s, was
}

// change notes a change of window or report. The lock is held.
func (r *run) change() {
	r.changes++
	r.moved.Broadcast()
}

// finish counts what became of an object; durably waits until shard 0 has it.
func (r *run) finish(ctx context.Context, w work, durably bool, count func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count(r.report)
	r.window.finish(w.slot)
	r.change()
	for mine := r.changes; durably && r.saved < mine && ctx.Err() == nil; {
		r.moved.Wait()
	}
}

// keep writes down what is done, for as long as the run goes on: what changes during one write is in the next.
func (r *run) keep(ctx context.Context) {
	for n := 1; ; {
		r.mu.Lock()
		for r.saved == r.changes && !r.finished && ctx.Err() == nil {
			r.moved.Wait()
		}
		if r.finished || ctx.Err() != nil {
			r.mu.Unlock()
			return
		}
		mine := r.changes
		r.note()
		r.mu.Unlock()
		sctx, cancel := context.WithTimeout(ctx, longestSave)
		err := r.j.Save(sctx)
		cancel()
		if err != nil {
			if k := vfs.KindOf(err); k != vfs.KindUnavailable && k != vfs.KindUnknown && k != vfs.KindNotLeader && k != vfs.KindCanceled {
				r.stop(err) // another gateway has the job
				return
			}
			if !r.e.pause(ctx, n) {
				return
			}
			n++
			continue
		}
		n = 1
		r.mu.Lock()
		r.saved = mine
		r.moved.Broadcast()
		r.mu.Unlock()
	}
}

// note gives the journal what is to be written down. The lock is held.
func (r *run) note() {
	r.j.Stand(jobs.Progress{
		ItemsDone: r.report.done(), ItemsTotal: r.report.Objects, ItemsFailed: r.report.Refused + r.report.Failed,
		BytesDone: r.report.ImportedBytes + r.report.SkippedBytes + r.reading, BytesTotal: r.report.Bytes, Note: r.at, Error: r.first,
	}, encode(r.window.checkpoint()), r.report.Encode())
}

// tell tells of the progress while a large object is read.
func (r *run) tell(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.mu.Lock()
			r.note()
			r.mu.Unlock()
		}
	}
}
