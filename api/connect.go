package api

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/vfs"
)

// Endpoint is a gateway's API on the network.
type Endpoint struct {
	URL   string // https://HOST:PORT
	Token string
	// CA is the SHA-256 of the cluster's CA certificate in hex, as `rackfs dev` prints it: a gateway with a certificate of that CA is trusted. "": the
	// certificate has to be one that this machine trusts.
	CA string
}

// Connect is a client of an API on the network; nothing is connected yet. Without TLS a token is sent to this machine only.
func Connect(e Endpoint) (*Client, error) {
	const op = "connect"
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%q: write https://HOST:PORT", e.URL)
	}
	if u.Scheme == "http" {
		ip, err := netip.ParseAddr(u.Hostname())
		if u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
			return nil, vfs.Errorf(vfs.KindPerm, op, "%s: without TLS everybody on the way could read the token: write https://", e.URL)
		}
	}
	d := &dialer{net: net.Dialer{Timeout: 10 * time.Second}, tls: &tls.Config{MinVersion: tls.VersionTLS12}, buffers: newBulkBuffers(), gathers: newGathers()}
	tr := &http.Transport{DialContext: d.dial, DialTLSContext: d.dialTLS, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, ExpectContinueTimeout: patienceWithLeave, WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10}
	if e.CA != "" {
		d.tls = pki.PinnedTLS(strings.ToLower(strings.ReplaceAll(e.CA, ":", "")), "gateway", time.Now, func([]byte) {})
	}
	// A token goes to whom it was meant for, wherever that points.
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{http: &http.Client{Transport: tr, CheckRedirect: refuse}, base: strings.TrimSuffix(e.URL, "/"), token: e.Token}, nil
}
