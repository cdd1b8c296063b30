package mux

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
)

// DialFunc opens a plain TCP connection to a node's metadata port.
type DialFunc func(ctx context.Context, node string) (net.Conn, error)

// RPC opens a connection to node on which package wire's client protocol starts.
func RPC(ctx context.Context, dial DialFunc, node string) (net.Conn, error) {
	nc, err := dial(ctx, node)
	if err != nil {
		return nil, err
	}
	if err := writeBy(ctx, nc, appendPrelude(nil, kindRPC, 0)); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// Dialer opens Raft streams of one shard.
type Dialer struct {
	Cluster  string
	Shard    uint16
	Self     string                          // own replica id
	Security func(node string) wire.Security // client side, for a stream to node
	Dial     DialFunc
}

// Raft opens a stream to the replica with id to, of the newest protocol up to newest that both ends know. It fails if another replica answers at its
// address.
func (d Dialer) Raft(ctx context.Context, to string, newest Protocol) (net.Conn, Protocol, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	node := NodeOf(to)
	nc, err := d.Dial(ctx, node)
	if err != nil {
		return nil, 0, err
	}
	conn, p, err := d.greet(ctx, nc, node, to, newest)
	if err != nil {
		nc.Close()
		return nil, 0, fmt.Errorf("raft stream of shard %d to %s: %w", d.Shard, to, err)
	}
	return conn, p, nil
}

func (d Dialer) greet(ctx context.Context, nc net.Conn, node, to string, newest Protocol) (net.Conn, Protocol, error) {
	s := d.Security(node)
	kind := byte(kindRaft)
	if s.Mode == wire.ModeInsecure && newest == Raft2 {
		kind = kindRaft2
	}
	if err := writeBy(ctx, nc, appendPrelude(nil, kind, d.Shard)); err != nil {
		return nil, 0, err
	}
	conn, p, err := clientTLS(ctx, nc, s, newest)
	if err != nil {
		return nil, 0, err
	}
	b, err := hello{shard: d.Shard, cluster: d.Cluster, from: d.Self, to: to}.append(nil)
	if err != nil {
		return nil, 0, err
	}
	if dl, ok := ctx.Deadline(); ok {
		nc.SetDeadline(dl)
	}
	if _, err := conn.Write(b); err != nil {
		return nil, 0, err
	}
	if err := readAnswer(conn); err != nil {
		return nil, 0, err
	}
	return conn, p, nc.SetDeadline(time.Time{})
}

func writeBy(ctx context.Context, nc net.Conn, b []byte) error {
	if dl, ok := ctx.Deadline(); ok {
		nc.SetDeadline(dl)
		defer nc.SetDeadline(time.Time{})
	}
	_, err := nc.Write(b)
	return err
}
