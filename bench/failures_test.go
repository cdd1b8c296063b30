package bench

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// faulty is a file system on which calls fail from some moment on.
type faulty struct {
	FS
	// What is called before a counter is read, and before a file is made or removed; nil: it is done.
	read, create, remove func() error
	rmdir                func(name string) error
}

func fault(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func (x *faulty) Create(ctx context.Context, dir Dir, name string) error {
	if err := fault(x.create); err != nil {
		return err
	}
	return x.FS.Create(ctx, dir, name)
}

func (x *faulty) Remove(ctx context.Context, dir Dir, name string) error {
	if err := errors.Join(ctx.Err(), fault(x.remove)); err != nil {
		return err
	}
	return x.FS.Remove(ctx, dir, name)
}

func (x *faulty) Rmdir(ctx context.Context, dir Dir, name string) error {
	if x.rmdir != nil {
		if err := x.rmdir(name); err != nil {
			return err
		}
	}
	return x.FS.Rmdir(ctx, dir, name)
}

func (x *faulty) Open(ctx context.Context, dir Dir, name string, create bool) (File, error) {
	f, err := x.FS.Open(ctx, dir, name, create)
	return &faultyFile{f, x}, err
}

type faultyFile struct {
	File
	x *faulty
}

func (f *faultyFile) Read(ctx context.Context, p []byte, off int64) error {
	if len(p) == counterSize {
		if err := fault(f.x.read); err != nil {
			return err
		}
	}
	return f.File.Read(ctx, p, off)
}

// TestFailureUnderLock: a worker that fails while it has a lock ends the run, though others wait for that lock in system calls, which hear of nothing else.
func TestFailureUnderLock(t *testing.T) {
	for workload, phase := range map[string]string{"locks": "counter", "mixed": "mixed"} {
		all, err := WorkloadsNamed([]string{workload})
		if err != nil {
			t.Fatal(err)
		}
		fs, d := plainDir(t)
		broken := vfs.KindIO.Err("test")
		bad := &faulty{FS: fs, read: func() error { return broken }}
		w := all[0]
		phases := w.Phases
		w.Phases = func(e *Env) []Phase { // for long, so that others come to wait
			out := phases(e)
			last := &out[len(out)-1]
			before := last.Before
			last.Before = func(ctx context.Context) error {
				e.Options.Time = time.Hour
				return before(ctx)
			}
			return out
		}
		done := make(chan error, 1)
		go func() {
			_, err := collected(t, bad, d, []Workload{w})
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), phase) {
				t.Errorf("%s: %v", workload, err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s does not end", workload)
		}
	}
}

// TestCancelledRunLeavesNothing, and what cannot be removed is told.
func TestCancelledRunLeavesNothing(t *testing.T) {
	all, err := WorkloadsNamed([]string{"metadata-private"})
	if err != nil {
		t.Fatal(err)
	}
	for name, stuck := range map[string]bool{"removable": false, "not removable": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			fs, d := plainDir(t)
			var made atomic.Int64
			bad := &faulty{FS: fs, create: func() error {
				if made.Add(1) == 5 {
					cancel()
				}
				return ctx.Err()
			}}
			if stuck {
				bad.remove = func() error { return vfs.KindIO.Err("test") }
			}
			var told []string
			o := tiny
			o.Complete = true
			r := Run{
				Targets: []*Target{{Name: "t", Spec: "test", Durability: d, FS: bad}}, Workloads: all, Options: o, Workers: []int{3}, Repeats: 1,
				Emit: func(Record) error { return nil }, Left: func(what string) { told = append(told, what) },
			}
			if err := r.Do(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			root, err := fs.Root(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var left []string
			if err := fs.List(t.Context(), root, func(e Entry) error { left = append(left, e.Name); return nil }); err != nil {
				t.Error(err)
			}
			if !stuck && (len(left) != 0 || len(told) != 0) {
				t.Errorf("%v was left, told was %v", left, told)
			}
			if stuck && (len(left) != 1 || len(told) != 1 || !strings.Contains(told[0], left[0]) || !strings.Contains(told[0], "by hand")) {
				t.Errorf("%v was left, told was %v", left, told)
			}
		})
	}
}

// TestFailedRunIsRemovedSoon: of a run that failed, of whatever, the removal is bounded in time, and what it leaves is told besides the failure; of one that is
// well it is not bounded, and is the failure.
func TestFailedRunIsRemovedSoon(t *testing.T) {
	all, err := WorkloadsNamed([]string{"metadata-private"})
	if err != nil {
		t.Fatal(err)
	}
	for name, fails := range map[string]bool{"failed": true, "well": false} {
		fs, d := plainDir(t)
		broken, last, told := vfs.KindIO.Err("test"), false, 0
		bad := &faulty{FS: &looking{FS: fs, list: func(ctx context.Context) { _, last = ctx.Deadline() }}}
		if fails {
			bad.create = func() error { return broken }
		}
		r := Run{
			Targets: []*Target{{Name: "t", Spec: "test", Durability: d, FS: bad}}, Workloads: all, Options: tiny, Workers: []int{1}, Repeats: 1,
			Emit: func(Record) error { return nil }, Left: func(string) { told++ },
		}
		if err := r.Do(t.Context()); fails != errors.Is(err, broken) || last != fails || told != 0 {
			t.Errorf("%s: %v, bounded in time %v, told %d", name, err, last, told)
		}
	}
	// What a good run cannot remove is its failure.
	fs, d := plainDir(t)
	bad := &faulty{FS: fs, rmdir: func(name string) error {
		if strings.HasPrefix(name, "rackfs-bench") {
			return vfs.KindIO.Err("test")
		}
		return nil
	}}
	if _, err := collected(t, bad, d, all); vfs.KindOf(err) != vfs.KindIO || !strings.Contains(err.Error(), "by hand") {
		t.Error(err)
	}
}

// TestSlowRemoval: what a run without a failure made is removed in whatever time it takes.
func TestSlowRemoval(t *testing.T) {
	fs, _ := plainDir(t)
	root, err := fs.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for well, want := range map[bool]bool{true: false, false: true} {
		dir, err := fs.Mkdir(t.Context(), root, "x")
		if err != nil {
			t.Fatal(err)
		}
		bounded := false
		looks := &looking{FS: fs, list: func(ctx context.Context) { _, bounded = ctx.Deadline() }}
		ctx, cancel := context.WithCancel(context.Background())
		if err := clean(ctx, well, looks, root, "x", dir); err != nil || bounded != want {
			t.Errorf("of a run that is well %v: bounded in time %v, %v", well, bounded, err)
		}
		cancel()
	}
}

// looking shows the contexts of listings.
type looking struct {
	FS
	list func(ctx context.Context)
}

func (l *looking) List(ctx context.Context, dir Dir, each func(Entry) error) error {
	l.list(ctx)
	return l.FS.List(ctx, dir, each)
}

// TestNobodyAnswers: a server that is not there is told after a while, and not waited for.
func TestNobodyAnswers(t *testing.T) {
	_, err := NewNFS(t.Context(), NFSConfig{Addr: "127.0.0.1:1", Path: "/x", Patience: 200 * time.Millisecond})
	if vfs.KindOf(err) != vfs.KindUnavailable || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "check host and port") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewNFS(ctx, NFSConfig{Addr: "127.0.0.1:1", Path: "/x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// meterFunc is a Meter.
type meterFunc func() (Usage, error)

func (f meterFunc) Read(context.Context) (Usage, error) { return f() }

// TestRestartIsNoticed: a process that was started anew during a phase has no number for it.
func TestRestartIsNoticed(t *testing.T) {
	for name, next := range map[string]Usage{
		"another start": {CPU: 9 * time.Second, Started: 100}, "less CPU": {CPU: time.Second, Started: 1}, "neither": {CPU: 9 * time.Second, Started: 1.5},
	} {
		reads := 0
		r := phaseRun{env: &Env{Workers: 1, Options: tiny}, cpu: meterFunc(func() (Usage, error) {
			if reads++; reads == 1 {
				return Usage{CPU: 5 * time.Second, Started: 1}, nil
			}
			return next, nil
		})}
		m, err := r.run(t.Context(), &Phase{Op: func(context.Context, int, int) (Work, error) { return Work{}, nil }})
		if name == "neither" {
			if err != nil || m.server.CPU != 4*time.Second {
				t.Errorf("%+v, %v", m, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), "started anew") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMissedLooks: a look at what servers hold that fails is left out; if none succeeds the phase ends early.
func TestMissedLooks(t *testing.T) {
	for name, fails := range map[string]func(n int) bool{"now and then": func(n int) bool { return n%2 == 0 }, "always": func(int) bool { return true }} {
		ctx, cancel := context.WithCancelCause(t.Context())
		broken, n := vfs.KindUnavailable.Err("test"), 0
		enough := make(chan struct{})
		r := phaseRun{env: &Env{Workers: 1, Options: Options{Time: watchFrom}}, cpu: meterFunc(func() (Usage, error) {
			if n++; n == 3*holdMisses {
				close(enough)
			}
			if fails(n) {
				return Usage{}, broken
			}
			return Usage{Resident: 7}, nil
		})}
		var ops atomic.Int64
		stop := r.hold(ctx, cancel, time.Now(), &ops)
		select {
		case <-ctx.Done():
		case <-enough:
		case <-time.After(time.Minute):
			t.Fatalf("%s: nothing was looked at", name)
		}
		held := stop()
		if always := name == "always"; always != errors.Is(context.Cause(ctx), broken) || always != (len(held) == 0) {
			t.Errorf("%s: %d looks, %v", name, len(held), context.Cause(ctx))
		}
		cancel(nil)
	}
}

// TestMixedBegins in the middle of the bounds of its files, so that what servers hold does not grow by there being more of them.
func TestMixedBegins(t *testing.T) {
	fs, _ := plainDir(t)
	root, err := fs.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := &Env{FS: fs, Dir: root, Options: tiny, Workers: 2, Pattern: NewPattern(1), bufs: [][]byte{make([]byte, pieceSize), make([]byte, pieceSize)}}
	e.Options.Files = 40
	m := &mixedLoad{Env: e, workers: make([]mixedWorker, e.Workers), generation: make([]uint32, e.Options.RandomSize/PageSize), counter: newHolder()}
	if err := m.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, fn := range e.closers {
		if err := fn(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for w := range m.workers {
		if n := len(m.workers[w].files); n != 30 {
			t.Errorf("worker %d begins with %d files of 20 to 40", w, n)
		}
	}
}
