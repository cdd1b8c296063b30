package raftmeta

import (
	"context"
	"sync"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// MaxConnected bounds the connections that are told of one address.
	MaxConnected      = 8192
	maxConnectedBytes = MaxConnected * connectedItem6
	// maxConnectedNames bounds the addresses that a leader remembers, maxConnectedName the length of a name.
	maxConnectedNames = 256
	maxConnectedName  = 256
	// connectedItem is the length of a connection in PeersRequest.peers at an address of IPv4, connectedItem6 of IPv6.
	connectedItem  = 8
	connectedItem6 = 3 * connectedItem
)

// connected is who is connected at each address that moves, as the holders of the addresses told the leader of shard 0. It is for the next holder, so it
// outlives the registration that it is about. It is only a hint: a new leader knows it when it was told again.
type connected struct {
	mu    sync.Mutex // guards names
	names map[string]connections
}

type connections struct {
	origin  uint64 // of the registration; later ones are higher
	version uint64
	peers   []byte
}

// tell takes in a list, if whole, and returns the version that is known now. What an earlier holder says late is not taken.
func (c *connected) tell(name string, origin, version uint64, whole bool, peers []byte) (known uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.names[name]
	if whole && origin >= old.origin {
		if !ok && len(c.names) >= maxConnectedNames {
			for other := range c.names { // any one: it is told again if it is in use
				delete(c.names, other)
				break
			}
		}
		old = connections{origin, version, peers}
		c.names[name] = old
	}
	return old.version
}

// ask returns what is known of an address.
func (c *connected) ask(name string) (version uint64, peers []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.names[name]
	return k.version, k.peers
}

func (s *Server) servePeers(call *wire.Call) error {
	const op = "raftmeta.peers"
	var req metapb.PeersRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	if len(req.Peers) > maxConnectedBytes || len(req.Peers)%connectedItem != 0 || req.Name == "" || len(req.Name) > maxConnectedName {
		return vfs.Errorf(vfs.KindInvalid, op, "connections of %d bytes at %q", len(req.Peers), req.Name)
	}
	_, l, err := s.leading(0)
	if err != nil {
		return err
	}
	if req.Origin != 0 {
		return answer(call, &metapb.PeersReply{Version: l.connected.tell(req.Name, req.Origin, req.Version, req.Whole, req.Peers)})
	}
	version, peers := l.connected.ask(req.Name)
	if version == req.Version {
		peers = nil
	}
	return answer(call, &metapb.PeersReply{Version: version, Peers: peers})
}

// TellConnected tells the leader of shard 0 who is connected at an address, by the name and origin of its registration. Not whole: only that it is the
// list of that version. It returns the version that the leader has; if that is another one it is to be told the whole.
func (c *Client) TellConnected(ctx context.Context, name string, origin, version uint64, whole bool, peers []byte) (known uint64, err error) {
	if !whole {
		peers = nil
	}
	r, err := c.connected(ctx, &metapb.PeersRequest{Name: name, Origin: origin, Version: version, Whole: whole, Peers: peers})
	return r.GetVersion(), err
}

// Connected is who was connected at an address, as its holder told last; peers is nil if that is the version that the caller knows.
func (c *Client) Connected(ctx context.Context, name string, known uint64) (version uint64, peers []byte, err error) {
	r, err := c.connected(ctx, &metapb.PeersRequest{Name: name, Version: known})
	return r.GetVersion(), r.GetPeers(), err
}

// connected makes one attempt.
func (c *Client) connected(ctx context.Context, req *metapb.PeersRequest) (*metapb.PeersReply, error) {
	const op = "raftmeta.peers"
	enc, err := req.MarshalVT()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	r, err := c.shard(0).callWithin(ctx, OpPeers, enc, nil)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	defer r.Release()
	reply := new(metapb.PeersReply)
	if err := reply.UnmarshalVT(r.Meta); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	return reply, nil
}
