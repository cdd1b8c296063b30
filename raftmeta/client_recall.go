package raftmeta

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxGiving bounds what a gateway gives back at the same time.
	maxGiving = 64
	// maxWishCalls bounds the calls of one client that wait for what it wishes: a voter answers no more than 64 calls of a connection at once.
	maxWishCalls = 16
)

// callWaiting is callWithin for what waits at the leader: that it does not answer is no reason for doubt that it leads.
func (s *clientShard) callWaiting(ctx context.Context, op wire.Op, req []byte) (*wire.Reply, error) {
	return s.callBy(ctx, op, req, nil, func(ctx context.Context, cl *wire.Client, _ string, op wire.Op, req []byte, payload net.Buffers) (*wire.Reply, error) {
		return cl.Call(ctx, op, req, payload, nil)
	})
}

// Wish asks the gateway that has a file to itself to give it back, through the shard's leader. It returns when it may have done so, or after
// a moment all the same; an error only when ctx ended or the leader refuses. Those who wish for a file at the same time share a call.
func (c *Client) Wish(ctx context.Context, shard uint16, fs uint32, ino uint64) error {
	return c.wishFor(ctx, shard, Wished{FS: fs, Ino: ino})
}

// WishNFSClient asks the gateway that serves an NFS client to give that up, as Wish does.
func (c *Client) WishNFSClient(ctx context.Context, id uint64) error {
	return c.wishFor(ctx, 0, Wished{Client: id})
}

