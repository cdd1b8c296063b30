package floating

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

// The frames and segments are those of the standards, with their checksums.
func TestFrames(t *testing.T) {
	mac := [6]byte{0x02, 0, 0, 0xaa, 0xbb, 0xcc}
	v4, v6 := netip.MustParseAddr("10.0.0.50"), netip.MustParseAddr("fd00:10::50")
	frame := func(a netip.Addr) string {
		_, _, f := announcement(mac, a)
		return hex.EncodeToString(f)
	}
	segment := func(from netip.Addr, to string) string {
		return hex.EncodeToString(tickleSegment(from, connection{2049, netip.MustParseAddrPort(to)}, 0x01020304))
	}
	for _, c := range []struct{ what, got, want string }{
		{"gratuitous ARP", frame(v4), "ffffffffffff 020000aabbcc 0806" + "0001 0800 06 04 0001" + "020000aabbcc 0a000032" + "000000000000 0a000032"},
		{"neighbour advertisement", frame(v6), "333300000001 020000aabbcc 86dd" +
			"60000000 0020 3a ff fd000010000000000000000000000050 ff020000000000000000000000000001" +
			"88 00 9d67 20000000 fd000010000000000000000000000050 0201 020000aabbcc"},
		{"segment of IPv4", segment(v4, "10.0.0.9:700"), "4500 0028 00000000 40 06 0000 0a000032 0a000009" +
			"0801 02bc 01020304 00000000 50 10 0400 88d7 0000"},
		{"segment of IPv6", segment(v6, "[fd00:10::9]:700"), "60000000 0014 06 40 fd000010000000000000000000000050 fd000010000000000000000000000009" +
			"0801 02bc 01020304 00000000 50 10 0400 a297 0000"},
	} {
		if want := strings.ReplaceAll(c.want, " ", ""); c.got != want {
			t.Errorf("%s:\n%s, want\n%s", c.what, c.got, want)
		}
	}
}

// Lists of connections are of the family of their address, also those that others made up.
func TestItems(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.50"), netip.MustParseAddr("fd00:10::50")
	for _, c := range []struct {
		at   netip.Addr
		peer string
		item string
	}{
		{v4, "10.0.0.9:700", "0801 0a000009 02bc"},
		{v6, "[fd00:10::9]:700", "fd000010000000000000000000000009 0801 02bc 00000000"},
	} {
		k := connection{2049, netip.MustParseAddrPort(c.peer)}
		b := appendItem(nil, k)
		if got := hex.EncodeToString(b); got != strings.ReplaceAll(c.item, " ", "") {
			t.Errorf("%v: %s, want %s", k, got, c.item)
		}
		if got := decodeItems(c.at, append(b, b...)); len(got) != 2 || got[0] != k || got[1] != k {
			t.Errorf("%v twice is %v", k, got)
		}
	}
	mapped := appendItem(nil, connection{2049, netip.MustParseAddrPort("[::ffff:10.0.0.9]:700")})
	if got := decodeItems(v6, mapped); len(got) != 0 {
		t.Errorf("%v is connected at an address of IPv6", got)
	}
}

// interfaceAddr is what ip(8) says of an address.
type interfaceAddr struct {
	Local      string
	Prefixlen  int
	Tentative  bool
	Deprecated bool
	Valid      uint64 `json:"valid_life_time"`
}

