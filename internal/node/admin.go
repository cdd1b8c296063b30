package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/httpgate"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/web"
)

// serveAdmin serves the API on the unix socket path: whoever may open it is trusted.
func serveAdmin(path string, n *Node) (*api.Server, error) {
	ln, err := api.Listen(path)
	if err != nil {
		return nil, err
	}
	if n.audit, err = accounts.OpenAudit(n.dir.sub(accounts.AuditName), n.log); err != nil {
		ln.Close()
		return nil, vfs.Wrap("audit log", err)
	}
	imports := n.cfg.Import
	imports.Key, imports.Logger = n.sealKey, n.log
	n.imports = cloudimport.New(imports)
	n.api = api.New(api.Options{
		Meta: n.meta, Cluster: admin{n}, Maintenance: maintenance{n}, Release: n.opt.Release, Files: n.served, Imports: n.imports, Audit: n.audit, Logger: n.log,
	})
	return api.Serve(ln, api.Profiles(n.api), n.log), nil
}

// served are the file systems of the node's gateway, nil while there is none.
func (n *Node) served() api.Files {
	if g := n.files.Load(); g != nil {
		return g
	}
	return nil
}

// serveAPI serves the API to those who have tokens, and does what of it goes on in the background.
func (n *Node) serveAPI() error {
	gate := httpgate.Config{Meta: n.meta, Gateway: n.gateway, API: n.api, Imports: n.imports, Logger: n.log}
	ln := n.listeners[listenAPI]
	if ln == nil {
		n.gate = httpgate.Start(gate)
		return nil
	}
	conf, err := httpgate.TLS(n.cfg.APIListen, n.cfg.APICert, n.cfg.APIKey, func() (*tls.Config, error) { return n.id.PublicTLS(), nil })
	if err != nil {
		return err
	}
	gate.Listener, gate.TLS, gate.Web = ln, conf, web.Handler()
	n.gate = httpgate.Start(gate)
	return nil
}

// sealKey is the key of secrets in the metadata: this node's, if it is a meta node, else one of those is asked. It is not kept.
func (n *Node) sealKey(ctx context.Context) ([]byte, error) {
	const op = "seal"
	n.mu.Lock()
	auth := n.authority
	n.mu.Unlock()
	if auth != nil {
		return auth.ca.Derive(cloudimport.KeyLabel)
	}
	var errs []error
	for _, p := range n.directory.controls() {
		reply := new(sealReply)
		if err := n.renewer.call(ctx, p, http.MethodPost, pathSeal, struct{}{}, reply); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
			continue
		}
		return reply.Key, nil
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, op, "no meta node gives the key of secrets: %w", errors.Join(errs...))
}

// admin is what the API asks the node for.
type admin struct{ n *Node }

// Self implements api.Cluster.
func (a admin) Self() string { return a.n.cfg.Name }

// Status implements api.Cluster.
func (a admin) Status(ctx context.Context) (*api.ClusterStatus, error) {
	return a.n.clusterStatus(ctx), nil
}

// NewToken implements api.Cluster.
func (a admin) NewToken(ctx context.Context, roles []string, ttl time.Duration) (*api.JoinToken, error) {
	a.n.mu.Lock()
	auth := a.n.authority
	a.n.mu.Unlock()
	if auth == nil {
		return nil, a.n.noMeta("token")
	}
	t, until, err := auth.newToken(ctx, roles, ttl)
	if err != nil {
		return nil, err
	}
	return &api.JoinToken{Token: t.String(), Expires: until}, nil
}

func (n *Node) noMeta(op string) error {
	return vfs.Errorf(vfs.KindInvalid, op, "node %s does not have the role meta, or is only starting: ask a node that has", n.cfg.Name)
}

// votes is the node's voter.
func (a admin) votes(op string) (*raftmeta.Server, error) {
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	if a.n.voter == nil {
		return nil, a.n.noMeta(op)
	}
	return a.n.voter, nil
}

// Members implements api.Cluster.
func (a admin) Members(ctx context.Context, shard uint16) ([]raftmeta.Member, error) {
	v, err := a.votes("voters")
	if err != nil {
		return nil, err
	}
	return v.Members(ctx, shard)
}

// Level implements api.Cluster.
func (a admin) Level(ctx context.Context, shard uint16, raiseTo uint32) (*raftmeta.Level, error) {
	v, err := a.votes("level")
	if err != nil {
		return nil, err
	}
	return v.ShardLevel(ctx, shard, raiseTo)
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
