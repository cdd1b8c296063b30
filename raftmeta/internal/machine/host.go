package machine

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/vfs"
)

// Options configures a Host.
type Options struct {
	Dir        string // of the state; made if needed
	Shard      uint16
	Cluster    []byte
	MaxLevel   uint32 // 0: what package fsm implements
	CacheBytes int64  // of records: see fsm.Cache

	BlockCache    *pebble.Cache // shared by the replicas of a process; nil: a small own one
	MemTableBytes int           // 0: DefaultMemTableBytes

	OnFatal func(error) // called once, on a goroutine of Raft: must not wait for the replica
	Logger  *slog.Logger

	Files    vfile.FS // nil: the operating system's
	PebbleFS pvfs.FS  // the same files as Pebble sees them; nil: the operating system's

	readOnly bool // of Inspect
}

// ErrStopped is the cause of what fails because the state machine stopped.
var ErrStopped = errors.New("the replica's state machine has stopped")

// Host is the state of a replica. It implements raft.BatchingFSM.
type Host struct {
	opt   Options
	snaps *snapstore.Store

	// Raft's FSM goroutine only.
	m      *fsm.Machine
	batch  batch
	writer *writer // nil until something was written

	gen sync.RWMutex // held for reading while a snapshot is made of db, for writing while db is replaced
	db  *pebble.DB

	cache *fsm.Cache

	mu        sync.Mutex
	cur       *View         // newest state; nil while restoring and after Close
	views     int           // views with references
	idle      chan struct{} // closed when views drops to 0; nil: nobody waits
	published uint64        // Raft index up to which all entries are in cur
	state     uint64        // the machine's own applied index in cur
	level     uint32
	digests   digestLog
	advanced  chan struct{} // closed when published grows; nil: nobody waits
	stopped   error
	doubtful  bool          // the store failed to write and is the live one still
	broken    chan struct{} // closed when the store called Fatalf: what it holds or waits for, it may for ever

	failMu  sync.Mutex     // guards closed, and Add against Wait
	closed  bool           // what a store says from here on changes nothing
	failing sync.WaitGroup // goroutines of storeGaveUp
}

