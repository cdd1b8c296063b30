package rpc_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 5 * time.Minute

const (
	progTest = 400100
	procEcho = 1 // returns its arguments
	procPull = 2 // returns as many bytes as its argument says, attached
	procHold = 3 // returns when the test says so
	procWho  = 4 // returns uid, gid, groups, machine
	procCall = 5 // calls back, returns what came back
	procBad  = 6 // GarbageArgs after having built half a reply
)

// program is the server side of the tests.
type program struct {
	hold     chan struct{}
	held     chan struct{} // one element per call that began to wait
	attached atomic.Int64  // payloads not yet released
}

func newProgram() *program {
	return &program{hold: make(chan struct{}), held: make(chan struct{}, 1000)}
}

func (p *program) ServeRPC(ctx context.Context, req *rpc.Request) {
	d := xdr.NewDecoder(req.Body)
	switch req.Proc {
	case 0:
	case procEcho:
		req.Reply.B = append(req.Reply.B, req.Body...)
	case procPull:
		n := int(d.Uint32())
		if d.Err() != nil {
			req.GarbageArgs()
			return
		}
		p.attached.Add(1)
		req.Reply.AttachOpaque(pattern(n), func() { p.attached.Add(-1) })
	case procHold:
		p.held <- struct{}{}
		select {
		case <-p.hold:
		case <-ctx.Done():
			req.SystemErr()
		}
		req.Reply.B = append(req.Reply.B, req.Body...)
	case procWho:
		b := xdr.AppendUint32(req.Reply.B, req.Cred.UID)
		b = xdr.AppendUint32(b, req.Cred.GID)
		b = xdr.AppendUint32(b, uint32(len(req.Cred.Groups)))
		for _, g := range req.Cred.Groups {
			b = xdr.AppendUint32(b, g)
		}
		req.Reply.B = xdr.AppendString(b, req.Machine)
	case procCall:
		resp, err := req.Conn.Call(ctx, &rpc.Call{Prog: progTest + 1, Vers: 1, Proc: procEcho, Args: req.Body, MaxReply: 1 << 10})
		if err != nil {
			req.SystemErr()
			return
		}
		req.Reply.B = append(req.Reply.B, resp.Body...)
		resp.Release()
	case procBad:
		p.attached.Add(1)
		req.Reply.AttachOpaque(make([]byte, 100), func() { p.attached.Add(-1) })
		req.GarbageArgs()
	default:
		req.ProcUnavail()
	}
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}

type fixture struct {
	*program
	srv  *rpc.Server
	addr string
}

func start(t testing.TB, cfg rpc.Config) *fixture {
	t.Helper()
	f := &fixture{program: newProgram(), srv: rpc.NewServer(cfg)}
	f.srv.Register(progTest, 3, 4, f.program)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.srv.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.srv.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := f.attached.Load(); n != 0 {
			t.Errorf("%d attached payloads were not released", n)
		}
	})
	return f
}

func (f *fixture) raw(t testing.TB) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

func (f *fixture) dial(t testing.TB) *rpc.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	echo := newProgram()
	c := rpc.NewClientConn(nc, rpc.ClientConfig{Callbacks: echo, CallbackProg: progTest + 1, CallbackLow: 1, CallbackHigh: 1})
	t.Cleanup(func() {
		c.Close()
		<-c.Done()
	})
	return c
}

// words encodes big-endian 32-bit words.
func words(w ...uint32) []byte {
	var b []byte
	for _, v := range w {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// record frames p, in fragments of at most size bytes.
func record(p []byte, size int) []byte {
	var b []byte
	for {
		n := min(size, len(p))
		mark := uint32(n)
		if n == len(p) {
			mark |= 1 << 31
		}
		b = append(binary.BigEndian.AppendUint32(b, mark), p[:n]...)
		if p = p[n:]; len(p) == 0 {
			return b
		}
	}
}

// readRecord reads one single-fragment record.
func readRecord(t testing.TB, r io.Reader) []byte {
	t.Helper()
	var mark [4]byte
	if _, err := io.ReadFull(r, mark[:]); err != nil {
		t.Fatalf("reading a record mark: %v", err)
	}
	p := make([]byte, binary.BigEndian.Uint32(mark[:])&^(1<<31))
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatal(err)
	}
	return p
}
