package cloudimport

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

func TestPublic(t *testing.T) {
	for s, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "52.216.0.1": true, "2606:4700::1": true, "2a00:1450::1": true, "172.15.255.255": true, "172.32.0.0": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "127.9.9.9": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false, "192.0.0.1": false, "198.18.0.1": false, "224.0.0.1": false, "239.1.1.1": false, "255.255.255.255": false, "240.0.0.1": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "fec0::1": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false,
		"64:ff9b::7f00:1": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2001:0:1::1": false, "2001:db8::1": false, "100::1": false, "5f00::1": false,
	} {
		if got := public(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s is public: %v", s, got)
		}
	}
}

func TestReach(t *testing.T) {
	r, err := ParseReach([]string{"10.1.0.0/16", "::ffff:10.2.0.0/112", "127.0.0.1", "fd00::/8", "minio.example.com", "*.Internal.Example.COM."})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, addr string
		secure     bool
		ok         bool
	}{
		{"s3.amazonaws.com", "52.216.0.1", true, true},
		{"s3.amazonaws.com", "52.216.0.1", false, false}, // without TLS
		{"s3.amazonaws.com", "169.254.169.254", true, false},
		{"x", "10.1.2.3", false, true}, {"x", "::ffff:10.1.2.3", false, true}, {"x", "10.2.2.3", false, true}, {"x", "10.3.0.1", true, false},
		{"127.0.0.1", "127.0.0.1", false, true}, {"127.0.0.2", "127.0.0.2", false, false}, {"x", "fd12::1", true, true}, {"x", "fe80::1", true, false},
		{"minio.example.com", "192.168.0.1", false, true}, {"MINIO.example.com.", "192.168.0.1", false, true}, {"a.minio.example.com", "192.168.0.1", false, false},
		{"a.internal.example.com", "192.168.0.1", false, true}, {"internal.example.com", "192.168.0.1", false, false}, {"ainternal.example.com", "192.168.0.1", false, false},
	} {
		err := r.Check(c.host, netip.MustParseAddr(c.addr), c.secure)
		if (err == nil) != c.ok || err != nil && (vfs.KindOf(err) != vfs.KindPerm || !strings.Contains(err.Error(), "import.allow")) {
			t.Errorf("%s at %s, TLS %v: %v, allowed: %v", c.host, c.addr, c.secure, err, c.ok)
		}
	}
	for _, c := range []struct{ host, addr, says string }{
		{"vault.corp", "10.9.2.3", "vault.corp is at an internal address"}, {"vault.corp", "fe80::1", "vault.corp is at an internal address"},
		{"10.9.2.3", "10.9.2.3", "10.9.2.3 is an internal address"}, {"::ffff:10.9.2.3", "10.9.2.3", "10.9.2.3 is an internal address"}, {"", "10.9.2.3", "10.9.2.3 is an internal address"},
	} {
		err := r.Check(c.host, netip.MustParseAddr(c.addr), true)
		if err == nil || !strings.Contains(err.Error(), c.says) || c.host == "vault.corp" && strings.Contains(err.Error(), c.addr) {
			t.Errorf("%s at %s: %v, want %q, and of a name no address", c.host, c.addr, err, c.says)
		}
	}
	for _, s := range []string{"", "10.0.0.0/33", "10.0.0", "a b", "http://x", "x:80", "*", "*.", "a..b", "fe80::1%eth0", "a/b"} {
		if _, err := ParseReach([]string{s}); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// The address is looked at when it is connected to, under whatever name it came.
func TestDialer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	none, _ := ParseReach(nil)
	for _, host := range []string{"localhost", "127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"} {
		if c, err := none.dialer(true)(context.Background(), "tcp", net.JoinHostPort(host, port)); err == nil || !strings.Contains(err.Error(), "internal address") {
			t.Errorf("%s: %v %v", host, c, err)
		}
	}
	for _, allow := range []string{"localhost", "127.0.0.0/8"} {
		r, err := ParseReach([]string{allow, "::1"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.dialer(false)(context.Background(), "tcp", net.JoinHostPort("localhost", port))
		if err != nil {
			t.Errorf("allowed %s: %v", allow, err)
			continue
		}
		c.Close()
	}
}
