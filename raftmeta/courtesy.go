package raftmeta

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	// courtesyLooks is how often in a courtesy the leader looks for clients that nobody serves.
	courtesyLooks = 16
	// releaseTimeout bounds one attempt to release clients at all shards.
	releaseTimeout = 30 * time.Second
)

// courtesy decides when NFS clients end whose gateway ended: when one leader has seen for a whole courtesy that nobody took
// them over. It is as grace and leases are: times are of the leader's own monotonic clock, and a new leader begins anew. A
// client that was taken over meanwhile has another origin, which the command that ends it does not name.
type courtesy struct {
	wait   time.Duration
	since  map[fsm.ClientOrigin]time.Duration
	looked time.Duration // 0: never
}

// look takes in which clients nobody serves at now, and returns those that are to end.
func (c *courtesy) look(unserved []fsm.ClientOrigin, now time.Duration) (over []fsm.ClientOrigin) {
	missed := time.Duration(0) // a leader that was paused saw nobody: that time does not count
	if gap := now - c.looked; c.looked != 0 && gap > 4*c.wait/courtesyLooks {
		missed = gap
	}
	c.looked = now
	since := make(map[fsm.ClientOrigin]time.Duration, len(unserved))
	for _, k := range unserved {
		at, seen := c.since[k]
		if at += missed; !seen {
			at = now
		}
		if since[k] = at; now-at >= c.wait {
			over = append(over, k)
		}
	}
	c.since = since
	return over
}

// watchClients ends NFS clients that nobody serves any more, and finishes releases that somebody began and did
// not finish, until ctx ends. It is the work of the leader of shard 0.
func (sh *shard) watchClients(ctx context.Context) {
	o := &sh.s.opt
	c := &courtesy{wait: o.ClientCourtesy}
	cl, err := sh.releaser()
	if err != nil {
		sh.log.Error("raftmeta: nobody releases NFS clients", "err", err)
		return
	}
	defer cl.Close()
	pending := map[uint64]bool{} // in release at the last look: who began gets the time in between to finish
	for {
		pending = sh.releaseIdle(ctx, c, cl, pending)
		if pause(ctx, min(c.wait/courtesyLooks, o.CheckInterval)) != nil {
			return
		}
	}
}

// releaser is a client by which the leader of shard 0 reaches the other shards.
func (sh *shard) releaser() (*Client, error) {
	o := &sh.s.opt
	nodes := o.NodesFunc()
	if len(nodes) == 0 {
		for _, id := range sh.voters() {
			nodes = append(nodes, mux.NodeOf(id))
		}
	}
	return NewClient(ClientOptions{Nodes: nodes, Resolver: o.Resolver, Security: o.ClientSecurity, Clock: o.Clock, Logger: sh.log})
}

// releaseIdle looks once and returns which clients were in release.
func (sh *shard) releaseIdle(ctx context.Context, c *courtesy, cl *Client, pending map[uint64]bool) map[uint64]bool {
	v, _, err := sh.host.View()
	if err != nil {
		return pending
	}
	unserved, releasing, err := fsm.IdleClients(v)
	v.Release()
	if err != nil {
		sh.log.Error("raftmeta: list NFS clients", "err", err)
		return pending
	}
	now := map[uint64]bool{}
	var finish []uint64
	for _, id := range releasing {
		now[id] = true
		if pending[id] {
			finish = append(finish, id)
		}
	}
	for _, k := range c.look(unserved, sh.s.opt.Monotonic()) {
		if !k.Reserved { // else nobody misses it: gateways reserve more ids than they need
			sh.log.Warn("raftmeta: an NFS client whose gateway ended was not taken over and is ended", "client", k.Client, "courtesy", c.wait)
		}
		r := sh.proposeOne(ctx, "remove client", &metapb.Command{Op: &metapb.Command_RemoveClient{RemoveClient: &metapb.RemoveClient{Client: k.Client, Origin: k.Origin}}})
		finish = append(finish, r.GetClients().GetClients()...)
	}
	if len(finish) > 0 {
		ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
		defer cancel()
		if err := cl.finishRelease(ctx, finish); err != nil && ctx.Err() == nil {
			sh.log.Error("raftmeta: release of NFS clients", "err", err)
		}
	}
	return now
}
