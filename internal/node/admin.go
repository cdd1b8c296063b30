package node

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

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rackfs/rackfs/vfs"
)

// Paths of the admin socket.
const (
	pathToken  = "/v1/token"
	pathStatus = "/v1/status"
)

type tokenRequest struct {
	Roles []string      `json:"roles"`
	TTL   time.Duration `json:"ttl"`
}

// TokenReply is a new token.
type TokenReply struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// adminServer is the node's administration, or its HTTP port.
type adminServer struct {
	srv  *http.Server
	done sync.WaitGroup
}

// serveAdmin listens on the unix socket path. Whoever may open the socket is trusted; a socket that is there is one of a process that
// was killed, for the caller holds the directory's lock.
func serveAdmin(path string, n *Node) (*adminServer, error) {
	const op = "admin socket"
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	// The directory is for its owner only, so nobody comes in before the mode is set.
	ln, err := net.Listen("unix", path)
	if err != nil {
		if errors.Is(err, syscall.EINVAL) {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%s: the path of a socket has at most 107 bytes: choose a shorter data directory", path)
		}
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathToken, func(w http.ResponseWriter, r *http.Request) {
		serveJSON(w, r, n.log, func(ctx context.Context, req *tokenRequest) (*TokenReply, error) {
			n.mu.Lock()
			a := n.authority
			n.mu.Unlock()
			if a == nil {
				return nil, vfs.Errorf(vfs.KindInvalid, "token", "node %s does not have the role meta: ask a node that has", n.cfg.Name)
			}
			t, until, err := a.newToken(ctx, req.Roles, req.TTL)
			if err != nil {
				return nil, err
			}
			return &TokenReply{Token: t.String(), Expires: until}, nil
		})
	})
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		writeJSON(w, n.clusterStatus(ctx))
	})
	return serveOn(ln, mux, n.log), nil
}

func serveOn(ln net.Listener, h http.Handler, log *slog.Logger) *adminServer {
	a := &adminServer{srv: newHTTPServer(h, log)}
	a.done.Go(func() {
		if err := a.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("http: the server failed", "addr", ln.Addr(), "err", err)
		}
	})
	return a
}

// serveHTTP is the node's port for monitoring.
func serveHTTP(ln net.Listener, n *Node) *adminServer {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		text, ok := n.health()
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte(text + "\n"))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, n.local()) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.reg, promhttp.HandlerOpts{}))
	return serveOn(ln, mux, n.log)
}

func (a *adminServer) close() {
	if a != nil {
		a.srv.Close()
		a.done.Wait()
	}
}

// adminClient speaks to the node that runs on this machine.
func adminClient(c *Config) (*http.Client, func()) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", (&dataDir{path: c.Data}).sub(adminFile))
	}}
	return &http.Client{Transport: tr}, tr.CloseIdleConnections
}

func (c *Config) admin(ctx context.Context, method, path string, req, reply any) error {
	h, done := adminClient(c)
	defer done()
	err := exchange(ctx, h, method, "http://node"+path, req, reply)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return vfs.Errorf(vfs.KindUnavailable, "", "node %s does not run here: start it with `rackfs node --config FILE`", c.Name)
	}
	return err
}

// NewToken asks the node that runs on this machine for a token.
func NewToken(ctx context.Context, c *Config, roles []string, ttl time.Duration) (*TokenReply, error) {
	reply := new(TokenReply)
	return reply, c.admin(ctx, http.MethodPost, pathToken, &tokenRequest{Roles: roles, TTL: ttl}, reply)
}

// ClusterStatus asks the node that runs on this machine how the cluster is.
func ClusterStatus(ctx context.Context, c *Config) (*Status, error) {
	reply := new(Status)
	return reply, c.admin(ctx, http.MethodGet, pathStatus, nil, reply)
}
