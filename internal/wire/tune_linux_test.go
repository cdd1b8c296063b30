package wire

import (
	"context"
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// retransmission is the longest pause, in ms, between two tries of nc's kernel to send the same.
func retransmission(t *testing.T, nc net.Conn) int {
	t.Helper()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms int
	var got error
	if err := raw.Control(func(fd uintptr) { ms, got = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS) }); err != nil {
		t.Fatal(err)
	}
	if errors.Is(got, unix.ENOPROTOOPT) {
		t.Skip("this kernel has no TCP_RTO_MAX_MS (Linux 6.15)")
	}
	if got != nil {
		t.Fatal(got)
	}
	return ms
}

// Both ends try again each second, however long the network was away: what one has to say is not held back by what the other one has learned.
func TestRetransmission(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, mode := range []Mode{ModeInsecure, ModeTLS, ModeMAC} {
		h := start(t, mode, echo, ServerOptions{})
		ends := make(chan net.Conn, 2)
		c := h.clientVia(func(ctx context.Context) (net.Conn, error) {
			nc, err := Dialer("tcp", l.Addr().String())(ctx)
			if err != nil {
				return nil, err
			}
			there, err := l.Accept()
			if err != nil {
				return nil, err
			}
			go h.srv.ServeConn(there)
			ends <- nc
			ends <- there
			return nc, nil
		}, ClientOptions{SmallConns: 1})
		r, err := c.Call(testContext(t), opEcho, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		for _, end := range []string{"client", "server"} {
			if ms := retransmission(t, <-ends); ms != 1000 {
				t.Errorf("%v: %s: up to %d ms", mode, end, ms)
			}
		}
	}
}
