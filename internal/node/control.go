package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	maxSkew        = 5 * time.Minute // between the clocks of a node that joins and the meta node
	maxControlBody = 256 << 10
	controlTimeout = 20 * time.Second
)

// Paths of the control port.
const (
	pathJoin  = "/v1/join"
	pathRenew = "/v1/renew"
	pathLocal = "/v1/local"
	pathSeal  = "/v1/seal"
)

// joinRequest is what a node that joins sends.
type joinRequest struct {
	Secret []byte       `json:"secret"`
	CSR    []byte       `json:"csr"`
	Time   time.Time    `json:"time"` // by its clock
	Node   *metapb.Node `json:"node"`
}

type joinReply struct {
	Cert     []byte   `json:"cert"`
	CAKey    []byte   `json:"ca_key,omitempty"` // for meta nodes
	Settings Settings `json:"settings"`
	Peers    []peer   `json:"peers"`
	// Removed are the nodes that were removed from the cluster.
	Removed []pki.Revocation `json:"removed,omitempty"`
}

type renewRequest struct {
	CSR []byte `json:"csr"`
}

type renewReply struct {
	Cert []byte `json:"cert"`
}

// sealReply has the key of secrets in metadata.
type sealReply struct {
	Key []byte `json:"key"`
}

// failure is an error in JSON.
type failure struct {
	Kind  uint16 `json:"kind"`
	Error string `json:"error"`
}

// metadata is the metadata client.
type metadata interface {
	querier
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
}

// authority lets nodes join and renews their certificates. Every meta node has one.
type authority struct {
	ca       *pki.CA
	settings Settings
	meta     metadata
	dir      *directory
	now      func() time.Time
	log      *slog.Logger
}

func (a *authority) tokens(ctx context.Context) ([]*metapb.Token, error) {
	r, err := a.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Tokens{Tokens: &metapb.TokensQ{}}})
	return r.GetTokens().GetTokens(), err
}

func expired(t *metapb.Token, now time.Time) bool { return now.Unix() >= t.GetExpires().GetSec() }

// newToken makes a token for one node with some of these roles.
func (a *authority) newToken(ctx context.Context, roles []string, ttl time.Duration) (*token, time.Time, error) {
	const op = "token"
	if ttl < minTokenTTL || ttl > maxTokenTTL {
		return nil, time.Time{}, vfs.Errorf(vfs.KindInvalid, op, "--ttl %v: use %v to %v", ttl, minTokenTTL, maxTokenTTL)
	}
	if len(roles) == 0 {
		return nil, time.Time{}, vfs.Errorf(vfs.KindInvalid, op, "no roles: use some of %s", strings.Join(allRoles, ", "))
	}
	for _, r := range roles {
		if !slices.Contains(allRoles, r) {
			return nil, time.Time{}, vfs.Errorf(vfs.KindInvalid, op, "role %q: use %s", r, strings.Join(allRoles, ", "))
		}
	}
	if err := a.dir.refresh(ctx, a.meta); err != nil {
		return nil, time.Time{}, err
	}
	var control []string
	for _, p := range a.dir.controls() {
		control = append(control, p.Control)
	}
	t := newToken(a.fingerprint(), control)
	now := a.now()
	put := &metapb.PutToken{Token: &metapb.Token{Hash: t.hash(), Roles: roles, Expires: &metapb.Time{Sec: now.Add(ttl).Unix()}}}
	old, err := a.tokens(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	for _, o := range old {
		if expired(o, now.Add(-maxTokenTTL)) { // long enough for every message about it
			put.Forget = append(put.Forget, o.Hash)
		}
	}
	_, err = a.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutToken{PutToken: put}})
	return t, now.Add(ttl), err
}

func (a *authority) fingerprint() string { return a.ca.Fingerprint() }

