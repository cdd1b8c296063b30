package upkeep

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// callTimeout bounds a call to another store that is not a read of data.
	callTimeout = 10 * time.Second
	// listPage is how many shards of a list are read at once: 24 KiB.
	listPage = 1024
)

// Conn makes calls to one node. *wire.Client is one.
type Conn interface {
	stripe.Caller
	Close()
}

// peers are the connections to other nodes, at the addresses of the newest map that anybody called with: a pass holds its map
// for long, and must not bring back the address that a node had then. A node that moved to another address is connected
// anew, one that is not in the map any more is forgotten.
type peers struct {
	dial func(node, address string) Conn

	mu     sync.Mutex // guards the following
	closed bool
	newest *clusterMap
	conns  map[string]peer
}

type peer struct {
	address string
	conn    Conn
}

func newPeers(dial func(node, address string) Conn) *peers {
	return &peers{dial: dial, conns: map[string]peer{}}
}

// conn is the connection to the node of a store.
func (p *peers) conn(m *clusterMap, t placement.Target) (Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(m)
	if !p.newest.known(t) {
		return nil, vfs.Errorf(vfs.KindUnavailable, "upkeep.call", "store %d of node %q is not in the cluster map, or was replaced", t.Disk, t.Node)
	}
	return p.at(t.Node)
}

// node is the connection to a node.
func (p *peers) node(m *clusterMap, node string) (Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(m)
	return p.at(node)
}

// follow takes m over if it is newer, and ends connections to where nobody is any more. p.mu is held.
func (p *peers) follow(m *clusterMap) {
	if p.newest == m || p.newest != nil && m.version != 0 && m.version <= p.newest.version {
		return
	}
	p.newest = m
	for node, have := range p.conns {
		if m.nodes[node] != have.address {
			have.conn.Close()
			delete(p.conns, node)
		}
	}
}

// at is the connection to a node. p.mu is held.
func (p *peers) at(node string) (Conn, error) {
	if p.closed {
		return nil, vfs.Errorf(vfs.KindCanceled, "upkeep.call", "the store's upkeep is ending")
	}
	if have, ok := p.conns[node]; ok {
		return have.conn, nil
	}
	address := p.newest.nodes[node]
	if address == "" {
		return nil, vfs.Errorf(vfs.KindUnavailable, "upkeep.call", "node %q has no address in the cluster map", node)
	}
	c := p.dial(node, address)
	p.conns[node] = peer{address, c}
	return c, nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		c.conn.Close()
	}
	p.conns = nil
}

// view is a map with the way to its nodes: what the stripe client needs.
type view struct {
	*clusterMap
	peers *peers
}

var _ stripe.Map = view{}

// PG implements stripe.Map.
func (v view) PG(id uint32) (*placement.PG, bool) {
	g := v.groups[id]
	if g == nil {
		return nil, false
	}
	return v.placementGroup(g), true
}

// Writable implements stripe.Map: repair writes to its own store only.
func (v view) Writable(uint32) []*placement.PG { return nil }

// Caller implements stripe.Map.
func (v view) Caller(node string) (stripe.Caller, error) { return v.peers.node(v.clusterMap, node) }

// newest is the newest map, whichever that is.
type newest struct{ k *Keeper }

func (n newest) PG(id uint32) (*placement.PG, bool) {
	if m := n.k.clusterMap(); m != nil {
		return view{m, n.k.peers}.PG(id)
	}
	return nil, false
}

func (n newest) Writable(uint32) []*placement.PG { return nil }

func (n newest) Caller(node string) (stripe.Caller, error) {
	if m := n.k.clusterMap(); m != nil {
		return view{m, n.k.peers}.Caller(node)
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, "upkeep.call", "the cluster map is not known yet")
}

// list reads a page of a store's shards of a group.
func (v view) list(ctx context.Context, t placement.Target, pg uint32, after *segment.Key) ([]blockstore.ShardInfo, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := v.peers.conn(v.clusterMap, t)
	if err != nil {
		return nil, false, err
	}
	req := blockstore.ListRequest{Disk: t.Disk, PG: pg, Limit: listPage, After: after}
	r, err := c.Call(ctx, blockstore.OpList, req.Append(nil), nil, nil)
	if err != nil {
		return nil, false, err
	}
	defer r.Release()
	var reply blockstore.ListReply
	if err := reply.Decode(r.Meta); err != nil {
		return nil, false, err
	}
	infos, err := blockstore.DecodeShardInfos(r.Payload)
	if err == nil && reply.More && len(infos) == 0 {
		err = vfs.Errorf(vfs.KindInternal, "upkeep.list", "%v says that more follows nothing", t)
	}
	return infos, reply.More, err
}

// fence has a store acknowledge the epoch of a group.
func (v view) fence(ctx context.Context, t placement.Target, e segment.Epoch) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := v.peers.conn(v.clusterMap, t)
	if err != nil {
		return err
	}
	req := blockstore.DiskRequest{Disk: t.Disk}
	r, err := c.Call(ctx, blockstore.OpFence, req.Append(nil), net.Buffers{segment.AppendEpochs(nil, []segment.Epoch{e})}, nil)
	r.Release()
	return err
}

// stat describes a shard of another store.
func (v view) stat(ctx context.Context, t placement.Target, key segment.Key) (blockstore.StatReply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var reply blockstore.StatReply
	c, err := v.peers.conn(v.clusterMap, t)
	if err != nil {
		return reply, err
	}
	req := blockstore.GetRequest{Disk: t.Disk, Key: key}
	r, err := c.Call(ctx, blockstore.OpStat, req.Append(nil), nil, nil)
	if err != nil {
		return reply, err
	}
	defer r.Release()
	return reply, reply.Decode(r.Meta)
}
