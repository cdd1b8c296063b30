package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

func TestReplies(t *testing.T) {
	f := start(t, rpc.Config{})
	none := []uint32{0, 0, 0, 0}
	call := func(w ...uint32) []byte { return words(append([]uint32{7, 0}, w...)...) }
	sys := func(flavor uint32, body ...uint32) []uint32 {
		return append(append([]uint32{flavor, uint32(4 * len(body))}, body...), 0, 0)
	}
	for _, tc := range []struct {
		name string
		send []byte
		want []byte
	}{
		{"NULL", call(append([]uint32{2, progTest, 3, 0}, none...)...), words(7, 1, 0, 0, 0, 0)},
		{"echo", append(call(append([]uint32{2, progTest, 4, procEcho}, none...)...), words(1, 2, 3)...), words(7, 1, 0, 0, 0, 0, 1, 2, 3)},
		{"RPC_MISMATCH (RFC 5531, 9)", call(3, progTest), words(7, 1, 1, 0, 2, 2)},
		{"PROG_UNAVAIL", call(append([]uint32{2, progTest + 9, 3, 0}, none...)...), words(7, 1, 0, 0, 0, 1)},
		{"PROG_MISMATCH", call(append([]uint32{2, progTest, 2, 0}, none...)...), words(7, 1, 0, 0, 0, 2, 3, 4)},
		{"PROC_UNAVAIL", call(append([]uint32{2, progTest, 3, 99}, none...)...), words(7, 1, 0, 0, 0, 3)},
		{"GARBAGE_ARGS", call(append([]uint32{2, progTest, 3, procBad}, none...)...), words(7, 1, 0, 0, 0, 4)},
		{"AUTH_SYS", call(append([]uint32{2, progTest, 3, procWho}, sys(1, 99, 3, 0x61626300, 10, 20, 2, 30, 40)...)...),
			words(7, 1, 0, 0, 0, 0, 10, 20, 2, 30, 40, 3, 0x61626300)},
		{"AUTH_NONE is nobody", call(append([]uint32{2, progTest, 3, procWho}, none...)...),
			words(7, 1, 0, 0, 0, 0, rpc.Anonymous, rpc.Anonymous, 0, 0)},
		{"AUTH_SYS too short", call(append([]uint32{2, progTest, 3, procWho}, sys(1, 99, 3, 0x61626300, 10)...)...), words(7, 1, 1, 1, 1)},
		{"AUTH_SYS with trailing bytes", call(append([]uint32{2, progTest, 3, procWho}, sys(1, 99, 0, 10, 20, 0, 5)...)...), words(7, 1, 1, 1, 1)},
		{"AUTH_SYS with 17 groups", call(append([]uint32{2, progTest, 3, procWho}, sys(1, 99, 0, 10, 20, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)...)...), words(7, 1, 1, 1, 1)},
		{"AUTH_SHORT: AUTH_REJECTEDCRED", call(append([]uint32{2, progTest, 3, 0}, sys(2)...)...), words(7, 1, 1, 1, 2)},
		{"RPCSEC_GSS: AUTH_BADCRED", call(append([]uint32{2, progTest, 3, 0}, sys(6)...)...), words(7, 1, 1, 1, 1)},
		{"AUTH_TLS without TLS (RFC 9289, 4.1)", call(append([]uint32{2, progTest, 3, 0}, sys(7)...)...), words(7, 1, 1, 1, 1)},
		{"verifier: AUTH_BADVERF", call(2, progTest, 3, 0, 0, 0, 1, 0), words(7, 1, 1, 1, 3)},
	} {
		for _, fragment := range []int{1 << 20, 16, 5, 1} {
			t.Run(fmt.Sprintf("%s/fragments of %d", tc.name, fragment), func(t *testing.T) {
				nc := f.raw(t)
				if _, err := nc.Write(record(tc.send, fragment)); err != nil {
					t.Fatal(err)
				}
				if got := readRecord(t, nc); !bytes.Equal(got, tc.want) {
					t.Errorf("reply %x, want %x", got, tc.want)
				}
			})
		}
	}
}

