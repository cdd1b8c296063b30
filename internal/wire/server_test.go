package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/vfs"
)

func TestWrongPeersAreRefused(t *testing.T) {
	good := securities(t)
	foreignCA, err := pki.NewCA("other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := foreignCA.Issue("gate-1", []string{"gateway"}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	change := func(m Mode, f func(c *tls.Config)) Security {
		c := good[m][1].TLS.Clone()
		f(c)
		return Security{Mode: m, TLS: c}
	}
	for _, mode := range []Mode{ModeTLS, ModeMAC} {
		other := ModeTLS + ModeMAC - mode
		for what, sec := range map[string]Security{
			"certificate of another CA": change(mode, func(c *tls.Config) { c.Certificates = foreign.ClientTLS("x").Certificates }),
			"client of another CA":      {Mode: mode, TLS: foreign.ClientTLS("store-1")},
			"another node expected":     change(mode, func(c *tls.Config) { c.ServerName = "store-2" }),
			"the other mode":            good[other][1],
			"insecure":                  good[ModeInsecure][1],
			"no CA":                     change(mode, func(c *tls.Config) { c.RootCAs = nil }),
			"no name expected":          change(mode, func(c *tls.Config) { c.ServerName = "" }),
			"no verification":           change(mode, func(c *tls.Config) { c.InsecureSkipVerify = true }),
			"no certificate":            change(mode, func(c *tls.Config) { c.Certificates = nil }),
			"empty certificate":         change(mode, func(c *tls.Config) { c.Certificates = []tls.Certificate{{}} }),
			"no configuration":          {Mode: mode},
			"nothing set":               {},
		} {
			t.Run(mode.String()+"/"+what, func(t *testing.T) {
				h := start(t, mode, func(context.Context, *Call) error { t.Error("a call came through"); return nil }, ServerOptions{})
				h.sec[1] = sec
				o := ClientOptions{}
				if what == "insecure" { // each waits for the other to begin
					o.HandshakeTimeout = 20 * time.Millisecond
				}
				_, err := h.client(o).Call(testContext(t), opEcho, nil, nil, nil)
				if !NotSent(err) || vfs.KindOf(err) != vfs.KindUnavailable {
					t.Fatalf("%v", err)
				}
			})
		}
	}
}

func TestServerWithoutSecurityServesNobody(t *testing.T) {
	for what, sec := range map[string]Security{
		"nothing set": {},
		"no CA":       {Mode: ModeTLS, TLS: &tls.Config{Certificates: securities(t)[ModeTLS][0].TLS.Certificates}},
	} {
		t.Run(what, func(t *testing.T) {
			s := NewServer(echo, ServerOptions{Security: sec, Logger: quiet()})
			defer s.Close()
			a, b := net.Pipe()
			defer a.Close()
			var wg sync.WaitGroup
			wg.Go(func() { s.ServeConn(b) })
			if _, err := securities(t)[ModeInsecure][1].handshake(testContext(t), a, false, hello{calls: 1}); err == nil {
				t.Error("served")
			}
			a.Close()
			wg.Wait()
		})
	}
}

// A peer that connects and says nothing is dropped.
func TestSilentHandshakeEnds(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			h := start(t, mode, echo, ServerOptions{HandshakeTimeout: 20 * time.Millisecond})
			nc, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetReadDeadline(time.Now().Add(patience))
			var ne net.Error
			if _, err := io.Copy(io.Discard, nc); errors.As(err, &ne) && ne.Timeout() {
				t.Fatal("still connected")
			}
		})
	}
}

// ServeConn works behind a mux that has read a prefix, and over what is no socket.
func TestServeConn(t *testing.T) {
	for mode, sec := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			s := NewServer(echo, ServerOptions{Security: sec[0], Logger: quiet()})
			defer s.Close()
			var served sync.WaitGroup
			defer served.Wait()
			c := NewClient(func(context.Context) (net.Conn, error) {
				a, b := net.Pipe()
				served.Go(func() {
					var prefix [2]byte
					if _, err := io.ReadFull(b, prefix[:]); err != nil || prefix != [2]byte{1, 2} {
						t.Errorf("prefix %v, %v", prefix, err)
					}
					s.ServeConn(b)
				})
				_, err := a.Write([]byte{1, 2})
				return a, err
			}, ClientOptions{Security: sec[1], Logger: quiet()})
			defer c.Close()
			want := fill(300<<10, 1)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					r, err := c.Call(testContext(t), opEcho, []byte("m"), net.Buffers{want}, nil)
					if err != nil || !bytes.Equal(r.Payload, want) {
						t.Errorf("%v", err)
					}
					r.Release()
				})
			}
			wg.Wait()
		})
	}
}

