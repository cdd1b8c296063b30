package floating

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience ends a test that hangs.
const patience = 5 * time.Minute

// pair is a connection of a client with the listener.
func pair(t *testing.T, ln net.Listener) (client, server net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- nc
	}()
	client, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() { client.Close() })
	if server == nil {
		t.FailNow()
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// What is connected at an address is listed, and those who follow the list hear of each change.
func TestConnections(t *testing.T) {
	var c Connections
	ln, err := net.Listen("tcp4", "127.0.0.7:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ln = c.Listen(ln)
	here := netip.MustParseAddr("127.0.0.7")
	_, changed := c.list(here, 10)
	is := func(limit int, want ...connection) {
		t.Helper()
		items, _ := c.list(here, limit)
		got := decodeItems(items)
		slices.SortFunc(got, func(a, b connection) int { return a.peer.Compare(b.peer) })
		slices.SortFunc(want, func(a, b connection) int { return a.peer.Compare(b.peer) })
		if !slices.Equal(got, want) {
			t.Errorf("connections %v, want %v", got, want)
		}
	}
	of := func(client net.Conn) connection {
		p, _ := addrPort(client.LocalAddr())
		return connection{port: uint16(ln.Addr().(*net.TCPAddr).Port), peer: p}
	}
	a, serverOfA := pair(t, ln)
	<-changed
	b, _ := pair(t, ln)
	is(10, of(a), of(b))
	if items, _ := c.list(here, 1); len(items) != itemLen {
		t.Errorf("%d bytes with a limit of one", len(items))
	}
	_, changed = c.list(here, 10)
	serverOfA.Close()
	serverOfA.Close()
	<-changed
	is(10, of(b))
	if items, _ := c.list(netip.MustParseAddr("127.0.0.8"), 10); len(items) != 0 {
		t.Error("another address has the connections of this one")
	}
	c.end(here)
	is(10)
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was ended: %v", err)
	}
	if decodeItems(make([]byte, itemLen+1)) != nil {
		t.Error("a list that is none was taken")
	}
}

// A client whose server is gone without a word learns it from the segment; one that is connected, and one that is not there, are not hurt.
func TestTickle(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs CAP_NET_RAW and CAP_NET_ADMIN")
	}
	ln, err := net.Listen("tcp4", "127.0.0.7:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var c Connections
	ln = c.Listen(ln)
	lost, dead := pair(t, ln)
	alive, server := pair(t, ln)
	here := netip.MustParseAddr("127.0.0.7")
	items, _ := c.list(here, 10)
	list := decodeItems(items)
	// A socket under repair is closed without a segment (tcp(7), TCP_REPAIR): as if its machine had died.
	raw, err := dead.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) }); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	dead.Close()
	list = append(list, connection{port: list[0].port, peer: netip.MustParseAddrPort("127.0.0.9:9")})
	ended := make(chan error, 1)
	go func() {
		_, err := lost.Read(make([]byte, 1))
		ended <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for done := false; !done; {
		if err := tickle(here, list); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client of a server that is gone: %v", err)
			}
			done = true
		case <-time.After(tickleEvery):
		case <-ctx.Done():
			t.Fatal("the client does not notice")
		}
	}
	if _, err := server.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(alive, make([]byte, 1)); err != nil {
		t.Errorf("a connection that goes on: %v", err)
	}
}
