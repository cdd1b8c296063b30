package raftmeta

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// leaseLooks is how often in a lease the leader looks who has not renewed.
const leaseLooks = 16

// minOverdue is how long, at least, a gateway may take to give a file back: it may have much to write.
const minOverdue = 30 * time.Second

// leases are those of the origins of one shard, as one leader knows them: an origin whose lease it has not
// renewed for a whole lease, since the leader first saw it, is ended. How long that is says the registration, else the leader's configuration. All times are of the leader's own
// monotonic clock.
//
// Why a holder that serves for less than a lease after it sent a request that was answered never serves when it has been ended: the
// leader that answered was confirmed as the leader after the request arrived, and refuses to answer once it has decided to end the origin. A later leader
// took office after that confirmation, and waits a whole lease from then.
type leases struct {
	lease time.Duration // of those whose registration does not say

	mu     sync.Mutex    // guards the fields below
	every  time.Duration // how often it is looked: some times in the shortest lease
	last   map[uint64]time.Duration
	ending map[uint64]bool          // decided: nothing but the end may follow
	linger map[uint64]time.Duration // when those were seen first that ended and linger
	looked time.Duration            // 0: never
	looks  int
}

func newLeases(lease time.Duration) *leases {
	return &leases{lease: lease, every: lease / leaseLooks, last: make(map[uint64]time.Duration), ending: make(map[uint64]bool), linger: make(map[uint64]time.Duration)}
}

// of is the length of a registered origin's lease.
func (l *leases) of(o fsm.Origin) time.Duration {
	if o.Lease > 0 {
		return o.Lease
	}
	return l.lease
}

// renew is a renewal of a registered origin that arrives at now; false if it comes too late.
func (l *leases) renew(origin uint64, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending[origin] {
		return false
	}
	l.last[origin] = max(l.last[origin], now)
	return true
}

// look takes in which leased origins are registered at now, and returns those that are to be ended, the
// ones whose end was decided before and has not come among them.
func (l *leases) look(registered []fsm.Origin, now time.Duration) (end []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A leader that was paused itself heard nobody: that time does not count.
	if gap := now - l.looked; l.looked != 0 && gap > 4*l.every {
		for o := range l.last {
			l.last[o] += gap
		}
		for o := range l.linger {
			l.linger[o] += gap
		}
	}
	l.looked = now
	l.looks++
	here := make(map[uint64]bool, len(registered))
	shortest := l.lease
	for _, r := range registered {
		o, lease := r.ID, l.of(r)
		here[o] = true
		shortest = min(shortest, lease)
		last, seen := l.last[o]
		if !seen {
			l.last[o], last = now, now
		}
		if l.ending[o] = l.ending[o] || now-last >= lease; l.ending[o] {
			end = append(end, o)
		}
	}
	l.every = shortest / leaseLooks
	for o := range l.last {
		if !here[o] {
			delete(l.last, o)
			delete(l.ending, o)
		}
	}
	return end
}

// lingered takes in which origins linger at now, right after look, and returns those that do so for longer than max: it is up to this leader's clock, and a later one begins anew.
func (l *leases) lingered(ids []uint64, now, max time.Duration) (over []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for o := range l.linger {
		if !slices.Contains(ids, o) {
			delete(l.linger, o)
		}
	}
	for _, o := range ids {
		since, seen := l.linger[o]
		if !seen {
			since = now
			l.linger[o] = now
		}
		if now-since >= max {
			over = append(over, o)
		}
	}
	return over
}

// lingering is how many linger.
func (l *leases) lingering() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.linger)
}

// watchLeases ends origins that do not renew, until ctx ends.
func (sh *shard) watchLeases(ctx context.Context, l *leases) {
	for {
		every := sh.endSilent(ctx, l)
		if pause(ctx, min(every, sh.s.opt.CheckInterval)) != nil {
			return
		}
	}
}

// endSilent looks once, and says when to look again.
func (sh *shard) endSilent(ctx context.Context, l *leases) (every time.Duration) {
	v, _, err := sh.host.View()
	if err != nil {
		return retryPause
	}
	all, err := fsm.Origins(v)
	var lingering []uint64
	if err == nil {
		lingering, err = fsm.Lingering(v)
	}
	v.Release()
	if err != nil {
		sh.log.Error("raftmeta: list origins", "err", err)
		return retryPause
	}
	var leased []fsm.Origin
	var ids []uint64
	length := make(map[uint64]time.Duration)
	for _, o := range all {
		if o.Leased {
			leased, ids = append(leased, o), append(ids, o.ID)
			length[o.ID] = l.of(o)
		}
	}
	if lead := sh.lead.Load(); lead != nil {
		lead.recalls.keep(ids, sh.s.opt.Monotonic())
	}
	now := sh.s.opt.Monotonic()
	for _, o := range l.look(leased, now) {
		sh.log.Warn("raftmeta: a gateway did not renew its lease and is ended", "origin", o, "lease", length[o])
		sh.proposeOne(ctx, "expire", &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: o}}})
	}
	for _, o := range l.lingered(lingering, now, sh.s.opt.Linger) {
		sh.proposeOne(ctx, "linger", &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: o, Left: true}}})
	}
	if len(lingering) > 0 {
		return min(l.every, sh.s.opt.Linger/leaseLooks)
	}
	return l.every // only look changes it, which is called here
}

// serveRenew answers an origin that it lives on. It is a linearizable read first: only who leads now knows
// whether the origin is still registered, and may promise that it stays so for a lease.
func (s *Server) serveRenew(ctx context.Context, call *wire.Call) error {
	const op = "raftmeta.renew"
	var req metapb.RenewRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	sh, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	v, _, err := sh.read(ctx)
	if err != nil {
		return err
	}
	o, ok, err := fsm.FindOrigin(v, req.Origin)
	v.Release()
	switch {
	case err != nil:
		return err
	case !ok:
		return vfs.Errorf(vfs.KindUnknownOrigin, op, "origin %d of shard %d", req.Origin, req.Shard)
	case !o.Leased:
		return answer(call, &metapb.RenewReply{})
	case sh.lead.Load() != l: // whoever leads now does not know of this renewal
		return sh.notLeader()
	case l.recalls.overdue(req.Origin, s.opt.Monotonic(), max(l.leases.of(o), minOverdue)):
		// It lives and does not hear what others want of it: nothing but its end helps them.
		return vfs.Errorf(vfs.KindUnavailable, op, "origin %d does not give back what others want", req.Origin)
	case !l.leases.renew(req.Origin, s.opt.Monotonic()):
		return vfs.Errorf(vfs.KindUnavailable, op, "origin %d is being ended", req.Origin)
	}
	return answer(call, &metapb.RenewReply{LeaseMilliseconds: uint64(l.leases.of(o) / time.Millisecond)})
}
