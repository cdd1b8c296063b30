package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// client is one client id: a client owner and the verifier of one of its lives.
type client struct {
	id        ClientID
	owner     string
	key       string // in State.confirmed: the owner, unless that is taken, see adopt
	verifier  [8]byte
	principal Principal
	confirmed bool
	renewed   time.Time // end of the last SEQUENCE, else EXCHANGE_ID or CREATE_SESSION
	running   int       // calls in progress; they keep the client

	// The slot of CREATE_SESSION (RFC 8881, 18.36.4): the last sequence and its reply.
	csSequence uint32
	csReply    CreateSessionResult
	csStatus   Status
	csLoose    bool // from a store, which does not keep failures: a higher sequence may be known to the client

	sessions map[*session]struct{}
	opens    map[openKey]*open
	locks    int // byte ranges
	delegs   clientDelegations
	waiting  int // for locks

	mayReclaim  bool // recorded by the previous server instance
	reclaimDone bool // RECLAIM_COMPLETE was received
	unrecorded  bool // the store has not confirmed the record of that yet

	adopted bool                     // from the store: it may have stateids that are not known here
	quiet   bool                     // and it was not heard of yet
	revived int                      // opens whose owner is not known
	spent   map[vfs.StateID]struct{} // opens that were closed here since it was adopted, the last ones

	copies clientCopies

	since time.Time // it is served here
	heard bool      // a call of it began since then
	leave *leaving  // it is about to go to another server
	trunk trunk
}

// maxSpent bounds client.spent. What is forgotten of it can be used again as if it were not closed, with the
// permission of who uses it.
const maxSpent = 1024

func (c *client) spend(other vfs.StateID) {
	if c.spent == nil || len(c.spent) >= maxSpent {
		c.spent = make(map[vfs.StateID]struct{})
	}
	c.spent[other] = struct{}{}
}

// firstSequence is that of a client's first CREATE_SESSION.
const firstSequence = 1

const exchangeIDFlags = nfsv4.EXCHGID4_FLAG_SUPP_MOVED_REFER | nfsv4.EXCHGID4_FLAG_SUPP_MOVED_MIGR |
	nfsv4.EXCHGID4_FLAG_SUPP_FENCE_OPS | nfsv4.EXCHGID4_FLAG_BIND_PRINC_STATEID |
	nfsv4.EXCHGID4_FLAG_MASK_PNFS | nfsv4.EXCHGID4_FLAG_UPD_CONFIRMED_REC_A

func (c *client) record() ClientRecord {
	return ClientRecord{Owner: []byte(c.owner), Verifier: c.verifier, Principal: c.principal, ClientID: c.id,
		Sequence: c.csSequence, Reclaimed: c.reclaimDone, Delegated: c.delegs.given, Copies: c.copies.records(), CopiesVersion: c.copies.version}
}

func (c *client) stateless() bool { return len(c.opens) == 0 && len(c.delegs.held) == 0 }

// expired reports whether c's lease is over. While this server stood still it heard nobody, and what clients sent meanwhile comes after whoever asks first.
func (s *State) expired(c *client, now time.Time) bool {
	return c.running == 0 && now.Sub(c.renewed) > s.cfg.Lease && !s.stoodStill(now)
}

// stoodStill reports whether there was no Beat for so long that time did not pass here.
func (s *State) stoodStill(now time.Time) bool {
	return s.cfg.Still > 0 && now.Sub(s.ticked) > s.cfg.Still
}

// Beat is called each second, whatever else takes long: that time passes is known by it. If this server stood still, the time does not count against clients.
func (s *State) Beat(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.goOn(now)
}

func (s *State) goOn(now time.Time) {
	if s.stoodStill(now) {
		gap := now.Sub(s.ticked)
		s.forgive(now, func(t time.Time) time.Time {
			if t = t.Add(gap); t.After(now) { // it was since
				return now
			}
			return t
		})
		for c := range s.delegs.untold {
			l := &c.delegs.lost
			l.until = l.until.Add(gap)
			for _, t := range []*time.Time{&l.told, &l.tested} {
				if !t.IsZero() {
					*t = t.Add(gap)
				}
			}
		}
		s.graceUntil = s.graceUntil.Add(gap)
	}
	s.ticked = now
}

// forgive changes since when clients are silent, do not return what was recalled, and have other opens in place of some.
func (s *State) forgive(now time.Time, since func(time.Time) time.Time) {
	for _, c := range s.clients {
		c.renewed = since(c.renewed)
		if !c.delegs.unheard.IsZero() {
			c.delegs.unheard = since(c.delegs.unheard)
		}
	}
	for d := range s.delegs.recalled {
		d.recalled = since(d.recalled)
	}
	for o := range s.former {
		o.left = since(o.left)
	}
}

