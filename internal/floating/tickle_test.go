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

	"github.com/rackfs/rackfs/internal/kclient"
)

// patience ends a test that hangs.
const patience = 5 * time.Minute

// family is where tests of one are done: those of IPv6 in a network of their own, for the machine may have none.
type family struct {
	here, elsewhere netip.Addr
	do              func(func() error) error
}

func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	t.Run("IPv4", func(t *testing.T) {
		test(t, family{netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("127.0.0.9"), func(f func() error) error { return f() }})
	})
	t.Run("IPv6", func(t *testing.T) {
		kclient.RequireNet(t)
		h := kclient.NewNet(t).NewRack(t).NewHost(t)
		h.AddIPv6(t)
		test(t, family{netip.IPv6Loopback(), netip.MustParseAddr(kclient.Network6 + "ff"), h.Do})
	})
}

// listen is a listener whose connections c knows.
func (f family) listen(t *testing.T, c *Connections) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := f.do(func() (err error) {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(f.here, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return c.Listen(ln)
}

// pair is a connection of a client with the listener.
func (f family) pair(t *testing.T, ln net.Listener) (client, server net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- nc
	}()
	if err := f.do(func() (err error) {
		client, err = net.Dial("tcp", ln.Addr().String())
		return err
	}); err != nil {
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
func TestConnections(t *testing.T) { eachFamily(t, testConnections) }

func testConnections(t *testing.T, f family) {
	var c Connections
	ln, here := f.listen(t, &c), f.here
	_, changed := c.list(here, 10)
	is := func(limit int, want ...connection) {
		t.Helper()
		items, _ := c.list(here, limit)
		got := decodeItems(here, items)
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
	a, serverOfA := f.pair(t, ln)
	<-changed
	b, _ := f.pair(t, ln)
	is(10, of(a), of(b))
	if items, _ := c.list(here, 1); len(items) != itemLen(here) {
		t.Errorf("%d bytes with a limit of one", len(items))
	}
	_, changed = c.list(here, 10)
	serverOfA.Close()
	serverOfA.Close()
	<-changed
	is(10, of(b))
	if items, _ := c.list(f.elsewhere, 10); len(items) != 0 {
		t.Error("another address has the connections of this one")
	}
	c.end(here)
	is(10)
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was ended: %v", err)
	}
	if decodeItems(here, make([]byte, itemLen(here)+1)) != nil {
		t.Error("a list that is none was taken")
	}
}

// A client whose server is gone without a word learns it from the segment; one that is connected, and one that is not there, are not hurt.
func TestTickle(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs CAP_NET_RAW and CAP_NET_ADMIN")
	}
	eachFamily(t, testTickle)
}

func testTickle(t *testing.T, f family) {
	var c Connections
	ln, here := f.listen(t, &c), f.here
	lost, dead := f.pair(t, ln)
	alive, server := f.pair(t, ln)
	items, _ := c.list(here, 10)
	list := decodeItems(here, items)
	// A socket under repair is closed without a segment (tcp(7), TCP_REPAIR): as if its machine had died.
	raw, err := dead.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) }); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	dead.Close()
	list = append(list, connection{port: list[0].port, peer: netip.AddrPortFrom(f.elsewhere, 9)})
	ended := make(chan error, 1)
	go func() {
		_, err := lost.Read(make([]byte, 1))
		ended <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for done := false; !done; {
		if err := f.do(func() error { return tickle(here, list) }); err != nil {
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
