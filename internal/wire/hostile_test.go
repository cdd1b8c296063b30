package wire

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// meddler is a client's connection on whose bytes a test acts. Until it is armed nothing happens.
type meddler struct {
	net.Conn
	mu    sync.Mutex
	write func(c net.Conn, b []byte) error // instead of Write
	read  func(b []byte)                   // after Read
}

func (m *meddler) Write(b []byte) (int, error) {
	m.mu.Lock()
	f := m.write
	m.mu.Unlock()
	if f == nil {
		return m.Conn.Write(b)
	}
	if err := f(m.Conn, bytes.Clone(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (m *meddler) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.read != nil {
		m.read(b[:n])
	}
	return n, err
}

func (m *meddler) arm(write func(net.Conn, []byte) error, read func([]byte)) {
	m.mu.Lock()
	m.write, m.read = write, read
	m.mu.Unlock()
}

// onMeddler makes a client with one small connection through a meddler, and makes one call on it.
func (h *harness) onMeddler(o ClientOptions) (*Client, *meddler) {
	h.t.Helper()
	var m *meddler
	o.SmallConns = 1
	if o.StallTimeout == 0 {
		o.StallTimeout = 100 * time.Millisecond // a lengthened frame ends by this
	}
	c := h.clientVia(func(ctx context.Context) (net.Conn, error) {
		nc, err := Dialer("tcp", h.addr)(ctx)
		if m != nil {
			return nil, fmt.Errorf("one connection is all there is")
		}
		m = &meddler{Conn: nc}
		return m, err
	}, o)
	if _, err := c.Call(testContext(h.t), opEcho, nil, nil, nil); err != nil {
		h.t.Fatal(err)
	}
	return c, m
}

// counted is an echo server that counts calls of opTake.
func counted(n *atomic.Int32) Handler {
	return func(ctx context.Context, c *Call) error {
		if c.Op == opTake {
			n.Add(1)
		}
		return echo(ctx, c)
	}
}

// Each byte of a request, and of an answer, is flipped once. Nothing that was touched is delivered.
func TestFlippedByteIsNeverDelivered(t *testing.T) {
	meta, payload := []byte("meta"), []byte("load")
	var calls atomic.Int32
	h := start(t, ModeMAC, counted(&calls), ServerOptions{StallTimeout: 100 * time.Millisecond})
	for at := range headerLen + len(meta) + len(payload) {
		for _, dir := range []string{"request", "answer"} {
			c, m := h.onMeddler(ClientOptions{})
			before := calls.Load()
			left, hit := at, false
			flip := func(b []byte) {
				if left >= 0 && left < len(b) {
					b[left] ^= 0x10
					hit = true
				}
				left -= len(b)
			}
			if dir == "request" {
				m.arm(func(nc net.Conn, b []byte) error { flip(b); _, err := nc.Write(b); return err }, nil)
			} else {
				m.arm(nil, flip)
			}
			r, err := c.Call(testContext(t), opTake, meta, net.Buffers{payload}, nil)
			if err == nil || NotSent(err) || Answered(err) {
				t.Fatalf("%s byte %d: reply %v, error %v", dir, at, r, err)
			}
			c.Close()
			if !hit {
				t.Fatalf("%s byte %d was never on the wire", dir, at)
			}
			if dir == "request" && calls.Load() != before {
				t.Fatalf("request delivered with byte %d flipped", at)
			}
		}
	}
}

// An attacker can make the header's CRC right. The MAC decides alone.
func TestForgedHeaderFieldsAreRefused(t *testing.T) {
	var calls atomic.Int32
	h := start(t, ModeMAC, counted(&calls), ServerOptions{StallTimeout: 100 * time.Millisecond})
	fields := map[string]func([]byte){
		"type":           func(b []byte) { b[5] = typeResponse },
		"cancel":         func(b []byte) { b[5] = typeCancel; le.PutUint64(b[24:], 0) },
		"op":             func(b []byte) { b[6]++ },
		"kind":           func(b []byte) { b[10]++ },
		"deadline":       func(b []byte) { b[12]++ },
		"id":             func(b []byte) { b[17]++ },
		"meta shorter":   func(b []byte) { b[24]--; b[28]++ },
		"payload longer": func(b []byte) { b[28]++ },
		"no MAC":         func(b []byte) { b[8] = flagCRC; clear(b[macAt:headerLen]) },
		"no protection":  func(b []byte) { b[8] = 0; clear(b[macAt:headerLen]) },
	}
	for what, change := range fields {
		t.Run(what, func(t *testing.T) {
			c, m := h.onMeddler(ClientOptions{})
			defer c.Close()
			before := calls.Load()
			m.arm(func(nc net.Conn, b []byte) error {
				change(b)
				le.PutUint32(b[headerCRCAt:], crcOf(b[:headerCRCAt]))
				_, err := nc.Write(b)
				return err
			}, nil)
			if _, err := c.Call(testContext(t), opTake, []byte("meta"), net.Buffers{[]byte("p")}, nil); err == nil || Answered(err) {
				t.Fatalf("accepted: %v", err)
			}
			if calls.Load() != before {
				t.Fatal("delivered")
			}
		})
	}
}

func TestReplayedReorderedDroppedFramesAreRefused(t *testing.T) {
	for _, mode := range []Mode{ModeMAC, ModeTLS} {
		for _, how := range []string{"replayed", "reordered", "dropped"} {
			t.Run(fmt.Sprintf("%v/%s", mode, how), func(t *testing.T) {
				var calls atomic.Int32
				h := start(t, mode, counted(&calls), ServerOptions{})
				c, m := h.onMeddler(ClientOptions{})
				var held []byte
				n := 0
				m.arm(func(nc net.Conn, b []byte) error {
					n++
					switch {
					case how == "replayed":
						b = append(b, b...)
					case how == "reordered" && n == 1, how == "dropped" && n == 1:
						held = b
						return nil
					case how == "reordered" && n == 2:
						b = append(b, held...)
					}
					_, err := nc.Write(b)
					return err
				}, nil)
				var wg sync.WaitGroup
				var failed atomic.Int32
				for i := range 2 {
					wg.Go(func() {
						if i == 1 && how != "replayed" {
							eventually(t, "first frame held", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return liveConn(t, c).load.Load() > 0 })
						}
						if _, err := c.Call(testContext(t), opTake, []byte{byte(i)}, nil, nil); err != nil {
							failed.Add(1)
						}
					})
				}
				wg.Wait()
				// Of a replay the first copy is genuine, and so may be a call that came before the connection closed.
				if want := map[string]int32{"replayed": 2}[how]; calls.Load() > want {
					t.Fatalf("%d calls delivered", calls.Load())
				}
				if how != "replayed" && failed.Load() != 2 {
					t.Fatalf("only %d of 2 calls failed", failed.Load())
				}
				if how == "replayed" {
					eventually(t, "the connection is closed", func() bool {
						_, err := c.Call(testContext(t), opEcho, nil, nil, nil)
						return err != nil
					})
				}
			})
		}
	}
}

// logBuffer collects what a server logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

// rawPeer is a connection on which the hello is exchanged and then the test says what is sent.
func (h *harness) rawPeer() net.Conn {
	h.t.Helper()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	if _, err := readHello(nc, ModeInsecure); err != nil {
		h.t.Fatal(err)
	}
	b, err := hello{mode: ModeInsecure, maxMeta: MaxMeta, maxPayload: MaxPayload, calls: 1, self: Peer{Name: "raw"}}.append(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := nc.Write(b); err != nil {
		h.t.Fatal(err)
	}
	return nc
}

func TestBadFramesCloseTheConnectionWithAReason(t *testing.T) {
	frame := func(h header, meta string) []byte {
		g := guard{flags: flagCRC}
		return encode(&g, h, []byte(meta), nil)
	}
	reCRC := func(b []byte) []byte { le.PutUint32(b[headerCRCAt:], crcOf(b[:headerCRCAt])); return b }
	first := frame(header{typ: typeRequest, id: 5}, "")
	oversize := frame(header{typ: typeRequest, id: 1}, "")
	le.PutUint32(oversize[28:], 1<<31)
	for what, c := range map[string]struct {
		send []byte
		log  string
	}{
		"garbage":         {fill(200, 1), "bad magic"},
		"HTTP":            {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n" + strings.Repeat(" ", 64)), "bad magic"},
		"oversize":        {reCRC(oversize), "payload of 2147483648 bytes, limit"},
		"response":        {frame(header{typ: typeResponse, id: 1}, ""), "frame type 2 from a client"},
		"id repeated":     {append(bytes.Clone(first), first...), "request id 5 after 5"},
		"id zero":         {frame(header{typ: typeRequest}, ""), "request id 0 after 0"},
		"truncated stall": {frame(header{typ: typeRequest, id: 1}, "meta")[:headerLen+1], ""},
	} {
		t.Run(what, func(t *testing.T) {
			var log logBuffer
			h := start(t, ModeInsecure, echo, ServerOptions{Logger: slog.New(slog.NewTextHandler(&log, nil)), StallTimeout: 50 * time.Millisecond})
			nc := h.rawPeer()
			if _, err := nc.Write(c.send); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, nc); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Fatal("the server kept the connection")
			}
			eventually(t, "reason logged", func() bool { return log.has(c.log) })
			if _, err := h.client(ClientOptions{}).Call(testContext(t), opEcho, nil, nil, nil); err != nil {
				t.Fatalf("the server serves others no more: %v", err)
			}
		})
	}
}

func TestBadAnswersCloseTheConnection(t *testing.T) {
	for what, answer := range map[string]func(id uint64) header{
		"unknown id": func(id uint64) header { return header{typ: typeResponse, id: id + 1} },
		"request":    func(id uint64) header { return header{typ: typeRequest, id: id} },
	} {
		t.Run(what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			sec := securities(t)[ModeInsecure]
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				tr, err := sec[0].handshake(testContext(t), nc, true, hello{maxMeta: 10, maxPayload: 10, calls: 2})
				if err != nil {
					t.Error(err)
					return
				}
				var h header
				if err := newFrameReader(tr, 10, 10, 0).header(&h); err != nil {
					t.Error(err)
					return
				}
				nc.Write(encode(&tr.out, answer(h.id), nil, nil))
				io.Copy(io.Discard, nc)
			})
			c := NewClient(Dialer("tcp", l.Addr().String()), ClientOptions{Security: sec[1], Logger: quiet()})
			defer c.Close()
			_, err = c.Call(testContext(t), 1, nil, nil, nil)
			if err == nil || NotSent(err) || Answered(err) || !strings.Contains(err.Error(), "wire protocol") {
				t.Fatalf("%v", err)
			}
		})
	}
}

