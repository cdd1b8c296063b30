package nfsclient

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// Session is one session and its connections.
type Session struct {
	c *Client

	mu sync.Mutex
	// Fields protected by mu.
	id    SessionID
	fore  ChannelAttrs
	free  chan *Slot
	conns []*rpc.Conn // nil: none
	turn  int

	again   atomic.Int64
	delayed atomic.Int64
	dials   int
}

// Slot is one slot of a session: one request at a time.
type Slot struct {
	s    *Session
	free chan *Slot // where it came from; another after Recover
	id   uint32
	seq  uint32 // of the last request
}

// ID is the session's id.
func (s *Session) ID() SessionID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Fore are the limits the server agreed to.
func (s *Session) Fore() ChannelAttrs {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fore
}

// reset makes s the session id, with all slots unused.
func (s *Session) reset(id SessionID, fore ChannelAttrs) {
	free := make(chan *Slot, fore.MaxSlots)
	for i := range fore.MaxSlots {
		free <- &Slot{s: s, free: free, id: i}
	}
	s.mu.Lock()
	s.id, s.fore, s.free = id, fore, free
	s.mu.Unlock()
}

// Slot waits for a free slot. Put gives it back.
func (s *Session) Slot(ctx context.Context) (*Slot, error) {
	s.mu.Lock()
	free := s.free
	s.mu.Unlock()
	select {
	case sl := <-free:
		return sl, nil
	case <-ctx.Done():
		return nil, vfs.Wrap("nfs.slot", context.Cause(ctx))
	}
}

// Put gives the slot back to its session.
func (sl *Slot) Put() { sl.free <- sl }

// ID is the slot's number, Sequence that of its last request.
func (sl *Slot) ID() uint32       { return sl.id }
func (sl *Slot) Sequence() uint32 { return sl.seq }

// Do sends c on a free slot and returns the reply, positioned after SEQUENCE.
// See the package comment for what it does about broken connections. An error
// is a transport's, or that of SEQUENCE. When it gives up on a request that may
// still be executed, the slot is not used again.
func (s *Session) Do(ctx context.Context, c *Compound) (*Reply, error) {
	sl, err := s.Slot(ctx)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		r, err := sl.Do(ctx, c)
		if err != nil {
			if StatusOf(err) != -1 { // an answer: the slot is in order
				sl.Put()
			}
			return nil, err
		}
		if !s.c.cfg.Patient || r.Status != nfsv4.NFS4ERR_DELAY && r.Status != nfsv4.NFS4ERR_GRACE && r.Status != nfsv4.NFS4ERR_RETRY_UNCACHED_REP {
			sl.Put()
			return r, nil
		}
		r.Release()
		s.again.Add(1)
		if err := wait(ctx, try); err != nil {
			sl.Put()
			return nil, err
		}
	}
}

// Do sends c as the slot's next request.
func (sl *Slot) Do(ctx context.Context, c *Compound) (*Reply, error) {
	sl.seq++
	for try := 0; ; try++ {
		r, err := sl.Send(ctx, sl.seq, c)
		var remote *rpc.RemoteError
		switch {
		case err == nil:
			err = r.sequence()
			if err == nil {
				return r, nil
			}
			r.Release()
			if StatusOf(err) != nfsv4.NFS4ERR_DELAY { // else: the first try still runs
				return nil, err
			}
			sl.s.delayed.Add(1)
		case errors.As(err, &remote), ctx.Err() != nil, vfs.KindOf(err) != vfs.KindUnavailable:
			return nil, err
		}
		if err := wait(ctx, try); err != nil {
			return nil, err
		}
	}
}

// Send sends c with the given sequence, once, on the session's next connection,
// which it makes if there is none. The reply begins with SEQUENCE.
func (sl *Slot) Send(ctx context.Context, seq uint32, c *Compound) (*Reply, error) {
	s := sl.s
	s.mu.Lock()
	s.turn++
	turn := s.turn % len(s.conns)
	s.mu.Unlock()
	return sl.sendBy(ctx, turn, seq, c)
}

// SendBy is Send on the session's ith connection.
func (sl *Slot) SendBy(ctx context.Context, i int, seq uint32, c *Compound) (*Reply, error) {
	return sl.sendBy(ctx, i, seq, c)
}

// DoBy sends c as the slot's next request, once, on the session's ith connection.
func (sl *Slot) DoBy(ctx context.Context, i int, c *Compound) (*Reply, error) {
	sl.seq++
	return sl.sendBy(ctx, i, sl.seq, c)
}

func (sl *Slot) sendBy(ctx context.Context, i int, seq uint32, c *Compound) (*Reply, error) {
	s := sl.s
	conn, err := s.connection(ctx, i)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	id, highest := s.id, s.fore.MaxSlots-1
	s.mu.Unlock()
	var b [sequenceSize]byte
	p := xdr.AppendInt32(b[:0], int32(nfsv4.OP_SEQUENCE))
	p = append(p, id[:]...)
	p = xdr.AppendUint32(p, seq)
	p = xdr.AppendUint32(p, sl.id)
	p = xdr.AppendUint32(p, highest)
	p = xdr.AppendBool(p, c.CacheThis)
	r, err := s.c.exchange(ctx, conn, c, p)
	if err != nil && vfs.KindOf(err) == vfs.KindUnavailable {
		s.drop(conn)
	}
	return r, err
}

// connection returns the session's ith connection, dialling if there is none.
func (s *Session) connection(ctx context.Context, i int) (*rpc.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[i] != nil {
		return s.conns[i], nil
	}
	conn, err := s.c.dial(ctx, i)
	if err != nil {
		return nil, err
	}
	s.conns[i] = conn
	s.dials++
	return conn, nil
}

// drop forgets conn, which is broken.
func (s *Session) drop(conn *rpc.Conn) {
	s.mu.Lock()
	for i := range s.conns {
		if s.conns[i] == conn {
			s.conns[i] = nil
		}
	}
	s.mu.Unlock()
	conn.Close()
	<-conn.Done()
}

// BreakConnection closes the session's connections, as a network failure
// would; requests in flight go through the next ones.
func (s *Session) BreakConnection() {
	for i := range s.conns {
		s.BreakConn(i)
	}
}

// BreakConn is BreakConnection of the ith connection.
func (s *Session) BreakConn(i int) {
	s.mu.Lock()
	conn := s.conns[i]
	s.conns[i] = nil
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
		<-conn.Done()
	}
}

// Again is how often a request was sent again as a new one, because Config.Patient is set.
func (s *Session) Again() int64 { return s.again.Load() }

// Delayed is how often SEQUENCE was answered with NFS4ERR_DELAY: Linux would have waited for 15 s each time.
func (s *Session) Delayed() int64 { return s.delayed.Load() }

// Dials is how many connections the session has had.
func (s *Session) Dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// wait waits before try+1, or returns ctx's error.
func wait(ctx context.Context, try int) error {
	t := time.NewTimer(backoff(try))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return vfs.Wrap("nfs.retry", context.Cause(ctx))
	}
}
