package nfsclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// Program and version of NFSv4.
const (
	Program = 100003
	Version = 4
)

// Config of a Client.
type Config struct {
	Addr     string                                      // host:port
	DialFunc func(ctx context.Context) (net.Conn, error) // in place of Addr
	Minor    uint32                                      // minor version, 1 (the default) or 2; MinorZero for 0
	Owner    string                                      // client owner: unique per client
	Verifier [8]byte                                     // of this life of the client
	Cred     vfs.Cred
	Machine  string

	// DialConn in place of DialFunc makes the conn-th connection of a session.
	DialConn func(ctx context.Context, conn int) (net.Conn, error)

	Sessions int    // each with connections of its own; default 1
	Conns    int    // of each session, which its requests take by turns; what is of no session takes the first. Default 1
	Slots    uint32 // per session, default 64
	MaxIO    uint32 // bytes of a READ or WRITE, default 1 MiB
	Patient  bool   // send again what the server answers with DELAY, GRACE or RETRY_UNCACHED_REP

	// NoReclaimComplete leaves RECLAIM_COMPLETE to the caller.
	NoReclaimComplete bool

	Callbacks rpc.Program // serves the backchannel; nil: none is asked for
}

// MinorZero asks for minor version 0, which a server must refuse.
const MinorZero = ^uint32(0)

// cbProgram is the program number of our callbacks.
const cbProgram = 0x40000000

// Client is a client id with its sessions.
type Client struct {
	cfg      Config
	cred     []byte
	sessions []*Session
	next     atomic.Uint32
	pool     sync.Pool // *Compound

	mu sync.Mutex
	// Fields protected by mu.
	id    uint64
	csSeq uint32 // of the next CREATE_SESSION
}

// ioOverhead is what a request or reply has beside its data.
const ioOverhead = 8 << 10

// New makes a client that has not spoken to its server yet.
func New(cfg Config) *Client {
	switch cfg.Minor {
	case 0:
		cfg.Minor = 1
	case MinorZero:
		cfg.Minor = 0
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = 1
	}
	if cfg.Conns == 0 {
		cfg.Conns = 1
	}
	if cfg.Slots == 0 {
		cfg.Slots = 64
	}
	if cfg.MaxIO == 0 {
		cfg.MaxIO = 1 << 20
	}
	if cfg.Owner == "" {
		cfg.Owner = "nfsclient"
	}
	c := &Client{cfg: cfg, cred: rpc.AuthSysCred(cfg.Machine, &cfg.Cred)}
	c.pool.New = func() any { return NewCompound() }
	for range cfg.Sessions {
		c.sessions = append(c.sessions, &Session{c: c, conns: make([]*rpc.Conn, cfg.Conns)})
	}
	return c
}

// Dial makes a client and its sessions, ready for use. Close it.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c := New(cfg)
	if err := c.Recover(ctx); err != nil {
		c.Disconnect()
		return nil, err
	}
	if !cfg.NoReclaimComplete {
		if err := c.ReclaimComplete(ctx); err != nil {
			c.Disconnect()
			return nil, err
		}
	}
	return c, nil
}

