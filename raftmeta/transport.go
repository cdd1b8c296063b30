package raftmeta

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/raftnet"
)

// transportPool is how many streams of the first protocol to a replica are kept.
const transportPool = 3

// transport is a shard's raft.Transport: that of package raftnet, and for replicas whose release does not know it that of hashicorp/raft. Which one a replica
// speaks is found out by the first stream to it, and again after one of the older protocol failed, for the replica may run another release then.
type transport struct {
	*raftnet.Transport
	net     network
	older   transport1
	newest  mux.Protocol
	consume chan raft.RPC
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup // relay

	mu    sync.Mutex
	speak map[raft.ServerAddress]struct{} // the older protocol
}

func newTransport(n network, self string, newest mux.Protocol, log *slog.Logger, hlog hclog.Logger) *transport {
	t := &transport{net: n, newest: newest, consume: make(chan raft.RPC), done: make(chan struct{}), speak: map[raft.ServerAddress]struct{}{}}
	t.Transport = raftnet.New(raftnet.Options{Self: self, Network: n, Timeout: transportTimeout, Logger: log, Requests: t.consume})
	t.older = transport1{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: network1{n}, MaxPool: transportPool, Timeout: transportTimeout, MsgpackUseNewTimeFormat: true, Logger: hlog,
	})}
	t.wg.Go(t.relay)
	return t
}

// relay gives the requests of older replicas to Raft.
func (t *transport) relay() {
	for {
		select {
		case rpc := <-t.older.Consumer():
			select {
			case t.consume <- rpc:
			case <-t.done:
				return
			}
		case <-t.done:
			return
		}
	}
}

// by calls newer, or older if to speaks the older protocol.
func (t *transport) by(to raft.ServerAddress, newer, older func() error) error {
	t.mu.Lock()
	_, old := t.speak[to]
	t.mu.Unlock()
	if old = old || t.newest < mux.Raft2; !old {
		err := newer()
		if !errors.Is(err, raftnet.ErrOlder) {
			return err
		}
		t.mu.Lock()
		t.speak[to] = struct{}{}
		t.mu.Unlock()
	}
	err := older()
	if err != nil {
		t.mu.Lock()
		delete(t.speak, to)
		t.mu.Unlock()
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (p raft.AppendPipeline, err error) {
	err = t.by(to,
		func() error { p, err = t.Transport.AppendEntriesPipeline(id, to); return err },
		func() error { p, err = t.older.AppendEntriesPipeline(id, to); return err })
	return p, err
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return t.by(to,
		func() error { return t.Transport.AppendEntries(id, to, req, resp) },
		func() error { return t.older.AppendEntries(id, to, req, resp) })
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.by(to,
		func() error { return t.Transport.RequestVote(id, to, req, resp) },
		func() error { return t.older.RequestVote(id, to, req, resp) })
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.by(to,
		func() error { return t.Transport.RequestPreVote(id, to, req, resp) },
		func() error { return t.older.RequestPreVote(id, to, req, resp) })
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.by(to,
		func() error { return t.Transport.TimeoutNow(id, to, req, resp) },
		func() error { return t.older.TimeoutNow(id, to, req, resp) })
}

// InstallSnapshot implements raft.Transport. That a replica is older is known before anything of data is read.
func (t *transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.by(to,
		func() error { return t.Transport.InstallSnapshot(id, to, req, resp, data) },
		func() error { return t.older.InstallSnapshot(id, to, req, resp, data) })
}

// SetHeartbeatHandler implements raft.Transport.
func (t *transport) SetHeartbeatHandler(fn func(raft.RPC)) {
	t.Transport.SetHeartbeatHandler(fn)
	t.older.SetHeartbeatHandler(fn)
}

// Close implements raft.WithClose.
func (t *transport) Close() error {
	t.once.Do(func() { close(t.done) })
	t.net.Close()
	err := errors.Join(t.Transport.Close(), t.older.Close())
	t.Transport.Wait()
	t.wg.Wait()
	return err
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// network is where a shard's Raft streams come from. Addresses are replica ids.
type network struct {
	*mux.Listener
	d mux.Dialer
}

// Dial implements raftnet.Network.
func (n network) Dial(ctx context.Context, to string) (net.Conn, error) {
	nc, p, err := n.d.Raft(ctx, to, mux.Raft2)
	if err != nil {
		return nil, err
	}
	if p < mux.Raft2 {
		nc.Close()
		return nil, raftnet.ErrOlder
	}
	return n.Track(nc)
}

// Accept implements raftnet.Network.
func (n network) Accept() (net.Conn, string, error) {
	s, err := n.AcceptStream(mux.Raft2)
	return s.Conn, s.Peer, err
}

// network1 is the same for the first protocol: a raft.StreamLayer.
type network1 struct{ n network }

// Dial implements raft.StreamLayer.
func (n network1) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	nc, _, err := n.n.d.Raft(ctx, string(to), mux.Raft1)
	if err != nil {
		return nil, err
	}
	return n.n.Track(nc)
}

// Accept implements raft.StreamLayer.
func (n network1) Accept() (net.Conn, error) { return n.n.Listener.Accept() }

// Close implements raft.StreamLayer.
func (n network1) Close() error { return n.n.Close() }

// Addr implements raft.StreamLayer.
func (n network1) Addr() net.Addr { return n.n.Addr() }

var (
	_ raft.StreamLayer = network1{}
	_ raftnet.Network  = network{}
)
