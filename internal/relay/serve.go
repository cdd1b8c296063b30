package relay

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// foreignID names a connection of another gateway.
type foreignID struct {
	gateway string
	connID
}

// foreign is one.
type foreign struct {
	conn    *rpc.Conn
	used    time.Time
	address string // of the gateway, as it said last
}

// Serve takes what other gateways carry to srv, from ln, until Close; then it returns nil.
func (r *Relay) Serve(ln net.Listener, srv Server) error {
	s := wire.NewServer(func(ctx context.Context, call *wire.Call) error { return r.serve(ctx, call, srv) }, wire.ServerOptions{
		Security: r.cfg.Server, CallsPerConn: callsPerConn, MaxRequestBytes: maxHeld, Logger: r.cfg.Logger,
	})
	r.mu.Lock()
	if r.peers == nil {
		r.mu.Unlock()
		_ = ln.Close()
		return nil
	}
	r.server = s
	r.wg.Go(func() { r.sweep(srv) })
	r.mu.Unlock()
	if err := s.Serve(ln); !errors.Is(err, wire.ErrClosed) {
		return vfs.Wrap("relay.serve", err)
	}
	return nil
}

func (r *Relay) serve(ctx context.Context, call *wire.Call, srv Server) error {
	const op = "relay.serve"
	if !call.Peer.HasRole(RoleGateway) {
		return vfs.Errorf(vfs.KindPerm, op, "%s, with the roles %q, is no gateway: it carries no requests", call.Peer.Name, call.Peer.Roles)
	}
	switch call.Op {
	case OpCarry:
		return r.serveCarry(call, srv)
	case OpCallback:
		return r.serveCallback(ctx, call)
	case OpClosed:
		m := reader{b: call.Meta}
		id := foreignID{call.Peer.Name, m.connID()}
		if err := m.end(op); err != nil {
			return err
		}
		r.end(srv, id)
		return nil
	case OpPing:
		return nil
	}
	return vfs.Errorf(vfs.KindNotSupported, op, "operation %d is not known to this release", call.Op)
}

// serveCarry has the NFS server carry out a request. It goes on when the caller does not wait any more, as for a connection that ends.
func (r *Relay) serveCarry(call *wire.Call, srv Server) error {
	c, err := decodeCarried(call.Meta)
	if err != nil {
		return err
	}
	conn, err := r.conn(srv, call.Peer.Name, &c)
	if err != nil {
		return err
	}
	c.req.Conn, c.req.Body = conn, call.Payload
	var failed error
	srv.Carry(&c.req, func(o rpc.CarriedOutcome, results [][]byte) {
		r.cfg.Metrics.received.WithLabelValues(outcome(o)).Inc()
		failed = call.Reply([]byte{byte(o)}, results...)
	})
	return failed
}

// conn is the connection here that a request of another gateway came by.
func (r *Relay) conn(srv Server, gateway string, c *carried) (*rpc.Conn, error) {
	id := foreignID{gateway, c.id}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.foreign[id]; f != nil {
		f.used, f.address = time.Now(), c.address
		return f.conn, nil
	}
	if r.peers == nil || len(r.foreign) >= maxForeign {
		return nil, vfs.Errorf(vfs.KindUnavailable, "relay.carry", "%d connections of other gateways are known already", len(r.foreign))
	}
	if boot, ok := r.boots[gateway]; ok && boot != c.id.boot { // it was started anew
		for other, f := range r.foreign {
			if other.gateway == gateway {
				delete(r.foreign, other)
				r.wg.Go(func() { srv.EndForeign(f.conn) })
			}
		}
	}
	r.boots[gateway] = c.id.boot
	conn := srv.Foreign(gateway, c.remote, c.tag, func(ctx context.Context, call *rpc.Call) (rpc.Response, error) {
		return r.callBack(ctx, srv, id, call)
	})
	r.foreign[id] = &foreign{conn, time.Now(), c.address}
	return conn, nil
}

// end ends a connection of another gateway.
func (r *Relay) end(srv Server, id foreignID) {
	r.mu.Lock()
	f := r.foreign[id]
	delete(r.foreign, id)
	r.mu.Unlock()
	if f != nil {
		srv.EndForeign(f.conn)
	}
}

// sweep ends connections of other gateways that carry nothing any more, and in the end all.
func (r *Relay) sweep(srv Server) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			over = true
		}
		var idle []foreignID
		r.mu.Lock()
		for id, f := range r.foreign {
			if over || time.Since(f.used) > idleFor {
				idle = append(idle, id)
			}
		}
		r.mu.Unlock()
		for _, id := range idle {
			r.end(srv, id)
		}
	}
}

// callBack calls a client by a connection of another gateway. One by which that is not possible ends, so that the client hears of it.
func (r *Relay) callBack(ctx context.Context, srv Server, id foreignID, call *rpc.Call) (rpc.Response, error) {
	const op = "relay.callback"
	gone := func(err error) (rpc.Response, error) {
		if ctx.Err() == nil {
			r.end(srv, id)
		}
		return rpc.Response{}, vfs.Wrap(op, err)
	}
	r.mu.Lock()
	if f := r.foreign[id]; f != nil && r.peers != nil && r.peers[id.gateway] == nil {
		r.reach(Place{id.gateway, f.address})
	}
	r.mu.Unlock()
	cl, err := r.client(id.gateway)
	if err != nil {
		return gone(err)
	}
	if len(call.Attached) > 0 || len(call.Cred) > maxCred {
		return rpc.Response{}, vfs.Errorf(vfs.KindInvalid, op, "a callback with a payload, or credentials of %d bytes", len(call.Cred))
	}
	c := callback{id: id.connID, call: *call}
	c.call.MaxReply = min(c.call.MaxReply, maxCallbackReply)
	reply, err := cl.Call(ctx, OpCallback, c.append(nil), net.Buffers{call.Args}, nil)
	if err != nil {
		return gone(err)
	}
	return rpc.Response{Body: reply.Payload}, nil // the reply's buffer is left to the garbage collector: callbacks are few
}

// serveCallback makes a call on a connection here for the gateway that serves its client.
func (r *Relay) serveCallback(ctx context.Context, call *wire.Call) error {
	const op = "relay.callback"
	c, err := decodeCallback(call.Meta)
	if err != nil {
		return err
	}
	r.mu.Lock()
	o := r.own[c.id.conn]
	told := o != nil && c.id.boot == r.boot && o.known[call.Peer.Name]
	r.mu.Unlock()
	if !told {
		return vfs.Errorf(vfs.KindNotFound, op, "connection %d is not known here, or not to gateway %s", c.id.conn, call.Peer.Name)
	}
	c.call.Args = call.Payload
	resp, err := o.conn.Call(ctx, &c.call)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	defer resp.Release()
	return call.Reply(nil, resp.Body)
}
