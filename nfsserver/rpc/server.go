package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// registration of a program.
type registration struct {
	prog    uint32
	version versionRange
	program Program
}

type versionRange struct{ low, high uint32 }

type programs []registration

// find returns the program that serves (prog, vers), or why there is none.
func (ps programs) find(prog, vers uint32) (Program, versionRange, uint32) {
	var served versionRange
	found := false
	for i := range ps {
		r := &ps[i]
		if r.prog != prog {
			continue
		}
		if r.version.low <= vers && vers <= r.version.high {
			return r.program, r.version, acceptSuccess
		}
		if !found {
			served = r.version
		}
		found = true
		served.low = min(served.low, r.version.low)
		served.high = max(served.high, r.version.high)
	}
	if found {
		return nil, served, acceptProgMismatch
	}
	return nil, served, acceptProgUnavail
}

// Server accepts connections and serves calls on them.
type Server struct {
	cfg    Config
	ep     *endpoint
	cancel context.CancelFunc // of ep.ctx
	nextID atomic.Uint64
	owned  sync.WaitGroup // one per connection

	mu sync.Mutex
	// Fields protected by mu.
	conns     map[*Conn]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
}

// NewServer makes a server without programs.
func NewServer(cfg Config) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		cfg:       cfg,
		ep:        newEndpoint(ctx, cfg.Limits, cfg.Logger),
		cancel:    cancel,
		conns:     make(map[*Conn]struct{}),
		listeners: make(map[net.Listener]struct{}),
	}
	s.ep.startTLS = cfg.StartTLS
	return s
}

// Register lets p serve versions low to high of prog. Call it before Serve.
func (s *Server) Register(prog, low, high uint32, p Program) {
	s.ep.programs = append(s.ep.programs, registration{prog, versionRange{low, high}, p})
}

// Serve accepts connections on ln, which it closes in the end, until Shutdown;
// then it returns nil. It may run for several listeners at once.
func (s *Server) Serve(ln net.Listener) error {
	defer func() { _ = ln.Close() }()
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	const maxPause = time.Second
	pause := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err == nil {
			pause = 5 * time.Millisecond
			s.start(nc)
			continue
		}
		select {
		case <-s.ep.drain:
			return nil
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("rpc: listener %v was closed: %w", ln.Addr(), err)
		}
		// Out of file descriptors or an aborted connection: it passes.
		s.ep.log.Warn("nfs accept failed", "addr", ln.Addr(), "err", err)
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxPause)
		case <-s.ep.drain:
			return nil
		}
	}
}

// start serves a new connection, or refuses it.
func (s *Server) start(nc net.Conn) {
	remote := addrPort(nc.RemoteAddr())
	if s.cfg.Accept != nil && !s.cfg.Accept(remote) {
		s.ep.stats.refused.Add(1)
		s.ep.log.Info("nfs connection refused by address", "remote", remote)
		_ = nc.Close()
		return
	}
	if t, ok := nc.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok { // TCP, perhaps within something
		// A peer that vanished without a word frees its connection after about
		// three minutes. Failing to set it costs only that.
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 30 * time.Second, Count: 4})
	}
	c := newConn(s.ep, s.nextID.Add(1), nc)
	s.mu.Lock()
	if s.draining || len(s.conns) >= s.ep.limits.MaxConns {
		s.mu.Unlock()
		s.ep.stats.refused.Add(1)
		s.ep.log.Warn("nfs connection refused: too many", "remote", remote, "limit", s.ep.limits.MaxConns)
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.owned.Add(1)
	s.mu.Unlock()
	s.ep.stats.accepted.Add(1)
	s.ep.stats.conns.Add(1)
	go func() {
		defer s.owned.Done()
		if s.cfg.Opened != nil {
			s.cfg.Opened(c)
		}
		c.serve()
		if s.cfg.Closed != nil {
			s.cfg.Closed(c)
		}
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.ep.stats.conns.Add(-1)
	}()
}

// Shutdown stops accepting connections and reading calls, lets running calls
// end and be answered, and closes the connections. When ctx ends first, it
// closes the connections and then ends the context of the running calls: what
// a call that was ended in the middle says of itself, such as an error after a
// change that was made, reaches nobody, and its client asks again elsewhere.
// Calls that do not return within seconds are left behind and named in the error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.draining {
		s.draining = true
		s.ep.stopRead()
	}
	for ln := range s.listeners {
		_ = ln.Close()
	}
	for c := range s.conns {
		c.wake()
	}
	s.mu.Unlock()

	ended := make(chan struct{})
	go func() {
		s.owned.Wait()
		close(ended)
	}()
	defer s.cancel()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.cancel()
	select {
	case <-ended:
		return nil
	case <-time.After(cancelGrace):
		return fmt.Errorf("rpc: shutdown: %d calls do not end: %w", s.ep.stats.running.Load(), context.Cause(ctx))
	}
}

// Stats returns the present counters.
func (s *Server) Stats() Stats {
	st := &s.ep.stats
	return Stats{
		Conns:        st.conns.Load(),
		Running:      st.running.Load(),
		Accepted:     st.accepted.Load(),
		Refused:      st.refused.Load(),
		Calls:        st.calls.Load(),
		Stalled:      st.stalled.Load(),
		BytesRead:    st.bytesRead.Load(),
		BytesWritten: st.bytesWritten.Load(),
		BadRecords:   st.badRecords.Load(),
	}
}