// ExchangeID is EXCHANGE_ID; the numbers are the cases of RFC 8881, 18.35.4.
func (s *State) ExchangeID(now time.Time, a ExchangeIDArgs) (ExchangeIDResult, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if a.Flags&^uint32(exchangeIDFlags) != 0 || len(a.Owner) > s.cfg.Limits.OwnerBytes {
		return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_INVAL
	}
	owner := string(a.Owner)
	c := s.confirmed[owner]
	if a.Flags&nfsv4.EXCHGID4_FLAG_UPD_CONFIRMED_REC_A != 0 {
		switch {
		case c == nil: // 7: update but no confirmed record
			return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_NOENT
		case c.verifier != a.Verifier: // 8: update but wrong verifier
			return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_NOT_SAME
		case c.principal != a.Principal: // 9: update but wrong principal
			return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_PERM
		}
		c.renewed = now
		return exchangeIDResult(c), s.effects(eff), nfsv4.NFS4_OK // 6: update
	}
	if r, ok := s.waiting[owner]; ok && r.Principal != a.Principal {
		// As case 3, for a client of the previous instance that may still return.
		return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_CLID_INUSE
	}
	if c != nil && c.principal != a.Principal { // 3: client collision
		if !c.stateless() && !s.expired(c, now) || c.running > 0 {
			return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_CLID_INUSE
		}
		s.endClient(c, &eff)
		c = nil
	}
	if c != nil && c.verifier == a.Verifier { // 2: non-update on existing client id
		if u := s.unconfirmed[owner]; u != nil {
			s.endClient(u, &eff)
		}
		c.renewed = now
		return exchangeIDResult(c), s.effects(eff), nfsv4.NFS4_OK
	}
	// 1: new owner. 4: replacement of an unconfirmed record. 5: client restart;
	// the old incarnation keeps its state until the new one is confirmed.
	if u := s.unconfirmed[owner]; u != nil {
		s.endClient(u, &eff)
	}
	if len(s.clients) >= s.cfg.Limits.Clients && !s.evict(now, &eff) {
		return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	id, ok := s.newClientID()
	if !ok {
		return ExchangeIDResult{}, s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	c = &client{
		id:         id,
		owner:      owner,
		key:        owner,
		verifier:   a.Verifier,
		principal:  a.Principal,
		renewed:    now,
		csSequence: firstSequence - 1,
		csStatus:   nfsv4.NFS4ERR_SEQ_MISORDERED,
		sessions:   make(map[*session]struct{}),
		opens:      make(map[openKey]*open),
		since:      now,
	}
	s.clients[c.id] = c
	s.unconfirmed[owner] = c
	return exchangeIDResult(c), s.effects(eff), nfsv4.NFS4_OK
}

// newClientID is an id that no client ever had. If the store keeps clients, it comes from there.
func (s *State) newClientID() (ClientID, bool) {
	if s.cfg.Kept {
		if len(s.ids) == 0 {
			return 0, false
		}
		id := s.ids[0]
		s.ids = s.ids[1:]
		return id, true
	}
	s.nextClient++
	return ClientID(s.cfg.Boot)<<32 | ClientID(s.nextClient), true
}

// NeedIDs reports whether an EXCHANGE_ID could fail for want of client ids: the caller then gets some from the SessionStore
// and calls AddIDs.
func (s *State) NeedIDs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Kept && len(s.ids) == 0
}

// AddIDs adds client ids that nobody had.
func (s *State) AddIDs(ids []ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, ids...)
}

func exchangeIDResult(c *client) ExchangeIDResult {
	r := ExchangeIDResult{ClientID: c.id, Sequence: c.csSequence + 1, Flags: nfsv4.EXCHGID4_FLAG_USE_NON_PNFS}
	if c.confirmed {
		r.Flags |= nfsv4.EXCHGID4_FLAG_CONFIRMED_R
	}
	return r
}

// evict makes room for a client by ending the one whose lease is over for the
// longest time, and reports whether there was one.
func (s *State) evict(now time.Time, eff *Effects) bool {
	var oldest *client
	for _, c := range s.clients {
		if s.expired(c, now) && (oldest == nil || c.renewed.Before(oldest.renewed)) {
			oldest = c
		}
	}
	if oldest == nil {
		return false
	}
	s.expire(oldest, eff)
	return true
}

// expire ends a client whose lease is over.
func (s *State) expire(c *client, eff *Effects) {
	s.st.Expired++
	s.endClient(c, eff)
}

