package rpc

import (
	"context"
	"net/netip"
)

// Calls that another server process read from one of its connections, and carries here, because this one serves the client (package v4). The process and the
// connection are a foreign Conn; the call runs as one of a connection here does, and its results go back as they are.

// foreign is what a Conn of another process has in place of a stream.
type foreign struct {
	via  string
	call func(context.Context, *Call) (Response, error)
}

// Foreign makes a Conn of another process: via is its name, remote and tag are what that process has for the connection, call makes calls on it. The caller ends it with
// EndForeign.
func (s *Server) Foreign(via string, remote netip.AddrPort, tag uint32, call func(context.Context, *Call) (Response, error)) *Conn {
	return &Conn{
		id: s.nextID.Add(1), tag: tag | 1, ep: s.ep, remote: remote,
		foreign:  &foreign{via, call},
		readDone: make(chan struct{}), done: make(chan struct{}),
	}
}

// EndForeign ends a foreign connection: the other process says so, or is not heard of any more. Once.
func (s *Server) EndForeign(c *Conn) {
	close(c.readDone)
	close(c.done)
	if s.cfg.Closed != nil {
		s.cfg.Closed(c)
	}
}

// Via is the name of the process that has the connection, "" for a connection of this one.
func (c *Conn) Via() string {
	if c.foreign == nil {
		return ""
	}
	return c.foreign.via
}

// Tag is random, and the same in every process that knows the connection.
func (c *Conn) Tag() uint32 { return c.tag }

// Elsewhere is the outcome of a call that was carried here and is not to be answered here.
func (r *Request) Elsewhere() { r.outcome = outcomeElsewhere }

// What became of a call that was carried.
type CarriedOutcome uint8

const (
	CarriedAnswered  CarriedOutcome = iota
	CarriedGarbage                  // its arguments cannot be decoded
	CarriedElsewhere                // not for this server: it did nothing, or was ended in the middle; whoever has the client finds out which
)

// Carry runs a call that came by a foreign connection and hands what became of it, with its results, to answer, which has them until it returns. req has what comes with
// a call and Conn; it is not used afterwards. Calls that come after Shutdown are answered elsewhere.
func (s *Server) Carry(req *Request, answer func(o CarriedOutcome, results [][]byte)) {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		answer(CarriedElsewhere, nil)
		return
	}
	s.owned.Add(1)
	s.mu.Unlock()
	defer s.owned.Done()
	program, _, accept := s.ep.programs.find(req.Prog, req.Vers)
	if accept != acceptSuccess {
		answer(CarriedGarbage, nil)
		return
	}
	s.ep.stats.calls.Add(1)
	s.ep.stats.running.Add(1)
	pooled := s.ep.requests.Get().(*Request)
	req.Reply = pooled.Reply
	req.Reply.begin()
	program.ServeRPC(s.ep.ctx, req)
	s.ep.stats.running.Add(-1)
	switch {
	case s.ep.ctx.Err() != nil: // ended in the middle: as on a connection here, what it says of itself is not told (Shutdown)
		answer(CarriedElsewhere, nil)
	case req.outcome == outcomeSuccess:
		answer(CarriedAnswered, req.Reply.slices())
	case req.outcome == outcomeElsewhere:
		answer(CarriedElsewhere, nil)
	default:
		answer(CarriedGarbage, nil)
	}
	req.Reply.Truncate(Mark{})
	b, ext := req.Reply.B, req.Reply.ext
	if cap(b) > maxKeptReply {
		b = nil
	}
	*pooled = Request{Reply: Reply{B: b, ext: ext}}
	s.ep.requests.Put(pooled)
}

// slices are the results, in order.
func (r *Reply) slices() (list [][]byte) {
	at := replyHeaderSize
	for _, e := range r.ext {
		if e.at > at {
			list = append(list, r.B[at:e.at])
			at = e.at
		}
		if len(e.p) > 0 {
			list = append(list, e.p)
		}
	}
	return append(list, r.B[at:])
}
