package store

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Store is an open store. Its methods may be called concurrently.
type Store struct {
	o      Options
	fs     vfile.FS
	log    *slog.Logger
	m      *Metrics
	super  superblock
	device vfile.Device // zero: not known
	// readOnly is why nothing can be written since the store was opened; nil if it can, or could then.
	readOnly error
	lock     io.Closer

	ixMu sync.RWMutex // guards ix against being replaced, for who reads; who writes into the index needs it not, see rebuild
	ix   *index       // nil if it was lost while it was being replaced

	recent recent // what was read lately

	stop       chan struct{}   // closed by Close
	prepare    chan struct{}   // asks the preparer for a segment
	kick       chan struct{}   // asks the compactor to look for work
	ctx        context.Context // of the compactor; ends with stop
	cancel     context.CancelFunc
	broken     chan struct{}  // closed when writes are refused from then on
	wg         sync.WaitGroup // syncer and preparer
	background sync.WaitGroup // compactor, which the syncer outlives
	calls      sync.WaitGroup // calls under way; Add under mu and not after closed

	adopting sync.Mutex // one Adopt at a time

	mu      sync.Mutex // guards all below, and the fields of segments that say so
	wake    sync.Cond  // of mu: pending or drain changed
	closed  bool       // no new calls
	drain   bool       // no calls are left: the syncer ends when pending is empty
	failed  error      // why writes are refused; nil while they are not
	segs    map[uint32]*seg
	byInc   map[uint64]*seg // those in use, and lost ones, by incarnation
	spares  []*seg          // free segments, in the order they will be used
	room    int             // how many more can be made, when last looked at
	active  *seg            // where records go; nil before the first
	next    int64           // the next record's offset in active
	asked   bool            // a segment was asked for ahead of the end of active
	ahead   ahead           // how far the next segment may be made
	lastInc uint64          // the highest incarnation used
	lastNum uint32          // the highest file number used
	queue   []*op           // reserved and not entered into the index, in log order
	pending []*op           // written, waiting for the syncer
	epochs  map[uint32]*pgState
	busy    map[segment.Key]chan struct{} // shards that are being written, deleted, moved or marked bad

	damaged      error         // why the index is to be made anew
	rebuildAfter time.Time     // not before then
	rebuilding   bool          // it is being made
	inflight     int           // ops that are admitted and not finished
	paused       chan struct{} // ops are not admitted until it is closed; nil while they are
	idle         chan struct{} // closed when none is in flight; nil if nobody waits

	liveTotal int64 // bytes of live records
	bad       int   // shards marked bad

	// attempt is closed when an attempt to find space has ended, whose error is then in
	// attemptErr; made when the preparer has ended one to make a segment, makeErr.
	attempt    chan struct{}
	attemptErr error
	isFull     bool // what full said last
	made       chan struct{}
	makeErr    error
	// advanced is closed when the log's position moves on to another segment.
	advanced   chan struct{}
	entered    uint64 // incarnation of the position that the index was last brought to
	compacting compacting
}

// seg is a segment file. Its file is open as long as the store.
type seg struct {
	f vfile.File
	// All below is guarded by Store.mu once the store is open, see headerOf.
	header segment.Header
	live   int64 // bytes of live records
	kept   int64 // bytes of keys in deletions records
	end    int64 // of its last record that is in the index
	lost   loss
	short  bool // the file was cut short when it was opened: nothing is appended to it
}

// loss says what is wrong with a segment file whose header is not intact.
type loss uint8

const (
	lossNone    loss = iota
	lossHeader       // both copies are overwritten or cut off: its records cannot be checked any more
	lossUnread       // they cannot be read now; another time they may be
	lossMissing      // the file is gone
)

// pgState is what the store knows of a PG's epochs. Guarded by Store.mu.
type pgState struct {
	known   uint32         // Puts below are refused
	durable uint32         // restored after a crash
	running map[uint32]int // Puts that were admitted and have not ended, by epoch
	drained chan struct{}  // closed when one of them ends; nil if nobody waits
}

// Open opens a store. It returns when the store is consistent and serves.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, o, nil)
	if err != nil && vfile.IsReadOnly(err) {
		// What is there can be read all the same.
		ro, rerr := open(ctx, o, err)
		if rerr != nil {
			return nil, vfs.Errorf(vfs.KindOf(err), "store.open", "%w; for reading alone it cannot be opened either: %v", err, rerr)
		}
		s, err = ro, nil
		s.log.Error("block store is read-only", "err", s.failed)
	}
	if err != nil {
		return nil, err
	}
	s.m.budget(o.Budget)
	s.wg.Add(2)
	s.background.Add(1)
	go s.syncer()
	go s.preparer()
	go s.compactor()
	if s.failed == nil {
		if s.active == nil && len(s.spares) == 0 {
			s.mu.Lock()
			s.askSegment()
			s.mu.Unlock()
		}
		s.kickCompactor()
	}
	return s, nil
}

