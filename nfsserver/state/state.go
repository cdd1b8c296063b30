package state

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// State is all state of one server. Its methods are safe for concurrent use.
type State struct {
	cfg Config

	mu sync.Mutex
	// Everything below is protected by mu.

	clients     map[ClientID]*client
	confirmed   map[string]*client // by owner
	unconfirmed map[string]*client // by owner
	sessions    map[SessionID]*session
	files       map[File]*file
	former      map[*open]struct{} // open.by is set
	stateids    map[vfs.StateID]stateidHolder
	bound       map[uint64]map[*session]struct{} // backchannels by connection
	conns       map[uint64]map[*client]struct{}  // clients by the connections that they were heard by
	nextClient  uint32
	versions    uint64                // the last of session.version
	resizing    map[*session]struct{} // session.next is to be recorded, or slots are to be released
	pressed     bool                  // slots are asked back
	ids         []ClientID            // of the store, not given to anybody yet
	ticked      time.Time             // the last Beat or Tick, or the beginning

	// Grace: until when, and the recorded clients that have not sent
	// RECLAIM_COMPLETE yet, by owner.
	grace      bool
	graceUntil time.Time
	waiting    map[string]ClientRecord

	// unforgotten are records whose removal the store has not confirmed. They
	// go with every Effects until then: nobody may be granted anything that
	// an ended client could reclaim after a restart.
	unforgotten map[ClientID]ClientRecord

	delegs    delegations
	inherited atomic.Bool // delegations of an earlier server instance were adopted. Not protected by mu
	wait      lockWaiters

	// unended are sessions whose removal the store has not confirmed, if it keeps sessions. removals counts what it has
	// confirmed: what was read from the store before may be what is removed by now.
	unended  map[SessionID]SessionRecord
	removals uint64

	ended uint64 // calls that were answered

	owed Effects // on files, those that could not be applied
	st   Stats
}

// New makes an empty state at time now. If clients are recorded, it starts with
// a grace period.
func New(cfg Config, now time.Time) *State {
	cfg.setDefaults()
	s := &State{
		cfg:         cfg,
		clients:     make(map[ClientID]*client),
		confirmed:   make(map[string]*client),
		unconfirmed: make(map[string]*client),
		sessions:    make(map[SessionID]*session),
		files:       make(map[File]*file),
		former:      make(map[*open]struct{}),
		stateids:    make(map[vfs.StateID]stateidHolder),
		resizing:    make(map[*session]struct{}),
		bound:       make(map[uint64]map[*session]struct{}),
		conns:       make(map[uint64]map[*client]struct{}),
		waiting:     make(map[string]ClientRecord),
		unforgotten: make(map[ClientID]ClientRecord),
		unended:     make(map[SessionID]SessionRecord),
		graceUntil:  now.Add(cfg.Lease),
		ticked:      now,
	}
	for _, r := range cfg.Recorded {
		s.waiting[string(r.Owner)] = r
	}
	s.grace = len(s.waiting) > 0
	s.delegs.init()
	s.wait.init()
	return s
}

func (c *Config) setDefaults() {
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or32 := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	l := &c.Limits
	or(&l.Clients, 4096)
	or(&l.SessionsPerClient, 16)
	or(&l.Slots, 64)
	or(&l.MaxSlots, 256)
	l.MaxSlots = min(max(l.Slots, l.MaxSlots), maxSlots)
	if l.ReplyCache <= 0 {
		l.ReplyCache = DefaultReplyCache
	}
	or(&l.OpensPerClient, 1<<16)
	or(&l.LocksPerClient, 1<<16)
	or(&l.DelegationsPerClient, 1<<14)
	or(&l.Delegations, 1<<16)
	or(&l.OwnerBytes, 1024)
	or32(&l.MaxRequest, 1<<20+64<<10)
	or32(&l.MaxResponse, 1<<20+64<<10)
	or32(&l.MaxCachedResponse, 8<<10)
	or32(&l.MaxOps, 128)
	if c.Lease <= 0 {
		c.Lease = 30 * time.Second
	}
	if c.Courtesy <= 0 {
		c.Courtesy = 24 * time.Hour
	}
	if c.Rand == nil {
		c.Rand = func(p []byte) { _, _ = rand.Read(p) } // never fails
	}
}

// Lease is the lease time.
func (s *State) Lease() time.Duration { return s.cfg.Lease }

// Limits are those of the configuration, with their defaults.
func (s *State) Limits() Limits { return s.cfg.Limits }

