package raftnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience only ends a test that hangs.
const patience = 5 * time.Minute

// hub is a network of replicas on loopback. A stream begins with the name of who opened it.
type hub struct {
	mu    sync.Mutex
	addrs map[string]string
}

type port struct {
	hub  *hub
	self string
	ln   net.Listener
}

func (h *hub) open(t *testing.T, self string) *port {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addrs[self] = ln.Addr().String()
	return &port{h, self, ln}
}

func (p *port) Dial(ctx context.Context, to string) (net.Conn, error) {
	p.hub.mu.Lock()
	addr := p.hub.addrs[to]
	p.hub.mu.Unlock()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_, err = nc.Write(append([]byte{byte(len(p.self))}, p.self...))
	return nc, err
}

func (p *port) Accept() (net.Conn, string, error) {
	nc, err := p.ln.Accept()
	if err != nil {
		return nil, "", err
	}
	var n [1]byte
	if _, err := io.ReadFull(nc, n[:]); err != nil {
		return nil, "", err
	}
	name := make([]byte, n[0])
	_, err = io.ReadFull(nc, name)
	return nc, string(name), err
}

// stream1 makes a hub the raft.StreamLayer of hashicorp/raft's transport.
type stream1 struct{ *port }

func (s stream1) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.port.Dial(ctx, string(to))
}

func (s stream1) Accept() (net.Conn, error) { nc, _, err := s.port.Accept(); return nc, err }
func (s stream1) Close() error              { return s.ln.Close() }
func (s stream1) Addr() net.Addr            { return name(s.self) }

type name string

func (name) Network() string  { return "hub" }
func (n name) String() string { return string(n) }

type transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// kinds are the transports that behave alike: that of hashicorp/raft, from which this package's takes over, and this package's.
var kinds = map[string]func(t *testing.T, h *hub, self string) transport{
	"hashicorp": func(t *testing.T, h *hub, self string) transport {
		tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: stream1{h.open(t, self)}, MaxPool: 3, Timeout: patience, MsgpackUseNewTimeFormat: true, Logger: hclog.NewNullLogger(),
		})
		t.Cleanup(func() { tr.CloseStreams(); tr.Close() })
		return tr
	},
	"raftnet": func(t *testing.T, h *hub, self string) transport { return open(t, h, self, patience) },
}

func open(t *testing.T, h *hub, self string, timeout time.Duration) *Transport {
	p := h.open(t, self)
	tr := New(Options{Self: self, Network: p, Timeout: timeout, Logger: slog.New(slog.DiscardHandler), Requests: make(chan raft.RPC)})
	t.Cleanup(func() {
		p.ln.Close()
		tr.Close()
		tr.Wait()
	})
	return tr
}

func eachKind(t *testing.T, fn func(t *testing.T, a, b transport)) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			h := &hub{addrs: map[string]string{}}
			fn(t, open(t, h, "a"), open(t, h, "b"))
		})
	}
}

// serve answers the requests that come to tr until the test ends.
func serve(t *testing.T, tr transport, fn func(rpc raft.RPC)) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case rpc := <-tr.Consumer():
				fn(rpc)
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() { close(done); wg.Wait() })
}

func within[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
	}
	return v
}

var (
	from   = raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}
	moment = time.Unix(1700000000, 123456789)
)

func entries(first uint64, n int) (es []*raft.Log) {
	for i := range n {
		es = append(es, &raft.Log{
			Index: first + uint64(i), Term: 3, Type: raft.LogType(i % 6), Data: fmt.Appendf(nil, "data %d", i), AppendedAt: moment.Add(time.Duration(i)),
		})
	}
	if n > 1 {
		es[1].Extensions = []byte("more")
		es[n-1].Data = bytes.Repeat([]byte{7}, 3<<20) // longer than what a length alone gets memory for
	}
	return es
}

// plain makes a request or an answer comparable: times by what they are, no entries and empty bytes as nil, an answer without who made it.
func plain(m any) any {
	switch m := m.(type) {
	case *raft.AppendEntriesRequest:
		c := *m
		c.Entries = nil
		for _, e := range m.Entries {
			e := *e
			e.AppendedAt = e.AppendedAt.UTC()
			if len(e.Data) == 0 {
				e.Data = nil
			}
			c.Entries = append(c.Entries, &e)
		}
		return &c
	case *raft.InstallSnapshotRequest:
		c := *m
		if len(c.Peers) == 0 {
			c.Peers = nil
		}
		return &c
	case *raft.AppendEntriesResponse:
		c := *m
		c.RPCHeader = raft.RPCHeader{}
		return &c
	case *raft.RequestVoteResponse:
		c := *m
		c.RPCHeader = raft.RPCHeader{}
		return &c
	case *raft.RequestPreVoteResponse:
		c := *m
		c.RPCHeader = raft.RPCHeader{}
		return &c
	case *raft.InstallSnapshotResponse:
		c := *m
		c.RPCHeader = raft.RPCHeader{}
		return &c
	case *raft.TimeoutNowResponse:
		return &raft.TimeoutNowResponse{}
	}
	return m
}

