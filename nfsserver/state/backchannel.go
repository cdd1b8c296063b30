package state

// Backchannel is where callbacks for a client can go.
type Backchannel struct {
	Session SessionID
	Program uint32
	Attrs   ChannelAttrs
	Conns   []uint64 // rpc.Conn.ID of the connections bound to it, in no order
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
		if len(ss.conns) == 0 {
			continue
		}
		b := Backchannel{Session: ss.id, Program: ss.program, Attrs: ss.back}
		for conn := range ss.conns {
			b.Conns = append(b.Conns, conn)
		}
		list = append(list, b)
	}
	return list, true
}

// HasSession reports whether a session exists.
func (s *State) HasSession(id SessionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id] != nil
}
