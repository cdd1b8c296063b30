package cloudimport

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Reach says which addresses may be called: public ones, and those that the operator allows.
type Reach struct {
	nets  []netip.Prefix
	hosts []string     // in lower case; "*.example.com" is every name below example.com
	log   *slog.Logger // is told the addresses that are refused; nil: nobody is
}

// ParseReach reads what an operator allows: networks, addresses, names of hosts, and "*.example.com".
func ParseReach(allow []string) (r Reach, err error) {
	for _, s := range allow {
		bad := vfs.Errorf(vfs.KindInvalid, "import.allow", "%q: write a network such as 10.1.0.0/16, an address, or the name of a host without its port, such as minio.example.com or *.example.com", clip(s))
		if p, err := netip.ParsePrefix(s); err == nil {
			r.nets = append(r.nets, unmapPrefix(p))
			continue
		}
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			r.nets = append(r.nets, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		name := strings.ToLower(strings.TrimSuffix(s, "."))
		for label := range strings.SplitSeq(strings.TrimPrefix(name, "*."), ".") {
			if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				return Reach{}, bad
			}
		}
		if strings.Trim(name, "0123456789./") == "" {
			return Reach{}, bad // an address that is none
		}
		r.hosts = append(r.hosts, name)
	}
	return r, nil
}

func unmapPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(a.Unmap(), p.Bits()-96).Masked()
	}
	return p.Masked()
}

// special are networks that are not the public internet (IANA's registries of special purpose addresses), or lead into another address (6to4, NAT64, Teredo).
func special() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// public6 are the addresses of IPv6 that are given to anybody.
func public6() netip.Prefix { return netip.MustParsePrefix("2000::/3") }

// public reports whether an address is one of the internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if a.Zone() != "" || a.Is6() && !public6().Contains(a) {
		return false
	}
	for _, p := range special() {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// allows reports whether the operator allows an address under a name.
func (r *Reach) allows(host string, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range r.nets {
		if p.Contains(a) {
			return true
		}
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, h := range r.hosts {
		if below, any := strings.CutPrefix(h, "*"); h == host || any && strings.HasSuffix(host, below) && len(host) > len(below) {
			return true
		}
	}
	return false
}

// Check refuses a connection. Who asked for it is told no more than the host that he named: what internal names lead to is the operator's.
func (r *Reach) Check(host string, a netip.Addr, secure bool) error {
	const op = "import"
	if r.allows(host, a) {
		return nil
	}
	switch {
	case !public(a):
		what := host + " is at"
		if _, err := netip.ParseAddr(host); err == nil || host == "" {
			what = a.Unmap().String() + " is"
		}
		return vfs.Errorf(vfs.KindPerm, op, "%s an internal address: imports come from public ones, and from those that an operator allows (import.allow of the gateway's configuration, --import-allow of rackfs dev)", what)
	case !secure:
		return vfs.Errorf(vfs.KindPerm, op, "%s: without TLS, by http://, imports come only from addresses that an operator allows (import.allow): use https://", host)
	}
	return nil
}

// Permits refuses a source whose endpoint is an address that may not be reached. What a name leads to is seen when it is called.
func (r *Reach) Permits(s *Source) error {
	a, ok := s.literal()
	if !ok {
		return nil
	}
	return r.Check(a.String(), a, strings.HasPrefix(s.Endpoint, "https:"))
}

const (
	dialTimeout = 10 * time.Second
	keepAlive   = 30 * time.Second
)

// dialer connects for a transport; every address that a name has is looked at when it is about to be used.
func (r *Reach) dialer(secure bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "import", "address %q: %w", clip(addr), err)
		}
		d := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive, ControlContext: func(_ context.Context, _, to string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(to)
			if err != nil {
				return vfs.Errorf(vfs.KindPerm, "import", "address %q: %w", to, err)
			}
			err = r.Check(host, at.Addr(), secure)
			if err != nil && r.log != nil {
				r.log.Warn("import refused: its endpoint may not be called", "host", host, "address", at.Addr().Unmap())
			}
			return err
		}}
		return d.DialContext(ctx, network, addr)
	}
}
