package state

import (
	"encoding/binary"
	"time"
)

// Delegations for reading are memory, unlike opens and locks: a client that goes on after the server was restarted, or at another server, has lost its
// own and does not know it. What is recorded is that it ever had one. Such a client is told by
// SEQ4_STATUS_RECALLABLE_STATE_REVOKED, upon which it tests its stateids, and any of a delegation is NFS4ERR_DELEG_REVOKED. Until it has done so,
// nobody else may change what could have been given to it, which is everything: NFS4ERR_DELAY, for a lease at most.

// lostDelegations are those of a client that went on.
type lostDelegations struct {
	until  time.Time // a lease after it went on; zero: it has lost none, or knows it
	told   time.Time // by the reply to the first SEQUENCE; zero: not yet
	tested time.Time // its last TEST_STATEID or FREE_STATEID
}

// lostSettled is how long a client that was told tests no stateid before it is taken to have tested all: it tests one after
// the other, and calls again or answers a callback after that, so it was not cut off in between.
const lostSettled = time.Second

// lose notes that c, which goes on here, has delegations that are not known here.
func (s *State) lose(now time.Time, c *client) {
	c.delegs.lost = lostDelegations{until: now.Add(s.cfg.Lease)}
	s.delegs.untold[c] = struct{}{}
}

// hear notes a SEQUENCE of c, whose reply has the status flags of now.
func (s *State) hear(now time.Time, c *client) {
	if c.quiet {
		c.quiet = false
		s.heard(c)
		c.delegs.pathDown = false // its time begins when it is back
		for d := range s.delegs.recalled {
			if d.client == c {
				d.recalled = now
			}
		}
	}
	l := &c.delegs.lost
	switch {
	case l.until.IsZero():
	case l.told.IsZero():
		l.told = now
	case s.stoodStill(now): // it may have tested none
	case l.settled(now), !now.Before(l.until):
		s.found(c)
	}
}

func (l *lostDelegations) settled(now time.Time) bool {
	return !l.told.IsZero() && now.Sub(l.told) >= lostSettled && now.Sub(l.tested) >= lostSettled
}

// Lost reports whether others may have to wait for a client that was not heard of since the server was restarted, or does not know yet that it
// has lost its delegations for reading.
func (s *State) Lost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.delegs.recalled {
		if d.client.quiet {
			return true
		}
	}
	return len(s.delegs.untold) > 0
}

// Doubtful are the clients that seem to have tested all their stateids. The caller calls them back and, if they answer, says so by
// Answered: a client that has nothing else to say would call again only to renew its lease.
func (s *State) Doubtful(now time.Time) []ClientID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []ClientID
	for c := range s.delegs.untold {
		if c.delegs.lost.settled(now) {
			out = append(out, c.id)
		}
	}
	return out
}

// Answered notes that a client answered a callback that was made at asked.
func (s *State) Answered(id ClientID, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[id]; c != nil && c.delegs.lost.settled(asked) {
		s.found(c)
	}
}

func (s *State) found(c *client) {
	c.delegs.lost = lostDelegations{}
	delete(s.delegs.untold, c)
}

// tests notes that a client tests stateids.
func (s *State) tests(client ClientID) {
	if c := s.clients[client]; c != nil {
		c.delegs.lost.tested = c.renewed
	}
}

// otherLost reports whether a client other than c may still rely on a delegation that is not known here.
func (s *State) otherLost(now time.Time, c *client) bool {
	others := false
	for l := range s.delegs.untold {
		switch {
		case s.expired(l, now) || !now.Before(l.delegs.lost.until) && !s.stoodStill(now):
			delete(s.delegs.untold, l) // it is told when it comes again
		case l != c:
			others = true
		}
	}
	return others
}

// lostDelegation reports whether id is one of a delegation that an earlier server instance gave to client.
func (s *State) lostDelegation(client ClientID, id Stateid) bool {
	return s.cfg.Kept && id.Other[0] == formDelegation && !s.madeHere(id.Other) &&
		binary.BigEndian.Uint16(id.Other[4:]) == clientTag(client)
}
