// Package httpgate serves the HTTP API of a gateway to the network: over TLS, but for addresses of this machine only. `rackfs dev` and nodes use it alike.
//
// # TLS
//
// A gateway that listens on a loopback address speaks plain HTTP, unless it has a certificate of its own: nobody else can listen in there. All others speak TLS,
// with the configured certificate, else with the node's own, which is of the cluster's CA; the CA's certificate is sent along, so that a client who
// knows its fingerprint can verify the gateway (pki.PinnedTLS).
package httpgate

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

// Config of a Gate. The listener is the gate's from then on.
type Config struct {
	Listener net.Listener
	API      *api.API
	Web      http.Handler // what is not below /api/; nil: nothing
	TLS      *tls.Config  // nil: plain HTTP
	Logger   *slog.Logger
}

// Gate serves.
type Gate struct {
	cfg Config
	srv *api.Server
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
	ln := c.Listener
	if c.TLS != nil {
		ln = tls.NewListener(ln, c.TLS)
	}
	return &Gate{cfg: c, srv: api.Serve(ln, c.API.Public(c.Web), c.Logger)}
}

// URL is where it is reached, by the address that it listens on.
func (g *Gate) URL() string {
	if g == nil {
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
	return g.srv.Close(ctx)
}
