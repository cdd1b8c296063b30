package state

// Backchannel is where callbacks for a client can go.
type Backchannel struct {
	Session SessionID
	Program uint32
	Attrs   ChannelAttrs
	Conns   []uint64 // rpc.Conn.ID of the connections bound to it, in no order
	Resumed bool     // what the client's slots saw last is not known
}

// BackFault notes that the client and this server do not agree about the slots of a session's backchannel. The client is told so by each
// SEQUENCE, and makes another session (RFC 8881, 18.46.3: SEQ4_STATUS_BACKCHANNEL_FAULT).
func (s *State) BackFault(id SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.sessions[id]; ss != nil {
		ss.backFault = true
	}
}

// Backchannels lists those of a client that have a connection. alive is false if there is no such client.
func (s *State) Backchannels(id ClientID) (list []Backchannel, alive bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return nil, false
	}
	for ss := range c.sessions {
		if len(ss.conns) == 0 || ss.backFault {
			continue
		}
		b := Backchannel{Session: ss.id, Program: ss.program, Attrs: ss.back, Resumed: ss.resumed}
		for conn := range ss.conns {
			b.Conns = append(b.Conns, conn)
		}
		list = append(list, b)
	}
	return list, true
}

// HasBackchannel reports whether a client can be called back, as far as is known: it has a connection for it, and answered last time.
func (s *State) HasBackchannel(id ClientID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil || c.delegs.pathDown {
		return false
	}
	for ss := range c.sessions {
		if len(ss.conns) > 0 && !ss.backFault && ss.back.MaxOps >= 2 {
			return true
		}
	}
	return false
}

// HasSession reports whether a session exists.
func (s *State) HasSession(id SessionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id] != nil
}
