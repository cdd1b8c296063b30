package machine

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxBatchBytes bounds one Pebble batch: one that is larger than a memtable takes a slower way.
const maxBatchBytes = 2 << 20

// Response is what Raft's future answers for an entry: results in the order of its commands, or an error.
type Response struct {
	Results []*metapb.Result
	Err     error
}

var _ raft.BatchingFSM = (*Host)(nil)

// Apply implements raft.FSM.
func (h *Host) Apply(l *raft.Log) any { return h.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (h *Host) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	start := 0 // first entry that is not committed
	err := h.failed()
	for start < len(logs) && err == nil {
		var n int
		n, err = h.round(logs[start:], out[start:])
		start += n
	}
	for i := start; i < len(logs); i++ {
		out[i] = Response{Err: err}
	}
	return out
}

// round applies and commits a prefix of logs and returns its length, 0 with an error.
func (h *Host) round(logs []*raft.Log, out []any) (int, error) {
	b := &h.batch
	b.reset()
	n := 0
	for n < len(logs) && b.size() < maxBatchBytes {
		l := logs[n]
		var r Response
		if l.Type == raft.LogCommand {
			var err error
			err = noPanic(func() (err error) { r.Results, err = h.m.Apply(l.Index, l.Data, b); return err })
			if err != nil {
				err = classify(err)
				h.fail(err)
				return 0, err
			}
			h.applied(l.Index)
		}
		out[n] = r
		n++
	}
	if !b.empty() {
		if err := h.commit(b); err != nil {
			err = vfs.Wrap("machine.apply", err)
			h.storeFailed(err)
			return 0, err
		}
		h.m.Flushed()
	}
	h.publish(logs[n-1].Index)
	return n, nil
}

// commit gives the writes of a round to the store.
func (h *Host) commit(b *batch) error {
	p := h.db.NewBatchWithSize(b.size() + len(b.writes)*batchOverhead)
	err := b.into(p)
	if err == nil {
		if h.writer == nil {
			h.writer = newWriter()
		}
		err = h.writer.do(h.broken, func() error { return h.db.Apply(p, pebble.NoSync) })
	}
	if errors.Is(err, errStoreFatal) {
		return err // p may be in use still
	}
	return errors.Join(err, p.Close())
}

// batchOverhead is what a write takes in a Pebble batch besides its key and value.
const batchOverhead = 8

// Snapshot implements raft.FSM. The work is done by Persist.
func (h *Host) Snapshot() (raft.FSMSnapshot, error) {
	if err := h.failed(); err != nil {
		return nil, err
	}
	return &pending{h, h.m.Applied()}, nil
}

// pending is a snapshot that was asked for when applied was reached.
type pending struct {
	h       *Host
	applied uint64
}

// Persist implements raft.FSMSnapshot. It runs beside Apply.
func (p *pending) Persist(sink raft.SnapshotSink) error {
	s, ok := sink.(*snapstore.Sink)
	if !ok {
		return fmt.Errorf("snapshot store of type %T", sink)
	}
	return s.Checkpoint(p.applied, p.h.Checkpoint)
}

// Checkpoint makes the new directory dir a copy of the state, by hard links. The state is that of now, or newer: entries are applied meanwhile.
func (h *Host) Checkpoint(dir string) error {
	// Not held since Snapshot: Raft's main loop, which this waits for in between,
	// may itself be waiting for a restore.
	h.gen.RLock()
	defer h.gen.RUnlock()
	db := h.db
	if db == nil {
		return ErrStopped
	}
	return h.unlessBroken(0, func() error {
		if err := db.Flush(); err != nil {
			return err
		}
		return db.Checkpoint(dir)
	})
}

// Release implements raft.FSMSnapshot.
func (p *pending) Release() {}

// Restore implements raft.FSM.
func (h *Host) Restore(src io.ReadCloser) error {
	if err := h.failed(); err != nil {
		return err
	}
	for {
		w, ok := src.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		src = w.WrappedReadCloser()
	}
	r, ok := src.(*snapstore.Reader)
	if !ok {
		return fmt.Errorf("snapshot of type %T", src)
	}
	h.opt.Logger.Info("raftmeta: restoring a snapshot", "shard", h.opt.Shard, "index", r.Record.Index)
	if err := h.restore(r); err != nil {
		// The old store may be closed already, and Raft goes on in any case.
		h.fail(err)
		return err
	}
	h.Reached(r.Record.Index)
	return nil
}

// restore makes the snapshot the live store.
func (h *Host) restore(r *snapstore.Reader) error {
	const op = "machine.restore"
	h.gen.Lock()
	defer h.gen.Unlock()
	name, err := nextName(h.opt.Files, h.opt.Dir)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if err := linkCheckpoint(h.opt.Files, r.Dir(), filepath.Join(h.opt.Dir, name)); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := setCurrent(h.opt.Files, h.opt.Dir, name); err != nil {
		return vfs.Wrap(op, err)
	}
	h.retire()
	old := h.db
	h.db = nil
	if err := h.closeStore(old); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := h.load(name); err != nil {
		return err
	}
	if h.m.Applied() < r.Record.Applied {
		return vfs.Errorf(vfs.KindCorrupt, op, "snapshot says it contains entry %d, but ends at %d", r.Record.Applied, h.m.Applied())
	}
	if err := removeOthers(h.opt.Files, h.opt.Dir, name); err != nil {
		h.opt.Logger.Warn("raftmeta: remove the state before the snapshot", "err", err)
	}
	return nil
}
