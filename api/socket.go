package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// SocketName is the name of the socket in a data directory.
const SocketName = "admin.sock"

// Listen listens on the unix socket path, for its owner only. A socket that is there is one of a process that was killed:
// the caller holds the lock of the directory, which is its owner's alone.
func Listen(path string) (net.Listener, error) {
	const op = "admin socket"
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		if errors.Is(err, syscall.EINVAL) {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%s: the path of a socket has at most 107 bytes: choose a shorter data directory", path)
		}
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	// Nobody else comes in before the mode is set, for the directory does not let him.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	return ln, nil
}

// Server answers HTTP requests on one listener.
type Server struct {
	srv  *http.Server
	done sync.WaitGroup
}

// Serve serves h on ln until Close. Slow and oversized requests are cut off. An answer has a minute from when it begins (answer); one that is longer in being sent extends its own
// deadline (http.ResponseController).
func Serve(ln net.Listener, h http.Handler, log *slog.Logger) *Server {
	s := &Server{srv: &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), ConnContext: belowOf,
	}}
	s.done.Go(func() {
		if err := s.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("http: the server failed", "addr", ln.Addr(), "err", err)
		}
	})
	return s
}

// Close lets requests end until ctx does.
func (s *Server) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	err := s.srv.Shutdown(ctx)
	if err != nil {
		s.srv.Close()
	}
	s.done.Wait()
	return err
}
