package state

import (
	"container/list"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// Delegations of files (RFC 8881, 10.2 and 10.4). What is particular to those for writing is in writedelegation.go.
//
// A client that has one is told before anything about the file changes that it did not do itself: contents, attributes, names. Until
// then it opens, reads and closes the file on its own. What would change a file asks first: OPEN for writing or with a deny mode
// against readers in Open and OpenAllowed, everything else by BeginChange. While others have a delegation it is
// NFS4ERR_DELAY, and each of them is in Effects.Recall once. A delegation that is not returned within a lease of that, or whose client's lease
// is over, is revoked: the client is told by SEQUENCE and has to free the stateid; only then it is forgotten.
//
// Between BeginChange and EndChange nobody is given the file, so a change cannot pass by a delegation that began after the question. A
// change of names blocks every grant in its file system, because which file a name stands for may change until it is done.
//
// Which files are given: those that nobody has open for writing. A file whose delegation had to be recalled because of a change is not given
// for a while, twice as long each time: files that are written again and again cost a recall ever more rarely.

// Delegating says which delegations are given.
type Delegating int

const (
	DelegateNone  Delegating = iota
	DelegateRead             // for reading
	DelegateWrite            // for reading, and for writing
)

// ParseDelegating reads a setting; empty is DelegateRead.
func ParseDelegating(s string) (Delegating, error) {
	switch s {
	case "none":
		return DelegateNone, nil
	case "", "read":
		return DelegateRead, nil
	case "write":
		return DelegateWrite, nil
	}
	return 0, vfs.Errorf(vfs.KindInvalid, "nfs.delegations", "%q is not a way to give delegations: use read, write or none", s)
}

// delegation is one of a file to a client.
type delegation struct {
	stateidState // without file
	key          File
	handle       []byte // as the client knows the file
	held         vfs.OpenFlags
	recalled     time.Time // when, zero: not
	revoked      bool
	write        *writeDelegation // nil: for reading

	inAll, inClient *list.Element // while not recalled, oldest first
}

func (d *delegation) openState() *open { return nil }

// delegations are those of all clients.
type delegations struct {
	files     map[File]*delegatedFile
	perFS     map[uint64]int // delegations that are not revoked
	naming    map[uint64]int // changes of names that go on
	creating  map[uint64]int // OPENs that may make a file and are not known yet
	contended map[File]contention
	recalled  map[*delegation]struct{} // neither returned nor revoked yet
	untold    map[*client]struct{}     // those of lostDelegations
	unheard   map[*client]struct{}     // those of clientDelegations.unheard
	all       list.List                // of *delegation
	changes   uint64                   // see Changes
}

// delegatedFile is a file that is given to clients or is being changed.
type delegatedFile struct {
	holders  map[*client]*delegation
	changing int
}

// clientDelegations are those of one client.
type clientDelegations struct {
	held     map[File]*delegation
	revoked  map[*delegation]struct{}
	order    list.List // of *delegation that are not recalled, oldest first
	pathDown bool      // the last callback was not answered, and no backchannel was bound since
	unheard  time.Time // when that was seen first: since then none was answered. Zero: the last one was
	failed   time.Time // when it was seen last
	given    bool      // it ever had one, which the store knows before the client does
	lost     lostDelegations
}

// DelegateArgs ask for a delegation with an OPEN.
type DelegateArgs struct {
	Client  ClientID
	File    File
	Handle  []byte
	Held    vfs.OpenFlags // a vfs open that the caller made for it, 0: it takes over that of the open when this is closed
	Changes uint64        // State.Changes before the file's attributes were read
	Reclaim bool          // CLAIM_PREVIOUS with a delegation
	Write   bool          // for writing: the open is for both
	Kept    bool          // by a vfs.Keeper, if it is for writing
	Tail    uint32        // see Tail; 0: none
}

// Delegates reports whether there may be delegations at all.
func (s *State) Delegates() bool { return s.cfg.Delegations != DelegateNone || s.inherited.Load() }

// DelegatesWrite reports whether files are given for writing.
func (s *State) DelegatesWrite() bool { return s.cfg.Delegations == DelegateWrite }

// WritesDelegated reports whether some may be given for writing.
func (s *State) WritesDelegated() bool { return s.DelegatesWrite() || s.inherited.Load() }

func (d *delegations) init() {
	d.files = make(map[File]*delegatedFile)
	d.perFS = make(map[uint64]int)
	d.naming = make(map[uint64]int)
	d.creating = make(map[uint64]int)
	d.contended = make(map[File]contention)
	d.recalled = make(map[*delegation]struct{})
	d.untold = make(map[*client]struct{})
	d.unheard = make(map[*client]struct{})
}

func (d *delegations) file(f File) *delegatedFile {
	fl := d.files[f]
	if fl == nil {
		fl = &delegatedFile{}
		d.files[f] = fl
	}
	return fl
}

// tidy forgets a file that nobody has and nobody changes.
func (d *delegations) tidy(f File) {
	if fl := d.files[f]; fl != nil && len(fl.holders) == 0 && fl.changing == 0 {
		delete(d.files, f)
	}
}

// Delegable tells whether Delegate would give a file, as WND4_* why not; ok if it would.
func (s *State) Delegable(now time.Time, a *DelegateArgs) (why nfsv4.WhyNoDelegation4, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delegable(now, a)
}

func (s *State) delegable(now time.Time, a *DelegateArgs) (why nfsv4.WhyNoDelegation4, ok bool) {
	switch {
	case s.cfg.Delegations == DelegateNone:
		return nfsv4.WND4_NOT_SUPP_FTYPE, false
	case a.Write && s.cfg.Delegations != DelegateWrite:
		return nfsv4.WND4_WRITE_DELEG_NOT_SUPP_FTYPE, false
	}
	c := s.clients[a.Client]
	if _, untold := s.delegs.untold[c]; untold || c == nil || c.delegs.pathDown || len(c.delegs.revoked) > 0 {
		return nfsv4.WND4_RESOURCE, false
	}
	if d := c.delegs.held[a.File]; d != nil {
		// Done again after a restart, the OPEN that it came with gets it again.
		return nfsv4.WND4_RESOURCE, d.given(a)
	}
	if a.Reclaim != s.grace {
		return nfsv4.WND4_CONTENTION, false
	}
	for o := range s.files[a.File].all() {
		if a.Write && (o.client != c || o.deny != 0) {
			return nfsv4.WND4_CONTENTION, false
		}
		if !a.Write && (o.access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 || o.deny&nfsv4.OPEN4_SHARE_DENY_READ != 0) {
			return nfsv4.WND4_CONTENTION, false
		}
	}
	if s.delegs.naming[a.File.FS] > 0 || a.Write && s.delegs.creating[a.File.FS] > 0 {
		return nfsv4.WND4_CONTENTION, false
	}
	if fl := s.delegs.files[a.File]; fl != nil {
		if fl.changing > 0 {
			return nfsv4.WND4_CONTENTION, false
		}
		for _, d := range fl.holders {
			if a.Write || d.write != nil || !d.recalled.IsZero() { // the latter: somebody waits for it
				return nfsv4.WND4_CONTENTION, false
			}
		}
	}
	if ct, was := s.delegs.contended[a.File]; was && now.Before(ct.until) && !a.Reclaim {
		return nfsv4.WND4_CONTENTION, false
	}
	return 0, true
}

// all are the opens of f, which may be nil.
func (f *file) all() map[*open]struct{} {
	if f == nil {
		return nil
	}
	return f.opens
}

// Delegate gives a file that the client has opened. Unless current is true, the caller answers with attributes it asks for afterwards: those
// it has may be older than the delegation. If there are too many, it gives nothing, and the oldest is recalled to make room.
func (s *State) Delegate(now time.Time, a DelegateArgs) (id Stateid, current bool, eff Effects, why nfsv4.WhyNoDelegation4, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	current = a.Changes == s.delegs.changes
	id, eff, why, ok = s.delegate(now, a)
	return id, current, eff, why, ok
}

// Changes counts what may have changed attributes of any file: while it stays the same, what was read of them is true.
func (s *State) Changes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delegs.changes
}