// PlaceOfNFSClient is where the gateway that serves an NFS client takes its calls, as the leader of shard 0 knows; nothing if it does not, or nobody serves the
// client. It makes one attempt.
func (c *Client) PlaceOfNFSClient(ctx context.Context, id uint64) (Place, error) {
	const op = "raftmeta.place of client"
	req, err := (&metapb.WishRequest{Client: id, Where: true}).MarshalVT()
	if err != nil {
		return Place{}, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	r, err := c.shard(0).callWithin(ctx, OpWish, req, nil)
	if err != nil {
		return Place{}, vfs.Wrap(op, err)
	}
	defer r.Release()
	reply := new(metapb.WishReply)
	if err := reply.UnmarshalVT(r.Meta); err != nil {
		return Place{}, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	return Place{Gateway: reply.Gateway, Address: reply.Address}, nil
}

func (c *Client) wishFor(ctx context.Context, shard uint16, w Wished) error {
	const op = "raftmeta.wish"
	asked := c.wishing.DoChan(fmt.Sprint(shard, w), func() (any, error) {
		if !c.enter() {
			return nil, vfs.Errorf(vfs.KindCanceled, op, "%w", errClientClosed)
		}
		defer c.wg.Done()
		ctx, cancel := context.WithTimeout(c.ctx, c.opt.AttemptTimeout)
		defer cancel()
		return nil, c.wish(ctx, shard, w)
	})
	select {
	case r := <-asked:
		return vfs.Wrap(op, r.Err)
	case <-ctx.Done():
		return vfs.Errorf(vfs.KindOf(context.Cause(ctx)), op, "%w", context.Cause(ctx))
	}
}

// wish asks once, or, if nobody leads, until ctx ends, which is no error: the caller looks again who has it.
func (c *Client) wish(ctx context.Context, shard uint16, w Wished) error {
	ask := &metapb.WishRequest{Shard: uint32(shard), Client: w.Client}
	if w.Client == 0 {
		ask.File = &metapb.FileId{Fs: w.FS, Ino: w.Ino}
	}
	req, err := ask.MarshalVT()
	if err != nil {
		return err
	}
	select {
	case c.wishes <- struct{}{}:
		defer func() { <-c.wishes }()
	case <-ctx.Done():
		return nil
	}
	s := c.shard(shard)
	var b backoff
	for {
		r, err := s.callWaiting(ctx, OpWish, req)
		if err == nil {
			r.Release()
			return nil
		}
		if final(err) {
			return err
		}
		if !b.wait(ctx) {
			return nil
		}
	}
}

// Recalls hears what others want from an origin of a shard, and has give give it back, several at once, until ctx ends, and then waits for those under way.
// What give could not give back, or got again, is asked for again as long as it is wanted. The leader is told where the gateway takes calls of its NFS clients, "": nowhere.
func (c *Client) Recalls(ctx context.Context, shard uint16, origin func() uint64, address string, give func(context.Context, Wished) error) {
	h := &hearing{s: c.shard(shard), origin: origin, give: give, address: address, slots: make(chan struct{}, maxGiving), under: map[Wished]bool{}}
	h.run(ctx)
	h.wg.Wait()
}

// hearing is a run of Recalls.
type hearing struct {
	s      *clientShard
	origin func() uint64 // 0: none now
	// address is told in each call that waits, so that a new leader knows it at once.
	address string
	give    func(context.Context, Wished) error
	slots   chan struct{}
	wg      sync.WaitGroup

	mu    sync.Mutex // guards the following
	under map[Wished]bool
}

func (h *hearing) run(ctx context.Context) {
	var (
		b       backoff
		version uint64
		last    uint64 // origin that the version is about
	)
	for ctx.Err() == nil {
		origin := h.origin()
		if origin != last {
			version, last = 0, origin
		}
		var reply *metapb.RecallsReply
		if origin != 0 {
			reply, _ = h.call(ctx, &metapb.RecallsRequest{Origin: origin, Version: version, Wait: true, Address: h.address})
		}
		if reply == nil {
			if !b.wait(ctx) {
				return
			}
			continue
		}
		b, version = backoff{}, reply.Version
		for _, f := range reply.Files {
			if !h.begin(ctx, origin, Wished{FS: f.GetFs(), Ino: f.GetIno()}) {
				return
			}
		}
		for _, id := range reply.Clients {
			if !h.begin(ctx, origin, Wished{Client: id}) {
				return
			}
		}
	}
}

// begin gives something back, unless that is under way; false if ctx ended.
func (h *hearing) begin(ctx context.Context, origin uint64, w Wished) bool {
	h.mu.Lock()
	under := h.under[w]
	h.under[w] = true
	h.mu.Unlock()
	if under {
		return true
	}
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	h.wg.Go(func() {
		err := h.give(ctx, w)
		h.mu.Lock()
		delete(h.under, w)
		h.mu.Unlock()
		<-h.slots
		if err != nil {
			return
		}
		gave := &metapb.RecallsRequest{Origin: origin}
		if w.Client != 0 {
			gave.GaveClients = []uint64{w.Client}
		} else {
			gave.Gave = []*metapb.FileId{{Fs: w.FS, Ino: w.Ino}}
		}
		_, _ = h.call(ctx, gave) // else who waits finds out later
	})
	return true
}

func (h *hearing) call(ctx context.Context, req *metapb.RecallsRequest) (*metapb.RecallsReply, error) {
	const op = "raftmeta.recalls"
	req.Shard = uint32(h.s.id)
	enc, err := req.MarshalVT()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	r, err := h.s.callWaiting(ctx, OpRecalls, enc)
	if err != nil {
		return nil, err
	}
	defer r.Release()
	reply := new(metapb.RecallsReply)
	if err := reply.UnmarshalVT(r.Meta); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	return reply, nil
}

// Holds calls each for the files without names that are held for an origin of a shard.
func (c *Client) Holds(ctx context.Context, shard uint16, origin uint64, each func(*metapb.FileId)) error {
	q := &metapb.HoldsQ{Origin: origin}
	for {
		r, err := c.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_Holds{Holds: q}})
		if err != nil {
			return vfs.Wrap("raftmeta.holds", err)
		}
		files := r.GetHolds().GetFiles()
		for _, f := range files {
			each(f)
		}
		if !r.GetHolds().GetMore() || len(files) == 0 {
			return nil
		}
		last := files[len(files)-1]
		q = &metapb.HoldsQ{Origin: origin, AfterFs: last.GetFs(), AfterIno: last.GetIno()}
	}
}