// Each request arrives as it was made, and each answer, also beside one that is an error.
func TestRequests(t *testing.T) {
	snapshot := bytes.Repeat([]byte("snapshot"), 40_000)
	for _, c := range []struct {
		what           string
		req, resp, got any
		call           func(tr transport, req, resp any) error
	}{
		{
			"append, one entry", &raft.AppendEntriesRequest{RPCHeader: from, Term: 4, PrevLogEntry: 8, PrevLogTerm: 3, Entries: entries(9, 1), LeaderCommitIndex: 7},
			&raft.AppendEntriesResponse{Term: 4, LastLog: 9, Success: true}, &raft.AppendEntriesResponse{}, callAppend,
		},
		{
			"append, many entries", &raft.AppendEntriesRequest{RPCHeader: from, Term: 4, Entries: entries(1, 64)},
			&raft.AppendEntriesResponse{Term: 9, LastLog: 1, NoRetryBackoff: true}, &raft.AppendEntriesResponse{}, callAppend,
		},
		{
			"append, no entry", &raft.AppendEntriesRequest{RPCHeader: from, Term: 4, PrevLogEntry: 1 << 60, PrevLogTerm: 3, LeaderCommitIndex: 7},
			&raft.AppendEntriesResponse{Term: 4, LastLog: 9}, &raft.AppendEntriesResponse{}, callAppend,
		},
		{
			"vote", &raft.RequestVoteRequest{RPCHeader: from, Term: 5, LastLogIndex: 6, LastLogTerm: 7, LeadershipTransfer: true},
			&raft.RequestVoteResponse{Term: 5, Granted: true}, &raft.RequestVoteResponse{},
			func(tr transport, req, resp any) error {
				return tr.RequestVote("b", "b", req.(*raft.RequestVoteRequest), resp.(*raft.RequestVoteResponse))
			},
		},
		{
			"pre-vote", &raft.RequestPreVoteRequest{RPCHeader: from, Term: 5, LastLogIndex: 6, LastLogTerm: 7},
			&raft.RequestPreVoteResponse{Term: 5, Granted: true}, &raft.RequestPreVoteResponse{},
			func(tr transport, req, resp any) error {
				return tr.RequestPreVote("b", "b", req.(*raft.RequestPreVoteRequest), resp.(*raft.RequestPreVoteResponse))
			},
		},
		{
			"snapshot", &raft.InstallSnapshotRequest{
				RPCHeader: from, Leader: from.Addr, SnapshotVersion: 1, Term: 5, LastLogIndex: 6, LastLogTerm: 7, Configuration: []byte("conf"),
				ConfigurationIndex: 3, Size: int64(len(snapshot)),
			},
			&raft.InstallSnapshotResponse{Term: 5, Success: true}, &raft.InstallSnapshotResponse{},
			func(tr transport, req, resp any) error {
				return tr.InstallSnapshot("b", "b", req.(*raft.InstallSnapshotRequest), resp.(*raft.InstallSnapshotResponse), bytes.NewReader(snapshot))
			},
		},
		{
			"timeout now", &raft.TimeoutNowRequest{RPCHeader: from}, &raft.TimeoutNowResponse{}, &raft.TimeoutNowResponse{},
			func(tr transport, req, resp any) error {
				return tr.TimeoutNow("b", "b", req.(*raft.TimeoutNowRequest), resp.(*raft.TimeoutNowResponse))
			},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			eachKind(t, func(t *testing.T, a, b transport) {
				refused := errors.New("not this time")
				var answer error
				serve(t, b, func(rpc raft.RPC) {
					if want, got := plain(c.req), plain(rpc.Command); !reflect.DeepEqual(want, got) {
						t.Errorf("sent %+v, arrived %+v", want, got)
					}
					if rpc.Reader != nil {
						if data, err := io.ReadAll(rpc.Reader); err != nil || !bytes.Equal(data, snapshot) {
							t.Errorf("a snapshot of %d bytes arrived as %d, %v", len(snapshot), len(data), err)
						}
					}
					rpc.Respond(c.resp, answer)
				})
				for _, answer = range []error{nil, refused, nil} {
					err := c.call(a, c.req, c.got)
					if answer != nil && (err == nil || err.Error() != refused.Error()) || answer == nil && err != nil {
						t.Fatalf("answered %v, got %v", answer, err)
					}
					if answer == nil && !reflect.DeepEqual(plain(c.got), plain(c.resp)) {
						t.Fatalf("answered %+v, got %+v", c.resp, c.got)
					}
				}
			})
		})
	}
}

func callAppend(tr transport, req, resp any) error {
	return tr.AppendEntries("b", "b", req.(*raft.AppendEntriesRequest), resp.(*raft.AppendEntriesResponse))
}