// shareChanges counts an open with access that begins or ends.
func (s *State) shareChanges(access uint32) {
	if access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 {
		s.delegs.changes++
	}
}

// holdByDelegation hands the vfs open of an open that ends to a delegation of the same client, if that needs one: what the client reads
// by it may have lost its name.
func (s *State) holdByDelegation(o *open, flags vfs.OpenFlags) bool {
	d := o.client.delegs.held[o.file.key]
	if d == nil || d.held != 0 || flags != d.access() {
		return false
	}
	d.held = flags
	return true
}

func (s *State) delegate(now time.Time, a DelegateArgs) (Stateid, Effects, nfsv4.WhyNoDelegation4, bool) {
	var eff Effects
	refuse := func(why nfsv4.WhyNoDelegation4) (Stateid, Effects, nfsv4.WhyNoDelegation4, bool) {
		if a.Held != 0 {
			eff.Close = append(eff.Close, FileClose{a.File, a.Held})
		}
		return Stateid{}, s.effects(eff), why, false
	}
	why, ok := s.delegable(now, &a)
	if !ok {
		return refuse(why)
	}
	c := s.clients[a.Client]
	if d := c.delegs.held[a.File]; d != nil {
		_, eff, _, _ := refuse(0) // it holds the file already
		return d.stateid(), eff, 0, true
	}
	switch {
	case len(c.delegs.held) >= s.cfg.Limits.DelegationsPerClient:
		s.recallOldest(now, &c.delegs.order, &eff)
		return refuse(nfsv4.WND4_RESOURCE)
	case s.st.Delegations >= s.cfg.Limits.Delegations:
		s.recallOldest(now, &s.delegs.all, &eff)
		return refuse(nfsv4.WND4_RESOURCE)
	}
	d := &delegation{stateidState: stateidState{client: c, seqid: 1}, key: a.File, handle: a.Handle, held: a.Held}
	if a.Write {
		d.write = &writeDelegation{kept: a.Kept}
		d.other = s.newOther(formDelegation, c, "", a.Tail)
		if a.Kept {
			eff.Share = append(eff.Share, FileShare{a.File, d.share()})
		}
	} else {
		d.other = s.newOther(formDelegation, c, "", 0)
		if s.cfg.Kept && !c.delegs.given { // those for writing are kept
			c.delegs.given, c.unrecorded = true, true
		}
	}
	s.mustRecord(c, &eff)
	s.enter(d)
	s.st.Delegated++
	return d.stateid(), s.effects(eff), 0, true
}