// What is not ONC RPC ends the connection, whatever was announced.
func TestGarbageClosesConnection(t *testing.T) {
	f := start(t, rpc.Config{Limits: rpc.Limits{MaxRecord: 1 << 16}})
	call := words(7, 0, 2, progTest, 3, procEcho, 0, 0, 0, 0)
	for name, send := range map[string][]byte{
		"fragment over the limit":           words(1<<31 | 1<<16 + 4),
		"fragments together over the limit": append(append(words(1<<15), make([]byte, 1<<15)...), words(1<<15+1)...),
		"neither call nor reply":            record(words(7, 2, 0, 0), 100),
		"record too short":                  record(words(7), 100),
		"empty record":                      words(1 << 31),
		"endless empty fragments":           make([]byte, 4*5000),
		"header too short":                  record(call[:20], 100),
		"credentials over the limit":        record(append(words(7, 0, 2, progTest, 3, 0, 1, 404), make([]byte, 412)...), 1000),
		"HTTP":                              []byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			before := f.srv.Stats().BadRecords
			nc := f.raw(t)
			_, _ = nc.Write(send) // may fail once the server has seen enough
			if n, err := io.Copy(io.Discard, nc); n != 0 {
				t.Errorf("got %d bytes (%v), want the end of the connection", n, err)
			}
			if got := f.srv.Stats().BadRecords; got != before+1 {
				t.Errorf("%d bad records counted, want 1", got-before)
			}
		})
	}
}

func TestLargePayloadsBothWays(t *testing.T) {
	f := start(t, rpc.Config{})
	c := f.dial(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, n := range []int{0, 1, 2, 3, 4, 4095, 65536, 1 << 20} {
		resp, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procPull, Args: words(uint32(n)), MaxReply: n + 8})
		if err != nil {
			t.Fatalf("pull %d: %v", n, err)
		}
		d := xdr.NewDecoder(resp.Body)
		if got := d.Opaque(n); !bytes.Equal(got, pattern(n)) || d.Len() != 0 {
			t.Errorf("pull %d: wrong bytes", n)
		}
		resp.Release()

		// An attachment in the middle of the arguments.
		resp, err = c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procEcho, Args: words(1, 2),
			Attached: []rpc.Attachment{{At: 4, P: pattern(n)}}, MaxReply: n + 8})
		if err != nil {
			t.Fatalf("push %d: %v", n, err)
		}
		if want := slices.Concat(words(1), pattern(n), words(2)); !bytes.Equal(resp.Body, want) {
			t.Errorf("push %d: wrong bytes", n)
		}
		resp.Release()
	}
	_, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procPull, Args: words(100000), MaxReply: 10})
	if vfs.KindOf(err) != vfs.KindTooBig {
		t.Errorf("a reply over MaxReply: %v", err)
	}
	// The connection survives it.
	if _, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3}); err != nil {
		t.Error(err)
	}
}

func TestRemoteErrors(t *testing.T) {
	f := start(t, rpc.Config{})
	c := f.dial(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for proc, want := range map[uint32]rpc.RemoteError{99: {Stat: 3}, procBad: {Stat: 4}} {
		_, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: proc})
		var re *rpc.RemoteError
		if !errors.As(err, &re) || *re != want {
			t.Errorf("proc %d: %v, want %v", proc, err, &want)
		}
	}
	_, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Cred: words(7, 0)})
	var re *rpc.RemoteError
	if !errors.As(err, &re) || !re.Denied || re.Auth != rpc.AuthBadCred {
		t.Errorf("AUTH_TLS: %v", err)
	}
	_, err = c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procWho, Cred: rpc.AuthSysCred("m", &vfs.Cred{UID: 5, GID: 6, Groups: []uint32{7}}), MaxReply: 100})
	if err != nil {
		t.Error(err)
	}
}

// Calls, replies and callbacks interleave on one connection, answered in the
// order of completion, each with its own bytes.
func TestManyCallsInterleave(t *testing.T) {
	f := start(t, rpc.Config{Limits: rpc.Limits{Workers: 32}}) // one for each that waits for a callback
	c := f.dial(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			for range 100 {
				v := words(rnd.Uint32())
				proc := []uint32{procEcho, procCall}[rnd.IntN(2)]
				resp, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: proc, Args: v, MaxReply: 64})
				if err != nil {
					t.Errorf("proc %d: %v", proc, err)
					return
				}
				if !bytes.Equal(resp.Body, v) {
					t.Errorf("proc %d: sent %x, got %x", proc, v, resp.Body)
				}
				resp.Release()
			}
		})
	}
	wg.Wait()
	if got := f.srv.Stats().Calls; got != 3200 {
		t.Errorf("%d calls counted, want 3200", got)
	}
}

