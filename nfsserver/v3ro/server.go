package v3ro

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxRecord bounds a call in bytes. What is served takes a few hundred; a WRITE that is to be refused may be larger.
	maxRecord = 128 << 10
	// workers bounds concurrent calls of a connection, maxConns connections, recordMemory the bytes of all calls.
	workers      = 32
	maxConns     = 1024
	recordMemory = 32 << 20
	// maxRead is the largest READ in bytes, maxWrite what FSINFO tells for WRITE, maxListing the largest reply of READDIR.
	maxRead    = 1 << 20
	maxWrite   = 64 << 10
	maxListing = 64 << 10
	// readMemory bounds the bytes of READ that are being read, or wait to be taken by their clients.
	readMemory = 64 << 20
	// engines bounds the calls that go-nfs works at.
	engines = 32
	// patience is how long a call waits for memory or an engine before its client is told to come again.
	patience = 5 * time.Second
)

// Config of a Server. All fields but Logger are required.
type Config struct {
	Exports *export.Set
	Ring    func() *handle.Ring
	Cluster [16]byte // every fsid contains it
	Logger  *slog.Logger
}

// Server serves NFSv3. It is safe for concurrent use.
type Server struct {
	cfg     Config
	rpc     *rpc.Server
	engines chan *engine // those that are free; nil: one that is not made yet
	reads   *semaphore.Weighted
	buffers sync.Pool // of *[]byte
}

// New makes a server; Shutdown ends it.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Server{cfg: cfg, engines: make(chan *engine, engines), reads: semaphore.NewWeighted(readMemory)}
	for range engines {
		s.engines <- nil
	}
	s.buffers.New = func() any { b := make([]byte, maxRead); return &b }
	s.rpc = rpc.NewServer(rpc.Config{
		Limits: rpc.Limits{MaxRecord: maxRecord, Workers: workers, MaxConns: maxConns, Memory: recordMemory},
		Accept: s.accept, Logger: cfg.Logger,
	})
	s.rpc.Register(nfsProgram, version, version, guarded{s, s.serveNFS})
	s.rpc.Register(mountProgram, version, version, guarded{s, s.serveMount})
	return s
}

// accept refuses connections from where no export may be used.
func (s *Server) accept(remote netip.AddrPort) bool {
	return len(s.cfg.Exports.Table().Root().Children(0, remote.Addr())) > 0
}

// Serve accepts connections on ln until Shutdown; then it returns nil.
func (s *Server) Serve(ln net.Listener) error { return s.rpc.Serve(ln) }

// Stats are those of the transport.
func (s *Server) Stats() rpc.Stats { return s.rpc.Stats() }

// Shutdown stops accepting and reading, lets running calls finish and be answered until ctx ends, and ends what the server started.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.rpc.Shutdown(ctx)
	for range engines {
		select {
		case e := <-s.engines:
			e.close()
		default: // of a call that did not return
		}
	}
	return err
}

// guarded is a program whose panics end only the call.
type guarded struct {
	s     *Server
	serve func(context.Context, *rpc.Request)
}

// ServeRPC implements rpc.Program.
func (g guarded) ServeRPC(ctx context.Context, req *rpc.Request) {
	defer func() {
		if p := recover(); p != nil {
			g.s.cfg.Logger.Error("nfs3: a call failed by a bug in this program", "prog", req.Prog, "proc", req.Proc, "panic", p, "stack", string(debug.Stack()))
			req.Reply.Truncate(req.Reply.Start())
			req.SystemErr()
		}
	}()
	g.serve(vfs.WithRequest(ctx, req.ID()), req)
}

// takeEngine waits for a free engine.
func (s *Server) takeEngine(ctx context.Context) (*engine, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	select {
	case e := <-s.engines:
		if e == nil {
			e = newEngine()
		}
		return e, nil
	case <-ctx.Done():
		return nil, vfs.Errorf(vfs.KindUnavailable, "nfs3", "%d calls are running", engines)
	}
}

// putEngine gives an engine back; one that is broken is replaced.
func (s *Server) putEngine(e *engine) {
	if e.broken {
		e.close()
		e = nil
	}
	s.engines <- e
}
