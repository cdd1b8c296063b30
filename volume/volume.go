package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/semaphore"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Config says which file system to serve and with how much memory. Zero limits
// take the defaults.
type Config struct {
	FS     uint32 // file system id
	Shard  uint16 // its namespace shard
	Meta   Meta
	Blocks Blocks

	// Incarnation is that of the gateway's origin: random, new with every origin.
	// See Reregistered.
	Incarnation [16]byte

	// Keep opens and locks of clients at the shard, which is at feature level 3 or above.
	Keep bool

	// Serves reports whether this gateway serves a client; an error while that is not known, as others may have taken its clients. nil: it serves all.
	Serves func(client uint64) (bool, error)

	KeepAge time.Duration // how long an open for reading is this gateway's memory only, twice that at the most; default 1 s

	// Want asks the gateway that has the lease of an inode, which this one cannot get, to give it back (GiveBack), and returns when it may have done
	// so. nil: there is no other gateway, and who is in the way is gone soon.
	Want func(ctx context.Context, ino vfs.Ino) error

	// Capacity returns the pool's total and free bytes, before erasure coding. nil:
	// unknown, and reported as 1 PiB.
	Capacity func() (total, free uint64)

	DirtyLimitBytes int64         // buffered writes of the volume; default 256 MiB
	CacheLimitBytes int64         // recently read and read-ahead data; default 128 MiB
	InodeLimit      int           // entries of the inode table; default 65536
	FlushAge        time.Duration // dirty bytes older than this are flushed; default 5 s
	StallTimeout    time.Duration // how long a caller waits for a cluster that does not answer; default 10 s
	FullTimeout     time.Duration // how long flushes wait for a full pool to have room again; default 30 s
	BlockWriters    int           // blocks of the largest size written at once, and more of smaller ones; default 16
	BlockIDs        int           // block ids leased at once; default 4096, which is the most
	NoAtime         bool          // reading leaves the time of access as it is; default: as relatime, see mount(8)
	AtimeInterval   time.Duration // how often times of access are told to the metadata; default 10 s
	BlockIDAge      time.Duration // after which a range of ids that is not used up is given back; default 10 min

	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default: discard
}