func TestBoundsOnConcurrency(t *testing.T) {
	for what, o := range map[string]ServerOptions{
		"per connection": {CallsPerConn: 3},
		"in total":       {MaxCalls: 3},
		"by bytes":       {MaxRequestBytes: 3 << 10, MaxMeta: 1 << 10, MaxPayload: 1 << 10},
	} {
		t.Run(what, func(t *testing.T) {
			var running, most atomic.Int32
			release := make(chan struct{})
			h := start(t, ModeInsecure, func(_ context.Context, c *Call) error {
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				<-release
				running.Add(-1)
				return nil
			}, o)
			c := h.client(ClientOptions{SmallConns: 1})
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := c.Call(testContext(t), opBlock, make([]byte, 1<<10), nil, nil); err != nil {
						t.Error(err)
					}
				})
			}
			eventually(t, "the bound is reached", func() bool { return running.Load() == 3 })
			close(release)
			wg.Wait()
			if most.Load() != 3 {
				t.Fatalf("%d handlers at once", most.Load())
			}
		})
	}
}

func TestMaxConns(t *testing.T) {
	h := start(t, ModeInsecure, echo, ServerOptions{MaxConns: 2})
	a, b := h.client(ClientOptions{SmallConns: 1}), h.client(ClientOptions{SmallConns: 1})
	for _, c := range []*Client{a, b} {
		if _, err := c.Call(testContext(t), opEcho, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	x, y := net.Pipe()
	defer x.Close()
	h.srv.ServeConn(y) // returns at once
	if _, err := x.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("a third connection: %v", err)
	}
	a.Close() // makes room
	third := h.client(ClientOptions{SmallConns: 1, BackoffMin: time.Nanosecond, BackoffMax: time.Nanosecond})
	eventually(t, "the third is served", func() bool {
		_, err := third.Call(testContext(t), opEcho, nil, nil, nil)
		return err == nil
	})
}

// Close ends contexts, waits for handlers and lets their replies, small and large, arrive.
func TestServerCloseLetsRepliesOut(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			arrived := make(chan struct{}, 8)
			page := fill(1<<20, 1)
			var returned atomic.Int32
			h := start(t, mode, func(ctx context.Context, c *Call) error {
				arrived <- struct{}{}
				<-ctx.Done()
				defer returned.Add(1)
				return c.Reply(nil, page[:le.Uint32(c.Meta)])
			}, ServerOptions{})
			c := h.client(ClientOptions{})
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					n := i * 100 << 10
					r, err := c.Call(testContext(t), opSize, le.AppendUint32(nil, uint32(n)), nil, make([]byte, n))
					if err != nil || !bytes.Equal(r.Payload, page[:n]) {
						t.Errorf("%d bytes: %v", n, err)
					}
				})
			}
			for range 8 {
				<-arrived
			}
			if err := h.srv.Close(); err != nil {
				t.Fatal(err)
			}
			if returned.Load() != 8 {
				t.Fatal("Close did not wait for the handlers")
			}
			wg.Wait()
			if _, err := c.Call(testContext(t), opSize, make([]byte, 4), nil, nil); err == nil {
				t.Fatal("served after Close")
			}
		})
	}
}

// TestMixedLoad runs puts, gets and cancels of all sizes from many callers over the same
// client and checks each byte, and that a cancelled call never touches its buffers afterwards.
func TestMixedLoad(t *testing.T) {
	const callers, rounds = 12, 60
	pattern := fill(2<<20, 9)
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			h := start(t, mode, func(ctx context.Context, c *Call) error {
				at := le.Uint32(c.Meta)
				if !bytes.Equal(c.Payload, pattern[at:int(at)+len(c.Payload)]) {
					t.Errorf("payload of %d bytes from %d differs", len(c.Payload), at)
				}
				if c.Op == opBlock {
					select {
					case <-ctx.Done():
					case <-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond):
					}
				}
				n := le.Uint32(c.Meta[4:])
				return c.Reply(c.Meta, pattern[at:at+n/2], pattern[at+n/2:at+n])
			}, ServerOptions{CallsPerConn: 8, MaxRequestBytes: 4 << 20, MaxCalls: 16})
			c := h.client(ClientOptions{SmallConns: 2, BulkConns: 2})
			var wg sync.WaitGroup
			var cancelled atomic.Int32
			for range callers {
				wg.Go(func() {
					into := make([]byte, 1<<20)
					for range rounds {
						at := rand.IntN(1 << 20)
						up, down := rand.IntN(1<<rand.IntN(21)), rand.IntN(1<<rand.IntN(21))
						meta := le.AppendUint32(le.AppendUint32(nil, uint32(at)), uint32(down))
						send := bytes.Clone(pattern[at : at+up])
						op, ctx, cancel := opEcho, testContext(t), context.CancelFunc(func() {})
						if rand.IntN(3) == 0 {
							op = opBlock
							ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
						}
						r, err := c.Call(ctx, op, meta, net.Buffers{send[:up/3], send[up/3:]}, into)
						cancel()
						clear(send) // ours again, whatever happened
						switch {
						case err == nil:
							if !bytes.Equal(r.Meta, meta) || !bytes.Equal(r.Payload, pattern[at:at+down]) {
								t.Errorf("answer of %d bytes from %d differs", down, at)
							}
							r.Release()
						case op == opBlock && errors.Is(err, context.DeadlineExceeded):
							cancelled.Add(1)
						default:
							t.Errorf("op %d: %v", op, err)
						}
						clear(into)
					}
				})
			}
			wg.Wait()
			t.Logf("%d of %d calls cancelled", cancelled.Load(), callers*rounds)
		})
	}
}