// Open opens the state in o.Dir, first restoring the newest snapshot in snaps if that is newer.
func Open(o Options, snaps *snapstore.Store) (*Host, error) {
	const op = "machine.open"
	if o.MemTableBytes <= 0 {
		o.MemTableBytes = DefaultMemTableBytes
	}
	if o.Files == nil {
		o.Files = vfile.OS{}
	}
	if o.PebbleFS == nil {
		o.PebbleFS = pvfs.Default
	}
	h := &Host{opt: o, snaps: snaps, broken: make(chan struct{})}
	if err := vfile.MkdirAllSync(o.Files, o.Dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	name, err := current(o.Files, o.Dir)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	fresh := name
	if name == "" {
		// Not the name of one that is there: this process may have abandoned it, with its lock and goroutines.
		if fresh, err = nextName(o.Files, o.Dir); err != nil {
			return nil, vfs.Wrap(op, err)
		}
	}
	if err := removeOthers(o.Files, o.Dir, name); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if name != "" {
		if _, err := o.Files.Stat(filepath.Join(o.Dir, name)); err != nil {
			return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s names a store that is not there: the replica is damaged: remove its directory and let a new replica join: %w", filepath.Join(o.Dir, currentFile), err)
		}
	}
	name = fresh
	if err := h.load(name); err != nil {
		return nil, err
	}
	if err := setCurrent(o.Files, o.Dir, name); err != nil {
		h.Close()
		return nil, vfs.Wrap(op, err)
	}
	if err := h.catchUp(); err != nil {
		h.Close()
		return nil, vfs.Wrap(op, err)
	}
	return h, nil
}

// catchUp restores the newest snapshot if the live state is older: its restore was interrupted.
func (h *Host) catchUp() error {
	r, err := h.snaps.Newest()
	if err != nil || r == nil {
		return err
	}
	defer r.Close()
	if r.Record.Applied <= h.m.Applied() {
		return nil
	}
	h.opt.Logger.Info("raftmeta: restoring a snapshot that is newer than the state", "shard", h.opt.Shard,
		"applied", h.m.Applied(), "snapshot", r.Record.Applied)
	return h.restore(r)
}

// load opens the store name and publishes it.
func (h *Host) load(name string) error {
	db, err := openPebble(filepath.Join(h.opt.Dir, name), h.opt, h.fail, h.storeGaveUp)
	if err != nil {
		return vfs.Wrap("machine.open", err)
	}
	// A new cache with each store: one that served another state knows things of it.
	cache := fsm.NewCache(h.opt.CacheBytes)
	var m *fsm.Machine
	err = noPanic(func() (err error) {
		m, err = fsm.Open(live{db}, fsm.Options{Shard: h.opt.Shard, Cluster: h.opt.Cluster, MaxLevel: h.opt.MaxLevel, Cache: cache})
		return err
	})
	if err != nil {
		return errors.Join(classify(err), h.closeStore(db))
	}
	h.mu.Lock()
	h.cache = cache
	h.mu.Unlock()
	h.db, h.m = db, m
	h.publish(m.Applied())
	return nil
}

// publish makes the committed state the current view. All entries up to index are in it.
func (h *Host) publish(index uint64) {
	v := &View{host: h, snap: h.db.NewSnapshot(), applied: h.m.Applied(), refs: 1}
	level, digest := h.m.Level(), h.m.Digest()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur != nil {
		h.unref(h.cur)
	}
	h.cur = v
	h.views++
	h.state, h.level = v.applied, level
	h.digests.add(v.applied, digest)
	h.advance(index)
}

// advance raises published and wakes who waits for that. h.mu is held.
func (h *Host) advance(index uint64) {
	if index <= h.published {
		return
	}
	h.published = index
	if h.advanced != nil {
		close(h.advanced)
		h.advanced = nil
	}
}

// applied notes the digest after an entry that is not published yet. Not of one that the state had already, as when the log is replayed
// after a restart: the digest is that of a later state.
func (h *Host) applied(index uint64) {
	if h.m.Applied() != index {
		return
	}
	h.mu.Lock()
	h.digests.add(index, h.m.Digest())
	h.mu.Unlock()
}

// Reached tells that Raft has no entries for the state machine up to index that
// were not applied: a barrier at index completed.
func (h *Host) Reached(index uint64) {
	h.mu.Lock()
	h.advance(index)
	h.mu.Unlock()
}

// unref drops a reference. h.mu is held.
func (h *Host) unref(v *View) {
	if v.refs--; v.refs > 0 {
		return
	}
	if err := v.snap.Close(); err != nil {
		h.opt.Logger.Error("raftmeta: release view", "err", err)
	}
	if h.views--; h.views == 0 && h.idle != nil {
		close(h.idle)
		h.idle = nil
	}
}

// View returns the newest state and the cache that belongs to it. The caller releases the view.
func (h *Host) View() (*View, *fsm.Cache, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped != nil {
		return nil, nil, vfs.Errorf(vfs.KindUnavailable, "machine.view", "%w", h.stopped)
	}
	if h.cur == nil {
		return nil, nil, vfs.Errorf(vfs.KindUnavailable, "machine.view", "restoring a snapshot")
	}
	h.cur.refs++
	return h.cur, h.cache, nil
}

// Wait waits until all entries up to index are applied.
func (h *Host) Wait(ctx context.Context, index uint64) error {
	for {
		h.mu.Lock()
		if h.stopped != nil {
			h.mu.Unlock()
			return vfs.Errorf(vfs.KindUnavailable, "machine.wait", "%w", h.stopped)
		}
		if h.published >= index {
			h.mu.Unlock()
			return nil
		}
		if h.advanced == nil {
			h.advanced = make(chan struct{})
		}
		ch := h.advanced
		h.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Status is what a replica's state is at.
type Status struct {
	Applied uint64 // Raft index up to which everything is applied
	State   uint64 // Raft index of the newest entry that reached the state machine
	Level   uint32
	Digest  []byte // of the state at State
}

// Status reports the newest published state.
func (h *Host) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	digest, _ := h.digests.at(h.state)
	return Status{h.published, h.state, h.level, digest}
}

// DigestAt is the digest of the state after entry index, if it is known still.
func (h *Host) DigestAt(index uint64) ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.digests.at(index)
}

// digestEntries is how many entries a replica may be behind another and be compared with it.
const digestEntries = 4096

// digestLog remembers the digests after the newest entries.
type digestLog struct {
	ring [digestEntries]struct {
		index  uint64
		digest [16]byte
		n      int
	}
}

func (l *digestLog) add(index uint64, digest []byte) {
	e := &l.ring[index%digestEntries]
	e.index = index
	e.n = copy(e.digest[:], digest)
}

func (l *digestLog) at(index uint64) ([]byte, bool) {
	e := &l.ring[index%digestEntries]
	if e.index != index || e.n == 0 {
		return nil, false
	}
	return append([]byte(nil), e.digest[:e.n]...), true
}

// fail stops the machine.
func (h *Host) fail(err error) {
	h.mu.Lock()
	first := h.stopped == nil
	if first {
		h.stopped = err
	}
	if h.advanced != nil {
		close(h.advanced)
		h.advanced = nil
	}
	h.mu.Unlock()
	if !first {
		return
	}
	h.opt.Logger.Error("raftmeta: state machine stopped", "shard", h.opt.Shard, "err", err)
	if h.opt.OnFatal != nil {
		h.opt.OnFatal(err)
	}
}

// storeGaveUp is called by the store, on a goroutine that may hold the store's mutex. Whoever holds h.mu may wait for that, in
// unref, so this does not take h.mu.
func (h *Host) storeGaveUp(err error) {
	h.failMu.Lock()
	defer h.failMu.Unlock()
	if h.closed {
		return
	}
	h.failing.Add(1)
	go func() {
		defer h.failing.Done()
		h.storeFailed(err)
	}()
}

// storeFailed stops the machine because of its store.
//
// A store that could not be written is not opened again, be it by this process or the next one: after a failed sync the page cache
// may show what the device does not have, and the next snapshot, for which the log is dropped, would contain it.
// All that is in it is in the newest snapshot and in the log.
func (h *Host) storeFailed(err error) {
	if vfs.KindOf(err) != vfs.KindCorrupt { // the store itself goes on otherwise
		h.mu.Lock()
		first := !h.doubtful
		h.doubtful = true
		select {
		case <-h.broken:
		default:
			close(h.broken)
		}
		h.mu.Unlock()
		if first {
			if err := h.Discard(); err != nil {
				h.opt.Logger.Error("raftmeta: the state that could not be written cannot be discarded either", "shard", h.opt.Shard, "err", err)
			}
		}
	}
	h.fail(err)
}

// Discard makes sure that a store that could not be written is not opened again. Until it succeeds the state must not be opened.
func (h *Host) Discard() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.doubtful {
		return nil
	}
	if err := disown(h.opt.Files, h.opt.Dir); err != nil {
		return vfs.Wrap("machine.discard", err)
	}
	h.doubtful = false
	return nil
}

