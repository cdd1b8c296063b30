package kclient

import (
	"net"
	"testing"
	"time"
)

// What a cut loses is lost, in the direction that is cut and no other, and what is sent after it is healed arrives.
func TestCuts(t *testing.T) {
	RequireNet(t)
	n := NewNet(t)
	one, two := n.NewRack(t), n.NewRack(t)
	a, b, c := one.NewHost(t), one.NewHost(t), two.NewHost(t)
	hosts := map[*Host]*net.UDPConn{}
	for _, h := range []*Host{a, b, c} {
		err := h.Do(func() error {
			s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(h.Addr()), Port: 9})
			hosts[h] = s
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hosts[h].Close() })
	}
	send := func(from, to *Host, text string) {
		t.Helper()
		if _, err := hosts[from].WriteTo([]byte(text), &net.UDPAddr{IP: net.ParseIP(to.Addr()), Port: 9}); err != nil {
			t.Fatalf("send %s: %v", text, err)
		}
	}
	receive := func(at *Host, want string) {
		t.Helper()
		p := make([]byte, 100)
		_ = hosts[at].SetReadDeadline(time.Now().Add(30 * time.Second))
		k, err := hosts[at].Read(p)
		if err != nil || string(p[:k]) != want {
			t.Fatalf("received %q, %v; want %q", p[:k], err, want)
		}
	}
	through := func(from, to *Host, text string) {
		t.Helper()
		send(from, to, text)
		receive(to, text)
	}
	through(a, b, "before")
	through(a, c, "before")
	through(c, b, "before")

	a.Mute(t, b.Addr(), true)
	send(a, b, "lost")
	through(b, a, "other direction")
	through(a, c, "another")
	a.Mute(t, b.Addr(), false)
	through(a, b, "healed")

	one.Cut(t, true)
	send(a, c, "lost")
	send(c, b, "lost")
	through(a, b, "within the rack")
	one.Cut(t, false)
	through(a, c, "healed")
	through(c, b, "healed")

	b.Cut(t, true)
	send(a, b, "lost")
	send(b, c, "lost")
	through(c, a, "others")
	b.Cut(t, false)
	through(b, c, "healed")
	through(a, b, "healed")

	l := make(chan net.Listener, 1)
	if err := c.Do(func() error {
		x, err := net.Listen("tcp4", c.Addr()+":10")
		l <- x
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer (<-l).Close()
	// What is outside is reached, also right after ports of its bridge were taken away and given back.
	one.Cut(t, true)
	one.Cut(t, false)
	x, err := n.Dial(t.Context(), c.Addr()+":10")
	if err != nil {
		t.Fatal(err)
	}
	x.Close()
}
