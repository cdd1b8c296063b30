package volume

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// dirtyBytes bounds the buffers of a volume. The limit is on what writers ask
// for: a buffer that is grown may take more than its writer reserved, which later
// writers then wait for.
type dirtyBytes struct {
	limit    int64
	pressure int64 // above it the flusher is woken

	mu      sync.Mutex // guards the fields below
	used    int64
	leaving int64               // of used: being flushed
	inodes  map[*inode]struct{} // those with chunks
	waiters []dirtyWaiter       // first come, first served
	kick    chan struct{}       // wakes the flusher
}

type dirtyWaiter struct {
	n     int64
	ready chan struct{}
}

func (d *dirtyBytes) init(limit int64) {
	d.limit, d.pressure = limit, limit/2
	d.kick = make(chan struct{}, 1)
	d.inodes = make(map[*inode]struct{})
}

// reserve waits until n bytes may be buffered. n above the limit counts as the
// limit, so that every write passes some day; the caller frees what reserve
// returns.
func (d *dirtyBytes) reserve(ctx context.Context, n int64, stall time.Duration, op string) (int64, error) {
	n = min(n, d.limit)
	d.mu.Lock()
	if len(d.waiters) == 0 && d.used+n <= d.limit {
		d.used += n
		d.wakeFlusher()
		d.mu.Unlock()
		return n, nil
	}
	w := dirtyWaiter{n: n, ready: make(chan struct{})}
	d.waiters = append(d.waiters, w)
	d.wakeFlusher()
	d.mu.Unlock()
	timer := time.NewTimer(stall)
	defer timer.Stop()
	var err error
	select {
	case <-w.ready:
		return n, nil
	case <-ctx.Done():
		err = vfs.Wrap(op, ctx.Err())
	case <-timer.C:
		err = vfs.Errorf(vfs.KindUnavailable, op, "the write buffer stays full: the cluster takes no data")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.waiters {
		if d.waiters[i].ready == w.ready {
			d.waiters = append(d.waiters[:i], d.waiters[i+1:]...)
			d.admit()
			return 0, err
		}
	}
	return n, nil // admitted meanwhile
}

// add changes what is used without waiting.
func (d *dirtyBytes) add(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used += n
	if n < 0 {
		d.admit()
	} else {
		d.wakeFlusher()
	}
}

// admit lets waiters pass that fit now. d.mu is held.
func (d *dirtyBytes) admit() {
	for len(d.waiters) > 0 && d.used+d.waiters[0].n <= d.limit {
		d.used += d.waiters[0].n
		close(d.waiters[0].ready)
		d.waiters = d.waiters[1:]
	}
}

// wakeFlusher tells the flusher about pressure. d.mu is held.
func (d *dirtyBytes) wakeFlusher() {
	if d.used-d.leaving > d.pressure || len(d.waiters) > 0 {
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
}

// excess is how much must go until there is no pressure.
func (d *dirtyBytes) excess() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.used - d.leaving - d.pressure
	for _, w := range d.waiters {
		n += w.n
	}
	return n
}

// flushStarted and flushDone tell what is on its way out.
func (d *dirtyBytes) flushStarted(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaving += n
}

func (d *dirtyBytes) flushDone(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaving -= n
	d.used -= n
	d.admit()
}

// soil and clean keep the list of the inodes with chunks. e.mu is held.
func (d *dirtyBytes) soil(e *inode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inodes[e] = struct{}{}
}

func (d *dirtyBytes) clean(e *inode) {
	if len(e.chunks) > 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.inodes, e)
}

// list is a copy of that list.
func (d *dirtyBytes) list() []*inode {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.inodes))
}