// closeTimeout bounds the wait for a store that called Fatalf.
const closeTimeout = 5 * time.Second

// unlessBroken calls fn, which may wait for the store's background work. When that gave up, fn is left alone: it may never return.
func (h *Host) unlessBroken(grace time.Duration, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errStoreFatal
		defer func() { done <- err }() // also when Fatalf ends the goroutine
		err = noPanic(fn)
	}()
	select {
	case err := <-done:
		return err
	case <-h.broken:
	}
	select {
	case err := <-done:
		return err
	case <-time.After(grace):
		return errStoreFatal
	}
}

// closeStore closes a store. One that called Fatalf is abandoned if it does not close, with its memory and files, until the process ends.
func (h *Host) closeStore(db *pebble.DB) error {
	return vfs.Wrap("machine.close", h.unlessBroken(closeTimeout, db.Close))
}

func (h *Host) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopped
}

// retire takes the current view away and waits until no view has references.
func (h *Host) retire() {
	h.mu.Lock()
	if h.cur != nil {
		h.unref(h.cur)
		h.cur = nil
	}
	var idle chan struct{}
	if h.views > 0 {
		if h.idle == nil {
			h.idle = make(chan struct{})
		}
		idle = h.idle
	}
	h.mu.Unlock()
	if idle != nil {
		<-idle
	}
}

// Close closes the store. Raft must have ended. What is not flushed is in the log.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.stopped == nil {
		h.stopped = ErrStopped
	}
	h.mu.Unlock()
	h.retire()
	h.gen.Lock()
	defer h.gen.Unlock()
	var err error
	if h.writer != nil {
		h.writer.close()
		h.writer = nil
	}
	if h.db != nil {
		err = h.closeStore(h.db)
		h.db = nil
	}
	h.failMu.Lock()
	h.closed = true
	h.failMu.Unlock()
	h.failing.Wait()
	return err
}