// A heartbeat does not wait for Raft's main loop; whatever else is an append does.
func TestHeartbeats(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b transport) {
		beat := &raft.AppendEntriesRequest{RPCHeader: from, Term: 4}
		beats := 0
		b.SetHeartbeatHandler(func(rpc raft.RPC) {
			beats++
			rpc.Respond(&raft.AppendEntriesResponse{Term: 4, Success: true}, nil)
		})
		// Nobody serves b.
		for range 3 {
			var resp raft.AppendEntriesResponse
			if err := a.AppendEntries("b", "b", beat, &resp); err != nil || !resp.Success {
				t.Fatalf("a heartbeat: %+v, %v", resp, err)
			}
		}
		if beats != 3 {
			t.Fatalf("%d of 3 heartbeats arrived", beats)
		}
		served := 0
		serve(t, b, func(rpc raft.RPC) {
			served++
			rpc.Respond(&raft.AppendEntriesResponse{Term: 4, Success: true}, nil)
		})
		for _, no := range []*raft.AppendEntriesRequest{
			{RPCHeader: from, Term: 4, LeaderCommitIndex: 1},
			{RPCHeader: from, Term: 4, PrevLogEntry: 1, PrevLogTerm: 1},
			{RPCHeader: from, Term: 4, Entries: entries(1, 1)},
		} {
			if err := a.AppendEntries("b", "b", no, new(raft.AppendEntriesResponse)); err != nil {
				t.Fatal(err)
			}
		}
		if beats != 3 || served != 3 {
			t.Fatalf("%d heartbeats and %d others of 3 and 3", beats, served)
		}
	})
}

// A pipeline delivers requests and answers in order.
func TestPipelineOrder(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b transport) {
		const n = 500
		serve(t, b, func(rpc raft.RPC) {
			m := rpc.Command.(*raft.AppendEntriesRequest)
			rpc.Respond(&raft.AppendEntriesResponse{Term: 4, LastLog: m.PrevLogEntry + uint64(len(m.Entries)), Success: true}, nil)
		})
		p, err := a.AppendEntriesPipeline("b", "b")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		sent := make(chan error, 1)
		go func() {
			for i := range n {
				_, err := p.AppendEntries(&raft.AppendEntriesRequest{
					RPCHeader: from, Term: 4, PrevLogEntry: uint64(i), Entries: entries(uint64(i)+1, 1),
				}, new(raft.AppendEntriesResponse))
				if err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for i := range n {
			f := within(t, "an answer", p.Consumer())
			if f.Error() != nil || f.Request().PrevLogEntry != uint64(i) || f.Response().LastLog != uint64(i)+1 || !f.Response().Success {
				t.Fatalf("answer %d: %v, %+v, %+v", i, f.Error(), f.Request(), f.Response())
			}
		}
		if err := within(t, "the sender", sent); err != nil {
			t.Fatal(err)
		}
	})
}

// A pipeline that is closed ends who sends into it, though nobody answers.
func TestPipelineClosed(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b transport) {
		p, err := a.AppendEntriesPipeline("b", "b")
		if err != nil {
			t.Fatal(err)
		}
		full := make(chan struct{}, 1)
		ended := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				if i == 1 {
					full <- struct{}{}
				}
				_, err := p.AppendEntries(&raft.AppendEntriesRequest{RPCHeader: from, Term: 4, PrevLogEntry: 1}, new(raft.AppendEntriesResponse))
				if err != nil {
					ended <- err
					return
				}
			}
		}()
		within(t, "the first request", full)
		p.Close()
		within(t, "the sender's end", ended)
	})
}

// Calls in progress end with their transport, at either end; a replica that is back is found.
func TestClose(t *testing.T) {
	for kind, open := range kinds {
		for _, closed := range []string{"the caller's", "the other"} {
			t.Run(kind+"/"+closed, func(t *testing.T) {
				h := &hub{addrs: map[string]string{}}
				a, b := open(t, h, "a"), open(t, h, "b")
				taken := make(chan raft.RPC, 1)
				serve(t, b, func(rpc raft.RPC) { taken <- rpc })
				ended := make(chan error, 1)
				go func() {
					ended <- a.TimeoutNow("b", "b", &raft.TimeoutNowRequest{RPCHeader: from}, new(raft.TimeoutNowResponse))
				}()
				within(t, "the request", taken)
				if closed == "the other" {
					b.Close()
				} else if kind == "hashicorp" {
					t.Skip("its calls go on until their timeout")
				} else {
					a.Close()
				}
				if err := within(t, "the call's end", ended); err == nil {
					t.Fatal("a call that nobody answered succeeded")
				}
				if closed == "the other" {
					serve(t, open(t, h, "b"), func(rpc raft.RPC) { rpc.Respond(&raft.TimeoutNowResponse{}, nil) })
					if err := a.TimeoutNow("b", "b", &raft.TimeoutNowRequest{RPCHeader: from}, new(raft.TimeoutNowResponse)); err != nil {
						t.Fatalf("to the replica that is back: %v", err)
					}
				}
			})
		}
	}
}
