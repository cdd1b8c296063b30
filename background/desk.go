package background

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Defaults of Options.
const (
	DefaultAskEvery    = 250 * time.Millisecond
	DefaultReportEvery = time.Second
	DefaultPatience    = time.Minute
	DefaultLocalRate   = 16 << 20 // bytes per second
	// Forever is the patience of work that is never done without a leader.
	Forever = time.Duration(1<<63 - 1)

	// workTimeout bounds one report.
	workTimeout = 3 * time.Second
	// idleEvery is how often a worker that takes pieces reports when it has nothing to do.
	idleEvery = 5 * time.Second
	// meanwhileEvery is how often a worker that waits for a permit looks after what needs none.
	meanwhileEvery = time.Second
)

// Leader is the way to the leaders of shards. *raftmeta.Client is one.
type Leader interface {
	Work(ctx context.Context, shard uint16, r *metapb.WorkRequest) (*metapb.WorkReply, error)
}

// Options of a Desk. Leader is required.
type Options struct {
	Leader Leader
	Shard  uint16
	Part   string // of the node, if it has several workers, such as a store

	// Patience is how long a task of a class waits for a leader that does not answer; 0: DefaultPatience, negative: not at all.
	Patience  [ledger.Classes]time.Duration
	LocalRate uint64 // bytes per second of a task without a leader; 0: DefaultLocalRate

	AskEvery    time.Duration
	ReportEvery time.Duration
	// Pieces, if set, is given chunks of files that may be worth folding, at most Room at once.
	Pieces func([]*metapb.WorkPiece)
	Room   func() int

	Now    func() time.Duration // time that only runs forward; default: since the desk was made
	Logger *slog.Logger
}

// Desk asks for permission for one worker. The methods of a nil Desk permit everything at once.
type Desk struct {
	o    Options
	run  uint64
	wake chan struct{} // 1: there is something to report
	soon chan struct{} // 1: there will be, most likely

	mu      sync.Mutex // guards the following
	wants   []*want
	permits []*Permit
	said    bool          // the leader knows of tasks
	silent  bool          // no leader answered since
	since   time.Duration // then
}

// want is an Acquire that waits.
type want struct {
	ctx   context.Context
	tasks []*metapb.WorkTask
	got   chan *Permit // 1
}

