package raftmeta

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// againstEvery is how often others are told who is in the way, at most: each time all gateways look.
const againstEvery = time.Second

// Awaited is what somebody waits for in a shard.
type Awaited struct {
	Origin  uint64           // of who asks
	Files   []*metapb.FileId // in which locks are in the way; those beyond the first 1024 are not asked about
	Against []uint64         // the NFS clients that have them
	Changed <-chan struct{}  // closed when there is more
}

// Unlocked is what a gateway hears.
type Unlocked struct {
	Files   []*metapb.FileId // that are awaited and have fewer locks
	All     bool             // it may be any file
	Against []uint64         // NFS clients that are in the way of others', to be ended if their leases are over
}

// Unlocks hears which of the files that are awaited have fewer locks, until ctx ends, and who is in the way of other gateways' clients. What it tells is a hint, and some of it
// may come twice. open answers OthersOpen of other gateways.
func (c *Client) Unlocks(ctx context.Context, shard uint16, awaited func() Awaited, heard func(Unlocked), open func(*metapb.FileId) bool) {
	s := c.shard(shard)
	var (
		b       backoff
		version uint64
		told    time.Time // when others were told who is in the way
		answers []*metapb.OpensAnswer
	)
	for ctx.Err() == nil {
		a := awaited()
		req := &metapb.UnlocksRequest{Shard: uint32(shard), Version: version, Origin: a.Origin, Answers: answers, Files: a.Files[:min(len(a.Files), maxAwaited)]}
		if len(a.Against) > 0 && time.Since(told) >= againstEvery {
			told = time.Now()
			req.Against = a.Against[:min(len(a.Against), maxAwaited)]
		}
		reply, err := s.unlocks(ctx, a.Changed, req)
		switch {
		case err == nil:
			b = backoff{}
			version, answers = reply.Version, nil
			for _, ask := range reply.Asks {
				answers = append(answers, &metapb.OpensAnswer{Id: ask.Id, Open: open(ask.File)})
			}
			if reply.All || len(reply.Files) > 0 || len(reply.Against) > 0 {
				heard(Unlocked{reply.Files, reply.All, reply.Against})
			}
		case vfs.KindOf(err) == vfs.KindCanceled: // there is more
		default:
			if !b.wait(ctx) {
				return
			}
		}
	}
}

// unlocks makes one call, and gives it up when more is awaited.
func (s *clientShard) unlocks(ctx context.Context, changed <-chan struct{}, req *metapb.UnlocksRequest) (*metapb.UnlocksReply, error) {
	const op = "raftmeta.unlocks"
	enc, err := req.MarshalVT()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	defer func() { <-watched }()
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(watched)
		select {
		case <-changed:
			cancel()
		case <-done:
		}
	}()
	r, err := s.callWaiting(ctx, OpUnlocks, enc)
	if err != nil {
		if ctx.Err() != nil {
			return nil, vfs.Errorf(vfs.KindCanceled, op, "%w", context.Cause(ctx))
		}
		return nil, err
	}
	defer r.Release()
	reply := new(metapb.UnlocksReply)
	if err := reply.UnmarshalVT(r.Meta); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	return reply, nil
}
