package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

func TestPeerAndDeadlineArrive(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			h := start(t, mode, func(ctx context.Context, c *Call) error {
				d, ok := ctx.Deadline()
				return c.Reply(fmt.Appendf(nil, "%s %v %v %v", c.Peer.Name, c.Peer.HasRole("gateway"), c.Peer.HasRole("block"),
					ok && time.Until(d) > 0 && time.Until(d) <= patience))
			}, ServerOptions{})
			r, err := h.client(ClientOptions{}).Call(testContext(t), 1, nil, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(r.Meta), "gate-1 true false true"; got != want {
				t.Fatalf("server saw %q, want %q", got, want)
			}
		})
	}
}

func TestErrorsCross(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	table := []struct {
		err  error
		kind vfs.Kind
		text string
	}{
		{vfs.Errorf(vfs.KindNoSpace, "store.put", "disk %d", 3), vfs.KindNoSpace, "store.put: disk 3: no space left on device"},
		{vfs.Wrap("outer", vfs.KindStale.Err("inner")), vfs.KindStale, "outer: stale file handle: inner: stale file handle"},
		{vfs.Errorf(vfs.KindIO, "read", "a: %w", io.EOF), vfs.KindIO, "read: a: input/output error: EOF"},
		{errors.New("plain"), vfs.KindIO, "plain: input/output error"},
		{fmt.Errorf("around: %w", vfs.KindQuota.Err("x")), vfs.KindQuota, "around: x: disk quota exceeded: disk quota exceeded"},
		{vfs.Errorf(vfs.KindOK, "x", "an error without a kind"), vfs.KindInternal, "x: an error without a kind: internal error"},
		{vfs.Errorf(vfs.Kind(200), "x", "from the future"), vfs.Kind(200), "x: from the future: error kind 200"},
		{vfs.Errorf(vfs.KindIO, long, "%s", long), vfs.KindIO, long[:maxErrorOp] + ": " + long[:maxErrorText] + ": input/output error"},
	}
	h := start(t, ModeInsecure, func(_ context.Context, c *Call) error { return table[c.Meta[0]].err }, ServerOptions{})
	c := h.client(ClientOptions{})
	for i, w := range table {
		_, err := c.Call(testContext(t), opFail, []byte{byte(i)}, nil, nil)
		if !Answered(err) || NotSent(err) || vfs.KindOf(err) != w.kind || err.Error() != w.text {
			t.Errorf("%d: answered %v, kind %v: %.200v", i, Answered(err), vfs.KindOf(err), err)
		}
	}
}

func TestReplyRules(t *testing.T) {
	const (
		opNothing = iota + 100
		opTwice
		opTooLarge
		opAfter
	)
	h := start(t, ModeInsecure, func(_ context.Context, c *Call) error {
		switch c.Op {
		case opTwice:
			if err := c.Reply([]byte("first")); err != nil {
				return err
			}
			if err := c.Reply([]byte("second")); err == nil {
				t.Error("second Reply succeeded")
			}
		case opTooLarge:
			return c.Reply(nil, make([]byte, 4097))
		case opAfter:
			if err := c.Reply([]byte("reply")); err != nil {
				return err
			}
			return errors.New("too late to matter")
		}
		return nil
	}, ServerOptions{})
	c := h.client(ClientOptions{MaxPayload: 4096})
	for op, want := range map[Op]string{opNothing: "", opTwice: "first", opAfter: "reply"} {
		r, err := c.Call(testContext(t), op, nil, nil, nil)
		if err != nil || string(r.Meta) != want {
			t.Errorf("op %d: %v", op, err)
		}
	}
	if _, err := c.Call(testContext(t), opTooLarge, nil, nil, nil); !Answered(err) || vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("reply above the client's limit: %v", err)
	}
}

func TestAnswerLargerThanInto(t *testing.T) {
	h := start(t, ModeInsecure, echo, ServerOptions{})
	c := h.client(ClientOptions{})
	want, into := fill(100<<10, 1), make([]byte, 10)
	r, err := c.Call(testContext(t), opEcho, nil, net.Buffers{want}, into)
	if err != nil || !bytes.Equal(r.Payload, want) || !bytes.Equal(into, make([]byte, 10)) {
		t.Fatalf("%v", err)
	}
	r.Release()
	r.Release() // harmless: the reply is empty now
}

