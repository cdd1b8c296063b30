package replica

import (
	"sync"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

// fault makes the first change of a log that fails its last one. Guards may be nested: the innermost
// error is the reason.
type fault struct {
	onFail func(error) // called once; nil: nobody wants to know; set before the log is used

	mu  sync.Mutex
	err error
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
	f.mu.Lock()
	first := f.err == nil
	if first {
		f.err = err
	}
	f.mu.Unlock()
	if first && f.onFail != nil {
		f.onFail(err)
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
