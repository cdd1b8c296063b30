package background

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// office is a leader whose clock and presence the test owns.
type office struct {
	mu      sync.Mutex
	l       *ledger.Ledger
	away    bool
	reports int
	clock   atomic.Int64
}

func newOffice(tasks int, bytes uint64) *office {
	var lim ledger.Limits
	for c := range lim.Classes {
		lim.Classes[c] = ledger.ClassLimits{Tasks: tasks, BytesPerSecond: bytes}
	}
	return &office{l: ledger.New(lim)}
}

func (o *office) now() time.Duration { return time.Duration(o.clock.Load()) }

func (o *office) as(name string) leader { return leader{o, name} }

type leader struct {
	o    *office
	name string
}

func (l leader) Work(_ context.Context, _ uint16, r *metapb.WorkRequest) (*metapb.WorkReply, error) {
	l.o.mu.Lock()
	defer l.o.mu.Unlock()
	l.o.reports++
	if l.o.away {
		return nil, vfs.Errorf(vfs.KindUnavailable, "test", "away")
	}
	g, ok := l.o.l.Report(l.name, r.Run, r.Tasks, l.o.now())
	if !ok {
		return nil, vfs.Errorf(vfs.KindTooMany, "test", "")
	}
	return &metapb.WorkReply{Grants: g, LapseMilliseconds: uint64(l.o.l.Lapse() / time.Millisecond)}, nil
}

func (o *office) set(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = away
}

func (o *office) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reports
}

// rate is what the permit may move now.
func (p *Permit) rate() float64 {
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	return p.limit.rate
}

func (o *office) entries() []ledger.Entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.l.List(o.now())
}