func TestTakenPayloadOutlivesTheCall(t *testing.T) {
	const calls = 5
	taken := make(chan *Buf, calls)
	all := make(chan struct{})
	var n atomic.Int32
	h := start(t, ModeInsecure, func(_ context.Context, c *Call) error {
		taken <- c.TakePayload()
		if c.Payload != nil {
			t.Error("payload still there")
		}
		if n.Add(1) == calls {
			close(all)
		}
		<-all
		return nil
	}, ServerOptions{MaxRequestBytes: 1}) // room for the largest request: all can be here only if taken payloads do not count
	c := h.client(ClientOptions{})
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			if _, err := c.Call(testContext(t), opTake, nil, net.Buffers{bytes.Repeat([]byte{byte(i)}, 3<<20)}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range calls {
		b := <-taken
		if len(b.B) != 3<<20 || !bytes.Equal(b.B, bytes.Repeat(b.B[:1], 3<<20)) {
			t.Fatalf("a taken payload of %d bytes changed", len(b.B))
		}
		b.Release()
	}
}

func TestNotSent(t *testing.T) {
	release := make(chan struct{})
	h := start(t, ModeInsecure, func(ctx context.Context, c *Call) error {
		if c.Op == opBlock {
			<-release
		}
		return nil
	}, ServerOptions{CallsPerConn: 1, MaxMeta: 100, MaxPayload: 100})
	c := h.client(ClientOptions{SmallConns: 1})
	check := func(what string, err error, want vfs.Kind) {
		t.Helper()
		if !NotSent(err) || Answered(err) || vfs.KindOf(err) != want {
			t.Errorf("%s: not sent %v, kind %v: %v", what, NotSent(err), vfs.KindOf(err), err)
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Call(gone, 1, nil, nil, nil)
	check("ended context", err, vfs.KindCanceled)
	_, err = c.Call(testContext(t), 1, make([]byte, MaxMeta+1), nil, nil)
	check("meta above the protocol's limit", err, vfs.KindInvalid)
	_, err = c.Call(testContext(t), 1, nil, net.Buffers{make([]byte, MaxPayload), {1}}, nil)
	check("payload above the protocol's limit", err, vfs.KindInvalid)
	_, err = c.Call(testContext(t), 1, make([]byte, 101), nil, nil)
	check("meta above the server's limit", err, vfs.KindInvalid)
	_, err = c.Call(testContext(t), 1, nil, net.Buffers{make([]byte, 101)}, nil)
	check("payload above the server's limit", err, vfs.KindInvalid)

	// The connection serves one call at a time, and it has one.
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Call(testContext(t), opBlock, nil, nil, nil); err != nil {
			t.Error(err)
		}
	})
	cc := liveConn(t, c)
	eventually(t, "the slot is taken", func() bool { return len(cc.slots) == 1 })
	short, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		eventually(t, "the second call waits", func() bool { return cc.load.Load() == 2 })
		cancel()
	})
	_, err = c.Call(short, 1, nil, nil, nil)
	check("waiting for a slot", err, vfs.KindCanceled)
	close(release)
	wg.Wait()

	c.Close()
	_, err = c.Call(testContext(t), 1, nil, nil, nil)
	check("closed client", err, vfs.KindCanceled)
	if !errors.Is(err, ErrClosed) {
		t.Errorf("closed client: %v", err)
	}
}

// liveConn waits until c has a small connection.
func liveConn(t *testing.T, c *Client) (cc *clientConn) {
	t.Helper()
	eventually(t, "connected", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for class := range c.slots {
			for _, s := range c.slots[class] {
				if s.conn != nil {
					cc = s.conn
				}
			}
		}
		return cc != nil
	})
	return cc
}

