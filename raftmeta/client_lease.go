package raftmeta

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// renewals is how often a lease is renewed in its length.
const renewals = 6

// Lease is the lease of this client's origin at one shard: while it is valid, nobody has been given what the
// origin has. It is renewed in the background until the client is closed or the shard says that the origin ended.
type Lease struct {
	s      *clientShard
	origin uint64
	now    func() time.Duration
	until  atomic.Int64  // as time.Duration: it is valid before
	ended  chan struct{} // closed when the shard said so
}

// forever is the validity of a lease that does not end by time.
const forever = time.Duration(1<<63 - 1)

// Valid reports whether what the origin has is its own for now. Two thirds of a lease after the last request that
// was answered it is not any more: the rest is what clocks may differ and what a reply takes.
func (l *Lease) Valid() bool { return l.validAt(l.now()) }

func (l *Lease) validAt(now time.Duration) bool {
	select {
	case <-l.ended:
		return false
	default:
		return now < time.Duration(l.until.Load())
	}
}

// Valid reports whether all of several leases of one Client, none of them nil, are valid. The clock is read once: it is a system call.
func Valid(leases ...*Lease) bool {
	if len(leases) == 0 {
		return true
	}
	now := leases[0].now()
	for _, l := range leases {
		if !l.validAt(now) {
			return false
		}
	}
	return true
}

// Ended is closed when the origin is not registered any more: what it had is void.
func (l *Lease) Ended() <-chan struct{} { return l.ended }

// Origin is whose lease it is.
func (l *Lease) Origin() uint64 { return l.origin }

// LeaseOptions of a registration.
type LeaseOptions struct {
	// Several: other gateways may serve the same files, and from level 6 on it is asked about those that lose their names (Holds).
	Several bool
	// Length of the lease, from level 7 on; 0: as the shard's leader is configured.
	Length time.Duration
}

// RegisterLeased is Register of a gateway that renews its lease from now on. It returns when the lease was renewed for the first time.
func (c *Client) RegisterLeased(ctx context.Context, shard uint16, name string, incarnation []byte, o LeaseOptions) (*Lease, error) {
	return c.registerLeased(ctx, shard, &metapb.RegisterOrigin{Name: name, Incarnation: incarnation}, o)
}

// Reregister is RegisterLeased after the last lease ended, with an incarnation of its own. KindExists if
// somebody else has registered under the name meanwhile: this gateway was succeeded.
func (c *Client) Reregister(ctx context.Context, shard uint16, name string, incarnation []byte, o LeaseOptions) (*Lease, error) {
	return c.registerLeased(ctx, shard, &metapb.RegisterOrigin{Name: name, Incarnation: incarnation, Vacant: true}, o)
}

func (c *Client) registerLeased(ctx context.Context, shard uint16, reg *metapb.RegisterOrigin, o LeaseOptions) (*Lease, error) {
	const op = "raftmeta.lease"
	reg.Kind, reg.Leased, reg.Several, reg.LeaseMilliseconds = metapb.OriginKind_ORIGIN_GATEWAY, true, o.Several, uint32(o.Length/time.Millisecond)
	origin, err := c.register(ctx, shard, reg)
	if vfs.KindOf(err) == vfs.KindNotSupported && reg.LeaseMilliseconds != 0 { // the voters run an older release
		reg.LeaseMilliseconds = 0
		origin, err = c.register(ctx, shard, reg)
	}
	if err != nil {
		return nil, err
	}
	l := &Lease{s: c.shard(shard), origin: origin, now: c.opt.Monotonic, ended: make(chan struct{})}
	first := make(chan struct{})
	if !c.start(func() { l.keep(first) }) {
		return nil, vfs.Errorf(vfs.KindCanceled, op, "%w", errClientClosed)
	}
	select {
	case <-first:
		select {
		case <-l.ended: // this process stood still for a lease: nobody else needs to have the name
			return nil, vfs.Errorf(vfs.KindUnavailable, op, "origin %d of shard %d ended at once: register again", origin, shard)
		default:
			return l, nil // if it is not valid any more, it will be at the next renewal
		}
	case <-ctx.Done():
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "shard %d did not answer: %w", shard, context.Cause(ctx))
	case <-c.ctx.Done():
		return nil, vfs.Errorf(vfs.KindCanceled, op, "%w", errClientClosed)
	}
}

// End ends the origin now, so that nobody waits for the end of its lease: what it had is void. Nothing is done in its name after this. told: its clients' opens are all
// recorded, so nothing needs to stay for them (Options.Linger).
func (l *Lease) End(ctx context.Context, told bool) error {
	const op = "raftmeta.end lease"
	_, err := l.s.c.Apply(ctx, l.s.id, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: l.origin, Left: told}}})
	return vfs.Wrap(op, err)
}

// keep renews until there is nothing to renew. first is closed after the first answer.
func (l *Lease) keep(first chan struct{}) {
	req, _ := (&metapb.RenewRequest{Shard: uint32(l.s.id), Origin: l.origin}).MarshalVT() // only numbers: it cannot fail
	var b backoff
	for {
		lease, err := l.renew(req)
		switch {
		case err == nil:
			b = backoff{}
			if first != nil {
				close(first)
				first = nil
			}
			every := lease / renewals
			if l.s.c.opt.RenewInterval > 0 {
				every = l.s.c.opt.RenewInterval
			}
			if pause(l.s.c.ctx, every) != nil {
				return
			}
			continue
		case wire.Answered(err) && vfs.KindOf(err) == vfs.KindUnknownOrigin:
			close(l.ended)
			if first != nil {
				close(first)
			}
			return
		}
		if !b.wait(l.s.c.ctx) {
			return
		}
	}
}

// renew makes one attempt and returns the lease that was promised.
func (l *Lease) renew(req []byte) (time.Duration, error) {
	const op = "raftmeta.lease"
	sent := l.now() // the lease counts from no earlier than this
	r, err := l.s.call(OpRenew, req, nil)
	if err != nil {
		return 0, err
	}
	defer r.Release()
	var reply metapb.RenewReply
	if err := reply.UnmarshalVT(r.Meta); err != nil {
		return 0, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	lease := time.Duration(min(reply.LeaseMilliseconds, uint64(forever/time.Millisecond))) * time.Millisecond
	if lease == 0 { // registered when the shard was at level 1
		l.until.Store(int64(forever))
		return DefaultOriginLease, nil
	}
	l.until.Store(int64(sent + lease - lease/3))
	return lease, nil
}
