package relay

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// echo is an NFS server that answers with what it was sent, and remembers who sent it.
type echo struct {
	*rpc.Server
	mu    sync.Mutex
	conns []*rpc.Conn
	creds []vfs.Cred
}

const echoProgram, elsewhereBody = 7, "elsewhere"

func newEcho() *echo {
	e := new(echo)
	e.Server = rpc.NewServer(rpc.Config{})
	e.Register(echoProgram, 1, 1, e)
	return e
}

func (e *echo) ServeRPC(_ context.Context, req *rpc.Request) {
	e.mu.Lock()
	e.conns, e.creds = append(e.conns, req.Conn), append(e.creds, req.Cred)
	e.mu.Unlock()
	switch {
	case string(req.Body) == elsewhereBody:
		req.Elsewhere()
	case len(req.Body) == 0:
		req.GarbageArgs()
	default:
		req.Reply.B = append(req.Reply.B, req.Body[:1]...)
		req.Reply.Attach(bytes.Clone(req.Body[1:]), nil)
	}
}

func (e *echo) Carry(req *rpc.Request, answer func(rpc.CarriedOutcome, [][]byte)) {
	req.Prog, req.Vers = echoProgram, 1
	e.Server.Carry(req, answer)
}

func (e *echo) last() *rpc.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conns[len(e.conns)-1]
}

// gate is a relay with its server.
type gate struct {
	*Relay
	srv *echo
	id  *pki.Identity
	at  Place
}

