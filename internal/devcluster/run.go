package devcluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
)

// Run starts a cluster, tells on out how to mount it, and stops it cleanly
// when ctx ends. A clean stop is a nil error.
func Run(ctx context.Context, cfg Config, out io.Writer, stopTimeout time.Duration) error {
	c, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	c.announce(out)
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-c.failed:
	}
	fmt.Fprintln(out, "rackfs stopping")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := c.Close(stop); failed == nil && err != nil {
		return fmt.Errorf("stop: %w (nothing acknowledged is lost)", err)
	}
	if failed == nil {
		fmt.Fprintln(out, "rackfs stopped")
	}
	return failed
}

// announce prints what a newcomer needs. `rackfs ready` is a line of its own:
// scripts wait for it.
func (c *Cluster) announce(out io.Writer) {
	host, port, _ := net.SplitHostPort(c.NFSAddr())
	client := host
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		// A listener on every address is reached here by loopback.
		client = "127.0.0.1"
		if ip.Is6() && !ip.Is4In6() {
			client = "::1"
		}
	}
	target := client
	if ip, err := netip.ParseAddr(client); err == nil && ip.Is6() {
		target = "[" + client + "]"
	}
	fmt.Fprintln(out, "rackfs ready")
	fmt.Fprintf(out, "  data       %s (profile %s, %d metadata voters, %d block stores)\n", c.cfg.DataDir, c.dir.shape.Profile, c.dir.shape.Voters, c.dir.shape.BlockStores)
	for _, e := range c.gateway.Exports() {
		fmt.Fprintf(out, "  mount      mount -t nfs -o vers=4.2,proto=tcp,port=%s %s:%s /mnt/rackfs\n", port, target, e.Path)
	}
	for i, addr := range c.NFSAddrs()[1:] {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			fmt.Fprintf(out, "  gateway-%d  the same at port %s\n", i+2, port)
		}
	}
	if c.nfs3 != nil {
		if _, port, err := net.SplitHostPort(c.NFS3Addr()); err == nil {
			fmt.Fprintf(out, "  read only  mount -t nfs -o vers=3,ro,nolock,proto=tcp,port=%s,mountport=%s %s:%s /mnt/rackfs\n", port, port, target, c.gateway.Exports()[0].Path)
		}
	}
	if c.local != nil {
		host, port, _ := net.SplitHostPort(c.localLn.Addr().String())
		for _, v := range c.local.Volumes() {
			fmt.Fprintf(out, "  mount      mount -t nfs -o vers=4.2,proto=tcp,port=%s %s:%s /mnt/scratch   (local: unreplicated, for this machine only)\n", port, host, v.Path)
		}
	}
	fmt.Fprintf(out, "  may mount  %s\n", describe(c.cfg.allowed()))
	if c.http != nil {
		fmt.Fprintf(out, "  status     http://%s/status, /metrics, /healthz\n", c.HTTPAddr())
	}
	if c.APIURL() != "" {
		fmt.Fprintf(out, "  dashboard  %s/ (log in with the token)\n", c.APIURL())
		fmt.Fprintf(out, "  api        %s\n", c.APIURL())
		if c.token != "" {
			fmt.Fprintf(out, "  token      %s\n", c.token)
		}
		if strings.HasPrefix(c.APIURL(), "https:") && c.cfg.APICert == "" {
			fmt.Fprintf(out, "  ca         %s (SHA-256 of %s)\n", c.ca.Fingerprint(), filepath.Join(c.dir.sub("pki"), pki.CACertFile))
		}
	}
	fmt.Fprintf(out, "  stop       Ctrl-C, or kill -TERM %d\n", os.Getpid())
}

func describe(allow []netip.Prefix) string {
	s := ""
	for i, p := range allow {
		if i > 0 {
			s += ", "
		}
		s += p.String()
	}
	return s
}
