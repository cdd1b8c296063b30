package wire

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 5 * time.Minute

const (
	opEcho  Op = iota + 1 // answers with its own meta and payload
	opFail                // answers with the error in the test's table
	opBlock               // waits for the end of its context
	opSize                // answers with as many bytes as meta says
	opTake                // takes the payload
)

var testCA = sync.OnceValues(func() (*pki.CA, error) { return pki.NewCA("test", time.Now()) })

// securities returns the two sides of each mode.
func securities(t testing.TB) map[Mode][2]Security {
	t.Helper()
	ca, err := testCA()
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ca.Issue("store-1", []string{"block"}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := ca.Issue("gate-1", []string{"gateway", "meta"}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := map[Mode][2]Security{
		ModeInsecure: {
			{Mode: ModeInsecure, Self: Peer{Name: "store-1", Roles: []string{"block"}}},
			{Mode: ModeInsecure, Self: Peer{Name: "gate-1", Roles: []string{"gateway", "meta"}}},
		},
	}
	for _, mode := range []Mode{ModeTLS, ModeMAC} {
		m[mode] = [2]Security{
			{Mode: mode, TLS: srv.ServerTLS()},
			{Mode: mode, TLS: cl.ClientTLS("store-1")},
		}
	}
	return m
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// harness is a server on loopback.
type harness struct {
	t    testing.TB
	srv  *Server
	addr string
	sec  [2]Security
}

// start serves h until the test ends.
func start(t testing.TB, mode Mode, h Handler, o ServerOptions) *harness {
	t.Helper()
	sec := securities(t)[mode]
	if o.Security.Mode == 0 {
		o.Security = sec[0]
	}
	if o.Logger == nil {
		o.Logger = quiet()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &harness{t: t, srv: NewServer(h, o), addr: l.Addr().String(), sec: sec}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := hs.srv.Serve(l); err != ErrClosed {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		hs.srv.Close()
		wg.Wait()
	})
	return hs
}

// client makes a client of the harness's server that is closed with the test.
func (h *harness) client(o ClientOptions) *Client {
	return h.clientVia(Dialer("tcp", h.addr), o)
}

func (h *harness) clientVia(dial func(context.Context) (net.Conn, error), o ClientOptions) *Client {
	o.Security = h.sec[1]
	if o.Logger == nil {
		o.Logger = quiet()
	}
	c := NewClient(dial, o)
	h.t.Cleanup(c.Close)
	return c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func echo(_ context.Context, c *Call) error { return c.Reply(c.Meta, c.Payload) }

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