// Recover introduces the client and creates its sessions, anew if it had some
// that the server forgot. It does not end the reclaim phase.
func (c *Client) Recover(ctx context.Context) error {
	if err := c.ExchangeID(ctx, 0); err != nil {
		return err
	}
	for _, s := range c.sessions {
		if err := c.createSession(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// ID is the client id.
func (c *Client) ID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Session is the ith session.
func (c *Client) Session(i int) *Session { return c.sessions[i] }

// ExchangeID sends EXCHANGE_ID with the client's owner and verifier.
func (c *Client) ExchangeID(ctx context.Context, flags uint32) error {
	r, err := c.Raw(ctx, NewRaw().ExchangeID(c.cfg.Owner, c.cfg.Verifier, flags))
	if err != nil {
		return err
	}
	defer r.Release()
	id, seq, resFlags, err := r.ExchangeID()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != c.id || resFlags&nfsv4.EXCHGID4_FLAG_CONFIRMED_R == 0 {
		c.csSeq = seq
	}
	c.id = id
	return nil
}

func (c *Client) createSession(ctx context.Context, s *Session) error {
	c.mu.Lock()
	id, seq := c.id, c.csSeq
	c.csSeq++
	c.mu.Unlock()
	size := c.cfg.MaxIO + ioOverhead
	fore := ChannelAttrs{MaxRequest: size, MaxResponse: size, MaxCachedResponse: 4 << 10, MaxOps: 64, MaxSlots: c.cfg.Slots}
	back := ChannelAttrs{MaxRequest: 4 << 10, MaxResponse: 4 << 10, MaxOps: 2, MaxSlots: 1}
	var flags uint32
	if c.cfg.Callbacks != nil {
		flags |= nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN
	}
	conn, err := s.connection(ctx, 0)
	if err != nil {
		return err
	}
	r, err := c.exchange(ctx, conn, NewRaw().CreateSession(id, seq, flags, fore, back, cbProgram), nil)
	if err != nil {
		return err
	}
	defer r.Release()
	sid, _, fore, err := r.CreateSession()
	if err != nil {
		return err
	}
	if fore.MaxSlots == 0 || fore.MaxSlots > c.cfg.Slots {
		return fmt.Errorf("nfs: server gave %d slots of %d", fore.MaxSlots, c.cfg.Slots)
	}
	s.reset(sid, fore)
	return nil
}

// ReclaimComplete ends the reclaim phase.
func (c *Client) ReclaimComplete(ctx context.Context) error {
	return c.simple(ctx, NewCompound().ReclaimComplete(), nfsv4.OP_RECLAIM_COMPLETE)
}

// Do sends a compound on the next session.
func (c *Client) Do(ctx context.Context, cp *Compound) (*Reply, error) {
	return c.sessions[int(c.next.Add(1))%len(c.sessions)].Do(ctx, cp)
}

// simple sends cp and reads results without content.
func (c *Client) simple(ctx context.Context, cp *Compound, ops ...nfsv4.NfsOpnum4) error {
	r, err := c.Do(ctx, cp)
	if err != nil {
		return err
	}
	defer r.Release()
	return r.Skip(ops...)
}

// Raw sends a compound without a session on the first session's connection.
func (c *Client) Raw(ctx context.Context, cp *Compound) (*Reply, error) { return c.RawBy(ctx, 0, cp) }

// RawBy is Raw on the first session's ith connection.
func (c *Client) RawBy(ctx context.Context, i int, cp *Compound) (*Reply, error) {
	s := c.sessions[0]
	for try := 0; ; try++ {
		conn, err := s.connection(ctx, i)
		if err == nil {
			var r *Reply
			if r, err = c.exchange(ctx, conn, cp, nil); err == nil {
				return r, nil
			}
			if vfs.KindOf(err) == vfs.KindUnavailable {
				s.drop(conn)
			}
		}
		var remote *rpc.RemoteError
		if errors.As(err, &remote) || ctx.Err() != nil || vfs.KindOf(err) != vfs.KindUnavailable {
			return nil, err
		}
		if err := wait(ctx, try); err != nil {
			return nil, err
		}
	}
}

// exchange sends cp on conn and waits for its reply.
func (c *Client) exchange(ctx context.Context, conn *rpc.Conn, cp *Compound, sequence []byte) (*Reply, error) {
	call := cp.call(c.cfg.Minor, sequence)
	call.Cred = c.cred
	call.MaxReply = int(c.cfg.MaxIO + ioOverhead)
	resp, err := conn.Call(ctx, call)
	if err != nil {
		return nil, err
	}
	return newReply(resp)
}

// dial makes the ith connection of a session.
func (c *Client) dial(ctx context.Context, i int) (*rpc.Conn, error) {
	var nc net.Conn
	var err error
	switch {
	case c.cfg.DialConn != nil:
		nc, err = c.cfg.DialConn(ctx, i)
	case c.cfg.DialFunc != nil:
		nc, err = c.cfg.DialFunc(ctx)
	default:
		var d net.Dialer
		nc, err = d.DialContext(ctx, "tcp", c.cfg.Addr)
	}
	if err != nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, "nfs.dial", "%w", err)
	}
	return rpc.NewClientConn(nc, rpc.ClientConfig{
		Limits:       rpc.Limits{MaxRecord: int(c.cfg.MaxIO + 2*ioOverhead)},
		Callbacks:    c.cfg.Callbacks,
		CallbackProg: cbProgram,
		CallbackLow:  1,
		CallbackHigh: 1,
	}), nil
}

// Null calls the NULL procedure, to see whether a server is there.
func (c *Client) Null(ctx context.Context) error {
	conn, err := c.sessions[0].connection(ctx, 0)
	if err != nil {
		return err
	}
	resp, err := conn.Call(ctx, &rpc.Call{Prog: Program, Vers: Version, Proc: 0})
	if err != nil {
		c.sessions[0].drop(conn)
		return err
	}
	resp.Release()
	return nil
}

// Close destroys the sessions and the client id, and disconnects. The client id
// stays if it still has opens.
func (c *Client) Close(ctx context.Context) error {
	var errs []error
	for _, s := range c.sessions {
		r, err := c.Raw(ctx, NewRaw().DestroySession(s.ID()))
		if err == nil {
			err = r.Next(nfsv4.OP_DESTROY_SESSION)
			r.Release()
		}
		errs = append(errs, err)
	}
	r, err := c.Raw(ctx, NewRaw().DestroyClientID(c.ID()))
	if err == nil {
		err = r.Next(nfsv4.OP_DESTROY_CLIENTID)
		r.Release()
	}
	if StatusOf(err) == nfsv4.NFS4ERR_CLIENTID_BUSY {
		err = nil
	}
	c.Disconnect()
	return errors.Join(append(errs, err)...)
}

// Disconnect closes the connections and leaves everything at the server, as a
// crash of the client does.
func (c *Client) Disconnect() {
	for _, s := range c.sessions {
		s.BreakConnection()
	}
}
