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
	// maxGiving bounds the files that a gateway gives back at the same time.
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
	const op = "raftmeta.wish"
	asked := c.wishing.DoChan(fmt.Sprint(shard, fs, ino), func() (any, error) {
		if !c.enter() {
			return nil, vfs.Errorf(vfs.KindCanceled, op, "%w", errClientClosed)
		}
		defer c.wg.Done()
		ctx, cancel := context.WithTimeout(c.ctx, c.opt.AttemptTimeout)
		defer cancel()
		return nil, c.wish(ctx, shard, &metapb.FileId{Fs: fs, Ino: ino})
	})
	select {
	case r := <-asked:
		return vfs.Wrap(op, r.Err)
	case <-ctx.Done():
		return vfs.Errorf(vfs.KindOf(context.Cause(ctx)), op, "%w", context.Cause(ctx))
	}
}

// wish asks once, or, if nobody leads, until ctx ends, which is no error: the caller looks at the lease again.
func (c *Client) wish(ctx context.Context, shard uint16, f *metapb.FileId) error {
	req, err := (&metapb.WishRequest{Shard: uint32(shard), File: f}).MarshalVT()
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

// Recalls hears which files of a shard others want from an origin, and has give give them back, several at once, until ctx ends, and then waits for those under way.
// A file that give could not give back, or got again, is asked for again as long as it is wanted.
func (c *Client) Recalls(ctx context.Context, shard uint16, origin func() uint64, give func(ctx context.Context, fs uint32, ino uint64) error) {
	h := &hearing{s: c.shard(shard), origin: origin, give: give, slots: make(chan struct{}, maxGiving), under: map[wishedFile]bool{}}
	h.run(ctx)
	h.wg.Wait()
}

// hearing is a run of Recalls.
type hearing struct {
	s      *clientShard
	origin func() uint64 // 0: none now
	give   func(ctx context.Context, fs uint32, ino uint64) error
	slots  chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the following
	under map[wishedFile]bool
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
			reply, _ = h.call(ctx, &metapb.RecallsRequest{Origin: origin, Version: version, Wait: true})
		}
		if reply == nil {
			if !b.wait(ctx) {
				return
			}
			continue
		}
		b, version = backoff{}, reply.Version
		for _, f := range reply.Files {
			if !h.begin(ctx, origin, wishedFile{f.GetFs(), f.GetIno()}) {
				return
			}
		}
	}
}

// begin gives a file back, unless that is under way; false if ctx ended.
func (h *hearing) begin(ctx context.Context, origin uint64, f wishedFile) bool {
	h.mu.Lock()
	under := h.under[f]
	h.under[f] = true
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
		err := h.give(ctx, f.fs, f.ino)
		h.mu.Lock()
		delete(h.under, f)
		h.mu.Unlock()
		<-h.slots
		if err == nil {
			_, _ = h.call(ctx, &metapb.RecallsRequest{Origin: origin, Gave: []*metapb.FileId{{Fs: f.fs, Ino: f.ino}}}) // else who waits finds out later
		}
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
