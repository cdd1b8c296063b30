package raftmeta

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/vfs"
)

// peers are RPC clients to metadata nodes, by name.
type peers struct {
	dial     mux.DialFunc
	security func(node string) wire.Security
	log      *slog.Logger

	mu      sync.Mutex
	clients map[string]*wire.Client // nil after close
}

func newPeers(dial mux.DialFunc, security func(string) wire.Security, log *slog.Logger) *peers {
	return &peers{dial: dial, security: security, log: log, clients: map[string]*wire.Client{}}
}

func (p *peers) client(node string) (*wire.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients == nil {
		return nil, vfs.Errorf(vfs.KindCanceled, "raftmeta.call", "closed")
	}
	c := p.clients[node]
	if c == nil {
		c = wire.NewClient(
			func(ctx context.Context) (net.Conn, error) { return mux.RPC(ctx, p.dial, node) },
			wire.ClientOptions{Security: p.security(node), Logger: p.log, SmallConns: 2, BulkConns: 2, BulkBytes: 64 << 10})
		p.clients[node] = c
	}
	return c, nil
}

func (p *peers) close() {
	p.mu.Lock()
	cs := p.clients
	p.clients = nil
	p.mu.Unlock()
	for _, c := range cs {
		c.Close()
	}
}

// message is what package metapb's messages have in common.
type message interface {
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
}

// call makes one call whose answer is in the reply's meta.
func (p *peers) call(ctx context.Context, node string, op wire.Op, req, reply message) error {
	c, err := p.client(node)
	if err != nil {
		return err
	}
	b, err := req.MarshalVT()
	if err != nil {
		return err
	}
	r, err := c.Call(ctx, op, b, nil, nil)
	if err != nil {
		return err
	}
	defer r.Release()
	return reply.UnmarshalVT(r.Meta)
}