// open opens a store without starting its goroutines. With readOnly, which says why, it writes nothing.
func open(ctx context.Context, o Options, readOnly error) (*Store, error) {
	s := &Store{
		o: o, fs: o.FS, log: o.Logger, m: o.Metrics, readOnly: readOnly,
		stop: make(chan struct{}), prepare: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		broken: make(chan struct{}), attempt: make(chan struct{}), made: make(chan struct{}), advanced: make(chan struct{}),
		segs: make(map[uint32]*seg), byInc: make(map[uint64]*seg),
		ahead:  newAhead(),
		epochs: make(map[uint32]*pgState), busy: make(map[segment.Key]chan struct{}),
	}
	s.wake.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.m.WriteFailed.Set(0)
	s.m.ReadOnly.Set(0)
	if readOnly != nil {
		s.beReadOnly()
	}
	if err := s.open(ctx); err != nil {
		s.cancel()
		s.release()
		return nil, err
	}
	if d, err := s.fs.Device(o.Dir); err == nil { // else it counts as one of its own
		s.device = d
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	const op = "store.open"
	dir := s.o.Dir
	if s.o.Create && s.readOnly == nil {
		if err := vfile.MkdirAllSync(s.fs, dir); err != nil {
			return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
		}
	}
	var err error
	lock := s.fs.Lock
	if s.readOnly != nil {
		lock = s.fs.LockRead
	}
	if s.lock, err = lock(dir + "/LOCK"); errors.Is(err, vfile.ErrLocked) {
		return vfs.Errorf(vfs.KindBusy, op, "%s is in use by another process; stop it first", dir)
	} else if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	s.super, err = readSuperblock(s.fs, dir)
	if vfile.IsNotExist(err) && s.readOnly == nil {
		err = s.create()
	}
	if err != nil {
		return err
	}
	if s.super.cluster != s.o.Cluster {
		return vfs.Errorf(vfs.KindIncompatible, op, "%s belongs to cluster %x, not to %x; it is left untouched", dir, s.super.cluster, s.o.Cluster)
	}
	s.o.SegmentSize = s.super.segmentSize
	if s.readOnly == nil {
		if err := s.adopt(); err != nil {
			return err
		}
	}
	if err := s.openSegments(); err != nil {
		return err
	}
	return s.openIndex(ctx)
}

// create makes the store in a directory that holds nothing yet.
func (s *Store) create() error {
	const op = "store.create"
	dir := s.o.Dir
	names, err := s.fs.List(dir)
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	for _, n := range names {
		switch n {
		case "LOCK", "lost+found", "segments", superblockName + ".tmp":
		default:
			return vfs.Errorf(vfs.KindIncompatible, op, "%s holds %q but no block store; it is left untouched", dir, n)
		}
	}
	if !s.o.Create {
		return vfs.Errorf(vfs.KindNotFound, op, "%s holds no block store; is its disk mounted?", dir)
	}
	s.super = superblock{cluster: s.o.Cluster, incarnation: s.o.MetadataIncarnation, segmentSize: s.o.SegmentSize}
	if _, err := rand.Read(s.super.store[:]); err != nil {
		return err
	}
	if err := s.fs.MkdirAll(dir + "/segments"); err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	// The superblock comes last: without it the directory is still empty to the next Open.
	// The new directory itself is synced as well as its name: on a file system without a
	// journal the name alone may point to an inode that was never written.
	for _, d := range []string{dir + "/segments", dir} {
		if err := s.fs.SyncDir(d); err != nil {
			return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
		}
	}
	if err := vfile.WriteFileAtomic(s.fs, dir, superblockName, s.super.encode()); err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	return nil
}

// adopt makes the names in the store durable. A process that died, or failed, between a rename and the sync of its
// directory left a name that a power cut may still take back.
func (s *Store) adopt() error {
	for _, d := range []string{s.o.Dir + "/segments", s.o.Dir} {
		if err := s.fs.SyncDir(d); err != nil {
			return vfs.Errorf(vfs.KindOf(err), "store.open", "%w", err)
		}
	}
	return nil
}

// enter begins a call, unless the store is closing. leave ends it.
func (s *Store) enter(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return vfs.Errorf(vfs.KindUnavailable, op, "%s is closing", s.o.Dir)
	}
	s.calls.Add(1)
	return nil
}

func (s *Store) leave() { s.calls.Done() }

