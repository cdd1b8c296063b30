package transfer

import (
	"bytes"
	"context"
	"errors"
	"path"
	"sync"
	"sync/atomic"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// DefaultParallel is how many files are transferred at once.
	DefaultParallel = 8
	// MaxParallel bounds it: each takes up to smallFile of memory, and a connection.
	MaxParallel = 64
	// sumRange is how much is compared by one checksum.
	sumRange = 256 << 20
)

// Options of a transfer.
type Options struct {
	Rules
	DryRun   bool
	Parallel int      // files at once; 0: DefaultParallel
	Journal  *Journal // nil: nothing is resumed by another process
	// Did is told of every step that is done, or would be, and of those that failed. Calls are one after the other.
	Did func(Action, error)
	// Begin is told of each file whose content is going to be moved, also at once, and returns who is told of its bytes; done is called at its end.
	Begin func(a Action) (moved func(n int64), done func())
}

// Action is a step, with its path relative to the top of the tree; "" is the top itself.
type Action struct {
	Does Does
	Path string
	Dir  bool
	Size int64
	Why  string
}

// Summary counts what was done, or would be.
type Summary struct {
	Sent    int64 `json:"sent_files"`
	Bytes   int64 `json:"sent_bytes"`    // moved by this transfer
	Resumed int64 `json:"resumed_bytes"` // of the files that were sent, moved by one before
	Same    int64 `json:"same_files"`
	Changed int64 `json:"changed_files"` // mode or time only
	Dirs    int64 `json:"made_directories"`
	Removed int64 `json:"removed"` // a directory with all that is in it counts once
	Refused int64 `json:"refused"` // links, devices
	Failed  int64 `json:"failed"`
	DryRun  bool  `json:"dry_run,omitempty"`
}

// Err is nil if all was done.
func (s *Summary) Err() error {
	if s.Failed+s.Refused == 0 {
		return nil
	}
	return &Partial{*s}
}

// Partial is the error of a transfer that left something out.
type Partial struct{ Summary }

func (p *Partial) Error() string {
	if p.Failed == 0 {
		return "some of it was refused, see above; the rest is done"
	}
	return "some of it failed, see above: run the same command again, and it goes on from there"
}

// side is one end of a transfer.
type side interface {
	stat(ctx context.Context, p string) (Entry, error)
	list(ctx context.Context, dir string) ([]Entry, error)
	sum(ctx context.Context, p string, e Entry, off, n int64) ([]byte, error)
	mkdir(ctx context.Context, p string, mode uint32) error
	change(ctx context.Context, p string, e Entry) error
	remove(ctx context.Context, p string, dir bool) error
}

// run is one transfer.
type run struct {
	o        Options
	src, dst side
	// send moves the content of a file. It counts bytes itself.
	send func(ctx context.Context, p string, s *Step, t *track) error

	work    chan func()
	workers sync.WaitGroup
	cancel  context.CancelCauseFunc
	extras  []Action // to be removed at the end; of the walker
	inWay   []late   // for which something is to be removed at the end; of the walker
	unread  bool     // a directory of the source could not be read; of the walker

	mu  sync.Mutex // guards sum, and calls of Did
	sum Summary
}

// late is a step that is done when all others were.
type late struct {
	s Step
	p string
}

// track counts the bytes of one file.
type track struct {
	moved          func(int64)
	bytes, resumed atomic.Int64
}

func (t *track) add(n int64) {
	t.bytes.Add(n)
	if t.moved != nil {
		t.moved(n)
	}
}

// skip notes bytes that need not be moved.
func (t *track) skip(n int64) {
	t.resumed.Add(n)
	if t.moved != nil {
		t.moved(n)
	}
}

// tree transfers all that is in the source to the destination, which is there, unless fresh.
func (r *run) tree(ctx context.Context, fresh bool) (Summary, error) {
	return r.within(ctx, func(ctx context.Context) { r.walk(ctx, "", fresh) })
}

// single transfers one file; its error is that of the transfer.
func (r *run) single(ctx context.Context, s Step, p string) (Summary, error) {
	var failed error
	did := r.o.Did
	r.o.Did = func(a Action, err error) {
		if failed = err; err == nil && did != nil {
			did(a, nil)
		}
	}
	sum, err := r.within(ctx, func(ctx context.Context) { r.step(ctx, s, p, false) })
	if failed != nil {
		err = failed
	}
	return sum, err
}

