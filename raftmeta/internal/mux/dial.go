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

// Raft opens a stream to the replica with id to. It fails if another replica answers at its address.
func (d Dialer) Raft(ctx context.Context, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	node := NodeOf(to)
	nc, err := d.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	conn, err := d.greet(ctx, nc, node, to)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("raft stream of shard %d to %s: %w", d.Shard, to, err)
	}
	return conn, nil
}

func (d Dialer) greet(ctx context.Context, nc net.Conn, node, to string) (net.Conn, error) {
	if err := writeBy(ctx, nc, appendPrelude(nil, kindRaft, d.Shard)); err != nil {
		return nil, err
	}
	conn, err := clientTLS(ctx, nc, d.Security(node))
	if err != nil {
		return nil, err
	}
	b, err := hello{shard: d.Shard, cluster: d.Cluster, from: d.Self, to: to}.append(nil)
	if err != nil {
		return nil, err
	}
	if dl, ok := ctx.Deadline(); ok {
		nc.SetDeadline(dl)
	}
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	if err := readAnswer(conn); err != nil {
		return nil, err
	}
	return conn, nc.SetDeadline(time.Time{})
}

func writeBy(ctx context.Context, nc net.Conn, b []byte) error {
	if dl, ok := ctx.Deadline(); ok {
		nc.SetDeadline(dl)
		defer nc.SetDeadline(time.Time{})
	}
	_, err := nc.Write(b)
	return err
}
