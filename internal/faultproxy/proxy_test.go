package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 5 * time.Minute

// pair is a connection through a proxy, and the proxy.
type pair struct {
	p              *Proxy
	client, server *net.TCPConn
	conn           *Conn
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ln := listen(t)
	p, err := Listen(To(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return connect(t, p, ln)
}

func connect(t *testing.T, p *Proxy, ln net.Listener) *pair {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, nc := range []net.Conn{c, s} {
		nc.SetDeadline(time.Now().Add(patience))
	}
	return &pair{p, c.(*net.TCPConn), s.(*net.TCPConn), p.Conns()[0]}
}

func random(n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(p)
	return p
}

// transfer sends p from one end to the other and checks that it arrives as it was.
func transfer(t *testing.T, from, to *net.TCPConn, p []byte) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := from.Write(p); err != nil {
			t.Error(err)
		}
	})
	got := make([]byte, len(p))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if !bytes.Equal(got, p) {
		t.Error("the bytes have changed")
	}
}

func (x *pair) bothWays(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { transfer(t, x.client, x.server, random(n)) })
	transfer(t, x.server, x.client, random(n+1))
	wg.Wait()
}

// nothing fails if bytes arrive at to before they may.
func nothing(t *testing.T, to *net.TCPConn) {
	t.Helper()
	to.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := to.Read(make([]byte, 1))
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v: want nothing", n, err)
	}
	to.SetReadDeadline(time.Now().Add(patience))
}

func TestPassesOn(t *testing.T) {
	x := newPair(t)
	x.bothWays(t, 5<<20)
	// The end of one stream is that of one only.
	x.client.CloseWrite()
	if _, err := x.server.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	transfer(t, x.server, x.client, random(100))
	x.server.CloseWrite()
	if _, err := x.client.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); len(x.p.Conns()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection is not forgotten")
		}
	}
}

// The lower bounds of a delay and of a limit hold whatever the machine does.
func TestDelayAndBandwidth(t *testing.T) {
	x := newPair(t)
	const delay = 100 * time.Millisecond
	x.p.Set(Conditions{Delay: delay}, ToTarget)
	start := time.Now()
	transfer(t, x.client, x.server, random(1<<20))
	if d := time.Since(start); d < delay {
		t.Fatalf("arrived after %v", d)
	}
	x.conn.Set(Conditions{BytesPerSecond: 1 << 20}, ToTarget)
	start = time.Now()
	transfer(t, x.client, x.server, random(200<<10))
	if d := time.Since(start); d < 190*time.Millisecond {
		t.Fatalf("200 KiB at 1 MiB/s took %v", d)
	}
	x.p.Set(Conditions{}, Both...)
	x.bothWays(t, 1<<20)
}

// What is sent into a partition arrives after it, in order; the other direction is not affected.
func TestHold(t *testing.T) {
	x := newPair(t)
	x.p.Set(Conditions{Hold: true}, ToTarget)
	if _, err := x.client.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	transfer(t, x.server, x.client, random(1<<20))
	nothing(t, x.server)
	if n := x.conn.Passed(ToTarget); n != 0 {
		t.Fatalf("%d bytes passed", n)
	}
	x.client.CloseWrite()
	nothing(t, x.server)
	x.p.Set(Conditions{}, ToTarget)
	got, err := io.ReadAll(x.server)
	if err != nil || string(got) != "late" {
		t.Fatalf("%q, %v", got, err)
	}
}

// A connection that is opened in a partition is made when it ends.
func TestHoldKeepsConnectionsAway(t *testing.T) {
	ln := listen(t)
	p, err := Listen(To(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.Set(Conditions{Hold: true}, FromTarget)
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if s, err := ln.Accept(); err == nil {
		s.Close()
		t.Fatal("connected through a partition")
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	p.Set(Conditions{}, Both...)
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	transfer(t, s.(*net.TCPConn), c.(*net.TCPConn), random(10))
}

// wantReset dials, and fails unless that, or the first read, is reset.
func wantReset(t *testing.T, p *Proxy) {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%v, want a reset", err)
	}
}

func TestCutAndRefuse(t *testing.T) {
	x := newPair(t)
	x.bothWays(t, 1000)
	x.p.Refuse(true)
	x.bothWays(t, 1000)
	x.p.Cut()
	for name, nc := range map[string]*net.TCPConn{"client": x.client, "server": x.server} {
		if _, err := nc.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
	wantReset(t, x.p)
	x.p.Refuse(false)
}

func TestHalfClose(t *testing.T) {
	x := newPair(t)
	x.bothWays(t, 1000)
	x.conn.HalfClose(FromTarget)
	if _, err := x.client.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("%v, want the end of the stream", err)
	}
	if _, err := x.server.Write(random(100)); err != nil { // dropped
		t.Fatal(err)
	}
	transfer(t, x.client, x.server, random(1<<20))
}

// Closing leaves no goroutine, whatever state connections are in; TestMain checks it.
func TestCloseInAnyState(t *testing.T) {
	ln := listen(t)
	fails := func(context.Context) (string, error) { return "", errors.New("down") }
	p, err := Listen(fails)
	if err != nil {
		t.Fatal(err)
	}
	wantReset(t, p)
	p.Close()
	for _, cond := range []Conditions{{}, {Hold: true}, {Delay: time.Hour}, {BytesPerSecond: 1}} {
		p, err := Listen(To(ln.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		x := connect(t, p, ln)
		p.Set(cond, Both...)
		var wg sync.WaitGroup
		wg.Go(func() { x.client.Write(random(4 << 20)) })
		wg.Go(func() { x.server.Write(random(4 << 20)) })
		p.Close()
		wg.Wait()
	}
}