func TestDialFailuresBackOff(t *testing.T) {
	h := start(t, ModeInsecure, echo, ServerOptions{})
	var dials atomic.Int32
	var up atomic.Bool
	c := h.clientVia(func(ctx context.Context) (net.Conn, error) {
		dials.Add(1)
		if !up.Load() {
			return nil, errors.New("no route")
		}
		return Dialer("tcp", h.addr)(ctx)
	}, ClientOptions{BackoffMin: time.Hour, BackoffMax: time.Hour})
	for i := range 10 {
		_, err := c.Call(testContext(t), opEcho, nil, nil, nil)
		if !NotSent(err) || vfs.KindOf(err) != vfs.KindUnavailable || !strings.Contains(err.Error(), "no route") {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Fatalf("%d dials during the back-off", n)
	}
	up.Store(true)
	c.mu.Lock()
	c.retryAt = time.Time{} // the hour is over
	c.mu.Unlock()
	for range 3 {
		if _, err := c.Call(testContext(t), opEcho, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures != 0 {
		t.Fatalf("still %d failures after an answer", c.failures)
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	c := NewClient(nil, ClientOptions{BackoffMin: time.Second, BackoffMax: time.Minute})
	defer c.Close()
	for i := range 40 {
		before := time.Now()
		c.failed(io.EOF)
		full := min(time.Second<<min(i, 10), time.Minute)
		if d := c.retryAt.Sub(before); d < full/2 || d > full+time.Second {
			t.Fatalf("pause %d is %v, want %v to %v", i, d, full/2, full)
		}
	}
}

func TestConnectionCutMidCall(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			arrived := make(chan struct{}, 10)
			h := start(t, mode, func(ctx context.Context, c *Call) error {
				if c.Op == opBlock {
					arrived <- struct{}{}
					<-ctx.Done()
					arrived <- struct{}{}
				}
				return nil
			}, ServerOptions{})
			c := h.client(ClientOptions{})
			if _, err := c.Call(testContext(t), opEcho, nil, nil, nil); err != nil { // one that breaks before its first answer counts as a failed dial
				t.Fatal(err)
			}
			errs := make(chan error, 1)
			go func() {
				_, err := c.Call(testContext(t), opBlock, nil, nil, nil)
				errs <- err
			}()
			<-arrived
			liveConn(t, c).t.raw.Close()
			if err := <-errs; err == nil || NotSent(err) || Answered(err) || vfs.KindOf(err) != vfs.KindUnknown {
				t.Fatalf("cut call: not sent %v, answered %v: %v", NotSent(err), Answered(err), err)
			}
			<-arrived // the handler's context ended with the connection
			if _, err := c.Call(testContext(t), opEcho, nil, nil, nil); err != nil {
				t.Fatalf("after the cut: %v", err)
			}
		})
	}
}

func TestCancelReachesTheHandler(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan error, 1)
			h := start(t, mode, func(ctx context.Context, c *Call) error {
				if c.Op == opBlock {
					close(arrived)
					<-ctx.Done()
					ended <- ctx.Err()
				}
				return nil
			}, ServerOptions{})
			c := h.client(ClientOptions{})
			ctx, cancel := context.WithCancel(testContext(t))
			errs := make(chan error, 1)
			go func() {
				_, err := c.Call(ctx, opBlock, nil, nil, make([]byte, 10))
				errs <- err
			}()
			<-arrived
			cc := liveConn(t, c)
			cancel()
			if err := <-errs; NotSent(err) || Answered(err) || vfs.KindOf(err) != vfs.KindCanceled || !errors.Is(err, context.Canceled) {
				t.Fatalf("cancelled call: %v", err)
			}
			if err := <-ended; err != context.Canceled {
				t.Fatalf("handler's context: %v", err)
			}
			// The late answer is dropped and the connection lives on.
			eventually(t, "the slot is free again", func() bool { return len(cc.slots) == 0 })
			if _, err := c.Call(testContext(t), opEcho, nil, nil, nil); err != nil {
				t.Fatal(err)
			}
			if cc != liveConn(t, c) {
				t.Fatal("the cancel cost the connection")
			}
		})
	}
}

func TestDeadlineEndsHandlerAndCall(t *testing.T) {
	ended := make(chan error, 1)
	h := start(t, ModeInsecure, func(ctx context.Context, c *Call) error {
		<-ctx.Done()
		ended <- ctx.Err()
		return nil
	}, ServerOptions{})
	c := h.client(ClientOptions{})
	for wait := 10 * time.Millisecond; ; wait *= 2 { // long enough for the call to leave in time
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		_, err := c.Call(ctx, opBlock, nil, nil, nil)
		cancel()
		if NotSent(err) && wait < patience {
			continue
		}
		if err != nil && (vfs.KindOf(err) != vfs.KindUnknown || !errors.Is(err, context.DeadlineExceeded)) {
			t.Fatalf("call: %v", err)
		}
		break
	}
	if err := <-ended; err == nil {
		t.Fatal("the handler's context did not end")
	}
}

func TestClientCloseFailsPendingCalls(t *testing.T) {
	arrived := make(chan struct{})
	h := start(t, ModeMAC, func(ctx context.Context, c *Call) error {
		close(arrived)
		<-ctx.Done()
		return nil
	}, ServerOptions{})
	c := h.client(ClientOptions{})
	errs := make(chan error, 1)
	go func() {
		_, err := c.Call(testContext(t), opBlock, nil, nil, nil)
		errs <- err
	}()
	<-arrived
	c.Close()
	if err := <-errs; NotSent(err) || Answered(err) || !errors.Is(err, ErrClosed) {
		t.Fatalf("call during Close: %v", err)
	}
}
