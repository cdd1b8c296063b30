package state

// A client may have connections to several servers at once (trunking). One of them serves it, the others carry its requests there. So that a client that went to
// another server for good goes there with all it has, but one that is at both does not go back and forth, it is given up
//
//   - to who carries a request of it while it has no connection here, or
//   - after carriedRun requests in a row that one other server carried: connections here, if any, are silent, or their end was not noticed.
//
// The server that has it then gives it back by the same rule only, so a client with connections in use at both stays where it is, and one whose requests all come by one of
// them moves once. There is no clock in it.

// carriedRun is how many requests in a row come by one other server before the client goes there: at even halves, by chance, it is never.
const carriedRun = 1024

// trunk is how a client's requests come here.
type trunk struct {
	conns map[uint64]struct{} // of this server, by which it was heard
	via   string              // the server that carried the last request, "" if it came by one of conns
	run   int                 // how many in a row that one has carried
	stays int                 // how many more are carried before it is tried again to give it up
}

// heardBy notes a request that came by a connection of this server, or, with via, was carried here.
func (s *State) heardBy(c *client, conn uint64, via string) {
	t := &c.trunk
	if via != "" {
		if t.via != via {
			t.via, t.run = via, 0
		}
		t.run++
		t.stays = max(0, t.stays-1)
		return
	}
	t.via, t.run = "", 0
	if _, ok := t.conns[conn]; ok || conn == 0 {
		return
	}
	if t.conns == nil {
		t.conns = make(map[uint64]struct{})
	}
	t.conns[conn] = struct{}{}
	if s.conns[conn] == nil {
		s.conns[conn] = make(map[*client]struct{})
	}
	s.conns[conn][c] = struct{}{}
}

// follows reports whether the client is to go to a server that carries a request of it here.
func (c *client) follows(via string) bool {
	t := &c.trunk
	return c.confirmed && t.stays == 0 && (len(t.conns) == 0 || t.via == via && t.run >= carriedRun)
}

// deaf forgets by which connections c was heard.
func (s *State) deaf(c *client) {
	for conn := range c.trunk.conns {
		delete(s.conns[conn], c)
		if len(s.conns[conn]) == 0 {
			delete(s.conns, conn)
		}
	}
	c.trunk = trunk{}
}

// unheard forgets a connection that is closed.
func (s *State) unheard(conn uint64) {
	for c := range s.conns[conn] {
		delete(c.trunk.conns, conn)
	}
	delete(s.conns, conn)
}

// Follows reports whether a client is to go to the server that carries a request of it here.
func (s *State) Follows(id ClientID, via string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	return c != nil && c.follows(via)
}

// FollowsSession is Follows of the client that has the session, and says which that is.
func (s *State) FollowsSession(id SessionID, via string) (ClientID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := s.sessions[id]
	if ss == nil {
		return 0, false
	}
	return ss.client.id, ss.client.follows(via)
}

// FollowsOwner is Follows of the client that is confirmed under an owner, 0 if there is none. Another life of it, or one of another principal, follows in any case: what it introduces
// is known only to the server that it goes on with.
func (s *State) FollowsOwner(a *ExchangeIDArgs, via string) (ClientID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.confirmed[string(a.Owner)]
	if c == nil {
		return 0, false
	}
	return c.id, c.verifier != a.Verifier || c.principal != a.Principal || c.follows(via)
}

// Remains notes that a client could not be given up: it is served here for a while, whoever carries its requests.
func (s *State) Remains(id ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[id]; c != nil {
		c.trunk.stays = carriedRun
	}
}
