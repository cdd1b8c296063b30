package replica

import (
	"runtime"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

// fault makes the first change of a log that fails its last one. Guards may be nested: the innermost
// error is the reason.
type fault struct {
	mu     sync.Mutex
	onFail func(error) // called once; nil: nobody wants to know, not yet or not any more
	err    error
}

// tell sets who is called.
func (f *fault) tell(fn func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onFail = fn
}

// guard runs change unless an earlier one failed.
func (f *fault) guard(change func() error) error {
	f.mu.Lock()
	broken := f.err
	f.mu.Unlock()
	if broken != nil {
		return vfs.Errorf(vfs.KindUnavailable, "raftmeta.log", "the log failed before and is not changed until the server is started again: %w", broken)
	}
	err := change()
	if err == nil {
		return nil
	}
	f.damaged(err)
	return err
}

// damaged makes err the reason why the log is not changed any more.
func (f *fault) damaged(err error) {
	f.mu.Lock()
	first := f.err == nil
	if first {
		f.err = err
	}
	tell := f.onFail
	f.mu.Unlock()
	if first && tell != nil {
		tell(err)
	}
}

// GetLog implements raft.LogStore. Where an error would make Raft end the process it ends the calling goroutine instead, which is
// Raft's main loop: OnFail has been called, and whoever stops the replica because of it ends the rest.
func (l *Logs) GetLog(index uint64, e *raft.Log) error {
	err := l.LogCache.GetLog(index, e)
	if err != nil && calledBy(raftApplies) {
		l.fault.damaged(vfs.Errorf(vfs.KindCorrupt, "raftmeta.log", "entry %d is committed and cannot be read: %w", index, err))
		runtime.Goexit()
	}
	return err
}

// The methods of Logs that change the log. One that fails is the last one: whether its entries
// are in the log is known only after it was opened again, and a leader that stepped down because of it would
// be elected again and fail again.

// StoreLog implements raft.LogStore.
func (l *Logs) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *Logs) StoreLogs(es []*raft.Log) error {
	return l.fault.guard(func() error { return l.LogCache.StoreLogs(es) })
}

// DeleteRange implements raft.LogStore.
func (l *Logs) DeleteRange(min, max uint64) error {
	return l.fault.guard(func() error { return l.LogCache.DeleteRange(min, max) })
}
