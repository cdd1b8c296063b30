package node

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rackfs/rackfs/api"
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

// serveAdmin serves the node's administration on the unix socket path: whoever may open it is trusted.
func serveAdmin(path string, n *Node) (*api.Server, error) {
	ln, err := api.Listen(path)
	if err != nil {
		return nil, err
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
	mux.Handle("/api/", api.New(api.Options{Meta: n.meta, Release: n.opt.Release, Logger: n.log}))
	return api.Serve(ln, mux, n.log), nil
}

// serveHTTP is the node's port for monitoring.
func serveHTTP(ln net.Listener, n *Node) *api.Server {
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
	return api.Serve(ln, mux, n.log)
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