func (r *run) within(ctx context.Context, walk func(context.Context)) (Summary, error) {
	r.o.Parallel = min(max(r.o.Parallel, 0), MaxParallel)
	if r.o.Parallel == 0 {
		r.o.Parallel = DefaultParallel
	}
	r.sum.DryRun = r.o.DryRun
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.cancel = cancel
	r.round(ctx, walk)
	if ctx.Err() == nil {
		r.replaceInWay(ctx)
	}
	if ctx.Err() == nil {
		r.removeExtras(ctx)
	}
	if outer.Err() != nil {
		return r.sum, context.Cause(outer)
	}
	if ctx.Err() != nil {
		return r.sum, context.Cause(ctx)
	}
	return r.sum, r.sum.Err()
}

// round walks, and waits for what workers do for that.
func (r *run) round(ctx context.Context, walk func(context.Context)) {
	r.work = make(chan func())
	for range r.o.Parallel {
		r.workers.Go(func() {
			for fn := range r.work {
				fn()
			}
		})
	}
	walk(ctx)
	close(r.work)
	r.workers.Wait()
}

// did reports a step, counts it, and ends the transfer if there is no use in going on.
func (r *run) did(ctx context.Context, a Action, err error, count *int64) {
	if err != nil && ctx.Err() != nil {
		return // it failed because the transfer ends
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case a.Does == Refuse:
		r.sum.Refused++
	case err != nil:
		r.sum.Failed++
	default:
		*count++
	}
	if r.o.Did != nil && (err != nil || a.Does != Keep) {
		r.o.Did(a, err)
	}
	switch k := vfs.KindOf(err); {
	case err == nil:
	case k == vfs.KindUnauthorized:
		r.cancel(err)
	case k.Retryable():
		r.cancel(vfs.Errorf(k, "transfer", "it was tried %d times: %w: run the same command again when the gateway answers, and it goes on from there", attempts, err))
	}
}

func (r *run) walk(ctx context.Context, dir string, fresh bool) {
	if ctx.Err() != nil {
		return
	}
	src, err := r.src.list(ctx, dir)
	if err != nil {
		r.unread = true
		r.did(ctx, Action{Does: Enter, Path: dir, Dir: true}, err, nil)
		return
	}
	var dst []Entry
	if !fresh && (r.o.Sync || r.o.Delete) {
		if dst, err = r.dst.list(ctx, dir); err != nil {
			r.unread = true
			r.did(ctx, Action{Does: Enter, Path: dir, Dir: true}, err, nil)
			return
		}
	}
	for _, s := range Compare(src, dst, r.o.Rules) {
		if ctx.Err() != nil {
			return
		}
		r.step(ctx, s, path.Join(dir, s.Name()), fresh)
	}
}

// step does one step, or has a worker do it.
func (r *run) step(ctx context.Context, s Step, p string, fresh bool) {
	a := Action{Does: s.Does, Path: p, Dir: s.Src.Type == Dir, Size: s.Src.Size, Why: s.Why}
	switch s.Does {
	case Remove:
		a.Dir, a.Size = s.Dst.Type == Dir, s.Dst.Size
		r.extras = append(r.extras, a)
	case Refuse:
		r.did(ctx, a, vfs.Errorf(vfs.KindNotSupported, "transfer", "%s: %s", p, s.Why), nil)
	case Keep:
		r.did(ctx, a, nil, &r.sum.Same)
	case Replace:
		r.inWay = append(r.inWay, late{s, p})
	case MakeDir:
		// Without a listing of the destination it may be there; then what is in it is, too.
		var err error
		if !r.o.DryRun {
			err = r.dst.mkdir(ctx, p, s.Src.Mode)
		}
		if r.did(ctx, a, err, &r.sum.Dirs); err == nil {
			r.walk(ctx, p, fresh || r.o.Sync || r.o.Delete)
		}
	case Enter:
		r.walk(ctx, p, false)
	default:
		select {
		case r.work <- func() { r.file(ctx, s, a) }:
		case <-ctx.Done():
		}
	}
}

