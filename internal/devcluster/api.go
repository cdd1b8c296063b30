package devcluster

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/httpgate"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/web"
)

const (
	// tokenFile holds the token that `rackfs dev` prints, for its owner only.
	tokenFile = "api-token"
	// tokenName is its name in the list of tokens.
	tokenName = "dev"
	maxToken  = 256 // bytes
)

// serveAPI serves the API: to who may open the socket, and, with tokens, to the network.
func (c *Cluster) serveAPI(ctx context.Context) (err error) {
	socket, err := api.Listen(c.dir.sub(api.SocketName))
	if err != nil {
		return err
	}
	if c.audit, err = accounts.OpenAudit(c.dir.sub(accounts.AuditName), c.log); err != nil {
		socket.Close()
		return vfs.Wrap("audit log", err)
	}
	reach, err := cloudimport.ParseReach(c.cfg.ImportAllow)
	if err != nil {
		socket.Close()
		return err
	}
	imports := cloudimport.New(cloudimport.Options{
		Reach: reach, Key: func(context.Context) ([]byte, error) { return c.ca.Derive(cloudimport.KeyLabel) }, Logger: c.log,
	})
	a := api.New(api.Options{
		Meta: c.meta, Cluster: admin{c}, Maintenance: c.Maintenance(), Release: release(), Gateways: c.NFSAddrs,
		Files: func() api.Files { return c.gateway }, Imports: imports, Audit: c.audit, Logger: c.log,
	})
	c.admin = api.Serve(socket, api.Profiles(a), c.log)
	gate := httpgate.Config{Meta: c.meta, Gateway: c.gateway, API: a, Imports: imports, Recheck: c.cfg.recheck, Logger: c.log}
	if c.apiLn == nil {
		c.gate = httpgate.Start(gate)
		return nil
	}
	gate.Listener, gate.Web = c.apiLn, web.Handler()
	gate.TLS, err = httpgate.TLS(c.cfg.APIAddr, c.cfg.APICert, c.cfg.APIKey, c.apiTLS)
	if err != nil {
		return err
	}
	c.gate = httpgate.Start(gate)
	c.token, err = c.ownToken(ctx)
	return err
}

// apiTLS is the gateway's certificate, with the addresses of this machine.
func (c *Cluster) apiTLS() (*tls.Config, error) {
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				ips = append(ips, n.IP)
			}
		}
	}
	id, err := c.ca.Issue(gatewayName, []string{blockstore.RoleGateway}, ips, time.Now())
	if err != nil {
		return nil, err
	}
	return id.PublicTLS(), nil
}

// ownToken is the token in the data directory, made if there is none or it was revoked. "" below the feature level that has tokens.
func (c *Cluster) ownToken(ctx context.Context) (string, error) {
	path := c.dir.sub(tokenFile)
	raw, err := vfile.ReadFile(c.dir.files, path, maxToken)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", vfs.Wrap("token", err)
	}
	secret := strings.TrimSpace(string(raw))
	if secret != "" {
		_, err := accounts.NewAuthenticator(c.meta, time.Now).Check(ctx, secret, netip.Addr{})
		if err == nil || vfs.KindOf(err) != vfs.KindUnauthorized {
			return secret, err
		}
	}
	if _, err := accounts.RevokeToken(ctx, c.meta, accounts.Operator(), tokenName); err != nil && vfs.KindOf(err) != vfs.KindNotFound {
		return "", err
	}
	secret, _, err = accounts.CreateToken(ctx, c.meta, accounts.Operator(), accounts.NewToken{Name: tokenName, Role: accounts.Admin}, time.Now())
	if vfs.KindOf(err) == vfs.KindNotSupported {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return secret, os.WriteFile(path, []byte(secret+"\n"), 0o600)
}

// APIURL is where the API is served to the network, "" if nowhere.
func (c *Cluster) APIURL() string { return c.gate.URL() }

// CAFingerprint is the SHA-256 of the cluster's CA certificate, by which clients of the API trust it.
func (c *Cluster) CAFingerprint() string { return c.ca.Fingerprint() }

// Token is a token that may do everything; "" if there is none.
func (c *Cluster) Token() string { return c.token }

// apiStatus is how status tells of it.
type apiStatus struct {
	URL string `json:"url"`
	TLS bool   `json:"tls"`
}