// InGrace reports whether the server waits for reclaims. REMOVE and RENAME
// are refused meanwhile, for they could destroy what is about to be reclaimed.
func (s *State) InGrace(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grace
}

// Stats returns the present numbers.
func (s *State) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	st.Clients = len(s.clients)
	st.Sessions = len(s.sessions)
	st.Grace = s.grace
	return st
}

// Tick ends what ends by itself: grace, unconfirmed clients, courtesy. Call it
// about once a second and apply the effects.
func (s *State) Tick(now time.Time) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	s.goOn(now)
	if s.grace && !now.Before(s.graceUntil) {
		s.endGrace()
	}
	s.tickDelegations(now, &eff)
	s.tickFormer(&eff)
	s.st.Courteous = 0
	for _, c := range s.clients {
		if !s.expired(c, now) {
			continue
		}
		idle := now.Sub(c.renewed)
		switch {
		case !c.confirmed, idle > s.cfg.Courtesy, c.stateless() && idle > statelessLeases*s.cfg.Lease:
			s.expire(c, &eff)
		default:
			s.st.Courteous++
		}
	}
	s.recordCopies(&eff)
	s.tickSlots(&eff)
	for _, sh := range s.owed.Share { // as it is now, unless it was closed meanwhile
		if o, ok := s.stateids[sh.Share.State].(*open); ok && uint64(o.client.id) == sh.Share.Client && o.file.key == sh.File {
			eff.Share = append(eff.Share, FileShare{sh.File, o.share()})
		}
	}
	eff.Unshare = append(eff.Unshare, s.owed.Unshare...)
	eff.Close = append(eff.Close, s.owed.Close...)
	s.owed = Effects{}
	return s.effects(eff)
}

// statelessLeases is how many leases a client without opens and locks is kept
// after its last word, for its sessions' reply caches.
const statelessLeases = 4

// endGrace ends the grace period. Recorded clients that did not return have
// lost what they held (RFC 8881, 8.4.3).
func (s *State) endGrace() {
	s.grace = false
	for owner, r := range s.waiting {
		s.unforgotten[r.ClientID] = r
		delete(s.waiting, owner)
	}
}

// stopWaiting notes that owner reclaims nothing (more).
func (s *State) stopWaiting(owner string) {
	if r, ok := s.waiting[owner]; ok && s.cfg.Kept { // no new record takes the place of this one
		s.unforgotten[r.ClientID] = r
	}
	delete(s.waiting, owner)
	if s.grace && len(s.waiting) == 0 {
		s.endGrace()
	}
}

// effects completes what a method returns.
func (s *State) effects(eff Effects) Effects {
	for _, r := range s.unforgotten {
		eff.Forget = append(eff.Forget, r)
	}
	for _, r := range s.unended {
		eff.Ended = append(eff.Ended, r)
	}
	eff.state = s
	return eff
}

// Retry takes back effects whose Apply failed. Records to forget or to store
// come again by themselves until the store has confirmed them; what is owed to files comes with the next
// Tick.
func (s *State) Retry(e Effects) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed.Share = append(s.owed.Share, e.Share...)
	s.owed.Unshare = append(s.owed.Unshare, e.Unshare...)
	s.owed.Close = append(s.owed.Close, e.Close...)
}

// forgot notes that the store has removed r.
func (s *State) forgot(r ClientRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unforgotten, r.ClientID)
	s.removals++
}

// removedSession notes that the store has removed r.
func (s *State) removedSession(r SessionRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unended, r.ID)
	s.removals++
}

// recorded notes that the store has stored r.
func (s *State) recorded(r ClientRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[r.ClientID]
	if c == nil {
		return
	}
	if (!s.cfg.Kept || r.Reclaimed) && r.Delegated == c.delegs.given {
		c.unrecorded = false
	}
	c.copies.stored = max(c.copies.stored, r.CopiesVersion)
}

// releasedSlots notes that the store has forgotten what it had of g.
func (s *State) releasedSlots(g SlotsGone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.sessions[g.Session]; ss != nil && ss.era<<32 == g.Below {
		ss.unreleased = false
		s.stillResizing(ss)
	}
}

// storedSession notes that the store has stored p.
func (s *State) storedSession(p SessionPut) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := s.sessions[p.Session.ID]
	switch {
	case ss == nil && s.clients[p.Session.Client] != nil: // it has ended, and this may have come after the removal: it is removed again
		s.unended[p.Session.ID] = p.Session
	case ss != nil && ss.version == p.Session.Version:
		ss.unrecorded = false
		s.settle(ss)
	}
}
