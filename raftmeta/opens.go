package raftmeta

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxAsks bounds the questions of OpensRequest that are open at a leader.
	maxAsks = 1024
	// opensLook is how often it is looked who of those that are asked has ended.
	opensLook = 100 * time.Millisecond
)

// opensAsk is the question whether gateways have a file open for reading of which there is no record. It goes out with what they hear of locks (unlocks).
type opensAsk struct {
	file    lockedFile
	missing map[uint64]bool // origins that have not answered
	open    bool            // one has it open
	changed chan struct{}   // told when one answered
}

// ask asks origins; false if there are too many questions.
func (u *unlocks) ask(f lockedFile, origins []uint64) (id uint64, a *opensAsk, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.asks) >= maxAsks {
		return 0, nil, false
	}
	a = &opensAsk{file: f, missing: make(map[uint64]bool), changed: make(chan struct{}, 1)}
	for _, o := range origins {
		a.missing[o] = true
	}
	u.asked++
	u.asks[u.asked] = a
	wake(u.waiting[anyFile])
	return u.asked, a, true
}

func (u *unlocks) endAsk(id uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.asks, id)
}

// asksOf are the questions that an origin has to answer. u.mu is held.
func (u *unlocks) asksOf(origin uint64) (list []*metapb.OpensAsk) {
	for id, a := range u.asks {
		if a.missing[origin] {
			list = append(list, &metapb.OpensAsk{Id: id, File: &metapb.FileId{Fs: a.file.fs, Ino: a.file.ino}})
		}
	}
	return list
}

// answered takes in the answers of an origin.
func (u *unlocks) answered(origin uint64, answers []*metapb.OpensAnswer) {
	if len(answers) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range answers {
		a := u.asks[r.GetId()]
		if a == nil || !a.missing[origin] {
			continue
		}
		delete(a.missing, origin)
		a.open = a.open || r.GetOpen()
		select {
		case a.changed <- struct{}{}:
		default: // it was told
		}
	}
}

// outcome is what is known of a question when only these origins are registered.
func (u *unlocks) outcome(a *opensAsk, registered []uint64) (open, all bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	all = true
	for _, o := range registered {
		all = all && !a.missing[o]
	}
	return a.open, all
}

// serveOpens asks all gateways of several but one whether they have a file open for reading without a record.
func (s *Server) serveOpens(ctx context.Context, call *wire.Call) error {
	const op = "raftmeta.opens"
	var req metapb.OpensRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	sh, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	others := func() (list []uint64, err error) {
		v, _, err := sh.read(ctx)
		if err != nil {
			return nil, err
		}
		defer v.Release()
		all, err := fsm.Origins(v)
		for _, o := range all {
			if o.Several && o.ID != req.Origin {
				list = append(list, o.ID)
			}
		}
		return list, err
	}
	asked, err := others()
	if err != nil {
		return err
	}
	id, a, ok := l.unlocks.ask(lockedFile{req.File.GetFs(), req.File.GetIno()}, asked)
	if !ok {
		return vfs.Errorf(vfs.KindUnavailable, op, "%d questions are open already", maxAsks)
	}
	defer l.unlocks.endAsk(id)
	until := s.opt.Monotonic() + wishWait
	for {
		open, all := l.unlocks.outcome(a, asked)
		if open || all || s.opt.Monotonic() >= until {
			return answer(call, &metapb.OpensReply{Open: open, All: all})
		}
		if err := awaitFor(ctx, a.changed, opensLook); err != nil {
			return err
		}
		if asked, err = others(); err != nil { // those that ended meanwhile need not answer
			return err
		}
	}
}

// OthersOpen asks, through the shard's leader, whether other gateways than the one of an origin have a file open for reading without a record of that. all: each that is
// registered has answered, or one has it open.
func (c *Client) OthersOpen(ctx context.Context, shard uint16, origin uint64, fs uint32, ino uint64) (open, all bool, err error) {
	const op = "raftmeta.opens"
	enc, err := (&metapb.OpensRequest{Shard: uint32(shard), Origin: origin, File: &metapb.FileId{Fs: fs, Ino: ino}}).MarshalVT()
	if err != nil {
		return false, false, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	r, err := c.shard(shard).callWaiting(ctx, OpOpens, enc)
	if err != nil {
		return false, false, vfs.Wrap(op, err)
	}
	defer r.Release()
	var reply metapb.OpensReply
	if err := reply.UnmarshalVT(r.Meta); err != nil {
		return false, false, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	return reply.Open, reply.Open || reply.All, nil
}