// New makes a desk; Run it.
func New(o Options) *Desk {
	for c := range o.Patience {
		if o.Patience[c] == 0 {
			o.Patience[c] = DefaultPatience
		}
	}
	o.LocalRate = cmp.Or(o.LocalRate, DefaultLocalRate)
	o.AskEvery, o.ReportEvery = cmp.Or(o.AskEvery, DefaultAskEvery), cmp.Or(o.ReportEvery, DefaultReportEvery)
	if o.Now == nil {
		began := time.Now()
		o.Now = func() time.Duration { return time.Since(began) }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Desk{o: o, run: rand.Uint64(), wake: make(chan struct{}, 1), soon: make(chan struct{}, 1)}
}

func (d *Desk) ring() { signal(d.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Acquire waits for permission to do one of tasks, the most urgent first, and says which. The permit's context
// ends with ctx. While it waits it calls meanwhile now and then, unless that is nil, and ends with its error.
func (d *Desk) Acquire(ctx context.Context, meanwhile func() error, tasks ...*metapb.WorkTask) (*Permit, error) {
	const op = "background.acquire"
	if d == nil {
		return newPermit(ctx, nil, tasks[0], 0), nil
	}
	w := &want{ctx: ctx, tasks: tasks, got: make(chan *Permit, 1)}
	d.mu.Lock()
	d.wants = append(d.wants, w)
	d.mu.Unlock()
	d.ring()
	leave := func(err error) (*Permit, error) {
		d.mu.Lock()
		d.wants = slices.DeleteFunc(d.wants, func(o *want) bool { return o == w })
		d.mu.Unlock()
		select {
		case p := <-w.got:
			p.Done()
		default:
		}
		d.ring()
		return nil, err
	}
	tick := time.NewTicker(meanwhileEvery)
	defer tick.Stop()
	for {
		select {
		case p := <-w.got:
			return p, nil
		case <-ctx.Done():
			return leave(vfs.Wrap(op, ctx.Err()))
		case <-tick.C:
		}
		if meanwhile != nil {
			if err := meanwhile(); err != nil {
				return leave(err)
			}
		}
	}
}

// Run reports until ctx ends.
func (d *Desk) Run(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, p := range d.permits {
				p.cancel(ctx.Err())
			}
			return
		case <-d.wake:
		case <-d.soon:
			// Who is done with a task mostly wants the next one at once: both go into one report, so that nobody less urgent comes between.
			t.Reset(d.o.AskEvery)
			continue
		case <-t.C:
		}
		t.Reset(d.round(ctx))
	}
}

// round makes a report, if there is anything to tell, and says when the next one is due.
func (d *Desk) round(ctx context.Context) time.Duration {
	d.mu.Lock()
	req := &metapb.WorkRequest{Shard: uint32(d.o.Shard), Part: d.o.Part, Run: d.run}
	permits, wants := slices.Clone(d.permits), slices.Clone(d.wants)
	for _, p := range permits {
		req.Tasks = append(req.Tasks, p.snapshot())
	}
	for _, w := range wants {
		for _, t := range w.tasks {
			if len(req.Tasks) < ledger.MaxTasks {
				req.Tasks = append(req.Tasks, t)
			}
		}
	}
	if d.o.Room != nil {
		req.Room = uint32(max(d.o.Room(), 0))
	}
	said := d.said
	d.mu.Unlock()
	if len(req.Tasks) == 0 && !said && d.o.Room == nil {
		return Forever
	}
	sent := d.o.Now()
	wctx, cancel := context.WithTimeout(ctx, workTimeout)
	reply, err := d.o.Leader.Work(wctx, d.o.Shard, req)
	cancel()
	if ctx.Err() != nil {
		return 0
	}
	now := d.o.Now()
	d.mu.Lock()
	if err == nil {
		d.answered(reply, permits, wants, len(req.Tasks), sent)
	} else if !d.silent {
		d.silent, d.since = true, now
		d.o.Logger.Debug("background: no leader answers", "shard", d.o.Shard, "err", err)
	}
	d.alone(now)
	next := Forever
	switch {
	case len(d.wants) > 0:
		next = d.o.AskEvery
	case len(d.permits) > 0 || d.said:
		next = d.o.ReportEvery
	case d.o.Room != nil:
		next = idleEvery
	}
	d.mu.Unlock()
	if err == nil && len(reply.Pieces) > 0 && d.o.Pieces != nil {
		d.o.Pieces(reply.Pieces)
	}
	return next
}

// answered takes over what the leader says of n tasks, those of permits first. d.mu is held.
func (d *Desk) answered(r *metapb.WorkReply, permits []*Permit, wants []*want, n int, sent time.Duration) {
	d.said, d.silent = n > 0, false
	granted := map[int]uint64{}
	for _, g := range r.Grants {
		granted[int(g.Task)] = g.BytesPerSecond
	}
	until := sent + time.Duration(r.LapseMilliseconds)*time.Millisecond
	for i, p := range permits {
		if rate, ok := granted[i]; ok {
			p.until, p.local = until, false
			p.limit.set(rate)
		} else {
			d.takeBack(p)
		}
	}
	at := len(permits)
	for _, w := range wants {
		for _, t := range w.tasks {
			if at >= n {
				return
			}
			rate, ok := granted[at]
			at++
			if ok && slices.Contains(d.wants, w) {
				p := newPermit(w.ctx, d, t, rate)
				p.until = until
				d.give(w, p)
			}
		}
	}
}

// give ends a want. d.mu is held.
func (d *Desk) give(w *want, p *Permit) {
	d.wants = slices.DeleteFunc(d.wants, func(o *want) bool { return o == w })
	d.permits = append(d.permits, p)
	w.got <- p
}

// takeBack ends a permit, unless it was given back meanwhile. d.mu is held.
func (d *Desk) takeBack(p *Permit) {
	if !slices.Contains(d.permits, p) {
		return
	}
	p.back = true
	p.cancel(errTakenBack)
	d.permits = slices.DeleteFunc(d.permits, func(o *Permit) bool { return o == p })
}

// alone ends permits that lapsed, and gives permits of the worker's own to those whose patience ended. d.mu is held.
func (d *Desk) alone(now time.Duration) {
	for _, p := range slices.Clone(d.permits) {
		if !p.local && now >= p.until {
			d.takeBack(p)
		}
	}
	if !d.silent {
		return
	}
	for _, w := range slices.Clone(d.wants) {
		patience := d.o.Patience[ledger.ClassOf(w.tasks[0].Kind)]
		if patience != Forever && now-d.since >= patience {
			p := newPermit(w.ctx, d, w.tasks[0], d.o.LocalRate)
			p.local = true
			d.give(w, p)
		}
	}
}

// done forgets a permit.
func (d *Desk) done(p *Permit) {
	d.mu.Lock()
	d.permits = slices.DeleteFunc(d.permits, func(o *Permit) bool { return o == p })
	d.mu.Unlock()
	signal(d.soon)
}

func cloneTask(t *metapb.WorkTask) *metapb.WorkTask { return proto.Clone(t).(*metapb.WorkTask) }