// With all workers busy the connection is not read, and other connections are.
func TestBackpressure(t *testing.T) {
	const workers = 3
	f := start(t, rpc.Config{Limits: rpc.Limits{Workers: workers}})
	nc := f.raw(t)
	for i := range uint32(workers + 2) {
		if _, err := nc.Write(record(words(i, 0, 2, progTest, 3, procHold, 0, 0, 0, 0), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for range workers {
		<-f.held
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := f.dial(t).Call(ctx, &rpc.Call{Prog: progTest, Vers: 3}); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if n := f.srv.Stats().Running; n != workers {
		t.Errorf("%d calls running, want %d", n, workers)
	}
	close(f.hold)
	seen := map[uint32]bool{}
	for range workers + 2 {
		seen[binary.BigEndian.Uint32(readRecord(t, nc))] = true
	}
	if len(seen) != workers+2 {
		t.Errorf("answered: %v", seen)
	}
}

// All connections share one budget for records; who finds it used up waits.
func TestMemoryLimit(t *testing.T) {
	const size = 1 << 14
	f := start(t, rpc.Config{Limits: rpc.Limits{MaxRecord: size, Memory: 2 * size}})
	call := record(append(words(7, 0, 2, progTest, 3, procHold, 0, 0, 0, 0), make([]byte, size-100)...), size)
	conns := []net.Conn{f.raw(t), f.raw(t), f.raw(t)}
	for _, nc := range conns {
		if _, err := nc.Write(call); err != nil {
			t.Fatal(err)
		}
	}
	<-f.held
	<-f.held
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for f.srv.Stats().Stalled == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if st := f.srv.Stats(); st.Running != 2 || st.Stalled != 1 {
		t.Errorf("%d calls running and %d stalled, want 2 and 1", st.Running, st.Stalled)
	}
	close(f.hold)
	for _, nc := range conns {
		readRecord(t, nc)
	}
	if _, err := f.dial(t).Call(ctx, &rpc.Call{Prog: progTest, Vers: 3}); err != nil {
		t.Error(err)
	}
}

// A reply needs no worker.
func TestCallbackWhileAllWorkersBusy(t *testing.T) {
	f := start(t, rpc.Config{Limits: rpc.Limits{Workers: 1}})
	c := f.dial(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procCall, Args: words(42), MaxReply: 64})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(resp.Body, words(42)) {
		t.Errorf("got %x", resp.Body)
	}
	resp.Release()
}

func TestCanceledCallDoesNotDisturbOthers(t *testing.T) {
	f := start(t, rpc.Config{})
	c := f.dial(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-f.held
		cancel()
	}()
	if _, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procHold}); vfs.KindOf(err) != vfs.KindCanceled {
		t.Fatalf("canceled call: %v", err)
	}
	close(f.hold) // its reply comes now, for nobody
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 10 {
		if _, err := c.Call(ctx, &rpc.Call{Prog: progTest, Vers: 3}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConnectionLostFailsCalls(t *testing.T) {
	f := start(t, rpc.Config{})
	c := f.dial(t)
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), &rpc.Call{Prog: progTest, Vers: 3, Proc: procHold})
		result <- err
	}()
	<-f.held
	c.Close()
	if err := <-result; vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := c.Call(context.Background(), &rpc.Call{}); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("a call after the end: %v", err)
	}
	close(f.hold)
}

