package raftmeta

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// releaseBatch bounds the clients that one command releases.
	releaseBatch = 64
	// firstNamespace is the namespace shard that every cluster has.
	firstNamespace = 1
)

// NewNFSClients makes n records of NFS clients that this client's origin serves, and returns the first of their ids, which
// follow one another and were never given before.
func (c *Client) NewNFSClients(ctx context.Context, n uint32) (first uint64, err error) {
	r, err := c.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{Count: n}}})
	if err != nil {
		return 0, vfs.Wrap("raftmeta.new clients", err)
	}
	return r.GetClients().GetFirst(), nil
}

// TakeNFSClients makes this client's origin the one that serves clients, as far as no other living origin does, and
// returns those that it serves now.
func (c *Client) TakeNFSClients(ctx context.Context, ids []uint64) (taken []uint64, err error) {
	const takeBatch = 256
	for batch := range slices.Chunk(ids, takeBatch) {
		r, err := c.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_TakeClients{TakeClients: &metapb.TakeClients{Clients: batch}}})
		if err != nil {
			return taken, vfs.Wrap("raftmeta.take clients", err)
		}
		taken = append(taken, r.GetClients().GetClients()...)
	}
	return taken, nil
}

// GiveNFSClients ends that this client's origin serves clients, and returns those that it did serve. Their sessions' records are replaced by those given.
func (c *Client) GiveNFSClients(ctx context.Context, clients []*metapb.GivenClient) (given []uint64, err error) {
	r, err := c.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_GiveClients{GiveClients: &metapb.GiveClients{Clients: clients}}})
	if err != nil {
		return nil, vfs.Wrap("raftmeta.give clients", err)
	}
	return r.GetClients().GetClients(), nil
}

// NFSClients lists the clients that a gateway serves, or served last, with their sessions.
func (c *Client) NFSClients(ctx context.Context, gateway string) (list []*metapb.ClientSessions, err error) {
	for after := uint64(0); ; {
		r, err := c.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_Clients{Clients: &metapb.ClientsQ{Gateway: gateway, After: after}}})
		if err != nil {
			return nil, vfs.Wrap("raftmeta.clients", err)
		}
		list = append(list, r.GetClients().GetClients()...)
		if after = r.GetClients().GetNext(); after == 0 {
			return list, nil
		}
	}
}

// NFSClientOf returns the client that has a session; KindNotFound.
func (c *Client) NFSClientOf(ctx context.Context, session []byte) (*metapb.ClientSessions, error) {
	return c.nfsClient(ctx, &metapb.ClientQ{Session: session})
}

// NFSClient returns a client; KindNotFound.
func (c *Client) NFSClient(ctx context.Context, id uint64) (*metapb.ClientSessions, error) {
	return c.nfsClient(ctx, &metapb.ClientQ{Client: id})
}

// NFSClientOfOwner returns the newest client of an owner; KindNotFound.
func (c *Client) NFSClientOfOwner(ctx context.Context, owner []byte) (*metapb.ClientSessions, error) {
	return c.nfsClient(ctx, &metapb.ClientQ{Owner: owner})
}

func (c *Client) nfsClient(ctx context.Context, q *metapb.ClientQ) (*metapb.ClientSessions, error) {
	const op = "raftmeta.client"
	r, err := c.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_Client{Client: q}})
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if l := r.GetClients().GetClients(); len(l) == 1 {
		return l[0], nil
	}
	return nil, vfs.Errorf(vfs.KindInternal, op, "the answer names no client")
}

// NFSClientState lists the opens and locks of a client in a namespace shard.
func (c *Client) NFSClientState(ctx context.Context, shard uint16, client uint64) (opens []*metapb.ClientOpen, locks []*metapb.ClientLocks, err error) {
	q := &metapb.ClientStateQ{Client: client}
	for {
		r, err := c.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_ClientState{ClientState: q}})
		if err != nil {
			return nil, nil, vfs.Wrap("raftmeta.client state", err)
		}
		s := r.GetClientState()
		opens, locks = append(opens, s.GetOpens()...), append(locks, s.GetLocks()...)
		if !s.GetMore() {
			return opens, locks, nil
		}
		q = &metapb.ClientStateQ{Client: client, AfterFs: s.NextFs, AfterIno: s.NextIno}
	}
}

// ReleaseNFSClient ends a client that this client's origin serves. When it returns, what the client had is void everywhere and nobody can
// bring it back. If it fails half-way the leader of shard 0 goes on. KindBusy if another origin serves the client.
func (c *Client) ReleaseNFSClient(ctx context.Context, id uint64) error {
	const op = "raftmeta.release client"
	r, err := c.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_RemoveClient{RemoveClient: &metapb.RemoveClient{Client: id}}})
	if err != nil {
		return vfs.Wrap(op, err)
	}
	return vfs.Wrap(op, c.finishRelease(ctx, r.GetClients().GetClients()))
}

// finishRelease releases clients whose end shard 0 has decided at every namespace shard, then has shard 0 forget them. Its
// steps may be repeated, by several at once.
func (c *Client) finishRelease(ctx context.Context, ids []uint64) error {
	if len(ids) == 0 {
		return nil
	}
	r, err := c.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}})
	if err != nil {
		return err
	}
	shards := map[uint16]bool{firstNamespace: true} // where clients are known though no file system is left there
	for _, f := range r.GetFileSystems().GetFileSystems() {
		shards[uint16(f.Shard)] = true
	}
	for batch := range slices.Chunk(ids, releaseBatch) {
		for shard := range shards {
			_, err := c.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: batch}}})
			if err != nil && vfs.KindOf(err) != vfs.KindNotSupported { // a shard below level 3 has nothing of any client
				return err
			}
		}
		if _, err := c.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_ForgetClients{ForgetClients: &metapb.ForgetClients{Clients: batch}}}); err != nil {
			return err
		}
	}
	return nil
}