// file does what there is to do about a file.
func (r *run) file(ctx context.Context, s Step, a Action) {
	if ctx.Err() != nil {
		return
	}
	if s.Does == Verify {
		same, err := r.same(ctx, a.Path, &s)
		if err != nil {
			r.did(ctx, a, err, nil)
			return
		}
		s = s.verified(same)
		a.Does, a.Why = s.Does, s.Why
	}
	switch s.Does {
	case Keep:
		r.did(ctx, a, nil, &r.sum.Same)
	case Fix:
		var err error
		if !r.o.DryRun {
			err = r.dst.change(ctx, a.Path, s.Src)
		}
		r.did(ctx, a, err, &r.sum.Changed)
	case Send:
		t := &track{}
		if r.o.DryRun {
			t.bytes.Store(s.Src.Size)
			r.sent(t)
			r.did(ctx, a, nil, &r.sum.Sent)
			return
		}
		if r.o.Begin != nil {
			moved, done := r.o.Begin(a)
			t.moved = moved
			defer done()
		}
		err := r.send(ctx, a.Path, &s, t)
		r.sent(t)
		r.did(ctx, a, err, &r.sum.Sent)
	}
}

func (r *run) sent(t *track) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Bytes += t.bytes.Load()
	r.sum.Resumed += t.resumed.Load()
}

// same compares contents of the same length.
func (r *run) same(ctx context.Context, p string, s *Step) (bool, error) {
	for off := int64(0); off < s.Src.Size; off += sumRange {
		n := min(sumRange, s.Src.Size-off)
		var sums [2][]byte
		var errs [2]error
		var both sync.WaitGroup
		both.Go(func() { sums[0], errs[0] = r.src.sum(ctx, p, s.Src, off, n) })
		sums[1], errs[1] = r.dst.sum(ctx, p, *s.Dst, off, n)
		both.Wait()
		if err := errors.Join(errs[0]); err != nil {
			return false, err
		}
		if k := vfs.KindOf(errs[1]); k == vfs.KindChanged || k == vfs.KindNotFound {
			return false, nil
		}
		if errs[1] != nil {
			return false, errs[1]
		}
		if !bytes.Equal(sums[0], sums[1]) {
			return false, nil
		}
	}
	return true, nil
}

// replaceInWay removes what is in the way of something of another type, and has that take its place: only if nothing failed before, and if that can be read.
func (r *run) replaceInWay(ctx context.Context) {
	if len(r.inWay) == 0 {
		return
	}
	if r.unread || r.sum.Failed > 0 {
		r.unread = true
		r.did(ctx, Action{Does: Replace}, vfs.Errorf(vfs.KindCanceled, "delete", "%d entries that are in the way stay, for not all else was done: run it again", len(r.inWay)), nil)
		return
	}
	r.round(ctx, func(ctx context.Context) {
		for _, l := range r.inWay {
			if ctx.Err() != nil {
				return
			}
			r.replace(ctx, l.s, l.p)
		}
	})
}

func (r *run) replace(ctx context.Context, s Step, p string) {
	a := Action{Does: Remove, Path: p, Dir: s.Dst.Type == Dir, Size: s.Dst.Size, Why: s.Why}
	var err error
	switch {
	case s.Src.Type == Dir:
		_, err = r.src.list(ctx, p)
	case s.Src.Size > 0:
		_, err = r.src.sum(ctx, p, s.Src, 0, 1)
	}
	if err != nil {
		r.unread = true
	} else if !r.o.DryRun {
		err = r.dst.remove(ctx, p, a.Dir)
	}
	if r.did(ctx, a, err, &r.sum.Removed); err != nil {
		return
	}
	s.Dst, s.Does = nil, Send
	if s.Src.Type == Dir {
		s.Does = MakeDir
	}
	r.step(ctx, s, p, true)
}

// removeExtras removes what is not at the source.
func (r *run) removeExtras(ctx context.Context) {
	if len(r.extras) == 0 {
		return
	}
	if r.unread || r.sum.Failed > 0 {
		r.did(ctx, Action{Does: Remove}, vfs.Errorf(vfs.KindCanceled, "delete", "%d entries that are not at the source stay, for not all else was done: run it again", len(r.extras)), nil)
		return
	}
	for _, a := range r.extras {
		if ctx.Err() != nil {
			return
		}
		var err error
		if !r.o.DryRun {
			err = r.dst.remove(ctx, a.Path, a.Dir)
		}
		r.did(ctx, a, err, &r.sum.Removed)
	}
}
