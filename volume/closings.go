package volume

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// closeDelay is how long the end of an open waits for others, to go with them in one command. A gateway that is killed
	// meanwhile leaves the record until the end of the client, and with it a file that has lost its name since.
	closeDelay = 50 * time.Millisecond

	// maxClosings is how many files and lock-owners one command may end.
	maxClosings = 256
)

// closings are ends of opens and locks that nobody waits for, until the metadata has them. Should the gateway die before, they
// end with their clients. So they do if the client has gone to another gateway before, as it does when this one is cut off: that one found the records, and has
// perhaps given one to an OPEN of the same owner since.
type closings struct {
	gate *semaphore.Weighted // held by the flush under way

	mu      sync.Mutex // guards the fields below
	todo    []*metapb.FileClose
	sending int  // taken out of todo and not confirmed
	busy    bool // somebody drains todo
}

// add queues f.
func (q *closings) add(v *Volume, f *metapb.FileClose) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.todo = append(q.todo, f)
	if !q.busy {
		q.busy = v.spawn(func() { q.drain(v) })
	}
}

// drain runs until nothing is queued.
func (q *closings) drain(v *Volume) {
	for {
		select {
		case <-time.After(closeDelay):
		case <-v.ctx.Done():
		}
		err := v.retry("close", func() error {
			err := q.flush(v.ctx, v)
			if kindOfCommand(err) == vfs.KindUnknownOrigin {
				// Opens and locks are the clients', whichever origin ends them: the gateway's next one does for those that it serves then.
				err = vfs.Errorf(vfs.KindUnavailable, "close", "until this gateway is registered anew: %w", err)
			}
			return err
		})
		q.mu.Lock()
		if err != nil || len(q.todo) == 0 {
			if err != nil {
				v.cfg.Logger.Warn("ends of opens and locks were not recorded: they end with their clients", "err", err, "files", len(q.todo))
				q.todo = nil
			}
			q.busy = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
	}
}

// again reports whether an open that was denied may be tried again: what was in its way may be closed already, and the metadata knows
// that now.
func (q *closings) again(ctx context.Context, v *Volume) bool {
	q.mu.Lock()
	pending := len(q.todo)+q.sending > 0
	q.mu.Unlock()
	return pending && q.flush(ctx, v) == nil
}

// flush makes the metadata know everything that was queued before.
func (q *closings) flush(ctx context.Context, v *Volume) error {
	if err := q.gate.Acquire(ctx, 1); err != nil {
		return vfs.Wrap("close", err)
	}
	defer q.gate.Release(1)
	for {
		some := q.take()
		if len(some) == 0 {
			return nil
		}
		mine, err := v.served(some)
		if err == nil {
			err = q.run(ctx, v, mine)
		}
		q.mu.Lock()
		q.sending = 0
		if err != nil {
			q.todo = append(some, q.todo...)
		}
		q.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// served are those of files whose clients this gateway serves.
func (v *Volume) served(files []*metapb.FileClose) (mine []*metapb.FileClose, err error) {
	if v.cfg.Serves == nil {
		return files, nil
	}
	for _, f := range files {
		served, err := v.cfg.Serves(f.Client)
		if err != nil {
			return nil, err
		}
		if served {
			mine = append(mine, f)
		}
	}
	return mine, nil
}

// take takes out what fits one command.
func (q *closings) take() []*metapb.FileClose {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.todo) {
		if size += 1 + len(q.todo[n].Locks); size > maxClosings && n > 0 {
			break
		}
		n++
	}
	some := q.todo[:n:n]
	q.todo = q.todo[n:]
	q.sending = n
	return some
}

// run ends files at once. It is the same if that was done already.
func (q *closings) run(ctx context.Context, v *Volume, files []*metapb.FileClose) error {
	const op = "close"
	if len(files) == 0 {
		return nil
	}
	for _, part := range split(files) {
		_, err := v.apply(ctx, op, nil, &metapb.Command{Op: &metapb.Command_CloseFiles{CloseFiles: &metapb.CloseFiles{Files: part}}})
		if k := vfs.KindOf(err); k != vfs.KindOK && k != vfs.KindExpired && k != vfs.KindStale {
			return err
		}
	}
	return nil
}

// maxCloseLocks is how many lock-owners one FileClose may name.
const maxCloseLocks = 64

// split makes of files what commands may bring.
func split(files []*metapb.FileClose) (parts [][]*metapb.FileClose) {
	var part []*metapb.FileClose
	size := 0
	put := func(f *metapb.FileClose) {
		if size += 1 + len(f.Locks); size > maxClosings {
			parts, part, size = append(parts, part), nil, 1+len(f.Locks)
		}
		part = append(part, f)
	}
	for _, f := range files {
		locks := f.Locks
		for len(locks) > maxCloseLocks {
			put(&metapb.FileClose{Ino: f.Ino, Client: f.Client, Locks: locks[:maxCloseLocks]})
			locks = locks[maxCloseLocks:]
		}
		put(&metapb.FileClose{Ino: f.Ino, Client: f.Client, Stateid: f.Stateid, Locks: locks})
	}
	return append(parts, part)
}

// Settle implements vfs.Keeper.
func (v *Volume) Settle(ctx context.Context) error { return v.closings.flush(ctx, v) }
