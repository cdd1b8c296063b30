package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// prefix of every path.
	prefix = "/api/v1"
	// callTimeout bounds a handler that has no timeout of its own.
	callTimeout = 30 * time.Second
	// maxBody bounds a request's JSON.
	maxBody = 1 << 20

	clusterShard = 0
)

// Options of an API.
type Options struct {
	Meta    *raftmeta.Client
	Cluster Cluster
	Release string // of the software
	// Maintenance is nil where there is no voter.
	Maintenance Maintenance
	// Gateways, if set, are addresses of gateways that shard 0 does not know of: those of `rackfs dev`.
	Gateways func() []string
	// Files are what this process serves as a gateway; nil, or if it returns nil: nothing.
	Files func() Files
	// Imports is nil where there are none.
	Imports *cloudimport.Engine
	Audit   *accounts.Audit
	Now     func() time.Time // default time.Now
	Logger  *slog.Logger
}

// API serves HTTP requests.
type API struct {
	opt   Options
	log   *slog.Logger
	mux   *http.ServeMux
	huma  huma.API
	rules map[string]rule
	auth  *accounts.Authenticator
	// pieces are the uploads that come in pieces.
	pieces  *files.Uploads
	newJobs atomic.Pointer[func()] // is told of new ones
	sums    chan struct{}          // a place for each checksum that is computed
	// transfers are the files, archives and pieces that are being sent and received.
	transfers transfers
}

// New makes an API.
func New(o Options) *API {
	a := &API{opt: o, log: o.Logger, mux: http.NewServeMux(), rules: rules(), sums: make(chan struct{}, checksumsAtOnce)}
	if a.opt.Now == nil {
		a.opt.Now = time.Now
	}
	a.auth = accounts.NewAuthenticator(o.Meta, a.opt.Now)
	a.pieces = &files.Uploads{Meta: o.Meta, Now: a.opt.Now}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	cfg := huma.DefaultConfig("rackfs", o.Release)
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "/api/openapi", "", "/api/schemas"
	cfg.CreateHooks = nil // no $schema in answers
	cfg.Transformers = append(cfg.Transformers, withoutValues)
	a.huma = humago.New(a.mux, cfg)
	a.huma.UseMiddleware(a.guard)
	a.fileSystems()
	a.exports()
	a.clusters()
	a.nodes()
	a.maintenance()
	a.groups()
	a.workspaces()
	a.accessTokens()
	a.sessions()
	a.files()
	a.uploads()
	a.jobs()
	a.imports()
	return a
}

// OnNewJob has fn called when there is a new job, or one is canceled.
func (a *API) OnNewJob(fn func()) { a.newJobs.Store(&fn) }

// Uploads are those that come in pieces.
func (a *API) Uploads() *files.Uploads { return a.pieces }

// ServeHTTP answers the operator, who opened the socket of a data directory. Public answers everybody else.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &answer{ResponseWriter: w}
	ctx := context.WithValue(newRequest(r.Context(), w), callerKey{}, caller{answer: rec})
	a.mux.ServeHTTP(rec, r.WithContext(accounts.With(ctx, accounts.Operator())))
}

// Problem is how every refusal is answered.
type Problem struct {
	Status int    `json:"status" doc:"HTTP status"`
	Kind   string `json:"kind" doc:"What kind of error it is; the same names in every release"`
	Detail string `json:"detail" doc:"What happened, to what, and what to do next"`

	header http.Header
}

// GetHeaders are headers of the answer.
func (p *Problem) GetHeaders() http.Header { return p.header }

func (p *Problem) Error() string             { return p.Detail }
func (p *Problem) GetStatus() int            { return p.Status }
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// words is what err says without its kind, for a text that goes on and ends with it.
func words(err error) string { return strings.TrimSuffix(err.Error(), ": "+vfs.KindOf(err).String()) }

// withoutValues takes out of the answer to a malformed request what was sent: that may be a secret, and answers get into logs.
func withoutValues(_ huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		for _, e := range m.Errors {
			e.Value = nil
		}
	}
	return v, nil
}

// handle registers an operation: METHOD and path below prefix, as "GET /filesystems".
func handle[I, O any](a *API, route, id, summary string, fn func(context.Context, *I) (*O, error)) {
	method, path, _ := strings.Cut(route, " ")
	huma.Register(a.huma, huma.Operation{
		Method: method, Path: prefix + path, OperationID: id, Summary: summary, MaxBodyBytes: maxBody, DefaultStatus: http.StatusOK,
	}, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		out, err := fn(ctx, in)
		a.answered(ctx, id, err)
		if err != nil {
			return nil, problem(err)
		}
		return out, nil
	})
}

// cluster asks shard 0.
func (a *API) cluster(ctx context.Context, q *metapb.Query) (*metapb.QueryResult, error) {
	return a.opt.Meta.Query(ctx, clusterShard, q)
}