func (a *authority) join(ctx context.Context, req *joinRequest) (*joinReply, error) {
	const op = "join"
	n := req.Node
	if n == nil || len(req.Secret) != secretLen || len(req.CSR) == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "malformed request")
	}
	now := a.now()
	if d := req.Time.Sub(now); d > maxSkew || d < -maxSkew {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the clock of this machine and that of the cluster's node differ by %v, more than %v: synchronise them (NTP) and try again", d.Round(time.Second), maxSkew)
	}
	for _, r := range n.Roles {
		if !slices.Contains(allRoles, r) {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "role %q: use %s", r, strings.Join(allRoles, ", "))
		}
	}
	if err := a.dir.refresh(ctx, a.meta); err != nil {
		return nil, err
	}
	if slices.Contains(n.Roles, RoleGateway) {
		if err := nodegroup.MayServe(op, a.dir.records(), n.Name, n.Group, n.Several); err != nil {
			return nil, err
		}
	}
	hash := secretHash(req.Secret)
	tokens, err := a.tokens(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range tokens {
		if bytes.Equal(t.Hash, hash) && len(t.UsedBy) == 0 && expired(t, now) {
			return nil, vfs.Errorf(vfs.KindAccess, op, "the token expired at %s: ask for a new one with `rackfs cluster token`", time.Unix(t.Expires.Sec, 0).Format(time.RFC3339))
		}
	}
	key, err := pki.RequestKey(req.CSR)
	if err != nil {
		return nil, err
	}
	// Before anything is changed: what cannot be signed is not let in.
	cert, err := a.ca.Sign(req.CSR, n.Name, n.Roles, nil, now)
	if err != nil {
		return nil, err
	}
	n.Version = 1
	r, err := a.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_JoinNode{JoinNode: &metapb.JoinNode{Hash: hash, Node: n, Key: key}}})
	if err != nil {
		return nil, err
	}
	if record := r.GetNode().GetNode(); !slices.Equal(record.GetRoles(), n.Roles) { // asked again, for other roles
		if cert, err = a.ca.Sign(req.CSR, n.Name, record.Roles, nil, now); err != nil {
			return nil, err
		}
	}
	reply := &joinReply{Cert: cert, Settings: a.settings}
	if slices.Contains(r.GetNode().GetNode().GetRoles(), RoleMeta) {
		if reply.CAKey, err = a.ca.KeyPEM(); err != nil {
			return nil, err
		}
	}
	if err := a.dir.refresh(ctx, a.meta); err != nil {
		return nil, err
	}
	for _, x := range a.dir.records() {
		reply.Peers = append(reply.Peers, peerOf(x))
	}
	reply.Removed = a.dir.revocations()
	a.log.Info("a node joined", "node", n.Name, "roles", n.Roles)
	return reply, nil
}

// renew gives the roles of the node's certificate again, not more.
func (a *authority) renew(ctx context.Context, name string, roles []string, req *renewRequest) (*renewReply, error) {
	const op = "renew"
	if err := a.dir.refresh(ctx, a.meta); err != nil {
		return nil, err
	}
	for _, n := range a.dir.records() {
		if n.Name != name {
			continue
		}
		if key, err := pki.RequestKey(req.CSR); err != nil {
			return nil, err
		} else if len(n.Key) > 0 && !bytes.Equal(key, n.Key) {
			return nil, vfs.Errorf(vfs.KindPerm, op, "node %s joined with another key: a certificate is renewed for the same one", name)
		}
		roles = slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return !slices.Contains(n.Roles, r) })
		cert, err := a.ca.Sign(req.CSR, name, roles, nil, a.now())
		return &renewReply{Cert: cert}, err
	}
	return nil, vfs.Errorf(vfs.KindPerm, op, "node %s is not in the cluster any more", name)
}

// seal gives the key that secrets in the metadata are sealed with. It is derived from the CA's, so it is on meta nodes, in no metadata and in no backup.
func (a *authority) seal(roles []string) (*sealReply, error) {
	if !slices.Contains(roles, RoleGateway) {
		return nil, vfs.Errorf(vfs.KindPerm, "seal", "only gateways seal secrets")
	}
	key, err := a.ca.Derive(cloudimport.KeyLabel)
	return &sealReply{Key: key}, err
}

// controlServer is the control port.
type controlServer struct {
	srv  *http.Server
	done sync.WaitGroup
}