func (c *Config) setDefaults() {
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.DirtyLimitBytes, 256<<20)
	def(&c.CacheLimitBytes, 128<<20)
	if c.InodeLimit <= 0 {
		c.InodeLimit = 65536
	}
	if c.FlushAge <= 0 {
		c.FlushAge = 5 * time.Second
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = 10 * time.Second
	}
	if c.FullTimeout <= 0 {
		c.FullTimeout = 30 * time.Second
	}
	if c.BlockWriters <= 0 {
		c.BlockWriters = 16
	}
	if c.BlockIDs <= 0 || c.BlockIDs > blockIDRange {
		c.BlockIDs = blockIDRange
	}
	if c.BlockIDAge <= 0 {
		c.BlockIDAge = 10 * time.Minute
	}
	if c.KeepAge <= 0 {
		c.KeepAge = time.Second
	}
	if c.AtimeInterval <= 0 {
		c.AtimeInterval = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Volume is one file system of the cluster, served by this gateway.
type Volume struct {
	cfg  Config
	pool bufPool

	table     table
	removals  removals
	watches   watches
	dirty     dirtyBytes
	ids       blockIDs
	quota     allotments
	troubles  troubles
	fullness  fullness
	fragments fragments
	touches   touches
	closings  closings
	cache     *blockCache

	origin      atomic.Uint64            // whose leases count; 0: any
	incarnation atomic.Pointer[[16]byte] // of the origin

	writing  *semaphore.Weighted // bytes of blocks that are written at once
	bridging chan struct{}       // slots for chunks whose pieces are joined

	ctx    context.Context // ends when the volume is closed: that of background work
	cancel context.CancelFunc
	wg     sync.WaitGroup // background work
	work   chan func()    // to a goroutine that waits for more of it
	idle   atomic.Int32   // goroutines that do

	closeMu sync.Mutex // guards closed, and starting background work against Abandon
	closed  bool
}

var _ vfs.FS = (*Volume)(nil)

// New serves a file system whose namespace exists, with a Meta whose origin is
// registered. Shut it down.
func New(cfg Config) *Volume {
	cfg.setDefaults()
	v := &Volume{cfg: cfg, writing: semaphore.NewWeighted(int64(cfg.BlockWriters) * chunkSize), bridging: make(chan struct{}, bridgesAtOnce), work: make(chan func())}
	v.incarnation.Store(&cfg.Incarnation)
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.table.init()
	v.closings.gate = semaphore.NewWeighted(1)
	v.dirty.init(cfg.DirtyLimitBytes)
	v.cache = newBlockCache(cfg.Blocks, &v.pool, cfg.CacheLimitBytes)
	v.wg.Go(v.flusher)
	v.wg.Go(v.evictor)
	v.wg.Go(v.toucher)
	if cfg.Keep {
		v.wg.Go(v.keeper)
	}
	return v
}

// spawn runs f in the background; false if the volume is closed.
func (v *Volume) spawn(f func()) bool {
	v.closeMu.Lock()
	defer v.closeMu.Unlock()
	if v.closed {
		return false
	}
	select {
	case v.work <- f:
	default:
		v.wg.Go(func() { v.background(f) })
	}
	return true
}

// maxIdle is how many goroutines wait for further background work: new ones would have to grow their stacks again.
const maxIdle = 128

// background runs f and then what else comes.
func (v *Volume) background(f func()) {
	for {
		f()
		f = nil
		if v.idle.Add(1) <= maxIdle {
			select {
			case f = <-v.work:
			case <-v.ctx.Done():
			}
		}
		v.idle.Add(-1)
		if f == nil {
			return
		}
	}
}

// detached runs f in the background and waits for it, but not longer than ctx
// lasts. It is for commands whose outcome this gateway must learn even if the caller
// gives up. Then undo (which may be nil) takes back what only the caller would end.
func detached[T any](ctx context.Context, v *Volume, op string, f func(context.Context) (T, error), undo func(T)) (T, error) {
	var (
		none, val T
		err       error
		settled   atomic.Bool // who sets it decides: the answer is given, or nobody waits for it
		done      = make(chan struct{})
	)
	if err := ctx.Err(); err != nil {
		return none, vfs.Wrap(op, err)
	}
	background := v.ctx
	if call := vfs.CallOf(ctx); call != nil {
		background = vfs.WithCall(background, call)
	}
	ok := v.spawn(func() {
		val, err = f(patient(background))
		if settled.CompareAndSwap(false, true) {
			close(done)
		} else if err == nil && undo != nil {
			undo(val)
		}
	})
	if !ok {
		return none, vfs.Errorf(vfs.KindUnavailable, op, "the volume is closed")
	}
	select {
	case <-done:
	case <-ctx.Done():
		if settled.CompareAndSwap(false, true) {
			return none, vfs.Errorf(vfs.KindUnknown, op, "given up: %w", ctx.Err())
		}
		<-done
	}
	return val, err
}

// Shutdown flushes everything, gives the leases back, also those of open files, unused block ids and reservations,
// and ends background work. Nobody may use the volume meanwhile.
// When ctx ends first, what is not flushed is lost, as in a crash, and its
// error is returned.
func (v *Volume) Shutdown(ctx context.Context) error {
	if err := v.closings.flush(ctx, v); err != nil {
		v.cfg.Logger.Warn("ends of opens and locks were not recorded: they end with their clients", "err", err)
	}
	err := v.flushAll(ctx)
	if err == nil {
		v.tellTouches(ctx)
		v.releaseAll(ctx)
	}
	v.releaseFree(ctx, func(uint32, *allotment) bool { return true })
	v.ids.close(ctx, v)
	v.Abandon()
	return err
}

// Abandon ends background work without flushing, as if the gateway had died.
func (v *Volume) Abandon() {
	v.closeMu.Lock()
	v.closed = true
	v.closeMu.Unlock()
	v.cancel()
	v.wg.Wait()
	v.cache.close()
}

// Reregistered tells that the gateway's origin ended and that its commands are another one's from now on. What the
// former one had is void: leases, with what was buffered under them, holds on unlinked files, ranges of block ids. Files
// stay open, and those without a name stay if clients' opens are recorded. Nobody was served since the origin may have ended, nor is before this returns (the caller
// sees to that): others may have changed everything.
func (v *Volume) Reregistered(origin uint64, incarnation [16]byte) {
	v.origin.Store(origin)
	v.incarnation.Store(&incarnation) // all verifiers change
	v.ids.void()
	v.quota.void()
	for _, e := range v.all(func(*inode) bool { return true }) {
		e.mu.Lock()
		if e.orphan && !v.cfg.Keep {
			v.kill(e)
		} else {
			e.orphan = false
			v.loseLease(e, vfs.Errorf(vfs.KindFenced, "lease", "the origin of inode %d's lease ended", e.ino))
		}
		e.mu.Unlock()
		v.release(e)
	}
}

// apply runs a command for c (nil: the system itself). While another gateway has a file that it needs, that is asked to give it back.
func (v *Volume) apply(ctx context.Context, op string, c *vfs.Cred, cmd *metapb.Command) (*metapb.Result, error) {
	r, err := v.applyOnce(ctx, op, c, cmd)
	for call := vfs.CallOf(ctx); passes(cmd, err) && call.Repeated() && !call.Ended(); {
		select {
		case <-time.After(refusedPause):
		case <-ctx.Done():
			return r, err
		}
		r, err = v.applyOnce(ctx, op, c, &metapb.Command{Op: cmd.Op})
	}
	if err != nil || r.GetHeld() == nil {
		return r, err
	}
	soon, stop := context.WithTimeout(ctx, v.cfg.StallTimeout)
	defer stop()
	for err == nil && r.GetHeld() != nil {
		h := r.GetHeld()
		if v.cfg.Want == nil {
			err = vfs.Errorf(vfs.KindUnavailable, op, "origin %d has inode %d", h.Origin, h.Ino)
		} else if err = v.cfg.Want(soon, vfs.Ino(h.Ino)); soon.Err() != nil {
			err = vfs.Errorf(vfs.KindUnavailable, op, "another gateway has inode %d and does not give it back: %w", h.Ino, soon.Err())
		}
		if err == nil {
			r, err = v.applyOnce(ctx, op, c, &metapb.Command{Op: cmd.Op})
		}
	}
	return r, err
}

// refusedPause is between attempts of a command that was refused for a reason which passes.
const refusedPause = 250 * time.Millisecond

// passes reports whether a command was refused for a reason which passes, so that its client would be told to come again. If that is not to be said, because the call may have been done before,
// the command is sent again, as the next step of the call: as the same one it would be told for ever what it was told now.
func passes(cmd *metapb.Command, err error) bool {
	switch k := vfs.KindOf(err); {
	case cmd.GetSetAttr() != nil:
		return k == vfs.KindUnavailable // earlier truncations
	case cmd.GetCreate().GetShare() != nil:
		return k == vfs.KindTooMany // opens
	}
	return false
}

// applyOnce is apply that may be answered that another gateway has the file.
func (v *Volume) applyOnce(ctx context.Context, op string, c *vfs.Cred, cmd *metapb.Command) (*metapb.Result, error) {
	cmd.Fs = v.cfg.FS
	if c != nil {
		cmd.Cred = pbCred(c)
	}
	if c != nil || cmd.GetSetLock() != nil || cmd.GetOpenFile() != nil {
		cmd.Call = v.callOf(ctx, cmd)
	}
	r, err := v.cfg.Meta.Apply(ctx, v.cfg.Shard, cmd)
	if err != nil {
		return nil, errFor(op, err)
	}
	return r, nil
}

// callOf is the call of a client that cmd is done for, if the shard is to remember its outcome: of what must not be done
// twice, and is done by one command, or by commands that are the same, in the same order, each time.
func (v *Volume) callOf(ctx context.Context, cmd *metapb.Command) *metapb.Call {
	call := vfs.CallOf(ctx)
	if call == nil || !v.cfg.Keep {
		return nil
	}
	switch cmd.Op.(type) {
	case *metapb.Command_Create, *metapb.Command_Link, *metapb.Command_Remove, *metapb.Command_Rename, *metapb.Command_SetAttr,
		*metapb.Command_SetXattr, *metapb.Command_RemoveXattr, *metapb.Command_SetLock, *metapb.Command_OpenFile:
	case *metapb.Command_PunchHole, *metapb.Command_Allocate, *metapb.Command_CloneRange: // the answer says how far it came: so the next one is the same each time
		if call.InParts || call.Made() >= rangeCalls {
			return nil
		}
	default:
		return nil
	}
	return &metapb.Call{Session: call.Session[:], Client: call.Client, Slot: call.Slot, Seq: call.Seq, OpIndex: call.Next()}
}

// patience marks the contexts of patient.
type patience struct{}

// patient is ctx for the queries of an operation that changes something: they
// wait as long as ctx lasts. What was done must not be answered with an error that says
// it was not, only because its attributes cannot be asked now.
func patient(ctx context.Context) context.Context {
	return context.WithValue(ctx, patience{}, true)
}

// query asks the metadata. Unless ctx is patient it does so for StallTimeout:
// nothing is lost by giving up, and callers that wait hold what others need.
func (v *Volume) query(ctx context.Context, op string, c *vfs.Cred, q *metapb.Query) (*metapb.QueryResult, error) {
	q.Fs = v.cfg.FS
	if c != nil {
		q.Cred = pbCred(c)
	}
	asking := ctx
	if ctx.Value(patience{}) == nil {
		var stop context.CancelFunc
		asking, stop = context.WithTimeout(ctx, v.cfg.StallTimeout)
		defer stop()
	}
	r, err := v.cfg.Meta.Query(asking, v.cfg.Shard, q)
	if err != nil {
		if asking.Err() != nil && ctx.Err() == nil {
			return nil, vfs.Errorf(vfs.KindUnavailable, op, "no answer from the metadata for %v: %w", v.cfg.StallTimeout, err)
		}
		return nil, errFor(op, err)
	}
	return r, nil
}

// verifier is that of an inode's data that was lost losses times.
func (v *Volume) verifier(losses uint64) (out vfs.Verifier) {
	var b [24]byte
	copy(b[:], v.incarnation.Load()[:])
	binary.BigEndian.PutUint64(b[16:], losses)
	binary.BigEndian.PutUint64(out[:], xxhash.Sum64(b[:]))
	return out
}

// kindOfCommand is the kind of a command's error: KindUnknownOrigin also where it is only the cause, as when nothing is known
// of what the command did. The leases have ended in any case.
func kindOfCommand(err error) vfs.Kind {
	if errors.Is(err, vfs.KindUnknownOrigin.Err("")) {
		return vfs.KindUnknownOrigin
	}
	return vfs.KindOf(err)
}
