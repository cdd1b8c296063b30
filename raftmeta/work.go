package raftmeta

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxPart bounds the name of a worker within its node.
const maxPart = 64

// workTable is what others do in the background with the permission of this leader. It is memory only: workers tell the next
// leader all of it.
type workTable struct {
	mu     sync.Mutex // guards the following
	ledger *ledger.Ledger

	pieces forgotten
}

func newWorkTable(l ledger.Limits) *workTable { return &workTable{ledger: ledger.New(l)} }

func (w *workTable) list(now time.Duration) []ledger.Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ledger.List(now)
}

// serveWork answers a worker which of its tasks may run. It is no linearizable read: a leader that was deposed and does not know lets more
// be done than the limits say, for a moment.
func (s *Server) serveWork(call *wire.Call) error {
	const op = "raftmeta.work"
	var req metapb.WorkRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	if len(req.Part) > maxPart {
		return vfs.Errorf(vfs.KindInvalid, op, "the name of a worker has %d bytes, %d are allowed", len(req.Part), maxPart)
	}
	for _, t := range req.Tasks {
		if err := mayWork(call.Peer, t.Kind); err != nil {
			return err
		}
	}
	sh, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	id := call.Peer.Name
	if req.Part != "" {
		id += " " + req.Part
	}
	l.work.mu.Lock()
	grants, ok := l.work.ledger.Report(id, req.Run, req.Tasks, s.opt.Monotonic())
	l.work.mu.Unlock()
	if !ok {
		return vfs.Errorf(vfs.KindTooMany, op, "shard %d has %d workers already", sh.id, ledger.MaxWorkers)
	}
	reply := &metapb.WorkReply{Grants: grants, LapseMilliseconds: uint64(l.work.ledger.Lapse() / time.Millisecond)}
	if req.Room > 0 && call.Peer.HasRole(RoleGateway) {
		reply.Pieces = l.work.pieces.take(int(req.Room))
	}
	return answer(call, reply)
}

// mayWork refuses work that a peer with these roles does not do.
func mayWork(p wire.Peer, k metapb.WorkKind) error {
	switch ledger.ClassOf(k) {
	case ledger.Survey, ledger.Repair, ledger.Scrub:
		if p.HasRole(RoleBlock) {
			return nil
		}
	case ledger.Rewrite:
		if p.HasRole(RoleGateway) {
			return nil
		}
	}
	return vfs.Errorf(vfs.KindPerm, "raftmeta.work", "%s, with the roles %q, does no work of kind %d", p.Name, p.Roles, int32(k))
}

// Work reports to the leader of a shard what a worker does and wants to do; see package background. It is tried
// once at each node that may lead.
func (c *Client) Work(ctx context.Context, shard uint16, r *metapb.WorkRequest) (*metapb.WorkReply, error) {
	const op = "raftmeta.work"
	enc, err := r.MarshalVT()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() // the client was closed
	s := c.shard(shard)
	for range c.opt.NodesFunc() {
		var reply *wire.Reply
		if reply, err = s.callWithin(ctx, OpWork, enc, nil); err == nil {
			out := new(metapb.WorkReply)
			err = out.UnmarshalVT(reply.Meta)
			reply.Release()
			if err != nil {
				return nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
			}
			return out, nil
		}
		if final(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, vfs.Wrap(op, err)
}
