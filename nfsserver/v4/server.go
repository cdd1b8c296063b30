package v4

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// Program and version numbers of NFS version 4.
const (
	Program = 100003
	Version = 4
)

// Procedures.
const (
	procNull     = 0
	ProcCompound = 1
)

// DefaultMaxIO is the largest READ and WRITE in bytes.
const DefaultMaxIO = 1 << 20

// DefaultValidWait is longer than a server takes that has to register anew, as a rule. Linux comes again only 15 s after an NFS4ERR_DELAY of SEQUENCE.
const DefaultValidWait = 10 * time.Second

// DefaultReadMemory is how many bytes of READ data are being read or wait to be
// sent, all connections together.
const DefaultReadMemory = 256 << 20

// Observer hears of every operation, for metrics. Methods are called
// concurrently and must be quick.
type Observer interface {
	// Op reports an operation that ended with st after d.
	Op(op nfsv4.NfsOpnum4, st nfsv4.Nfsstat4, d time.Duration)
	// Data reports file data moved.
	Data(read, written int)
}

// Config of a Server. All fields without a default are required.
type Config struct {
	State   *state.State
	Store   state.StateStore
	Exports *export.Set
	Ring    *handle.Ring
	Cluster [16]byte // the fsid of every file system contains it

	// Owner and Scope name the server in EXCHANGE_ID. Clients treat servers
	// with equal owners as one, with one set of client ids and sessions, and those of
	// equal scope as sharing handles.
	Owner, Scope []byte
	// Shared, if not nil, is what to tell in place of both by a server that is one of several with the same clients, which have the same: a client that introduces itself is looked for among
	// those of all. Needs a SessionStore.
	Shared  func() []byte
	Release string // of the software, told to clients

	// Valid reports whether this server may still say what clients hold in the file system with that fsid or, with 0, who the clients
	// are. While it may not, everything that depends on it is NFS4ERR_DELAY; calls of sessions wait for ValidWait, then their
	// connection ends. nil: always.
	Valid func(fsid uint32) bool
	// ValidWait is for how long a call of a session waits until it may say who the clients are, DefaultValidWait.
	ValidWait time.Duration

	// Others: there may be other servers of the same file systems, and somebody follows AwaitedLocks.
	Others bool
	// OthersOpen reports whether another server has a file open for reading, which is not recorded; an error if not all have answered. nil: there are no others.
	OthersOpen func(ctx context.Context, fsid uint32, ino vfs.Ino) (open bool, err error)

	// Refresh brings the exports up to date, or fails. It is called before a client is taken over: that may have open what was exported a moment ago, of which another server
	// has heard sooner, and what is not found then is lost to it. nil: they are.
	Refresh func(ctx context.Context) error

	// Peers carries requests of clients that other servers serve to these; nil: such clients come here, each time. Needs a SessionStore.
	Peers Peers

	MaxIO      int              // bytes of one READ or WRITE, DefaultMaxIO
	ReadMemory int              // bytes of READ data held, all connections together, DefaultReadMemory
	Now        func() time.Time // the clock, time.Now
	Logger     *slog.Logger     // slog.Default()
	Observer   Observer         // may be nil
}

// Server interprets COMPOUNDs. It is safe for concurrent use.
type Server struct {
	cfg  Config
	ring atomic.Pointer[handle.Ring]

	compounds sync.Pool // of *compound
	buffers   sync.Pool // of *readBuffer, MaxIO long

	// readMemory is what the buffers in use take: clients decide how many are waiting to
	// be sent, by not reading.
	readMemory *semaphore.Weighted

	nameBytes atomic.Int32 // what names took for each entry of the last listing: those of the next one are like them

	sessions  state.SessionStore // Config.Store, if it is one
	adoptions *semaphore.Weighted
	turns     turns               // of clients: held by who takes one over or gives one up
	finding   singleflight.Group  // by session or client
	waiting   *semaphore.Weighted // clients that another server serves, which are asked for
	// settled is held for reading while something changes a client that is not one of its calls, so that a hand-over can wait for it.
	settled sync.RWMutex
	idsMu   sync.Mutex // held while client ids are got from sessions

	// fileSystems holds the vfs.FS by id of every file system that ever had an
	// open here: closes must reach it after its export was taken away.
	fileSystems sync.Map // uint64 -> vfs.FS

	carrying carrying

	back    backchannels
	copies  copies
	recalls recalls
}