// A running call is finished and answered; one that begins later is not.
func TestShutdownFinishesRunningCalls(t *testing.T) {
	f := start(t, rpc.Config{})
	c := f.dial(t)
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), &rpc.Call{Prog: progTest, Vers: 3, Proc: procHold})
		result <- err
	}()
	<-f.held
	stopped := make(chan error, 1)
	go func() { stopped <- f.srv.Shutdown(context.Background()) }()
	for { // until the listener is closed
		nc, err := net.Dial("tcp", f.addr)
		if err != nil {
			break
		}
		_ = nc.Close()
	}
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown returned %v while a call was running", err)
	default:
	}
	close(f.hold)
	if err := <-result; err != nil {
		t.Errorf("the running call: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// Shutdown whose context ends cancels what is running.
func TestShutdownIsBounded(t *testing.T) {
	f := start(t, rpc.Config{})
	c := f.dial(t)
	go func() {
		_, _ = c.Call(context.Background(), &rpc.Call{Prog: progTest, Vers: 3, Proc: procHold})
	}()
	<-f.held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.srv.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// A call that Shutdown ends in the middle says an error, though what it asked for may have been done. Nobody hears that: neither a connection of this server, nor
// the server that carried the call here.
func TestEndedCallsAreNotAnswered(t *testing.T) {
	const conns = 64
	f := start(t, rpc.Config{})
	results := make(chan error, conns)
	for range conns {
		c := f.dial(t)
		go func() {
			_, err := c.Call(context.Background(), &rpc.Call{Prog: progTest, Vers: 3, Proc: procHold})
			results <- err
		}()
	}
	carried := make(chan rpc.CarriedOutcome, 1)
	go func() {
		c := f.srv.Foreign("other", netip.MustParseAddrPort("127.0.0.1:1"), 1, nil)
		defer f.srv.EndForeign(c)
		f.srv.Carry(&rpc.Request{Prog: progTest, Vers: 3, Proc: procHold, Conn: c}, func(o rpc.CarriedOutcome, _ [][]byte) { carried <- o })
	}()
	for range conns + 1 {
		<-f.held
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.srv.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	answered := 0
	for range conns {
		var remote *rpc.RemoteError
		if err := <-results; err == nil || errors.As(err, &remote) {
			answered++
		}
	}
	if answered > 0 {
		t.Errorf("%d of %d calls that were ended in the middle were answered", answered, conns)
	}
	if o := <-carried; o != rpc.CarriedElsewhere {
		t.Errorf("a carried call that was ended in the middle: outcome %d", o)
	}
}

func TestAcceptRules(t *testing.T) {
	var opened, closed atomic.Int64
	deny := atomic.Bool{}
	f := start(t, rpc.Config{
		Limits: rpc.Limits{MaxConns: 2},
		Accept: func(a netip.AddrPort) bool { return a.Addr() == netip.MustParseAddr("127.0.0.1") && !deny.Load() },
		Opened: func(c *rpc.Conn) { opened.Add(1); c.SetValue(c.ID()) },
		Closed: func(c *rpc.Conn) {
			if c.Value() != c.ID() || c.ID() == 0 {
				t.Errorf("connection %d carries %v", c.ID(), c.Value())
			}
			closed.Add(1)
		},
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	null := &rpc.Call{Prog: progTest, Vers: 3}
	a, b := f.dial(t), f.dial(t)
	for _, c := range []*rpc.Conn{a, b} {
		if _, err := c.Call(ctx, null); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.dial(t).Call(ctx, null); err == nil {
		t.Error("a third connection was served, the limit is 2")
	}
	a.Close()
	for closed.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	deny.Store(true)
	if _, err := f.dial(t).Call(ctx, null); err == nil {
		t.Error("a denied address was served")
	}
	if st := f.srv.Stats(); opened.Load() != 2 || st.Refused != 2 || st.Accepted != 2 {
		t.Errorf("opened %d, stats %+v", opened.Load(), st)
	}
}

func TestIdleConnectionIsClosedBusyOneIsNot(t *testing.T) {
	f := start(t, rpc.Config{Limits: rpc.Limits{IdleTimeout: 20 * time.Millisecond}})
	var result chan error
	for held := false; !held; { // it may be closed as idle before its call comes
		busy, done := f.dial(t), make(chan error, 1)
		go func() {
			_, err := busy.Call(context.Background(), &rpc.Call{Prog: progTest, Vers: 3, Proc: procHold})
			done <- err
		}()
		select {
		case <-f.held:
			result, held = done, true
		case <-done:
		}
	}
	if _, err := f.raw(t).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("idle connection: %v, want EOF", err)
	}
	close(f.hold)
	if err := <-result; err != nil {
		t.Errorf("busy connection: %v", err)
	}
}

// The peer that sent its last call and closed its sending side gets its answer.
func TestHalfClose(t *testing.T) {
	f := start(t, rpc.Config{})
	nc := f.raw(t)
	if _, err := nc.Write(record(words(7, 0, 2, progTest, 3, procHold, 0, 0, 0, 0), 1000)); err != nil {
		t.Fatal(err)
	}
	<-f.held
	if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	close(f.hold)
	if got := readRecord(t, nc); !bytes.Equal(got, words(7, 1, 0, 0, 0, 0)) {
		t.Errorf("reply %x", got)
	}
}

// A connection that ends within a reply is lost, as one that ends before it.
func TestConnectionLostWithinAReply(t *testing.T) {
	ours, theirs := net.Pipe()
	c := rpc.NewClientConn(ours, rpc.ClientConfig{})
	go func() {
		defer theirs.Close()
		head := make([]byte, 8) // record mark, xid
		if _, err := io.ReadFull(theirs, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, theirs, int64(binary.BigEndian.Uint32(head)&^(1<<31))-4); err != nil {
			return
		}
		_, _ = theirs.Write(append([]byte{0x80, 0, 0, 100, head[4], head[5], head[6], head[7], 0, 0, 0, 1}, make([]byte, 20)...)) // a reply of 100 bytes
	}()
	if _, err := c.Call(t.Context(), &rpc.Call{Prog: progTest, Vers: 3}); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("got %v", err)
	}
	c.Close()
	<-c.Done()
}
