package wire

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Server serves calls on connections it accepts or is given.
type Server struct {
	handler Handler
	opt     ServerOptions
	bytes   *semaphore.Weighted // of requests held
	conns   *semaphore.Weighted
	work    chan *Call // to idle workers
	workers *semaphore.Weighted
	idle    atomic.Int32

	ctx    context.Context // ends when the server closes
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // ServeConn calls, and workers

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	open      map[*serverConn]struct{}
}

// ErrClosed is the cause of what ends because its Server or Client was closed.
var ErrClosed = errors.New("wire: closed")

// idleWorkers is how many goroutines without work a server keeps: their grown
// stacks are what makes reuse worthwhile.
const idleWorkers = 32

// NewServer makes a server that calls h for each request.
func NewServer(h Handler, o ServerOptions) *Server {
	o = o.withDefaults()
	s := &Server{
		handler:   h,
		opt:       o,
		bytes:     semaphore.NewWeighted(o.MaxRequestBytes),
		conns:     semaphore.NewWeighted(int64(o.MaxConns)),
		work:      make(chan *Call),
		workers:   semaphore.NewWeighted(int64(o.MaxCalls)),
		listeners: map[net.Listener]struct{}{},
		open:      map[*serverConn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Serve accepts connections from l until l fails or the server closes, which
// closes l too. After Close it returns ErrClosed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		l.Close()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	defer func() {
		l.Close()
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for pause := time.Duration(0); ; {
		if s.conns.Acquire(s.ctx, 1) != nil { // at the bound, peers wait in the backlog
			return ErrClosed
		}
		nc, err := l.Accept()
		if err != nil {
			s.conns.Release(1)
			if s.ctx.Err() != nil {
				return ErrClosed
			}
			if !temporary(err) {
				return err
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.opt.Logger.Warn("wire: accept failed, trying again", "err", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
			continue
		}
		pause = 0
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			defer s.conns.Release(1)
			s.serve(nc)
		}()
	}
}

// temporary reports accept errors that pass: too many files, an aborted connection.
func temporary(err error) bool {
	var ne net.Error
	if errors.Is(err, net.ErrClosed) || !errors.As(err, &ne) {
		return false
	}
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// ServeConn serves one connection, from the handshake on, and closes it. It
// returns when the connection has ended and its handlers have returned. For
// a mux in front of the server; nc should be the *net.TCPConn itself, with
// nothing read past what the mux needed.
func (s *Server) ServeConn(nc net.Conn) {
	s.mu.Lock()
	if s.closed || !s.conns.TryAcquire(1) {
		closed := s.closed
		s.mu.Unlock()
		if !closed {
			s.opt.Logger.Warn("wire: connection refused, too many", "remote", nc.RemoteAddr(), "limit", s.opt.MaxConns)
		}
		nc.Close()
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	defer s.conns.Release(1)
	s.serve(nc)
}

// Close ends the server: no more connections and requests are taken, handlers'
// contexts end, and when all handlers have returned and their replies are
// written, or a short while has passed with a peer that does not read, the connections are closed.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.cancel(ErrClosed)
		for l := range s.listeners {
			l.Close()
		}
		for c := range s.open {
			c.shut()
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// dispatch hands c to a worker. It waits while MaxCalls handlers run.
func (s *Server) dispatch(c *Call) error {
	select {
	case s.work <- c:
		return nil
	default:
	}
	if s.workers.TryAcquire(1) {
		s.wg.Add(1)
		go s.worker(c)
		return nil
	}
	select {
	case s.work <- c:
		return nil
	case <-c.conn.ctx.Done():
		return context.Cause(c.conn.ctx)
	}
}

func (s *Server) worker(c *Call) {
	defer s.wg.Done()
	defer s.workers.Release(1)
	for {
		c.conn.run(c)
		select {
		case c = <-s.work: // somebody waits
			continue
		default:
		}
		if s.idle.Add(1) > idleWorkers {
			s.idle.Add(-1)
			return
		}
		select {
		case c = <-s.work:
			s.idle.Add(-1)
		case <-s.ctx.Done():
			s.idle.Add(-1)
			return
		}
	}
}