// enter makes a delegation known.
func (s *State) enter(d *delegation) {
	c := d.client
	s.stateids[d.other] = d
	fl := s.delegs.file(d.key)
	if fl.holders == nil {
		fl.holders = make(map[*client]*delegation)
	}
	fl.holders[c] = d
	if c.delegs.held == nil {
		c.delegs.held = make(map[File]*delegation)
	}
	c.delegs.held[d.key] = d
	s.delegs.perFS[d.key.FS]++
	d.inAll, d.inClient = s.delegs.all.PushBack(d), c.delegs.order.PushBack(d)
	s.st.Delegations++
}

func (s *State) unlist(d *delegation) {
	if d.inAll != nil {
		s.delegs.all.Remove(d.inAll)
		d.client.delegs.order.Remove(d.inClient)
		d.inAll, d.inClient = nil, nil
	}
}

// giveBack takes d from its client: it binds nobody any more. released: the client's end takes with it what is kept.
func (s *State) giveBack(d *delegation, eff *Effects, released bool) {
	s.unlist(d)
	delete(s.delegs.recalled, d)
	delete(d.client.delegs.held, d.key)
	if fl := s.delegs.files[d.key]; fl != nil {
		delete(fl.holders, d.client)
		s.delegs.tidy(d.key)
	}
	if s.delegs.perFS[d.key.FS]--; s.delegs.perFS[d.key.FS] == 0 {
		delete(s.delegs.perFS, d.key.FS)
	}
	s.st.Delegations--
	if d.write != nil && d.write.kept {
		eff.Unshare = append(eff.Unshare, FileClosing{d.key, vfs.Closing{Share: d.share(), Now: true, Released: released}})
	}
	if d.held != 0 {
		eff.Close = append(eff.Close, FileClose{d.key, d.held})
		d.held = 0
	}
}

// revoke takes d from a client that did not return it, and keeps the stateid until the client has freed it (RFC 8881, 10.2.1 and 10.4.6).
func (s *State) revoke(d *delegation, eff *Effects) {
	s.giveBack(d, eff, false)
	d.revoked = true
	if d.client.delegs.revoked == nil {
		d.client.delegs.revoked = make(map[*delegation]struct{})
	}
	d.client.delegs.revoked[d] = struct{}{}
	s.st.Revoked++
}