// endClient takes away c and everything it has. It must have no call in
// progress.
func (s *State) endClient(c *client, eff *Effects) {
	c.endLeave()
	s.deaf(c)
	for ss := range c.sessions {
		s.endSession(ss)
	}
	for _, o := range c.opens {
		s.endOpen(o, eff, true)
	}
	s.endDelegations(c, eff)
	s.endWaiters(c)
	delete(s.clients, c.id)
	if s.cfg.Kept { // the id itself is a record
		s.unforgotten[c.id] = c.record()
	}
	if !c.confirmed {
		delete(s.unconfirmed, c.owner)
		return
	}
	delete(s.confirmed, c.key)
	if r, ok := s.waiting[c.owner]; ok {
		s.unforgotten[r.ClientID] = r
		s.stopWaiting(c.owner)
	}
	if c.reclaimDone {
		s.unforgotten[c.id] = c.record()
	}
}

// replaced is the client that ends when c is confirmed: an earlier life of it, nil if there is none. One that is confirmed replaces nobody, also if
// another one has its owner, see adoptClient.
func (s *State) replaced(c *client) *client {
	if c.confirmed {
		return nil
	}
	return s.confirmed[c.owner]
}

// confirm makes c, whose first session is being created, the client of its
// owner, in place of an earlier life of it. It must not fail.
func (s *State) confirm(c *client, eff *Effects) {
	if old := s.replaced(c); old != nil {
		s.endClient(old, eff)
	}
	delete(s.unconfirmed, c.owner)
	s.confirmed[c.owner] = c
	c.confirmed = true
	r, ok := s.waiting[c.owner]
	switch {
	case !ok:
	case r.Verifier == c.verifier && r.Principal == c.principal:
		c.mayReclaim = true
	default: // the client restarted too: it has nothing to reclaim
		s.unforgotten[r.ClientID] = r
		s.stopWaiting(c.owner)
	}
}

// DestroyClientID is DESTROY_CLIENTID (RFC 8881, 18.50).
func (s *State) DestroyClientID(now time.Time, id ClientID, p Principal) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c := s.clients[id]
	switch {
	case c == nil:
		return s.effects(eff), nfsv4.NFS4ERR_STALE_CLIENTID
	case c.principal != p:
		return s.effects(eff), nfsv4.NFS4ERR_WRONG_CRED
	case len(c.sessions) > 0 || !c.stateless():
		return s.effects(eff), nfsv4.NFS4ERR_CLIENTID_BUSY
	case c.running > 0:
		return s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	s.endClient(c, &eff)
	return s.effects(eff), nfsv4.NFS4_OK
}

// ReclaimComplete is RECLAIM_COMPLETE (RFC 8881, 18.51). With oneFS it only
// says that a migrated file system was reclaimed, of which there are none.
func (s *State) ReclaimComplete(now time.Time, id ClientID, oneFS bool) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c := s.clients[id]
	switch {
	case c == nil:
		return s.effects(eff), nfsv4.NFS4ERR_STALE_CLIENTID
	case oneFS:
		return s.effects(eff), nfsv4.NFS4_OK
	case c.reclaimDone && !c.unrecorded:
		return s.effects(eff), nfsv4.NFS4ERR_COMPLETE_ALREADY
	}
	c.reclaimDone = true
	c.unrecorded = true
	s.stopWaiting(c.owner)
	s.mustRecord(c, &eff)
	return s.effects(eff), nfsv4.NFS4_OK
}

// mustRecord adds c's record and its sessions to eff until the store has confirmed them.
func (s *State) mustRecord(c *client, eff *Effects) {
	for ss := range c.sessions {
		if ss.unrecorded {
			eff.Sessions = append(eff.Sessions, SessionPut{c.record(), ss.record()})
		}
	}
	if c.unrecorded || c.copies.stored != c.copies.version {
		eff.Record = append(eff.Record, c.record())
	}
}

// mayAcquire applies the rules of grace to a request of c for an open or a lock
// (RFC 8881, 8.4.2.1 and 18.51.3).
func (s *State) mayAcquire(c *client, reclaim bool) Status {
	if reclaim {
		if !s.grace || !c.mayReclaim || c.reclaimDone {
			s.st.GraceRefusals++
			return nfsv4.NFS4ERR_NO_GRACE
		}
		return nfsv4.NFS4_OK
	}
	if s.grace || !c.reclaimDone {
		s.st.GraceRefusals++
		return nfsv4.NFS4ERR_GRACE
	}
	return nfsv4.NFS4_OK
}