// A peer that asks for megabytes and reads nothing holds a bounded number of handlers, and only until the
// stall timeout; others are served meanwhile.
func TestPeerThatDoesNotRead(t *testing.T) {
	page := make([]byte, 1<<20)
	var running, most atomic.Int32
	h := start(t, ModeInsecure, func(_ context.Context, c *Call) error {
		if c.Op == opEcho {
			return nil
		}
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return c.Reply(nil, page)
	}, ServerOptions{CallsPerConn: 4, StallTimeout: 500 * time.Millisecond})
	nc := h.rawPeer()
	g := guard{flags: flagCRC}
	var all []byte
	for id := range uint64(200) {
		all = append(all, encode(&g, header{typ: typeRequest, op: opSize, id: id + 1}, nil, nil)...)
	}
	if _, err := nc.Write(all); err != nil {
		t.Fatal(err)
	}
	eventually(t, "handlers wait for the peer", func() bool { return running.Load() == 4 })
	before := runtime.NumGoroutine()
	c := h.client(ClientOptions{})
	for range 100 {
		if _, err := c.Call(testContext(t), opEcho, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := runtime.NumGoroutine(); n > before+20 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	eventually(t, "the connection is given up", func() bool { return running.Load() == 0 })
	if most.Load() > 4 {
		t.Fatalf("%d handlers for one connection", most.Load())
	}
}

// A server that stops reading while a call is being sent, or writing while its
// answer arrives, costs a cancelled call its connection, not its caller's patience or buffers.
func TestCancelWhileThePeerStalls(t *testing.T) {
	for _, what := range []string{"request", "answer"} {
		t.Run(what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			sec := securities(t)[ModeInsecure]
			stalled := make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			over := make(chan struct{})
			wg.Go(func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				tr, err := sec[0].handshake(testContext(t), nc, true, hello{maxMeta: MaxMeta, maxPayload: MaxPayload, calls: 64})
				if err != nil {
					t.Error(err)
					return
				}
				var h header
				if err := newFrameReader(tr, MaxMeta, MaxPayload, 0).header(&h); err != nil {
					t.Error(err)
					return
				}
				if what == "answer" {
					nc.Write(encode(&tr.out, header{typ: typeResponse, id: h.id}, nil, [][]byte{make([]byte, 1<<20)})[:100<<10])
				}
				close(stalled)
				<-over
				nc.SetReadDeadline(time.Now().Add(patience))
				rest, _ := io.ReadAll(nc)
				if bytes.IndexByte(rest, 0xee) >= 0 {
					t.Error("payload was sent after its call had returned")
				}
			})
			c := NewClient(Dialer("tcp", l.Addr().String()), ClientOptions{Security: sec[1], Logger: quiet(), CancelGrace: 20 * time.Millisecond})
			defer c.Close()
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			into := make([]byte, 1<<20)
			var calls sync.WaitGroup
			n := 1
			if what == "request" {
				n = 16 // more than any socket buffers hold
			}
			for range n {
				calls.Go(func() {
					var up net.Buffers
					var sent []byte
					dst := into
					if what == "request" {
						sent, dst = make([]byte, MaxPayload), nil
						up = net.Buffers{sent}
					}
					if _, err := c.Call(ctx, opEcho, nil, up, dst); err == nil || Answered(err) {
						t.Errorf("call on a stalled connection: %v", err)
					}
					for i := range sent {
						sent[i] = 0xee
					}
				})
			}
			<-stalled
			time.Sleep(20 * time.Millisecond) // let the stall become deep; shorter only tests less
			cancel()
			calls.Wait()
			for i := range into { // under -race: nobody writes to it any more
				into[i] = 1
			}
			close(over)
		})
	}
}