// desk runs until the test ends.
func (o *office) desk(t *testing.T, name string) *Desk {
	d := New(Options{
		Leader: o.as(name), AskEvery: time.Millisecond, ReportEvery: time.Millisecond, Now: o.now, LocalRate: 77,
		Patience: [ledger.Classes]time.Duration{ledger.Scrub: -1, ledger.Rewrite: Forever},
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { d.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return d
}

func task(kind metapb.WorkKind, pg uint32, spare int32) *metapb.WorkTask {
	return &metapb.WorkTask{Kind: kind, Pg: pg, Spare: spare}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

const repair = metapb.WorkKind_WORK_REPAIR

// A worker does what it is permitted, the leader sees how far it is, and the next one begins when it is done.
func TestPermits(t *testing.T) {
	o := newOffice(1, 0)
	a, b := o.desk(t, "a"), o.desk(t, "b")
	p, err := a.Acquire(t.Context(), nil, task(repair, 1, 2), task(repair, 2, 1))
	if err != nil || p.Task.Pg != 2 {
		t.Fatal(p, err)
	}
	p.Did(3, 4096)
	eventually(t, "no progress is seen", func() bool {
		e := o.entries()
		return len(e) > 0 && e[0].Running && e[0].PG == 2 && e[0].BlocksDone == 3 && e[0].BytesDone == 4096
	})
	second := make(chan *Permit)
	go func() {
		p, err := b.Acquire(t.Context(), nil, task(repair, 3, 0))
		if err != nil {
			t.Error(err)
		}
		second <- p
	}()
	// b's data is in danger: a has to give way.
	<-p.Context().Done()
	if !p.TakenBack() {
		t.Error("nobody took it back")
	}
	p.Done()
	q := <-second
	meanwhile := 0
	ended := vfs.Errorf(vfs.KindBusy, "test", "")
	if _, err := a.Acquire(t.Context(), func() error {
		if meanwhile++; meanwhile == 2 {
			return ended
		}
		return nil
	}, task(repair, 1, 2)); err != error(ended) {
		t.Errorf("while it waits: %v after %d", err, meanwhile)
	}
	q.Done()
	if q.TakenBack() {
		t.Error("it was done")
	}
	eventually(t, "the leader thinks that something runs or waits", func() bool { return len(o.entries()) == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Acquire(ctx, nil, task(repair, 1, 2)); err == nil {
		// It may have been granted before the context was looked at: nothing is left of it.
		t.Log("granted at once")
	}
}

// When nobody answers, what was permitted lapses, repair waits for its patience and then goes on at a low rate, scrub goes on at once, and
// rewriting never does; a leader that is back decides again.
func TestWithoutALeader(t *testing.T) {
	o := newOffice(1, 1000)
	d := o.desk(t, "a")
	p, err := d.Acquire(t.Context(), nil, task(repair, 1, 1))
	if err != nil || p.rate() != 1000 {
		t.Fatalf("%v, %v bytes per second", err, p.rate())
	}
	o.set(true)
	before := o.count()
	eventually(t, "no report", func() bool { return o.count() > before+2 })
	select {
	case <-p.Context().Done():
		t.Fatal("it lapsed before its time")
	default:
	}
	o.clock.Add(int64(o.l.Lapse()))
	<-p.Context().Done()
	if !p.TakenBack() {
		t.Fatal("it did not lapse")
	}
	p.Done()

	scrub, err := d.Acquire(t.Context(), nil, task(metapb.WorkKind_WORK_SCRUB, 0, 0))
	if err != nil || scrub.rate() != 77 {
		t.Fatalf("scrub: %v, %v bytes per second", err, scrub.rate())
	}
	scrub.Done()
	fctx, stop := context.WithCancel(t.Context())
	folded := make(chan error)
	go func() {
		_, err := d.Acquire(fctx, nil, task(metapb.WorkKind_WORK_FOLD, 0, 0))
		folded <- err
	}()
	got := make(chan *Permit)
	go func() {
		p, err := d.Acquire(t.Context(), nil, task(repair, 1, 1))
		if err != nil {
			t.Error(err)
		}
		got <- p
	}()
	eventually(t, "nothing waits", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.wants) == 2 })
	o.clock.Add(int64(DefaultPatience - o.l.Lapse() - time.Second))
	before = o.count()
	eventually(t, "no report", func() bool { return o.count() > before+2 })
	select {
	case <-got:
		t.Fatal("it was impatient")
	default:
	}
	o.clock.Add(int64(time.Second))
	p = <-got
	if p.rate() != 77 {
		t.Fatalf("%v bytes per second", p.rate())
	}
	o.clock.Add(int64(time.Hour))
	select {
	case err := <-folded:
		t.Fatalf("rewriting without a leader: %v", err)
	default:
	}
	// Another worker has the place when the leader is back.
	o.mu.Lock()
	o.l.Report("other", 1, []*metapb.WorkTask{task(repair, 9, 1)}, o.now())
	o.mu.Unlock()
	o.set(false)
	<-p.Context().Done()
	if !p.TakenBack() {
		t.Fatal("the leader was not asked")
	}
	p.Done()
	stop()
	<-folded
}

// Nobody is asked where there is no desk.
func TestNoDesk(t *testing.T) {
	var d *Desk
	p, err := d.Acquire(t.Context(), nil, task(repair, 1, 1))
	if err != nil || p.WaitN(t.Context(), 1<<40) != nil || p.TakenBack() {
		t.Fatal(err)
	}
	p.Done()
	var none *Permit
	none.Did(1, 1)
	if none.WaitN(t.Context(), 1) != nil || none.TakenBack() {
		t.Fatal("a nil permit")
	}
}

// Nothing is moved before its time, and a rate that rises is felt by who waits already.
func TestPace(t *testing.T) {
	l := new(pace)
	l.set(1)
	done := make(chan error)
	go func() { done <- l.wait(t.Context(), 1<<40) }()
	eventually(t, "it does not wait", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.out >= 1<<40 })
	select {
	case err := <-done:
		t.Fatalf("the first bytes came for nothing: %v", err)
	default:
	}
	l.set(1 << 50)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.set(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.wait(ctx, 1<<40); err == nil {
		t.Fatal("it did not wait")
	}
	l.set(0)
	if err := l.wait(t.Context(), 1<<40); err != nil {
		t.Fatal(err)
	}
	const n, rate = 100, 10000
	l = new(pace)
	l.set(rate)
	began := time.Now()
	for range n {
		if err := l.wait(t.Context(), rate/1000); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d < n*time.Millisecond {
		t.Errorf("%d bytes at %d per second took %v", n*rate/1000, rate, d)
	}
}