// lookupDelegation finds a client's delegation of f by its stateid.
func (s *State) lookupDelegation(client ClientID, f File, id Stateid) (*delegation, Status) {
	h, st := s.lookup(client, id)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	d, ok := h.(*delegation)
	if !ok || d.key != f {
		return nil, nfsv4.NFS4ERR_BAD_STATEID
	}
	return d, nfsv4.NFS4_OK
}

// CheckDelegation is for OPEN with CLAIM_DELEGATE_CUR and CLAIM_DELEG_CUR_FH: whether a client has a delegation that covers
// access (RFC 8881, 10.2.1).
func (s *State) CheckDelegation(client ClientID, f File, id Stateid, access uint32) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, st := s.lookupDelegation(client, f, id)
	if st == nfsv4.NFS4_OK && flagsOf(access)&^d.access() != 0 {
		return nfsv4.NFS4ERR_INVAL
	}
	return st
}

// delegatedIO is CheckIO by a delegation.
func (s *State) delegatedIO(d *delegation, f File, want vfs.OpenFlags, eff Effects) (IO, Effects, Status) {
	switch {
	case d.key != f:
		return IO{}, s.effects(eff), nfsv4.NFS4ERR_BAD_STATEID
	case want&^d.access() != 0:
		return IO{}, s.effects(eff), nfsv4.NFS4ERR_OPENMODE
	}
	return IO{Access: d.access()}, s.effects(eff), nfsv4.NFS4_OK
}

// ReturnDelegation is DELEGRETURN (RFC 8881, 18.6).
func (s *State) ReturnDelegation(client ClientID, f File, id Stateid) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	d, st := s.lookupDelegation(client, f, id)
	if st == nfsv4.NFS4_OK {
		s.giveBack(d, &eff, false)
		delete(s.stateids, d.other)
	}
	return s.effects(eff), st
}

// CalledBack notes whether a client's last callback was answered. One that cannot be called gets no delegations and is told by
// SEQ4_STATUS_CB_PATH_DOWN. If that lasts for a lease, see overdue.
func (s *State) CalledBack(now time.Time, client ClientID, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[client]
	switch {
	case c == nil:
	case answered:
		s.heard(c)
		c.delegs.pathDown = false
	default:
		if c.delegs.unheard.IsZero() {
			c.delegs.unheard = now
			s.delegs.unheard[c] = struct{}{}
		}
		c.delegs.pathDown, c.delegs.failed = true, now
	}
}

// heard forgets that a client could not be called.
func (s *State) heard(c *client) {
	c.delegs.unheard = time.Time{}
	delete(s.delegs.unheard, c)
}

// Unheard reports whether a client has not answered the callbacks of some time.
func (s *State) Unheard(client ClientID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[client]
	return c != nil && !c.delegs.unheard.IsZero()
}

// Rebound are the clients that could not be called, and bound a backchannel since. The caller tries it, and calls CalledBack.
func (s *State) Rebound() (out []ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.delegs.unheard {
		if !c.delegs.pathDown {
			out = append(out, c.id)
		}
	}
	return out
}

// freeRevoked is FREE_STATEID of a revoked delegation; false: id is none.
func (s *State) freeRevoked(client ClientID, id Stateid) bool {
	d, ok := s.stateids[id.Other].(*delegation)
	if !ok {
		return s.stateids[id.Other] == nil && s.lostDelegation(client, id)
	}
	if !d.revoked || d.client.id != client {
		return false
	}
	delete(d.client.delegs.revoked, d)
	delete(s.stateids, d.other)
	return true
}

// endDelegations ends those of a client that goes.
func (s *State) endDelegations(c *client, eff *Effects) {
	delete(s.delegs.untold, c)
	delete(s.delegs.unheard, c)
	for _, d := range c.delegs.held {
		s.giveBack(d, eff, true)
		delete(s.stateids, d.other)
	}
	for d := range c.delegs.revoked {
		delete(s.stateids, d.other)
	}
	c.delegs.revoked = nil
}

// delegationFlags are sr_status_flags about delegations.
func (c *client) delegationFlags() (f uint32) {
	if c.delegs.pathDown {
		f |= nfsv4.SEQ4_STATUS_CB_PATH_DOWN
	}
	if len(c.delegs.revoked) > 0 || !c.delegs.lost.until.IsZero() {
		f |= nfsv4.SEQ4_STATUS_RECALLABLE_STATE_REVOKED
	}
	return f
}
