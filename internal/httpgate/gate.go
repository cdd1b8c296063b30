// Package httpgate serves the HTTP API of a gateway to the network: over TLS, but for addresses of this machine only. It runs the gateway's share of the cluster's
// jobs, and removes what uploads have left. `rackfs dev` and nodes use it alike.
//
// # TLS
//
// A gateway that listens on a loopback address speaks plain HTTP, unless it has a certificate of its own: nobody else can listen in there. All others speak TLS,
// with the configured certificate, else with the node's own, which is of the cluster's CA; the CA's certificate is sent along, so that a client who
// knows its fingerprint can verify the gateway (pki.PinnedTLS).
package httpgate

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard           = 0
	defaultCollectInterval = 5 * time.Minute
)

// Config of a Gate. The listener is the gate's from then on.
type Config struct {
	Meta     *raftmeta.Client
	Gateway  *gateway.Gateway
	API      *api.API
	Listener net.Listener        // nil: the API is not served to the network
	Web      http.Handler        // what is not below /api/; nil: nothing
	TLS      *tls.Config         // nil: plain HTTP
	Imports  *cloudimport.Engine // nil: imports are not done here
	Kinds    map[string]jobs.Kind
	Logger   *slog.Logger

	CollectInterval time.Duration // between looks for what uploads have left; default 5 min
	Recheck         time.Duration // between looks whether who asked for a job may still do it; default that of package jobs
}

// Gate serves.
type Gate struct {
	cfg    Config
	srv    *api.Server // nil without a listener
	runner *jobs.Runner
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// TLS is the configuration for an address: that of the certificate in files, if they are given, else own, or nil for loopback.
func TLS(addr, certFile, keyFile string, own func() (*tls.Config, error)) (*tls.Config, error) {
	const op = "api tls"
	if (certFile == "") != (keyFile == "") {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a certificate and its key belong together: give both files, or none")
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
	}
	if host, _, err := net.SplitHostPort(addr); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() || host == "localhost" {
			return nil, nil
		}
	}
	return own()
}

// Start serves until Close.
func Start(c Config) *Gate {
	c.CollectInterval = cmp.Or(c.CollectInterval, defaultCollectInterval)
	g := &Gate{cfg: c}
	kinds := map[string]jobs.Kind{api.JobDelete: api.Deletion(c.Gateway)}
	if c.Imports != nil {
		kinds[api.JobImport] = api.Importation(c.Gateway, c.Imports)
	}
	maps.Copy(kinds, c.Kinds)
	g.runner = jobs.Start(jobs.Options{
		Meta: c.Meta, Name: c.Gateway.Name(), Origin: func() uint64 { return c.Gateway.Origin(clusterShard) }, Kinds: kinds, Logger: c.Logger,
		May: api.JobAccess(c.Meta, time.Now), Recheck: c.Recheck,
		Serves: func(id uint32) bool {
			fs, _ := c.Gateway.FS(id)
			return fs != nil
		},
	})
	c.API.OnNewJob(g.runner.Nudge)
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.done.Go(func() { g.collect(ctx) })
	if ln := c.Listener; ln != nil {
		if c.TLS != nil {
			ln = api.TLS(ln, c.TLS)
		}
		g.srv = api.Serve(ln, c.API.Public(c.Web), c.Logger)
	}
	return g
}

// collect removes what uploads have left, now and then.
func (g *Gate) collect(ctx context.Context) {
	tick := time.NewTicker(g.cfg.CollectInterval)
	defer tick.Stop()
	for {
		g.Collect(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Collect removes what uploads have left, once.
func (g *Gate) Collect(ctx context.Context) (removed int) {
	if n, err := g.cfg.API.Uploads().Expire(ctx); err != nil && ctx.Err() == nil && vfs.KindOf(err) != vfs.KindNotSupported {
		g.cfg.Logger.Warn("uploads that have expired are not ended now; it is tried again", "err", err)
	} else if n > 0 {
		g.cfg.Logger.Info("ended uploads that have expired", "uploads", n)
	}
	for _, rec := range g.cfg.Gateway.FileSystems() {
		fs, _ := g.cfg.Gateway.FS(rec.Id)
		if fs == nil {
			continue
		}
		n, err := g.cfg.API.Uploads().Collect(ctx, fs, rec, g.cfg.Meta)
		removed += n
		if k := vfs.KindOf(err); err != nil && ctx.Err() == nil && k != vfs.KindNotSupported {
			g.cfg.Logger.Warn("what uploads have left is not removed now; it is tried again", "fs", rec.Id, "err", err)
		}
		if n > 0 {
			g.cfg.Logger.Info("removed what uploads have left", "fs", rec.Id, "files", n)
		}
	}
	return removed
}

// URL is where it is reached, by the address that it listens on.
func (g *Gate) URL() string {
	if g == nil || g.cfg.Listener == nil {
		return ""
	}
	return URL(g.cfg.Listener.Addr().String(), g.cfg.TLS != nil)
}

// URL is that of an address.
func URL(addr string, secure bool) string {
	if secure {
		return "https://" + addr
	}
	return "http://" + addr
}

// Close lets calls end until ctx does.
func (g *Gate) Close(ctx context.Context) error {
	if g == nil {
		return nil
	}
	err := g.srv.Close(ctx)
	g.stop()
	g.runner.Close()
	g.done.Wait()
	return err
}