// Close waits for calls under way, saves the index and releases the
// directory. Calls that begin after it are refused.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.stop)
	s.cancel()
	s.mu.Unlock()
	s.calls.Wait()
	s.background.Wait()
	s.mu.Lock()
	s.drain = true
	s.wake.Broadcast()
	s.mu.Unlock()
	s.wg.Wait()
	var err error
	if s.failed == nil {
		// Nothing is in flight, so the position is the end of the log and the next Open replays nothing.
		err = s.saveIndex()
	}
	return errors.Join(err, s.release())
}

// saveIndex makes the index durable up to the current position.
func (s *Store) saveIndex() error {
	b := s.ix.db.NewBatch()
	defer b.Close()
	s.mu.Lock()
	pos := s.position()
	s.entered = max(s.entered, pos.incarnation)
	s.mu.Unlock()
	if err := s.commit(newChange(b), pos); err != nil {
		return vfs.Errorf(vfs.KindIO, "store.close", "index: %w", err)
	}
	if err := s.ix.flush(context.Background()); err != nil {
		return vfs.Errorf(vfs.KindIO, "store.close", "index: %w", err)
	}
	return nil
}

// release gives back what open acquired.
func (s *Store) release() error {
	var errs []error
	if s.ix != nil {
		errs = append(errs, s.ix.close())
	}
	for _, g := range s.segs {
		if g.f != nil {
			errs = append(errs, g.f.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Info describes a store.
type Info struct {
	Store, Cluster      segment.ID
	MetadataIncarnation uint64
	Capacity            int64        // bytes that segments can take in total, without the reserve
	Used                int64        // bytes of live records
	Shared              int64        // of Capacity: what is free on the device, and not this store's alone
	Device              vfile.Device // that the store is on; zero: not known
	Dead                int64        // bytes of records in segments in use that are not live
	Segments            int          // segment files
	Free                int          // those of them that are free
	Lost                int          // those without an intact header
	Bad                 int          // shards marked bad
	Compacting          bool         // segments are being emptied
	Writable            bool         // writes are accepted
	Full                bool         // Puts find no room, see Store.full; deletions and epochs do
	ReadOnly            bool         // since it was opened: its file system is
	Rebuilding          bool         // its index is being made anew
	Failure             string       // why it is not writable, if the disk failed or is read-only
}

// Room is what the store says of its room.
func (i *Info) Room() blockstore.RoomReply {
	return blockstore.RoomReply{Device: i.Device, Capacity: uint64(i.Capacity), Used: uint64(i.Used), Shared: uint64(i.Shared)}
}

// Budget is that of the disk; nil: there is no limit.
func (s *Store) Budget() *budget.Budget { return s.o.Budget }

// Info returns what the store is and how full.
func (s *Store) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := int64(len(s.segs)) * s.o.SegmentSize
	capacity, shared := s.o.Capacity, int64(0)
	if capacity == 0 {
		capacity = total
		if free, err := s.fs.Free(s.o.Dir); err == nil {
			shared = max(int64(free)-s.o.ReserveBytes, 0)
			capacity += shared
		}
	}
	capacity = max(capacity-reservePuts*s.o.SegmentSize, 0)
	i := Info{
		Store: s.super.store, Cluster: s.super.cluster, MetadataIncarnation: s.super.incarnation,
		Capacity: capacity, Shared: min(shared, capacity), Device: s.device, Used: s.liveTotal, Dead: s.dead(),
		Segments: len(s.segs), Free: len(s.spares), Lost: s.lostCount(), Bad: s.bad,
		Compacting: s.compacting.running, Writable: s.failed == nil && !s.closed, Full: s.failed == nil && s.full(),
		ReadOnly: s.readOnly != nil, Rebuilding: s.rebuilding,
	}
	if s.failed != nil {
		i.Failure = s.failed.Error()
	}
	return i
}

// dead is the bytes that compaction could win. Called with mu held.
func (s *Store) dead() int64 {
	var n int64
	for _, g := range s.segs {
		if g.header.State == segment.StateUsed {
			n += g.dead()
		}
	}
	return n
}

// fail makes the store refuse writes until it is opened anew. Called with mu held.
func (s *Store) fail(err error) {
	if s.failed != nil {
		return
	}
	kind := vfs.KindIO
	if vfs.KindOf(err) == vfs.KindReadOnly {
		kind = vfs.KindReadOnly
	}
	s.failed = vfs.Errorf(kind, "store.write", "%s accepts no more writes, restart after checking the disk: %w", s.o.Dir, err)
	close(s.broken)
	s.endAttempt(s.failed)
	s.m.WriteFailed.Set(1)
	s.log.Error("block store stops accepting writes", "err", err)
}

// headerOf returns a consistent copy of a segment's header.
func (s *Store) headerOf(file uint32) (*seg, segment.Header, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segs[file]
	// The records of a free segment do not count, though they may still be there.
	if g == nil || g.header.State != segment.StateUsed {
		return nil, segment.Header{}, false
	}
	return g, g.header, true
}