func serveControl(ln net.Listener, id *pki.Holder, a *authority, local func() any, log *slog.Logger) *controlServer {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathJoin, func(w http.ResponseWriter, r *http.Request) {
		serveJSON(w, r, log, a.join)
	})
	mux.HandleFunc("POST "+pathRenew, func(w http.ResponseWriter, r *http.Request) {
		name, roles, err := caller(r, id)
		if err != nil {
			writeFailure(w, err)
			return
		}
		serveJSON(w, r, log, func(ctx context.Context, req *renewRequest) (*renewReply, error) {
			return a.renew(ctx, name, roles, req)
		})
	})
	mux.HandleFunc("POST "+pathSeal, func(w http.ResponseWriter, r *http.Request) {
		_, roles, err := caller(r, id)
		if err != nil {
			writeFailure(w, err)
			return
		}
		serveJSON(w, r, log, func(context.Context, *struct{}) (*sealReply, error) { return a.seal(roles) })
	})
	mux.HandleFunc("GET "+pathLocal, func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := caller(r, id); err != nil {
			writeFailure(w, err)
			return
		}
		writeJSON(w, local())
	})
	mux.HandleFunc("GET "+pathStanding, func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := caller(r, id); err != nil {
			writeFailure(w, err)
			return
		}
		writeJSON(w, struct{}{})
	})
	cfg := id.ServerTLS()
	// A node that was removed is told so by the handlers (caller), which a refused handshake could not.
	cfg.ClientAuth, cfg.VerifyConnection = tls.VerifyClientCertIfGiven, nil
	c := &controlServer{srv: newHTTPServer(mux, log)}
	c.srv.TLSConfig = cfg
	c.done.Go(func() {
		if err := c.srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the control port failed", "err", err)
		}
	})
	return c
}

func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (c *controlServer) close() {
	if c != nil {
		c.srv.Close()
		c.done.Wait()
	}
}

// caller is the node whose certificate came with a request, and its roles.
func caller(r *http.Request, id *pki.Holder) (name string, roles []string, err error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", nil, vfs.Errorf(vfs.KindUnauthorized, "control", "a certificate of this cluster is needed")
	}
	cert := r.TLS.PeerCertificates[0]
	if err := id.Refused(cert); err != nil {
		return "", nil, err
	}
	return pki.Subject(cert)
}

func serveJSON[Req, Reply any](w http.ResponseWriter, r *http.Request, log *slog.Logger, fn func(context.Context, *Req) (*Reply, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
	defer cancel()
	req := new(Req)
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody)).Decode(req)
	if err != nil {
		writeFailure(w, vfs.Errorf(vfs.KindInvalid, "control", "malformed request: %w", err))
		return
	}
	reply, err := fn(ctx, req)
	if err != nil {
		log.Warn("control: refused", "path", r.URL.Path, "remote", r.RemoteAddr, "err", err)
		writeFailure(w, err)
		return
	}
	writeJSON(w, reply)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

func writeFailure(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(vfs.KindOf(err).HTTPStatus())
	_ = json.NewEncoder(w).Encode(failure{Kind: uint16(vfs.KindOf(err)), Error: err.Error()})
}

// exchange makes one call of the control port or of the admin socket.
func exchange(ctx context.Context, c *http.Client, method, url string, req, reply any) error {
	var body io.Reader
	if req != nil {
		raw, err := json.Marshal(req)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		var own *vfs.Error
		if errors.As(err, &own) { // by PinnedTLS
			return own
		}
		return vfs.Errorf(vfs.KindUnavailable, "", "%w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxState))
	if err != nil {
		return vfs.Errorf(vfs.KindUnavailable, "", "%w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(raw, &f) != nil || f.Error == "" {
			f = failure{Kind: uint16(vfs.KindUnavailable), Error: fmt.Sprintf("answer %s", resp.Status)}
		}
		return &vfs.Error{Kind: vfs.Kind(f.Kind), Text: f.Error}
	}
	if err := json.Unmarshal(raw, reply); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "", "malformed answer: %w", err)
	}
	return nil
}
