package background

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var errTakenBack = errors.New("the permission was taken back or not renewed: ask again")

// Permit is the permission to do a task. The methods of a nil Permit do nothing.
type Permit struct {
	d      *Desk // nil: nobody is told
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  *pace

	// Task is the one of those asked for that is permitted. It is not changed.
	Task *metapb.WorkTask

	blocks, bytes, ino, offset atomic.Uint64

	// Guarded by Desk.mu.
	until time.Duration
	local bool // of the worker's own
	back  bool // taken back
}

func newPermit(ctx context.Context, d *Desk, t *metapb.WorkTask, rate uint64) *Permit {
	p := &Permit{d: d, Task: t, limit: new(pace)}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.limit.set(rate)
	return p
}

// Context ends when the permit does.
func (p *Permit) Context() context.Context { return p.ctx }

// TakenBack reports whether the permit ended before Done was called: the task is to be asked for again.
func (p *Permit) TakenBack() bool {
	if p == nil || p.d == nil {
		return false
	}
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	return p.back
}

// Did adds to what is done of the task.
func (p *Permit) Did(blocks, bytes uint64) {
	if p != nil {
		p.blocks.Add(blocks)
		p.bytes.Add(bytes)
	}
}

// At says where in a file the worker is.
func (p *Permit) At(ino, offset uint64) {
	if p != nil {
		p.ino.Store(ino)
		p.offset.Store(offset)
	}
}

// WaitN waits until n more bytes may be moved at the permitted rate.
func (p *Permit) WaitN(ctx context.Context, n int) error {
	if p == nil {
		return nil
	}
	return p.limit.wait(ctx, n)
}

// Done ends the task.
func (p *Permit) Done() {
	p.cancel(nil)
	if p.d != nil {
		p.d.done(p)
	}
}

// snapshot is the task as it stands.
func (p *Permit) snapshot() *metapb.WorkTask {
	t := cloneTask(p.Task)
	t.Running, t.BlocksDone, t.BytesDone = true, p.blocks.Load(), p.bytes.Load()
	if ino := p.ino.Load(); ino != 0 {
		t.Ino, t.Offset = ino, p.offset.Load()
	}
	return t
}

// pace spaces out work by bytes, at a rate that may change: a counter runs at that rate, and who wants n bytes begins when it has
// passed them. So bytes are paid for before they are moved: many short tasks, each with a pace of its own, are not faster than the rate.
type pace struct {
	mu   sync.Mutex // guards the following
	rate float64    // bytes per second; 0: no limit
	at   time.Time  // of run
	run  float64    // the counter
	out  float64    // given out
}

// paceLook is how often who waits looks whether the rate has changed.
const paceLook = time.Second

// advance brings the counter to now. l.mu is held.
func (l *pace) advance() {
	now := time.Now()
	if !l.at.IsZero() {
		l.run += l.rate * now.Sub(l.at).Seconds()
	}
	l.at = now
}

func (l *pace) set(rate uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	l.rate = float64(rate)
}

func (l *pace) wait(ctx context.Context, n int) error {
	l.mu.Lock()
	l.advance()
	paid := max(l.run, l.out) + float64(n)
	l.out = paid
	for l.rate > 0 && l.run < paid {
		d := min(time.Duration((paid-l.run)/l.rate*float64(time.Second))+1, paceLook)
		l.mu.Unlock()
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return vfs.Wrap("background.wait", ctx.Err())
		}
		l.mu.Lock()
		l.advance()
	}
	if l.rate == 0 {
		l.out = l.run
	}
	l.mu.Unlock()
	return vfs.Wrap("background.wait", ctx.Err())
}