// newGates are gateways that know each other's places; client n is the nth one's.
func newGates(t *testing.T, roles ...string) []*gate {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	gates := make([]*gate, len(roles))
	for i, role := range roles {
		name := string(rune('a' + i))
		id, err := ca.Issue(name, []string{role}, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g := &gate{srv: newEcho(), id: id, at: Place{name, ln.Addr().String()}}
		g.Relay, err = New(Config{
			Name: name, Address: g.at.Address, Logger: slog.New(slog.DiscardHandler),
			Server: wire.Security{Mode: wire.ModeMAC, TLS: id.ServerTLS()},
			Client: func(node string) wire.Security { return wire.Security{Mode: wire.ModeMAC, TLS: id.ClientTLS(node)} },
			Find: func(_ context.Context, client uint64) (Place, error) {
				if client >= uint64(len(gates)) {
					return Place{}, nil
				}
				return gates[client].at, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		gates[i] = g
		served := make(chan error, 1)
		go func() { served <- g.Serve(ln, g.srv) }()
		t.Cleanup(func() {
			g.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
			if err := g.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return gates
}

var clientAddr = netip.MustParseAddrPort("10.1.2.3:999")

// request is one that came by a connection here.
func (g *gate) request(conn *rpc.Conn, body []byte) *rpc.Request {
	return &rpc.Request{XID: 5, Flavor: rpc.AuthSys, Cred: vfs.Cred{UID: 1000, GID: 100, Groups: []uint32{7, 8}}, Machine: "m", Conn: conn, Body: body, Size: len(body) + 100}
}

// TestCarry: what is carried arrives as it was, with who sent it, and so does the answer.
func TestCarry(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	gates := newGates(t, RoleGateway, RoleGateway)
	a, b := gates[0], gates[1]
	for client, want := range []string{"", "b", ""} { // a's own, b's, nobody's
		if got, err := a.Serving(ctx, uint64(client)); err != nil || got != want {
			t.Fatalf("client %d is served by %q, %v", client, got, err)
		}
	}
	conn := a.srv.Foreign("", clientAddr, 9, nil)
	for _, size := range []int{1, 100, 64 << 10, 1 << 20} {
		body := bytes.Repeat([]byte{byte(size), 1, 2, 3}, (size+3)/4)[:size]
		got, err := a.Carry(ctx, "b", a.request(conn, body))
		if err != nil || got.Outcome != rpc.CarriedAnswered || !bytes.Equal(got.Results, body) {
			t.Fatalf("%d bytes: outcome %d, %d bytes, %v", size, got.Outcome, len(got.Results), err)
		}
		got.Release()
	}
	there := b.srv.last()
	if there.Via() != "a" || there.RemoteAddr() != clientAddr || there.Tag() != conn.Tag() {
		t.Errorf("the connection: via %q, from %v, tag %d", there.Via(), there.RemoteAddr(), there.Tag())
	}
	if c := b.srv.creds[0]; c.UID != 1000 || c.GID != 100 || len(c.Groups) != 2 || c.Groups[1] != 8 {
		t.Errorf("credentials %+v", c)
	}
	if len(b.srv.conns) != 4 || b.srv.conns[0] != there {
		t.Error("a connection has become several")
	}
	for body, want := range map[string]rpc.CarriedOutcome{elsewhereBody: rpc.CarriedElsewhere, "": rpc.CarriedGarbage} {
		if got, err := a.Carry(ctx, "b", a.request(conn, []byte(body))); err != nil || got.Outcome != want {
			t.Errorf("%q: outcome %d, %v", body, got.Outcome, err)
		}
	}
	if !a.Reaches(ctx, "b") {
		t.Error("b does not answer")
	}
	// A connection that is closed ends there.
	a.Closed(conn)
	select {
	case <-there.ReadDone():
	case <-ctx.Done():
		t.Fatal("a connection that is closed goes on at the other gateway")
	}
	if _, err := a.Carry(ctx, "b", a.request(conn, []byte("x"))); err != nil || b.srv.last() == there {
		t.Errorf("after that it is the same one, %v", err)
	}
	// One that ends serves nothing more.
	if err := b.srv.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Carry(ctx, "b", a.request(conn, []byte("x"))); err != nil || got.Outcome != rpc.CarriedElsewhere {
		t.Errorf("a server that was shut down: outcome %d, %v", got.Outcome, err)
	}
	b.Close()
	if _, err := a.Carry(ctx, "b", a.request(conn, []byte("x"))); err == nil || a.Reaches(ctx, "b") {
		t.Errorf("a gateway that is gone answers: %v", err)
	}
	if got, err := a.Serving(ctx, 1); err != nil || got != "" {
		t.Errorf("it is carried to a gateway that does not answer: %q, %v", got, err)
	}
}

// TestBackAgain: nothing is carried to a gateway that did not answer until it does.
func TestBackAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	gates := newGates(t, RoleGateway, RoleGateway)
	a := gates[0]
	if _, err := a.Serving(ctx, 1); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.peers["b"].away = true
	a.mu.Unlock()
	if got, err := a.Serving(ctx, 1); err != nil || got != "" {
		t.Fatalf("%q, %v", got, err)
	}
	for got := ""; got != "b"; time.Sleep(time.Millisecond) {
		var err error
		if got, err = a.Serving(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOnlyGateways: nobody else carries anything, or ends connections.
func TestOnlyGateways(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, role := range []string{"block", "meta", "local", "client"} {
		gates := newGates(t, role, RoleGateway)
		a, b := gates[0], gates[1]
		if _, err := a.Serving(ctx, 1); err != nil {
			t.Fatal(err)
		}
		_, err := a.Carry(ctx, "b", a.request(a.srv.Foreign("", clientAddr, 9, nil), []byte("x")))
		if vfs.KindOf(err) != vfs.KindPerm || len(b.srv.conns) != 0 || a.Reaches(ctx, "b") {
			t.Errorf("role %s: %v, %d requests", role, err, len(b.srv.conns))
		}
	}
}

// TestMalformed: what no gateway sends is refused.
func TestMalformed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	gates := newGates(t, RoleGateway, RoleGateway)
	a, b := gates[0], gates[1]
	cl := wire.NewClient(wire.Dialer("tcp", b.at.Address), wire.ClientOptions{Security: wire.Security{Mode: wire.ModeMAC, TLS: a.id.ClientTLS("b")}})
	defer cl.Close()
	c := carried{id: connID{1, 2}, address: "x:1", tag: 3, remote: clientAddr, req: *a.request(nil, nil)}
	good := c.append(nil)
	got, err := decodeCarried(good)
	if err != nil || got.id != c.id || got.address != "x:1" || got.req.Machine != "m" || got.req.Size != 100 || got.remote != clientAddr {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range good {
		if _, err := decodeCarried(good[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(good))
		}
	}
	for _, op := range []wire.Op{OpCarry, OpCallback, OpClosed, 99} {
		for _, meta := range [][]byte{nil, {metaFormat}, {9, 1, 2, 3}, append(bytes.Clone(good), 1), bytes.Repeat([]byte{0xff}, 200)} {
			if _, err := cl.Call(ctx, op, meta, nil, nil); !wire.Answered(err) {
				t.Errorf("operation %d, meta %x: %v", op, meta, err)
			}
		}
	}
	if len(b.srv.conns) != 0 {
		t.Error("something of that was served")
	}
}

// callbacks answers calls that a server makes.
type callbacks struct{}

func (callbacks) ServeRPC(_ context.Context, req *rpc.Request) {
	req.Reply.B = append(append(req.Reply.B, "re: "...), req.Body...)
}

// TestCallback: a server calls a client by the connection that another gateway has; when that is gone the connection ends here.
func TestCallback(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	gates := newGates(t, RoleGateway, RoleGateway)
	a, b := gates[0], gates[1]
	if _, err := a.Serving(ctx, 1); err != nil {
		t.Fatal(err)
	}
	// The client's connection to a, whose requests are carried to b.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *rpc.Conn, 1)
	front := rpc.NewServer(rpc.Config{Opened: func(c *rpc.Conn) { conns <- c }})
	served := make(chan error, 1)
	go func() { served <- front.Serve(ln) }()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := rpc.NewClientConn(nc, rpc.ClientConfig{Callbacks: callbacks{}, CallbackProg: 40, CallbackLow: 1, CallbackHigh: 1})
	conn := <-conns
	if _, err := a.Carry(ctx, "b", a.request(conn, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	there := b.srv.last()
	resp, err := there.Call(ctx, &rpc.Call{Prog: 40, Vers: 1, Proc: 1, Args: []byte("call"), MaxReply: 100})
	if err != nil || string(resp.Body) != "re: call" {
		t.Fatalf("called back: %q, %v", resp.Body, err)
	}
	resp.Release()
	client.Close()
	<-client.Done()
	<-conn.Done()
	if _, err := there.Call(ctx, &rpc.Call{Prog: 40, Vers: 1, Proc: 1, MaxReply: 100}); err == nil {
		t.Error("a connection that is closed is called by")
	}
	select {
	case <-there.ReadDone():
	case <-ctx.Done():
		t.Error("it goes on")
	}
	if err := errors.Join(front.Shutdown(ctx), <-served); err != nil {
		t.Error(err)
	}
}