// New returns a server.
func New(cfg Config) *Server {
	if cfg.ValidWait == 0 {
		cfg.ValidWait = DefaultValidWait
	}
	if cfg.MaxIO == 0 {
		cfg.MaxIO = DefaultMaxIO
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.ReadMemory == 0 {
		cfg.ReadMemory = DefaultReadMemory
	}
	s := &Server{cfg: cfg, readMemory: semaphore.NewWeighted(int64(max(cfg.ReadMemory, cfg.MaxIO)))}
	s.sessions, _ = cfg.Store.(state.SessionStore)
	s.adoptions = semaphore.NewWeighted(maxAdoptions)
	s.waiting = semaphore.NewWeighted(maxBusy)
	s.turns.init()
	s.ring.Store(cfg.Ring)
	s.carrying.init()
	s.copies.init()
	s.recalls.init()
	s.compounds.New = func() any { return &compound{} }
	s.buffers.New = func() any {
		b := &readBuffer{b: make([]byte, cfg.MaxIO)}
		b.release = func() {
			s.buffers.Put(b)
			s.readMemory.Release(int64(cfg.MaxIO))
		}
		return b
	}
	return s
}

// SetRing replaces the key ring of file handles for requests that begin from now on.
func (s *Server) SetRing(r *handle.Ring) { s.ring.Store(r) }

// Ring is the key ring of file handles in use.
func (s *Server) Ring() *handle.Ring { return s.ring.Load() }

// ServeRPC implements rpc.Program.
func (s *Server) ServeRPC(ctx context.Context, req *rpc.Request) {
	switch req.Proc {
	case procNull:
		return
	case ProcCompound:
		c := s.compounds.Get().(*compound)
		c.begin(s, ctx, req)
		c.run()
		*c = compound{scratch: c.scratch[:0]}
		s.compounds.Put(c)
	default:
		req.ProcUnavail()
	}
}

// ConnClosed forgets what a connection was bound to.
func (s *Server) ConnClosed(c *rpc.Conn) {
	s.cfg.State.ConnClosed(c.ID())
	s.back.connClosed(c.ID())
	if s.cfg.Peers != nil && c.Via() == "" {
		s.cfg.Peers.Closed(c)
	}
}

// Tick ends leases and the grace period that are over. The owner calls it about
// once a second.
func (s *Server) Tick(ctx context.Context) {
	s.tickState(ctx)
	s.back.prune(s.cfg.State.HasSession)
	s.copies.tick(s)
	s.notifyLocks(s.cfg.State.TickWaiters(s.cfg.Now()))
	s.askDoubtful()
	s.tryRebound()
}

func (s *Server) tickState(ctx context.Context) {
	s.settled.RLock()
	defer s.settled.RUnlock()
	eff := s.cfg.State.Tick(s.cfg.Now())
	if err := s.apply(ctx, &eff); err != nil {
		s.cfg.Logger.Warn("nfs: client state could not be stored; will be tried again", "err", err)
	}
}

// Shutdown ends what goes on in the background, asynchronous copies and callbacks, and waits for it. Their clients hear how far they came.
// Connections are still there; no request begins after it.
func (s *Server) Shutdown(ctx context.Context) {
	s.copies.shutdown(ctx)
	s.recalls.shutdown()
}

// apply carries out effects, or hands them back for a later try.
func (s *Server) apply(ctx context.Context, eff *state.Effects) error {
	if eff.Empty() {
		return nil
	}
	s.tellRecalls(eff)
	if err := eff.Apply(ctx, s.cfg.Store, files{s}); err != nil {
		s.cfg.State.Retry(*eff)
		return err
	}
	s.freed()
	return nil
}

// tellRecalls begins the callbacks of eff, for which nobody waits here.
func (s *Server) tellRecalls(eff *state.Effects) {
	for _, r := range eff.Recall {
		s.recalls.tell(r.Client, func() { s.recall(&r) })
	}
	eff.Recall = nil
}

// closeFile is the vfs.Close of an open that ended.
func (s *Server) closeFile(ctx context.Context, f state.File, flags vfs.OpenFlags) {
	fs, ok := s.fileSystems.Load(f.FS)
	if !ok {
		s.cfg.Logger.Error("nfs: close in a file system that had no open", "fs", f.FS, "ino", f.Ino)
		return
	}
	// An open that is not closed would keep an unlinked file for ever, so the
	// close is not given up with the request that caused it.
	if err := fs.(vfs.FS).Close(context.WithoutCancel(ctx), f.Ino, flags); err != nil {
		s.cfg.Logger.Warn("nfs: close", "fs", f.FS, "ino", f.Ino, "err", err)
	}
}

// keeperOf is fs if it keeps opens and locks for as long as the store keeps their clients, else nil.
func (s *Server) keeperOf(fs vfs.FS) vfs.Keeper {
	if s.sessions == nil {
		return nil
	}
	return vfs.KeeperOf(fs)
}

// files carries out what package state asks of files.
type files struct{ s *Server }

func (f files) CloseFile(ctx context.Context, c state.FileClose) { f.s.closeFile(ctx, c.File, c.Flags) }

// keeper is that of a file system that has an open.
func (f files) keeper(id uint64) vfs.Keeper {
	if fs, ok := f.s.fileSystems.Load(id); ok {
		k, _ := fs.(vfs.Keeper)
		return k
	}
	return nil
}

func (f files) Share(ctx context.Context, sh state.FileShare) error {
	k := f.keeper(sh.File.FS)
	if k == nil {
		return nil
	}
	return gone(k.Share(ctx, sh.File.Ino, sh.Share))
}

func (f files) Unshare(ctx context.Context, c state.FileClosing) error {
	k := f.keeper(c.File.FS)
	if k == nil {
		return nil
	}
	return gone(k.Unshare(context.WithoutCancel(ctx), c.File.Ino, c.Closing))
}

// gone is err, unless it says that there is nothing any more of which something could be kept.
func gone(err error) error {
	switch vfs.KindOf(err) {
	case vfs.KindStale, vfs.KindExpired:
		return nil
	}
	return err
}

// remember makes fs known to closeFile.
func (s *Server) remember(id uint32, fs vfs.FS) {
	if known, ok := s.fileSystems.Load(uint64(id)); !ok || known != fs {
		s.fileSystems.Store(uint64(id), fs)
	}
}