// An address is at one machine, then at another one: a neighbour that sends nothing learns that from what the second one sends. It answers, is not chosen for
// connections that the machine begins, changes no route, and goes by itself.
func TestAddressOfInterface(t *testing.T) {
	kclient.RequireNet(t)
	rack := kclient.NewNet(t).NewRack(t)
	former, next, neighbour := rack.NewHost(t), rack.NewHost(t), rack.NewHost(t)
	of6 := map[*kclient.Host]string{}
	for _, h := range []*kclient.Host{former, next, neighbour} {
		of6[h] = h.AddIPv6(t)
	}
	ip := func(h *kclient.Host, args ...string) []byte {
		t.Helper()
		var out []byte
		if err := h.Do(func() (err error) {
			out, err = exec.CommandContext(t.Context(), "ip", args...).Output()
			return err
		}); err != nil {
			t.Fatalf("ip %v: %v", args, err)
		}
		return out
	}
	for _, c := range []struct {
		prefix, neighbour string
	}{
		{"10.77.0.240/24", neighbour.Addr()},
		{fmt.Sprintf("%sf0/%d", kclient.Network6, kclient.Prefix6Bits), of6[neighbour]},
	} {
		p := netip.MustParsePrefix(c.prefix)
		a := p.Addr()
		in := func(h *kclient.Host, f func(i *net.Interface) error) {
			t.Helper()
			if err := h.Do(func() error {
				i, err := interfaceOf(p)
				if err != nil {
					return err
				}
				return f(i)
			}); err != nil {
				t.Fatal(err)
			}
		}
		put := func(i *net.Interface) error { return putAddress(i.Index, a, lifetime) }
		mac := func(h *kclient.Host) (mac string) {
			in(h, func(i *net.Interface) error {
				mac = i.HardwareAddr.String()
				return nil
			})
			return mac
		}
		knows := func() string {
			var entries []struct{ Lladdr string }
			if b := ip(neighbour, "-j", "neigh", "show", "to", a.String()); json.Unmarshal(b, &entries) != nil || len(entries) != 1 {
				t.Fatalf("what the neighbour knows of %v: %s", a, b)
			}
			return entries[0].Lladdr
		}
		shown := func(h *kclient.Host) []interfaceAddr {
			var links []struct {
				Addrs []interfaceAddr `json:"addr_info"`
			}
			if b := ip(h, "-j", "addr", "show", "to", a.String()); json.Unmarshal(b, &links) != nil {
				t.Fatalf("addresses: %s", b)
			}
			for _, l := range links {
				if len(l.Addrs) > 0 {
					return l.Addrs
				}
			}
			return nil
		}
		routes := func() string {
			return string(ip(next, "-"+map[bool]string{true: "4", false: "6"}[a.Is4()], "route", "show", "root", p.Masked().String()))
		}

		in(former, put)
		for { // it is there at once, but for a machine that takes longer than its lifetime
			_, err := neighbour.Dial(t.Context(), netip.AddrPortFrom(a, 9).String())
			if errors.Is(err, syscall.ECONNREFUSED) {
				break
			}
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
			in(former, put)
		}
		if got := knows(); got != mac(former) {
			t.Fatalf("the neighbour finds %v at %s, want %s", a, got, mac(former))
		}
		in(former, func(i *net.Interface) error {
			if err := removeAddress(i.Index, a); err != nil {
				return err
			}
			return removeAddress(i.Index, a) // no error
		})

		before := routes()
		if !strings.Contains(before, p.Masked().String()) {
			t.Fatalf("routes of %v: %s", p.Masked(), before)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for knows() != mac(next) {
			in(next, put) // renews it too
			in(next, func(i *net.Interface) error { return announce(i, a) })
			if !pause(ctx, 10*time.Millisecond) {
				t.Fatalf("the neighbour does not learn where %v is", a)
			}
		}
		in(next, put)
		if got := routes(); got != before {
			t.Errorf("routes with %v:\n%s, without\n%s", a, got, before)
		}
		if all := shown(next); len(all) == 1 { // else it is gone already
			s := all[0]
			if s.Prefixlen != a.BitLen() || s.Tentative || s.Deprecated != a.Is6() || s.Valid > uint64(lifetime/time.Second) {
				t.Errorf("%v is %+v", a, s)
			}
		}
		var ln net.Listener
		if err := neighbour.Do(func() (err error) {
			ln, err = net.Listen("tcp", net.JoinHostPort(c.neighbour, "0"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		in(next, put)
		nc, err := next.Dial(ctx, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if from, _ := addrPort(nc.LocalAddr()); from.Addr() == a {
			t.Errorf("a connection that the machine begins is from %v", a)
		}
		nc.Close()
		ln.Close()
		for len(shown(next)) > 0 { // its lifetime ends
			if !pause(ctx, 100*time.Millisecond) {
				t.Fatalf("%v stays", a)
			}
		}
		cancel()
	}
}
